"""Reading .mat files, whole and damaged."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from scipy.io.matlab import MatReadError

from data.errors import UserError
from data.mat_files import mat_tables, unsound_mat
from tests.data.damaged_mat import DAMAGES, compress

TABLES = {"first": np.arange(6).reshape(2, 3), "second": np.eye(9)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tables.mat"
    savemat(path, TABLES)
    compress(path)
    return path


def read(path: Path, name: str = "second") -> Any:
    with mat_tables(path, "test table") as tables:
        return tables[name].ravel()


def test_tables_come_back(path: Path) -> None:
    with mat_tables(path, "test table") as tables:
        for name, table in TABLES.items():
            np.testing.assert_array_equal(tables[name], table)
    with mat_tables(path, "test table", names=("second",)) as tables:
        assert "second" in tables
        assert "first" not in tables


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(path: Path, damage: str) -> None:
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(UserError, match=rf"^{path} is no sound test table \(.+\); copy it anew$"):
        read(path)


def test_a_missing_table_is_named(path: Path) -> None:
    with pytest.raises(UserError, match=r"tables\.mat is no sound test table \(it has no third\)"):
        read(path, "third")


@pytest.mark.parametrize(
    "error",
    [
        MatReadError("some cause"),
        zlib.error("some cause"),
        OSError("some cause"),
        NotImplementedError("some cause"),
        OverflowError("some cause"),
        ZeroDivisionError("some cause"),
        MemoryError("some cause"),
        UnboundLocalError("some cause"),
        ValueError("some cause"),
        TypeError("some cause"),
        IndexError("some cause"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_scipy_raises_for_a_damaged_file_is_the_users_to_put_right(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_args: object, **_named: object) -> None:
        raise error

    monkeypatch.setattr("scipy.io.loadmat", fail)
    with pytest.raises(UserError, match=r"no sound test table \(some cause\)") as raised:
        read(path)
    assert raised.value.__cause__ is error


def test_an_error_without_words_is_named_by_its_type(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_named: object) -> None:
        raise MemoryError

    monkeypatch.setattr("scipy.io.loadmat", fail)
    with pytest.raises(UserError, match=r"\(MemoryError\)"):
        read(path)


def test_text_where_a_table_should_be_is_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """scipy puts a text in the place of a table that it cannot read."""
    monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: {"second": "Read error"})
    with pytest.raises(UserError, match="no sound test table"):
        read(path)


def test_a_mistake_of_ours_in_the_block_is_a_crash(path: Path) -> None:
    with pytest.raises(AssertionError), mat_tables(path, "test table"):
        raise AssertionError


def test_the_error_says_what_where_and_what_to_do() -> None:
    error = unsound_mat(Path("a.mat"), "test table", "why")
    assert str(error) == "a.mat is no sound test table (why); copy it anew"
