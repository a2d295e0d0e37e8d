import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from data.errors import UserError
from nas.fidelity import (
    StandAloneEvaluator,
    StandAloneJob,
    choose_candidates,
    expected_aps,
    kendall_tau,
    mean_of_fits,
    rank_fidelity,
    tau_b,
)
from nas.proxy import ProxySettings
from nas.stop_rule import NEVER
from objectives.zero_cost import ZERO_COST_SCORES
from tests.tiny_training import FIT, SMALLEST, diverge, tiny_shards

ORDER = [0.1, 0.2, 0.3, 0.5, 0.6, 0.9]


@pytest.mark.parametrize("front", [0, 1, 2, 3, 7, 20])
@pytest.mark.parametrize("others", [0, 1, 2, 5, 30])
@pytest.mark.parametrize("count", [4, 5, 8])
def test_candidates_are_distinct_and_as_many_as_there_are(
    front: int, others: int, count: int
) -> None:
    if front + others < 4:
        with pytest.raises(UserError, match=r"at least 4 completed trials, got \d; raise --budget"):
            choose_candidates(range(front), range(100, 100 + others), count=count, seed=0)
        return
    chosen = choose_candidates(range(front), range(100, 100 + others), count=count, seed=0)
    assert len(set(chosen)) == len(chosen) == min(count, front + others)
    assert set(chosen) <= {*range(front), *range(100, 100 + others)}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_fewer_than_four_candidates_are_refused(count: int) -> None:
    with pytest.raises(UserError, match=f"at least 4 candidates, got {count}; raise --candidates"):
        choose_candidates(range(9), range(100, 150), count=count, seed=0)


def test_half_of_the_candidates_are_spread_over_the_front() -> None:
    chosen = choose_candidates(range(9), range(100, 150), count=8, seed=0)
    of_front = [n for n in chosen if n < 100]
    assert (len(of_front), of_front[0], of_front[-1]) == (4, 0, 8)


def test_the_other_half_is_drawn_by_the_seed() -> None:
    draws = [choose_candidates(range(9), range(100, 150), count=8, seed=s) for s in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) == 3
    assert len({tuple(draw[:4]) for draw in draws}) == 1


def test_tau_of_equal_orders_is_one_and_of_reversed_ones_minus_one() -> None:
    assert tau_b(ORDER, [x**3 + 7 for x in ORDER]) == pytest.approx(1)
    assert tau_b(ORDER, [-x for x in ORDER]) == pytest.approx(-1)


def test_tau_of_a_score_that_orders_nothing_is_zero() -> None:
    constant = [0.5] * 6
    assert kendall_tau(ORDER, constant, seed=0) == (0.0, (0.0, 0.0))
    assert tau_b(constant, ORDER) == 0.0
    assert tau_b(constant, constant) == 0.0


@pytest.mark.parametrize(
    "other", [ORDER, ORDER[::-1], [3, 1, 2, 6, 4, 5], [1, 1, 2, 2, 0, 5], [2, 6, 1, 5, 3, 4]]
)
def test_the_interval_holds_tau_and_tau_is_symmetric(other: list[float]) -> None:
    tau, (low, high) = kendall_tau(ORDER, other, seed=0)
    assert -1 - 1e-9 <= low <= tau + 1e-9 <= high + 2e-9 <= 1 + 3e-9  # equal but for rounding
    assert tau_b(other, ORDER) == pytest.approx(tau)
    assert kendall_tau(ORDER, other, seed=0) == (tau, (low, high))


@pytest.mark.parametrize("levels", [3, 5, 100])
def test_tau_is_that_of_scipy_also_with_ties(levels: int) -> None:
    generator = np.random.default_rng(levels)
    for _ in range(10):
        first, second = generator.integers(levels, size=(2, 12)).tolist()
        expected = kendalltau(first, second).statistic
        assert tau_b(first, second) == pytest.approx(expected)


def test_one_swap_of_neighbours_takes_two_pairs_of_fifteen() -> None:
    swapped = [ORDER[1], ORDER[0], *ORDER[2:]]
    assert tau_b(ORDER, swapped) == pytest.approx(1 - 2 / 15)


def proxy_rows(**others: list[Any]) -> list[dict[str, Any]]:
    """Six trials of rising AP. others: further scores, one list each."""
    return [
        {
            "trial": n,
            "key": f"key{n}",
            "ap": ap,
            "ap_interval": [0.0, 1.0],
            "smooth_ap": -ap,
            "recall": 0.5,
            "macs": 100 + n,
            "params": 10,
            **{name: values[n] for name, values in others.items()},
        }
        for n, ap in enumerate(ORDER)
    ]


def alone_rows(scores: list[float], **others: list[Any]) -> list[dict[str, Any]]:
    return [
        {"ap": ap, "ap_interval": [0, 1], **{name: values[n] for name, values in others.items()}}
        for n, ap in enumerate(scores)
    ]


def test_rank_fidelity_reports_each_score_beside_the_fit_alone() -> None:
    result = rank_fidelity(proxy_rows(), alone_rows([2 * ap for ap in ORDER]), seed=0)
    assert json.loads(json.dumps(result)) == result
    assert result["tau"] == pytest.approx(1)
    taus = {name: value["tau"] for name, value in result["proxies"].items()}
    assert taus == pytest.approx({"ap": 1, "smooth_ap": -1, "recall": 0, "macs": 1, "params": 0})
    assert [row["trial"] for row in result["architectures"]] == list(range(6))
    assert [row["alone_ap"] for row in result["architectures"]] == [2 * ap for ap in ORDER]


def test_the_score_that_a_search_raised_comes_first() -> None:
    rows = proxy_rows(promise=ORDER[::-1])
    result = rank_fidelity(rows, alone_rows(ORDER), score="promise", seed=0)
    assert (result["score"], result["tau"]) == ("promise", pytest.approx(-1))
    assert list(result["proxies"])[:2] == ["promise", "ap"]
    assert result["proxies"]["ap"]["tau"] == pytest.approx(1)


def test_zero_cost_scores_are_proxies_and_other_scores_of_a_fit_alone_are_not() -> None:
    alone = alone_rows(ORDER, naswot=ORDER, zen=ORDER[::-1], recall=ORDER)
    result = rank_fidelity(proxy_rows(), alone, seed=0)
    taus = {name: result["proxies"][name]["tau"] for name in ("naswot", "zen", "recall")}
    assert taus == pytest.approx({"naswot": 1, "zen": -1, "recall": 0})
    assert [row["naswot"] for row in result["architectures"]] == ORDER


def test_only_scores_that_are_numbers_in_all_trials_are_proxies() -> None:
    rows = proxy_rows(
        validation_loss=ORDER[::-1],
        note=["text"] * 6,
        sometimes=[math.nan, *ORDER[1:]],
    )
    del rows[3]["recall"]
    result = rank_fidelity(rows, alone_rows(ORDER), seed=0)
    assert set(result["proxies"]) == {"ap", "smooth_ap", "validation_loss", "macs", "params"}
    assert result["proxies"]["validation_loss"]["tau"] == pytest.approx(-1)


def test_candidates_are_ranked_again_by_the_fit_alone() -> None:
    alone = alone_rows([0.3, 0.1, 0.6, 0.6, 0.0, 0.5])
    assert rank_fidelity(proxy_rows(), alone, seed=0)["reranked"] == [2, 3, 5, 0, 1, 4]


def test_three_candidates_have_no_rank_fidelity() -> None:
    with pytest.raises(UserError, match="at least 4 candidates, got 3"):
        rank_fidelity(proxy_rows()[:3], alone_rows(ORDER)[:3], seed=0)


def tiny_job(folder: Path) -> StandAloneJob:
    _, shards = tiny_shards(folder)
    return StandAloneJob(
        shards=shards,
        proxy=ProxySettings(fit=FIT, recalibration_images=4, held_out_share=0.3),
        fit=replace(FIT, steps=2),
        seed=0,
        fit_seed=1,
        device="cpu",
    )


def test_a_fit_alone_follows_from_the_seeds(tmp_path: Path) -> None:
    job = tiny_job(tmp_path)
    first = StandAloneEvaluator(job)(SMALLEST, 0, NEVER)
    assert StandAloneEvaluator(job)(SMALLEST, 5, NEVER) == first
    assert {"ap", "ap_interval", *ZERO_COST_SCORES} <= first.keys()
    other = StandAloneEvaluator(replace(job, fit_seed=2))(SMALLEST, 0, NEVER)
    assert other["synflow"] != first["synflow"]


def test_a_fit_alone_that_diverges_has_no_ap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverge(monkeypatch, "nas.fitting")
    assert math.isnan(StandAloneEvaluator(tiny_job(tmp_path))(SMALLEST, 0, NEVER)["ap"])


def test_what_is_expected_is_halfway_from_the_fit_alone_to_what_the_trials_say() -> None:
    trial = np.linspace(0.1, 0.4, 9) ** 2
    costs = np.exp(np.arange(9.0))
    alone = (2 * np.sqrt(trial) + 0.01 * np.arange(9)) ** 2
    expected = expected_aps(trial.tolist(), alone.tolist(), costs.tolist())
    assert expected == pytest.approx(alone.tolist())
    lucky = alone.copy()
    lucky[4] = (np.sqrt(alone[4]) + 0.09) ** 2
    roots = np.sqrt(expected_aps(trial.tolist(), lucky.tolist(), costs.tolist()))
    line = np.sqrt(alone) + 0.09 / 9  # the middle one lifts all guesses by its ninth
    assert roots == pytest.approx((np.sqrt(lucky) + line) / 2)
    twice = expected_aps(trial.tolist(), lucky.tolist(), costs.tolist(), fits=2)
    assert np.sqrt(twice) == pytest.approx((2 * np.sqrt(lucky) + line) / 3)


def test_fits_of_one_network_count_by_their_mean() -> None:
    first = {"ap": 0.1, "ap_interval": [0.05, 0.2], "zen": 3, "intervals": {"recall": [0, 1]}}
    mean = mean_of_fits([first, {**first, "ap": 0.3, "ap_interval": [0.15, 0.4], "zen": 4}])
    assert mean["aps"] == [0.1, 0.3]
    assert (mean["ap"], mean["zen"]) == (pytest.approx(0.2), 3.5)
    assert mean["ap_interval"] == pytest.approx([0.1, 0.3])
    assert "intervals" not in mean
    assert math.isnan(mean_of_fits([first, {"ap": math.nan}])["ap"])


def test_few_networks_are_expected_to_reach_what_they_reached() -> None:
    assert expected_aps(ORDER, ORDER[::-1], [1.0] * 6) == ORDER[::-1]


def test_two_lucky_fits_together_order_networks_better_than_one() -> None:
    generator = np.random.default_rng(0)
    alone_taus, expected_taus = [], []
    for _ in range(20):
        truth = generator.uniform(0.2, 0.5, 24)
        trial = (0.4 * truth + 0.02 * generator.standard_normal(24)).clip(0) ** 2
        alone = (truth + 0.05 * generator.standard_normal(24)).clip(0) ** 2
        expected = expected_aps(
            trial.tolist(), alone.tolist(), generator.uniform(1, 9, 24).tolist()
        )
        alone_taus.append(kendalltau(alone, truth).statistic)
        expected_taus.append(kendalltau(expected, truth).statistic)
    assert np.mean(expected_taus) > np.mean(alone_taus) + 0.03
