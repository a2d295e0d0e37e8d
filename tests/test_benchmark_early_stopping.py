"""The replay of early stopping, on made-up tables whose answer is known."""

from typing import Any

import pytest

from benchmarks.early_stopping import replay, summarise


def row(macs: int, ap: float) -> dict[str, Any]:
    rungs = [
        {"steps": steps, "score": ap * part, "ceiling": ap * part * 1.05}
        for steps, part in ((10, 0.2), (30, 0.5))
    ]
    return {"macs": macs, "ap": ap, "rungs": rungs}


def test_where_more_macs_buy_precision_nothing_is_stopped() -> None:
    rows = [row(100 + i, 0.1 + 0.01 * i) for i in range(40)]
    assert replay(rows, steps=90, seed=0) == {"saved": 0, "stopped": 0, "hypervolume_lost": 0}


def test_hopeless_trials_end_at_the_first_rung_and_cost_nothing() -> None:
    good = [row(100 + i, 0.5 + 0.01 * i) for i in range(20)]
    bad = [row(200 + i, 0.1) for i in range(80)]
    found = replay(good + bad, steps=90, seed=1)
    assert 0.5 < found["stopped"] < 0.8  # those that come first have no peers, and some are exempt
    assert found["saved"] == pytest.approx(found["stopped"] * 80 / 90)
    assert found["hypervolume_lost"] == 0


def test_a_trial_that_starts_slowly_is_lost() -> None:
    good = [row(100 + i, 0.5) for i in range(50)]
    late = {**row(125, 0.0), "ap": 0.9}
    losses = [replay([*good, late], steps=90, seed=seed)["hypervolume_lost"] for seed in range(40)]
    assert min(losses) == 0
    assert 0.01 < max(losses) < 0.9


def test_the_summary_is_of_all_orders() -> None:
    assert summarise([{"saved": 0.0}, {"saved": 1.0}]) == {
        "saved": {"mean": 0.5, "interval": pytest.approx([0.05, 0.95])}
    }
