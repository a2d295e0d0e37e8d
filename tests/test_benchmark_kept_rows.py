import json
from functools import partial
from pathlib import Path

import pytest

from benchmarks.kept_rows import Row, kept_rows
from data.files import write_json
from data.progress import silent


def row_of(number: int, measured: Path) -> Row:
    with measured.open("a") as log:
        log.write(f"{number}\n")
    if number < 0:
        raise ValueError(f"number must not be negative, got {number}")
    return {"number": number}


@pytest.mark.slow
def test_only_what_is_missing_is_measured_and_counted(tmp_path: Path) -> None:
    log, paths = tmp_path / "log", [tmp_path / f"{number}.json" for number in range(4)]
    measurements = {path: partial(row_of, i, log) for i, path in enumerate(paths)}
    write_json(paths[1], {"number": "kept"})
    heard: list[tuple[str, int, int]] = []
    rows = kept_rows(measurements, unit="rows", progress=lambda *step: heard.append(step))
    assert [row["number"] for row in rows] == [0, "kept", 2, 3]
    assert heard == [("rows", 2, 4), ("rows", 3, 4), ("rows", 4, 4)]
    assert sorted(log.read_text().split()) == ["0", "2", "3"]
    log.unlink()
    assert kept_rows(measurements, unit="rows", progress=silent) == rows
    assert not log.exists()


@pytest.mark.slow
def test_a_measurement_that_fails_costs_none_that_was_made(tmp_path: Path) -> None:
    log, made, failed = tmp_path / "log", tmp_path / "made.json", tmp_path / "failed.json"
    kept_rows({made: partial(row_of, 1, log)}, unit="rows", progress=silent)
    measurements = {made: partial(row_of, 1, log), failed: partial(row_of, -1, log)}
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        kept_rows(measurements, unit="rows", progress=silent)
    assert json.loads(made.read_text()) == {"number": 1}
    assert not failed.exists()
