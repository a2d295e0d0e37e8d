"""What makes AP rise fastest: equal cost by design, and that no measurement is made twice."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fit_speed
from benchmarks.fit_speed import (
    ARMS,
    NETWORKS,
    USUAL,
    Arm,
    Plan,
    Stretch,
    changes,
    fit_arm,
    measure,
    ratio_to_usual,
    record,
    summarise,
    summary_cells,
)
from benchmarks.kept_rows import Measure, Row
from data.errors import UserError
from data.files import write_json
from data.shards import ShardSettings, prepare_shards, shard_folder
from objectives.cost import architecture_cost
from objectives.limits import Limits
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from tests.tiny_training import (
    SHARDS,
    SMALLEST,
    SOURCE,
    diverge,
    equal_weights,
    tiny_shards,
    weights_of,
)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARMS, "usual", Arm((Stretch(batch_size=2),)))
    fit_speed._fitter.cache_clear()
    fit_speed._drawn.cache_clear()


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A fit of one usual step; the drawn faces are the same ones again."""
    _, shards = tiny_shards(tmp_path)
    return Plan(shards, synthetic=shards, steps=1, seed=0)


def pixels(arm: Arm, steps: int) -> float:
    """In crops."""
    return sum(s.steps(steps) * s.batch_size / s.shrink**2 for s in arm.stretches)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_sees_as_many_pixels(name: str) -> None:
    assert pixels(ARMS[name], 240) == pytest.approx(240 * USUAL.batch_size, rel=0.01)
    assert pixels(ARMS[name], 10**6) == pytest.approx(10**6 * USUAL.batch_size, rel=1e-5)
    assert sum(stretch.cost_share for stretch in ARMS[name].stretches) == pytest.approx(1)


def test_smaller_crops_and_batches_make_more_steps_and_there_is_always_one() -> None:
    assert Stretch(batch_size=4).steps(250) == 500
    assert Stretch(batch_size=16).steps(250) == 125
    assert Stretch(0.5, shrink=2).steps(250) == 500
    assert Stretch(0.01, batch_size=64).steps(1) == 1


def test_no_two_arms_are_the_same() -> None:
    assert len(set(ARMS.values())) == len(ARMS)


def test_an_arm_is_told_by_its_changes() -> None:
    assert changes(ARMS["usual"]) == {}
    arm = replace(ARMS["usual"], loss=ARMS["simota-4"].loss)
    assert changes(arm) == {"loss": {"assignment": {"most_positives": 4}}}


def test_the_networks_fit_and_are_of_the_space() -> None:
    architectures = [Architecture.from_key(key) for key in NETWORKS]
    assert [a.key for a in architectures] == list(NETWORKS)
    assert all(SPACE.decode(SPACE.encode(a)) == a for a in architectures)
    costs = [architecture_cost(a, image_size=640) for a in architectures]
    assert all(Limits().allow(cost) for cost in costs)
    assert all(100e6 <= cost.macs <= 500e6 for cost in costs)
    assert len({architecture.stages[0].block for architecture in architectures}) == len(NETWORKS)


def fitted(plan: Plan, arm: Arm) -> Any:
    return weights_of(fit_arm(plan, arm, SMALLEST)[0])


def test_a_fit_follows_from_seed_and_draw(plan: Plan) -> None:
    arm = Arm((Stretch(batch_size=4),))
    assert equal_weights(fitted(plan, arm), fitted(plan, arm))
    assert not equal_weights(fitted(plan, arm), fitted(plan, replace(arm, draw=1)))


def test_stretches_share_a_schedule_unless_each_restarts(plan: Plan) -> None:
    arm = Arm((Stretch(0.5, batch_size=2, shrink=2), Stretch(0.5, batch_size=2)))
    _, shared = fit_arm(plan, arm, SMALLEST)
    _, separate = fit_arm(plan, replace(arm, restarts=True), SMALLEST)
    assert [report.step for report in shared] == list(range(1, 11))
    assert [report.step for report in separate] == [*range(1, 9), 1, 2]
    assert shared[8].learning_rate < shared[7].learning_rate
    assert separate[8].learning_rate > separate[7].learning_rate


def test_a_stretch_goes_on_where_the_one_before_ended(plan: Plan) -> None:
    whole, half = Stretch(batch_size=2), Stretch(0.5, batch_size=2)
    arm = Arm((whole,), average_decay=0)
    assert equal_weights(fitted(plan, arm), fitted(plan, replace(arm, stretches=(half, half))))


def test_drawn_faces_come_from_the_other_shards(plan: Plan, tmp_path: Path) -> None:
    drawn = Arm((Stretch(batch_size=2, drawn=True),))
    settings = replace(SHARDS, seed=1)
    prepare_shards(SOURCE, tmp_path, settings, workers=1)
    other = replace(plan, synthetic=shard_folder(SOURCE, tmp_path, settings))
    assert not equal_weights(fitted(plan, drawn), fitted(other, drawn))
    with pytest.raises(ValueError, match="synthetic must be"):
        fit_arm(replace(plan, synthetic=None), drawn, SMALLEST)


def test_a_row_holds_scores_and_costs(plan: Plan) -> None:
    row = measure(plan, "usual", SMALLEST.key)
    assert json.loads(json.dumps(row)) == row
    assert 0 <= row["ap"] <= 1
    assert {"ap_interval", "smooth_ap", "held_out_loss", "seconds", "cpu_seconds"} <= row.keys()
    assert (row["steps"], row["images"]) == (4, 8)
    assert row["positives_per_image"] > 0


def test_ratios_are_geometric_means_over_networks() -> None:
    usual: list[dict[str, Any]] = [{"ap": 0.1}, {"ap": 0.2}, {"ap": 0.0}, {"ap": 0.3}]
    rows: list[dict[str, Any]] = [{"ap": 0.2}, {"ap": 0.1}, {"ap": 0.1}, {"ap": None}]
    found = ratio_to_usual(rows, usual, "ap")
    assert found["ratio"] == pytest.approx(1)
    low, high = found["interval"]
    assert low == pytest.approx(1 / high)
    assert found["networks"] == 2
    assert ratio_to_usual(rows[:1], usual[:1], "ap")["interval"] is None
    assert ratio_to_usual(rows[3:], usual[3:], "ap")["ratio"] is None


def test_the_summary_has_the_best_arm_first() -> None:
    scores = {"usual": 0.1, "worse": 0.05, "better": 0.2, "broken": None}
    rows = {arm: [{"smooth_ap": score}] * 2 for arm, score in scores.items()}
    assert list(summarise(rows)) == ["better", "usual", "worse", "broken"]
    assert summary_cells(summarise(rows))[0][:2] == ("better", "2.000")


def measure_here(monkeypatch: pytest.MonkeyPatch, rows: list[tuple[str, str]]) -> None:
    """Measure here and not in other processes, which do not know what is patched."""

    def measure_each(measurements: Mapping[Path, Measure], **_others: Any) -> list[Row]:
        for path, measure_it in measurements.items():
            if not path.is_file():
                row = measure_it()
                rows.append((row["arm"], row["key"]))
                write_json(path, row)
        return [json.loads(path.read_text()) for path in measurements]

    monkeypatch.setattr(fit_speed, "kept_rows", measure_each)


def test_what_was_measured_is_kept_and_what_lacks_its_data_is_named(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[str, str]] = []
    measure_here(monkeypatch, measured)
    plan = replace(plan, synthetic=None)
    result = record(plan, ["synthetic-first"], [SMALLEST.key], tmp_path / "rows")
    assert json.loads(json.dumps(result))["rows"] == result["rows"]
    assert list(result["left_out"]) == ["synthetic-first"]
    assert measured == [("usual", SMALLEST.key)]
    assert result["summary"]["usual"]["seconds"]["ratio"] == 1
    again = record(plan, ["usual"], [SMALLEST.key], tmp_path / "rows")
    assert again["rows"] == result["rows"]
    assert len(measured) == 1
    monkeypatch.setitem(ARMS, "usual", Arm((Stretch(batch_size=8),)))
    record(plan, ["usual"], [SMALLEST.key], tmp_path / "rows")
    assert len(measured) == 2  # another arm of the same name


def test_a_fit_that_diverges_is_named(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_here(monkeypatch, [])
    diverge(monkeypatch, "nas.fitting")
    result = record(plan, [], [SMALLEST.key], tmp_path / "rows")
    assert result["not_finite"] == [["usual", SMALLEST.key]]
    assert result["summary"]["usual"]["ap"]["networks"] == 0


def test_crops_of_two_sizes_are_refused(plan: Plan, tmp_path: Path) -> None:
    settings = ShardSettings(image_size=32, full_size=160, images_per_shard=4)
    prepare_shards(SOURCE, tmp_path, settings, workers=1)
    other = replace(plan, synthetic=shard_folder(SOURCE, tmp_path, settings))
    with pytest.raises(UserError, match=r"64 px .* 32 px"):
        record(other, [], [SMALLEST.key], tmp_path / "rows")


@pytest.mark.slow
def test_what_is_missing_is_measured_in_processes(plan: Plan, tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    result = record(
        plan, [], [SMALLEST.key], tmp_path / "rows", progress=lambda *step: heard.append(step)
    )
    assert [row["key"] for row in result["rows"]] == [SMALLEST.key]
    assert heard == [("fits", 1, 1)]
