"""Recording a table: which architectures, and that no measurement is made twice."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import record_table
from benchmarks.record_table import Recording, draw, fingerprint, measure, record
from data.files import write_json
from data.shards import open_shards
from objectives.cost import architecture_cost
from objectives.limits import Limits
from search_spaces.space import SPACE
from studies.replay import load_table
from tests.tiny_training import SMALLEST, diverge, tiny_shards


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_table, "POOL", 4)
    record_table._fitter.cache_clear()


def log_macs(architectures: list[Any]) -> list[float]:
    return [math.log(architecture_cost(a, image_size=640).macs) for a in architectures]


def test_architectures_differ_fit_and_follow_from_the_seed() -> None:
    drawn = draw(12, seed=0)
    assert len(set(drawn)) == 12
    assert all(Limits().allow(architecture_cost(a, image_size=640)) for a in drawn)
    assert drawn == draw(12, seed=0)
    assert drawn != draw(12, seed=1)


def test_none_is_chosen_twice_where_all_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_table, "POOL", 1)
    assert len(set(draw(12, seed=0))) == 12


def test_half_of_them_are_spread_over_all_sizes() -> None:
    drawn = draw(24, seed=0)
    spread = log_macs(drawn[12:])
    assert max(spread) == pytest.approx(max(log_macs(drawn)), abs=0.1)
    assert min(spread) == pytest.approx(min(log_macs(drawn)), abs=0.1)
    third = (max(spread) - min(spread)) / 3
    assert sum(size < min(spread) + third for size in spread) >= 3  # few random ones are as small


def test_a_row_holds_scores_and_costs(tmp_path: Path) -> None:
    _, shards = tiny_shards(tmp_path)
    row = measure(Recording(shards, steps=2, seed=0), SMALLEST.key)
    assert json.loads(json.dumps(row)) == row
    assert 0 <= row["ap"] <= 1
    assert row["macs"] == architecture_cost(SMALLEST, image_size=640).macs
    assert {"key", "params", "peak_bytes", "ap_interval", "smooth_ap", "seconds"} <= row.keys()


def test_a_fit_that_diverges_is_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, shards = tiny_shards(tmp_path)
    diverge(monkeypatch, "nas.fitting")
    recording = Recording(shards, steps=2, seed=0)
    row = measure(recording, SMALLEST.key)
    assert row["ap"] is None
    keep(tmp_path / "rows", recording, [row])
    table = record(recording, [SMALLEST], tmp_path / "rows")
    assert (table["rows"], table["not_finite"]) == ([], [SMALLEST.key])


def keep(folder: Path, recording: Recording, rows: list[dict[str, Any]]) -> None:
    """As if these rows had been measured before."""
    home = fingerprint(recording, open_shards(recording.shards))
    for row in rows:
        write_json(folder / home / f"{row['key']}.json", row)


def made_up_row(architecture: Any, ap: float) -> dict[str, Any]:
    cost = architecture_cost(architecture, image_size=640)
    return {
        "key": architecture.key,
        "params": cost.params,
        "macs": cost.macs,
        "peak_bytes": cost.peak_bytes,
        "ap": ap,
    }


def test_measured_rows_are_not_measured_again_and_make_a_table(tmp_path: Path) -> None:
    _, shards = tiny_shards(tmp_path)
    recording, drawn = Recording(shards, steps=10**9, seed=0), draw(20, seed=0)
    keep(tmp_path / "rows", recording, [made_up_row(a, i / 20) for i, a in enumerate(drawn)])
    table = record(recording, drawn, tmp_path / "rows")
    assert table["fit"]["steps"] == 10**9
    write_json(tmp_path / "table.json", table)
    read = load_table(tmp_path / "table.json", SPACE, lambda _: cost_at_640)
    assert [c.architecture for c in read.candidates] == drawn
    assert (read.limits, read.facts["space"]) == (Limits(), SPACE.fingerprint)


def cost_at_640(architecture: Any) -> Any:
    return architecture_cost(architecture, image_size=640)


@pytest.mark.slow
def test_what_is_missing_is_measured_in_processes(tmp_path: Path) -> None:
    _, shards = tiny_shards(tmp_path)
    heard: list[tuple[str, int, int]] = []
    table = record(
        Recording(shards, steps=1, seed=0),
        [SMALLEST],
        tmp_path / "rows",
        progress=lambda *step: heard.append(step),
    )
    assert [row["key"] for row in table["rows"]] == [SMALLEST.key]
    assert heard == [("networks", 1, 1)]
