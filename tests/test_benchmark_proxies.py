"""The comparison of proxies, on made-up measurements."""

from typing import Any

import pytest

from benchmarks.proxies import draw, summarise, truth_tau
from objectives.cost import architecture_cost
from objectives.limits import Limits

TRUTH = (0.1, 0.2, 0.3, 0.4)


def network(truth: float, *, again: float | None = None) -> dict[str, Any]:
    proxies = {
        "same": {"score": truth, "seconds": 2.0},
        "opposite": {"score": -truth, "seconds": 1.0},
    }
    seeds = [] if again is None else [{"ap": again}]
    return {"alone_ap": truth, "alone_again": seeds, "proxies": proxies}


def test_proxies_come_best_first_with_their_seconds() -> None:
    found = summarise([network(ap) for ap in TRUTH], seed=0)
    assert list(found) == ["same", "opposite"]
    assert (found["same"]["tau"], found["opposite"]["tau"]) == (1, -1)
    assert found["same"]["seconds"] == 2.0


def test_the_truth_is_the_mean_over_its_fits() -> None:
    reversing = [network(ap, again=1 - 2 * ap) for ap in TRUTH]  # the mean falls where ap rises
    assert summarise(reversing, seed=0)["opposite"]["tau"] == pytest.approx(1)


def test_the_truth_s_own_tau_is_known_from_two_fits_on() -> None:
    assert truth_tau([network(ap) for ap in TRUTH], seed=0) is None
    agreeing = truth_tau([network(ap, again=2 * ap) for ap in TRUTH], seed=0)
    assert agreeing is not None
    assert agreeing["tau"] == 1


def test_networks_are_close_in_cost_and_keep_the_limits() -> None:
    costs = [architecture_cost(a, image_size=640) for a in draw(5, 300_000_000, seed=0)]
    assert max(cost.macs for cost in costs) <= 1.25 * min(cost.macs for cost in costs)
    assert all(Limits().allow(cost) for cost in costs)
