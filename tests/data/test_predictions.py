"""Predictions in WIDER FACE's text form: what is written is read, what is wrong is named."""

import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from data.errors import UserError
from data.predictions import prediction_rows, read_predictions, write_predictions

TEXT = "a\n2\n1 2 30.5 40 0.9\n-5 6e0 7 8 1e-05\n"


@dataclass(frozen=True)
class Boxes:
    boxes_xyxy: np.ndarray
    scores: np.ndarray


def found(count: int, *, seed: int = 0) -> Boxes:
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(-20, 1000, (count, 2)), rng.uniform(0, 500, (count, 2))
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    return Boxes(boxes, rng.random(count).astype(np.float32))


FOUND = {
    "0--Parade/a.jpg": found(30),
    "0--Parade/b.v2.jpg": found(0),
    "1--Handshaking/c.jpg": found(1, seed=1),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_predictions(tmp_path / "found", FOUND)
    return tmp_path / "found"


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return list(one) == list(other) and all((one[name] == other[name]).all() for name in one)


def with_text(folder: Path, text: str, name: str = "0--Parade/a.txt") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


def test_what_is_written_is_read(folder: Path) -> None:
    rows = {name: prediction_rows(one) for name, one in FOUND.items()}
    assert equal(read_predictions(folder), rows)
    assert rows["0--Parade/b.v2.jpg"].shape == (0, 5)


def test_rows_are_the_boxes_by_falling_score() -> None:
    boxes = Boxes(
        np.array([[1, 2, 4, 7], [10, 20, 30.25, 45]], np.float32), np.array([0.2, 0.7], np.float32)
    )
    expected = [[10, 20, 20.25, 25, 0.7], [1, 2, 3, 5, 0.2]]
    np.testing.assert_allclose(prediction_rows(boxes), expected, atol=1e-7)
    many = found(500)
    rows = prediction_rows(many)
    assert (np.diff(rows[:, 4]) <= 0).all()
    order = np.argsort(-many.scores, kind="stable")
    corners = rows[:, :2] + rows[:, 2:4]
    np.testing.assert_allclose(corners, many.boxes_xyxy[order, 2:], atol=1.001e-3)
    np.testing.assert_allclose(rows[:, 4], many.scores[order], rtol=0, atol=1e-9)


def test_the_layout_is_the_toolboxs(folder: Path) -> None:
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == ["0--Parade/a.txt", "0--Parade/b.v2.txt", "1--Handshaking/c.txt"]
    name, count, *lines = (folder / files[0]).read_text().splitlines()
    assert (name, count, len(lines)) == ("a", "30", 30)
    assert all(len(line.split()) == 5 for line in lines)
    assert (folder / files[1]).read_text() == "b.v2\n0\n"


def test_writing_again_replaces(folder: Path) -> None:
    fewer = {name: found(2, seed=5) for name in FOUND}
    write_predictions(folder, fewer)
    assert all(len(rows) == 2 for rows in read_predictions(folder).values())


def test_predictions_of_other_images_are_not_mixed_in(folder: Path) -> None:
    with pytest.raises(UserError, match="2 text files of something else"):
        write_predictions(folder, {"0--Parade/a.jpg": found(1)})
    assert len(read_predictions(folder)) == 3


@pytest.mark.parametrize("name", ["a.jpg", "/a.jpg", "../a.jpg", "x/y/a.jpg", "x//a.jpg", "x\\y/a"])
def test_names_are_event_and_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="names must be 'event/file"):
        write_predictions(tmp_path, {name: found(1)})


def test_names_may_not_become_one_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="suffix"):
        write_predictions(tmp_path, {"e/a.jpg": found(1), "e/a.png": found(1)})


def test_rows_stay_in_the_files_order(tmp_path: Path) -> None:
    rows = read_predictions(with_text(tmp_path, "a\n2\n1 2 3 4 0.1\n5 6 7 8 0.9\n"))
    assert rows["0--Parade/a.jpg"].tolist() == [[1, 2, 3, 4, 0.1], [5, 6, 7, 8, 0.9]]


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.rstrip(),
        TEXT + "\n\n",
        TEXT.replace("\n", "\r\n"),
        "\ufeff" + TEXT,
        TEXT.replace("\n", " \n"),
        TEXT.replace("a\n", "0--Parade/a.jpg\n", 1),
    ],
    ids=["plain", "no last end", "empty lines", "windows", "byte order", "blanks", "long name"],
)
def test_usual_ways_to_write_are_read(tmp_path: Path, text: str) -> None:
    rows = read_predictions(with_text(tmp_path, text))["0--Parade/a.jpg"]
    assert rows.tolist() == [[1, 2, 30.5, 40, 0.9], [-5, 6, 7, 8, 1e-5]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: expected the image's name"),
        ("\n \n", "is empty"),
        ("a\n", "is cut short: expected"),
        ("a\nmany\n", r"line 2: expected the number of detections, got 'many'"),
        ("a\n-1\n", "line 2: expected the number"),
        ("a\n" + "9" * 5000, "line 2: expected the number"),
        ("a\n3\n1 2 3 4 0.5\n", "says 3 detections and lists 1"),
        ("a\n0\n1 2 3 4 0.5\n", "says 0 detections and lists 1"),
        ("a\n2\n1 2 3 4 0.5\n1 2 3\n", r"line 4: expected x y .*, got '1 2 3'"),
        ("a\n1\n1 2 3 4 0.5 6\n", "line 3: expected x y"),
        ("a\n1\n1 2 3 4 high\n", "line 3: expected x y .* got '1 2 3 4 high'"),
        ("a\n2\n1 2 3 4 0.5\n1 2 3 4 nan\n", "line 4: expected"),
        ("a\n1\n1 2 inf 4 0.5\n", "line 3: expected"),
        ("a\n1\n1 2 3e300 4 0.5\n", "line 3: expected"),
    ],
)
def test_damaged_text_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with_text(tmp_path, TEXT, "0--Parade/sound.txt")
    with pytest.raises(UserError, match=f"^0--Parade/a.txt in {tmp_path}.*{message}"):
        read_predictions(with_text(tmp_path, text))


def test_other_files_are_not_looked_at(folder: Path) -> None:
    before = read_predictions(folder)
    (folder / "0--Parade" / "._a.txt").write_bytes(b"\x00\x05\x16\x07")
    (folder / "curve.png").write_bytes(b"")
    assert equal(read_predictions(folder), before)


def test_folders_that_hold_none_are_refused(tmp_path: Path, folder: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=f"no predictions in {empty}; put them there as <event>"):
        read_predictions(empty)
    with pytest.raises(UserError, match="nowhere is not there; give a folder"):
        read_predictions(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"a\.txt is neither a folder nor an archive"):
        read_predictions(folder / "0--Parade" / "a.txt")
    with pytest.raises(UserError, match=r"a\.txt in .*0--Parade lies in no event's folder"):
        read_predictions(folder / "0--Parade")


def test_two_sets_in_one_folder_are_refused(folder: Path) -> None:
    with_text(folder, TEXT, "other/0--Parade/a.txt")
    with pytest.raises(UserError, match=r"two files of 0--Parade/a\.jpg"):
        read_predictions(folder)


@pytest.mark.parametrize("kind", ["xztar", "gztar", "zip", "tar"])
@pytest.mark.parametrize("inside", [".", "found"])
def test_an_archive_holds_the_same(folder: Path, tmp_path: Path, kind: str, inside: str) -> None:
    root = folder if inside == "." else folder.parent
    name = shutil.make_archive(str(tmp_path / "packed"), kind, root, inside)
    before = sorted(tmp_path.iterdir())
    assert equal(dict(sorted(read_predictions(Path(name)).items())), read_predictions(folder))
    assert sorted(tmp_path.iterdir()) == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path: Path) -> None:
    path.write_bytes(b"no archive")


@pytest.mark.parametrize("damage", [cut, overwrite])
@pytest.mark.parametrize("kind", ["xztar", "gztar", "zip"])
def test_a_damaged_archive_is_named(
    folder: Path, tmp_path: Path, kind: str, damage: Callable[[Path], None]
) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "packed"), kind, folder))
    damage(path)
    with pytest.raises(UserError, match=f"cannot read the predictions in {path}"):
        read_predictions(path)


def test_links_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("0--Parade/a.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    with pytest.raises(UserError, match=r"holds 0--Parade/a\.txt, which is not a file"):
        read_predictions(path)


def test_paths_that_lead_out_of_an_archive_write_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "packed.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("../../0--Parade/a.txt")
        member.size = len(TEXT)
        tar.addfile(member, io.BytesIO(TEXT.encode()))
    assert list(read_predictions(path)) == ["0--Parade/a.jpg"]
    assert list(tmp_path.rglob("*.txt")) == []


def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.predictions._LARGEST_ARCHIVE", 1000)
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("0--Parade/a.txt", "0" * 2000)
    with pytest.raises(UserError, match="unpacks to over"):
        read_predictions(path)
