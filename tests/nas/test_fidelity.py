import json
from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import UserError
from nas.fidelity import (
    StandAloneEvaluator,
    StandAloneJob,
    choose_candidates,
    kendall_tau,
    rank_fidelity,
)
from nas.proxy import ProxySettings
from tests.tiny_training import FIT, SMALLEST, tiny_shards

ORDER = [0.1, 0.2, 0.3, 0.5, 0.6, 0.9]


@pytest.mark.parametrize("front", [0, 1, 2, 3, 7, 20])
@pytest.mark.parametrize("others", [0, 1, 2, 5, 30])
@pytest.mark.parametrize("count", [4, 5, 8])
def test_candidates_are_distinct_and_as_many_as_there_are(
    front: int, others: int, count: int
) -> None:
    if front + others < 4:
        with pytest.raises(UserError, match=r"at least 4 completed trials, got \d; raise --budget"):
            choose_candidates(range(front), range(100, 100 + others), count=count)
        return
    chosen = choose_candidates(range(front), range(100, 100 + others), count=count)
    assert len(set(chosen)) == len(chosen) == min(count, front + others)
    assert set(chosen) <= {*range(front), *range(100, 100 + others)}


def test_half_of_the_candidates_are_of_the_front_and_both_ends_are_in() -> None:
    chosen = choose_candidates(range(9), range(100, 150), count=8)
    assert sorted(n for n in chosen if n < 100)[::3] == [0, 8]
    assert sorted(n for n in chosen if n >= 100)[::3] == [100, 149]
    assert len([n for n in chosen if n < 100]) == 4


def test_tau_of_equal_orders_is_one_and_of_reversed_ones_minus_one() -> None:
    assert kendall_tau(ORDER, [x**3 + 7 for x in ORDER], seed=0)[0] == pytest.approx(1)
    assert kendall_tau(ORDER, [-x for x in ORDER], seed=0)[0] == pytest.approx(-1)


def test_tau_of_a_score_that_orders_nothing_is_zero() -> None:
    constant = [0.5] * 6
    assert kendall_tau(ORDER, constant, seed=0) == (0.0, (0.0, 0.0))
    assert kendall_tau(constant, ORDER, seed=0)[0] == 0.0
    assert kendall_tau(constant, constant, seed=0)[0] == 0.0


@pytest.mark.parametrize(
    "other", [ORDER, ORDER[::-1], [3, 1, 2, 6, 4, 5], [1, 1, 2, 2, 0, 5], [2, 6, 1, 5, 3, 4]]
)
def test_the_interval_holds_tau_and_tau_is_symmetric(other: list[float]) -> None:
    tau, (low, high) = kendall_tau(ORDER, other, seed=0)
    assert -1 - 1e-9 <= low <= tau + 1e-9 <= high + 2e-9 <= 1 + 3e-9  # equal but for rounding
    assert kendall_tau(other, ORDER, seed=0)[0] == pytest.approx(tau)
    assert kendall_tau(ORDER, other, seed=0) == (tau, (low, high))


def test_one_swap_of_neighbours_takes_two_pairs_of_fifteen() -> None:
    swapped = [ORDER[1], ORDER[0], *ORDER[2:]]
    assert kendall_tau(ORDER, swapped, seed=0)[0] == pytest.approx(1 - 2 / 15)


def test_rank_fidelity_reports_each_score_beside_the_fit_alone() -> None:
    proxy = [
        {
            "trial": n,
            "key": f"key{n}",
            "ap": ap,
            "smooth_ap": -ap,
            "recall": 0.5,
            "macs": 100 + n,
            "params": 10,
        }
        for n, ap in enumerate(ORDER)
    ]
    alone = [{"ap": 2 * ap, "ap_interval": [0, 1]} for ap in ORDER]
    result = rank_fidelity(proxy, alone, seed=0)
    assert json.loads(json.dumps(result)) == result
    assert result["tau"] == pytest.approx(1)
    taus = {name: value["tau"] for name, value in result["proxies"].items()}
    assert taus == pytest.approx({"ap": 1, "smooth_ap": -1, "recall": 0, "macs": 1, "params": 0})
    assert [row["trial"] for row in result["architectures"]] == list(range(6))
    assert [row["alone_ap"] for row in result["architectures"]] == [2 * ap for ap in ORDER]


def test_a_fit_alone_follows_from_the_seed(tmp_path: Path) -> None:
    _, shards = tiny_shards(tmp_path)
    job = StandAloneJob(
        shards=shards,
        proxy=ProxySettings(fit=FIT, recalibration_images=4, held_out_share=0.3),
        fit=replace(FIT, steps=2),
        seed=0,
        device="cpu",
    )
    first = StandAloneEvaluator(job)(SMALLEST, 0)
    assert StandAloneEvaluator(job)(SMALLEST, 5) == first
    assert {"ap", "ap_interval"} <= first.keys()
