import errno
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from data.files import sha256_of, whole_file, whole_folder, write_json, write_text


def fail(target: Path, error: BaseException) -> None:
    with whole_file(target) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "x"
    with pytest.raises(type(error)):
        fail(target, error)
    assert list(tmp_path.iterdir()) == []
    target.write_text("before")
    with pytest.raises(type(error)):
        fail(target, error)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_takes_nothing_is_the_users_to_put_right(tmp_path: Path, number: int) -> None:
    with pytest.raises(UserError, match=r"cannot write .*x: some cause; free some space"):
        fail(tmp_path / "x", OSError(number, "some cause"))
    assert list(tmp_path.iterdir()) == []


def test_any_other_trouble_of_the_disk_is_a_crash(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="some cause"):
        fail(tmp_path / "x", OSError(errno.EIO, "some cause"))


@pytest.mark.parametrize("step", ["mkstemp", "replace"])
def test_a_disk_that_is_full_before_or_after_the_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "x"
    target.write_text("before")
    if step == "mkstemp":
        monkeypatch.setattr("data.files.tempfile.mkstemp", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        write_text(target, "after")
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_text() == "before"


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder" / "x"
    write_text(target, "before")
    with whole_file(target) as temporary:
        temporary.write_text("after")
        assert target.read_text() == "before"
        assert temporary.parent == target.parent
    assert target.read_text() == "after"
    assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o644


def fail_in_folder(target: Path, error: BaseException) -> None:
    with whole_folder(target) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "part").write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()])
def test_an_error_leaves_no_folder(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        fail_in_folder(tmp_path / "x", error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_a_folder_that_cannot_be_written_is_the_users_to_put_right(
    tmp_path: Path, number: int
) -> None:
    with pytest.raises(UserError, match=r"cannot write .*x: some cause; free some space"):
        fail_in_folder(tmp_path / "x", OSError(number, "some cause"))
    assert list(tmp_path.iterdir()) == []


def test_any_other_trouble_with_a_folder_is_a_crash(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="some cause"):
        fail_in_folder(tmp_path / "x", OSError(errno.EIO, "some cause"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["data.files.tempfile.mkdtemp", "pathlib.Path.replace"])
def test_a_disk_that_is_full_before_or_after_a_folder_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(step, full)
    with pytest.raises(UserError, match="No space left"), whole_folder(tmp_path / "x") as temporary:
        (temporary / "part").write_text("whole")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_there_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "x"
    with whole_folder(target) as temporary:
        (temporary / "part").write_text("whole")
        assert not target.exists()
        assert temporary.parent == target.parent
    assert (target / "part").read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o755


def test_a_folder_with_something_in_it_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.mkdir()
    (target / "mine").write_text("before")
    with pytest.raises(OSError, match="not empty"), whole_folder(target) as temporary:
        (temporary / "part").write_text("whole")
    assert list(tmp_path.iterdir()) == [target]
    assert (target / "mine").read_text() == "before"


def test_json_and_text_come_back(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None], "b": "ä"}
    write_json(tmp_path / "x", value)
    assert json.loads((tmp_path / "x").read_text()) == value
    assert (tmp_path / "x").read_text().endswith("}\n")
    write_json(tmp_path / "x", value, indent=None)
    (line,) = (tmp_path / "x").read_text().splitlines()
    assert json.loads(line) == value
    write_text(tmp_path / "y", "ä\n")
    assert (tmp_path / "y").read_bytes() == "ä\n".encode()


@pytest.mark.parametrize("value", [float("nan"), [float("inf")]])
def test_json_has_no_infinities(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x", value)
    assert list(tmp_path.iterdir()) == []


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "x").write_bytes(content)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(content).hexdigest()
