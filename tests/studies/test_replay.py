"""Samplers on a table: what every replay keeps, and which tables are refused."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import UserError
from objectives.limits import CostFunction, Limits
from search_spaces.space import SPACE
from studies import replay as module
from studies.design_rules import Candidate, DesignRules
from studies.replay import (
    COLUMNS,
    CONTENDERS,
    RANDOM,
    ComparisonPlan,
    Replay,
    Score,
    compare_samplers,
    comparison_cells,
    load_table,
)
from tests.studies.made_up_rows import made_up_rows
from tests.studies.toy import LIMITS, toy_cost

Change = Callable[[dict[str, Any]], object]


def by_toy(limits: Limits) -> CostFunction:  # noqa: ARG001
    return toy_cost


def write(folder: Path, table: dict[str, Any]) -> Path:
    path = folder / "table.json"
    path.write_text(json.dumps(table))
    return path


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    path = write(tmp_path_factory.mktemp("table"), made_up_rows(LIMITS, toy_cost))
    table = load_table(path, SPACE, by_toy)
    return Replay(table, DesignRules(SPACE, toy_cost, table.limits))


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = made_up_rows(LIMITS, toy_cost)
    table = load_table(write(tmp_path, rows), SPACE, by_toy)
    assert [c.architecture.key for c in table.candidates] == [row["key"] for row in rows["rows"]]
    assert list(table.aps) == [row["ap"] for row in rows["rows"]]
    assert (table.limits, table.facts["data_hash"]) == (LIMITS, "none")


@pytest.mark.parametrize("name", CONTENDERS)
def test_equal_seeds_give_equal_curves_that_never_fall(replay: Replay, name: str) -> None:
    first, again, other = (
        replay.curve(CONTENDERS[name], trials=15, seed=seed) for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other
    assert len(first) == 15
    assert all(0 <= before <= after <= 1 for before, after in pairwise(first))


@pytest.mark.parametrize("name", CONTENDERS)
def test_only_what_keeps_the_limits_is_trained(replay: Replay, name: str) -> None:
    trained: list[str] = []

    def score(candidate: Candidate) -> float:
        assert LIMITS.allow(candidate.cost)
        trained.append(candidate.architecture.key)
        return 0.1

    played = [c.architecture.key for c in islice(CONTENDERS[name](replay.rules, score, 0), 15)]
    assert played == trained
    assert name.startswith("plain") or len(set(played)) == 15


def test_a_trial_spent_on_a_duplicate_brings_nothing(replay: Replay) -> None:
    smallest = replay.rules.candidate(SPACE.encode(SPACE.corner(largest=False)))

    def stubborn(rules: DesignRules, score: Score, seed: int) -> Iterator[Candidate]:  # noqa: ARG001
        while True:
            yield smallest

    curve = replay.curve(stubborn, trials=4, seed=0)
    assert len(curve) == 4
    assert len(set(curve)) == 1


def test_the_area_of_one_network_is_its_share_of_the_box(replay: Replay) -> None:
    """The smallest network spans the whole width: its share is its AP."""
    smallest = replay.rules.candidate(SPACE.encode(SPACE.corner(largest=False)))
    curve = replay.curve(lambda *_: iter([smallest]), trials=1, seed=0)
    assert curve == pytest.approx([replay.surrogate.expected(smallest)])


def test_samplers_are_told_what_one_fit_gives(replay: Replay) -> None:
    told: list[float] = []

    def listening(rules: DesignRules, score: Score, seed: int) -> Iterator[Candidate]:
        for candidate in CONTENDERS[RANDOM](rules, score, seed):
            told.append(score(candidate))
            yield candidate

    curve = replay.curve(listening, trials=5, seed=2)
    assert curve == replay.curve(CONTENDERS[RANDOM], trials=5, seed=2)
    drawn = list(islice(CONTENDERS[RANDOM](replay.rules, lambda _: 0.0, 2), 5))
    assert told == [replay.surrogate.observed(candidate, seed=2) for candidate in drawn]
    assert told != [replay.surrogate.expected(candidate) for candidate in drawn]


def test_ours_beats_random_where_there_is_something_to_learn(replay: Replay) -> None:
    plan = ComparisonPlan(trials=40, seeds=4, workers=1)
    found = compare_samplers(replay, plan, contenders=["ours tpe"])
    assert list(found) == [RANDOM, "ours tpe"]
    ours = found["ours tpe"]
    assert ours["against_random_interval"][0] > 0
    assert ours["trials_to_random"] < 40
    assert found[RANDOM]["against_random_interval"] == [0, 0]
    assert found[RANDOM]["trials_to_random"] <= 40


def test_the_interval_is_that_of_the_mean(replay: Replay) -> None:
    plan = ComparisonPlan(trials=3, seeds=5, seed=7, workers=1)
    found = compare_samplers(replay, plan, contenders=[])[RANDOM]
    curves = [replay.curve(CONTENDERS[RANDOM], trials=3, seed=7 + i) for i in range(5)]
    assert found["mean"] == pytest.approx(np.mean(curves, axis=0))
    half = 2.1318 * np.std(curves, axis=0, ddof=1) / 5**0.5  # Student's t of 4, at 0.95
    assert found["high"] == pytest.approx(np.mean(curves, axis=0) + half, rel=1e-4)
    assert found["low"] == pytest.approx(np.mean(curves, axis=0) - half, rel=1e-4)


@pytest.mark.slow
def test_processes_change_nothing(replay: Replay) -> None:
    one, two = (
        compare_samplers(replay, ComparisonPlan(trials=2, seeds=2, workers=workers))
        for workers in (1, 2)
    )
    assert one == two


def test_a_row_is_shown_for_each_contender(replay: Replay) -> None:
    plan = ComparisonPlan(trials=2, seeds=2, workers=1)
    found = compare_samplers(replay, plan)
    assert json.loads(json.dumps(found)) == found
    cells = comparison_cells(found)
    assert [row[0] for row in cells] == list(CONTENDERS)
    assert all(len(row) == len(COLUMNS) for row in cells)


def test_a_plain_sampler_gives_up_where_nothing_fits(
    replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_INFEASIBLE", 5)
    tight = replace(replay.rules, limits=Limits(max_params=2))
    with pytest.raises(UserError, match="5 proposals of plain Optuna in a row broke the table's"):
        next(CONTENDERS["plain tpe"](tight, lambda _: 0.0, 0))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"trials": 0}, "--trials must be at least 1, got 0"),
        ({"seeds": 1}, "--seeds must be at least 2, for an interval, got 1"),
    ],
)
def test_plans_that_measure_nothing_are_refused(plan: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ComparisonPlan(**plan)


def set_row(**values: Any) -> Change:
    return lambda table: table["rows"][3].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.pop("rows"), "is no table of architectures .*rows.*record it again"),
        (lambda table: table["rows"][3].pop("macs"), "is no table of architectures .*macs"),
        (lambda table: table["limits"].update(max_cows=3), "is no table of .*max_cows"),
        (set_row(ap=float("nan")), r"is no table of .*an AP is not in 0\.\.1"),
        (set_row(ap="high"), "is no table of .*high"),
        (lambda table: table["rows"].append(table["rows"][0]), "stands there twice"),
        (lambda table: table["rows"].__delitem__(slice(19, None)), "has 19 rows; .* needs 20"),
        (set_row(key="yunet-n"), "was recorded with another space: .*'yunet-n'"),
        (set_row(macs=1), r"was recorded with other networks: .*\(\d+, 1\) parameters and MACs"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, change: Change, message: str) -> None:
    table = made_up_rows(LIMITS, toy_cost, count=25)
    change(table)
    with pytest.raises(UserError, match=message):
        load_table(write(tmp_path, table), SPACE, by_toy)


def test_architectures_of_a_larger_space_are_refused(tmp_path: Path) -> None:
    table = made_up_rows(LIMITS, toy_cost, count=25)
    table["rows"][0]["key"] = table["rows"][0]["key"].replace("stem", "stem1", 1)
    with pytest.raises(UserError, match="was recorded with another space: stem_width must be one"):
        load_table(write(tmp_path, table), SPACE, by_toy)


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no table .*record one: python -m benchmarks"):
        load_table(tmp_path / "table.json", SPACE, by_toy)
    for text in ('{"rows": [', "[1, 2]"):
        (tmp_path / "table.json").write_text(text)
        with pytest.raises(UserError, match="is no table of architectures"):
            load_table(tmp_path / "table.json", SPACE, by_toy)
