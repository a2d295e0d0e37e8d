"""The comparison of proxies, on made-up measurements and on the tiniest real ones."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.proxies import (
    LOSS_WEIGHT,
    REPEATS,
    Column,
    Fit,
    Plan,
    Start,
    columns_of,
    draw,
    known_rows,
    of_repeats,
    of_truth,
    record,
    score_of,
    summarise,
)
from data.errors import UserError
from data.progress import silent
from nas.teachers import WEIGHTS
from nas.weights import save_detector, save_weights
from objectives.cost import architecture_cost
from objectives.limits import Limits
from search_spaces.space import SPACE
from search_spaces.supernet import Supernet
from tests.tiny_training import tiny_network, tiny_shards

TRUTH = (0.1, 0.2, 0.3, 0.4)


def test_proxies_come_best_first_with_their_seconds() -> None:
    columns = [Column("opposite", [-ap for ap in TRUTH], 1.0), Column("same", list(TRUTH), 2.0)]
    found = summarise(columns, TRUTH, seed=0)
    assert list(found) == ["same", "opposite"]
    assert (found["same"]["tau"], found["opposite"]["tau"]) == (1, -1)
    assert found["same"]["seconds"] == 2.0


def test_a_fit_that_diverged_is_its_proxys_worst() -> None:
    lost = Column("lost", [None, 0.2, 0.3, 0.4], 1.0)
    assert summarise([lost], TRUTH, seed=0)["lost"]["tau"] == 1
    wrong = Column("wrong", [0.1, 0.2, 0.3, None], 1.0)
    assert summarise([wrong], TRUTH, seed=0)["wrong"]["tau"] == pytest.approx(0)


def test_columns_take_the_scores_of_rows_in_their_order() -> None:
    rows: list[dict[str, Any]] = [
        {"scores": {"ap": 0.3}, "seconds": 1.0},
        {"scores": None},
        {"scores": {"ap": 0.1}, "seconds": 3.0},
    ]
    assert columns_of(rows, ", 5 steps", ("ap",)) == [Column("ap, 5 steps", [0.3, None, 0.1], 2.0)]


def test_ap_and_loss_order_networks_together() -> None:
    good = {"scores": {"ap": 0.04, "negative_loss": -5.0}}
    lucky = {"scores": {"ap": 0.05, "negative_loss": -8.0}}
    first, second = score_of(good, "ap_and_loss"), score_of(lucky, "ap_and_loss")
    assert first == pytest.approx(0.2 - LOSS_WEIGHT * 5)
    assert second == pytest.approx(0.05**0.5 - LOSS_WEIGHT * 8)
    assert score_of({"scores": None}, "ap_and_loss") is None


def test_each_fit_alone_is_compared_with_the_mean_of_the_others() -> None:
    double, macs = [2 * ap for ap in TRUTH], [1.0] * len(TRUTH)
    assert of_truth([TRUTH], TRUTH, macs) is None
    agreeing = of_truth([TRUTH, double], TRUTH, macs)
    both = [1, 1]
    assert agreeing == {"agreement": 1, "each": both, "trial": both, "each_with_trial": both}
    contrary = of_truth([TRUTH, double, TRUTH[::-1]], TRUTH, macs)
    assert contrary is not None
    assert contrary["agreement"] == pytest.approx((1 - 1 - 1) / 3)
    assert contrary["each"][2] == -1


def test_a_trial_mends_what_an_unlucky_fit_alone_says() -> None:
    trial = [0.01 * i for i in range(1, 13)]
    unlucky = [*(3 * ap for ap in trial[:6]), 0.02, *(3 * ap for ap in trial[7:])]
    found = of_truth([unlucky, trial, trial], trial, [1.0] * 12)
    assert found is not None
    assert found["trial"][0] == 1
    assert found["each_with_trial"][0] > found["each"][0]


def test_repetitions_are_compared_with_each_other_and_their_mean_with_the_truth() -> None:
    upwards, lucky, unlucky = TRUTH, (0.5, 0.2, 0.3, 0.4), (0.1, 0.2, 0.3, 0.0)
    found = of_repeats([upwards, lucky, unlucky], TRUTH, seed=0)
    assert found["each"] == pytest.approx([1, 0, 0])
    assert found["agreement"] == pytest.approx((0 + 0 - 1 / 3) / 3)
    assert found["mean"]["tau"] == pytest.approx(1 / 3)  # .233, .2, .3, .267


@pytest.mark.parametrize(
    ("steps", "longest"),
    [((0, 50, 9), Fit("own", 50, 3)), ((0,), Fit("supernet", 0, 3))],
)
def test_the_longest_short_fit_is_one_that_is_made(steps: tuple[int, ...], longest: Fit) -> None:
    plan = Plan(Path("shards"), Path("supernet"), steps, 5, 2, 4, seed=3)
    assert plan.longest == longest
    assert longest in plan.short_fits


def test_only_the_wanted_kinds_of_short_fits_are_made() -> None:
    plan = Plan(Path("shards"), Path("supernet"), (0, 9), 5, 2, 4, seed=3, starts=("own",))
    assert plan.short_fits == [Fit("own", 9, 3)]


def test_networks_are_close_in_cost_and_keep_the_limits() -> None:
    costs = [architecture_cost(a, image_size=640) for a in draw(5, 300_000_000, seed=0)]
    assert max(cost.macs for cost in costs) <= 1.25 * min(cost.macs for cost in costs)
    assert all(Limits().allow(cost) for cost in costs)


@pytest.mark.slow
def test_everything_is_measured_once(tmp_path: Path) -> None:
    _, shards = tiny_shards(tmp_path / "shards")
    supernet = tmp_path / "supernet.safetensors"
    save_weights(supernet, Supernet(SPACE).state_dict(), {"space": SPACE.fingerprint})
    plan = Plan(
        shards=shards,
        supernet=supernet,
        steps=(0, 1),
        alone_steps=2,
        alone_seeds=2,
        batch_size=2,
        seed=0,
        repeat_steps=(1,),
    )
    keys = [a.key for a in draw(4, 100_000_000, seed=0)]
    counts: list[int] = []
    found = record(
        plan, keys, tmp_path / "rows", progress=lambda _label, done, _total: counts.append(done)
    )
    assert counts == list(range(1, 4 * (1 + 3 + 2 + 2) + 1))
    assert {"macs", "params", "synflow", "smooth_ap, 1 steps from own"} <= found["proxies"].keys()
    assert "ap, 0 steps from supernet" in found["proxies"]
    assert "ap, 0 steps from own" not in found["proxies"]
    assert [row["seed"] for row in found["networks"][0]["alone"]] == [1, 2]
    assert found["repeats"].keys() == {"1"}
    assert len(found["networks"][0]["repeats"][1]) == REPEATS
    again = record(plan, keys, tmp_path / "rows", progress=silent)
    assert json.dumps(again["proxies"]) == json.dumps(found["proxies"])
    assert again["networks"] == found["networks"]
    save_detector(tmp_path / "teacher" / WEIGHTS, tiny_network(), {})
    taught = replace(plan, repeat_steps=(), teacher=tmp_path / "teacher")
    counts.clear()
    more = record(
        taught,
        keys,
        tmp_path / "others",
        known=known_rows(taught, json.loads(json.dumps(found))),
        progress=lambda _label, done, _total: counts.append(done),
    )
    assert len(counts) == 4 * (1 + 2), "what needs no training, and two taught fits of each"
    assert more["networks"][0]["alone"] == found["networks"][0]["alone"]
    assert {"ap, 1 steps from own, taught", "ap, 1 steps from own"} <= more["proxies"].keys()
    assert (more["teacher"], found["teacher"]) == ("teacher", None)


def test_rows_of_other_crops_or_of_another_supernet_are_not_known(tmp_path: Path) -> None:
    crops, shards = tiny_shards(tmp_path / "shards")
    plan = Plan(shards, tmp_path / "one.safetensors", (1,), 2, 1, 2, seed=0)
    starts: tuple[Start, ...] = ("own", "supernet", "own, taught", "supernet, taught")
    fits = [Fit(start, 1, 0) for start in starts]
    rows = [{"key": "a", **asdict(fit)} for fit in fits]
    earlier = {
        "data_hash": crops.hash,
        "seed": 0,
        "batch_size": 2,
        "supernet": "one",
        "networks": [{"short": rows, "alone": []}],
    }

    def known(plan: Plan) -> set[str]:
        return {fit.start for _, fit in known_rows(plan, earlier)}

    assert known(plan) == {*starts}
    assert known(replace(plan, supernet=tmp_path / "two.safetensors")) == {"own", "own, taught"}
    assert known(replace(plan, teacher=tmp_path)) == {"own", "supernet"}
    with pytest.raises(UserError, match="--known is of batch_size 2, not 4"):
        known_rows(replace(plan, batch_size=4), earlier)
