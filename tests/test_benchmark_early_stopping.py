"""The replay of early stopping, on made-up tables whose answer is known."""

from functools import partial
from typing import Any

import pytest

from benchmarks.early_stopping import drawn_order, judged_rows, replay, summarise
from data.errors import UserError
from nas.outlook import USUAL_MACS


def row(macs: int, ap: float) -> dict[str, Any]:
    rungs = [
        {"steps": steps, "own": [ap * part * 1.05], "shown": [ap * part]}
        for steps, part in ((10, 0.2), (30, 0.5))
    ]
    return {"macs": macs, "score": ap, "rungs": rungs}


def replayed(rows: list[dict[str, Any]], seed: int, **rule: int) -> dict[str, float]:
    return replay(rows, drawn_order(len(rows), seed), seed, steps=90, **rule)


def test_where_more_macs_buy_precision_nothing_is_stopped() -> None:
    rows = [row(100 + i, 0.1 + 0.01 * i) for i in range(40)]
    assert replayed(rows, 0) == {"saved": 0, "stopped": 0, "hypervolume_lost": 0}


def test_hopeless_trials_end_at_the_first_rung_and_cost_nothing() -> None:
    good = [row(100 + i, 0.5 + 0.01 * i) for i in range(20)]
    bad = [row(200 + i, 0.1) for i in range(80)]
    found = replayed(good + bad, 1)
    assert 0.5 < found["stopped"] < 0.8  # those that come first have no peers, and some are exempt
    assert found["saved"] == pytest.approx(found["stopped"] * 80 / 90)
    assert found["hypervolume_lost"] == 0


def test_a_trial_that_starts_slowly_is_lost() -> None:
    good = [row(100 + i, 0.5) for i in range(50)]
    late = {**row(125, 0.0), "score": 0.9}
    losses = [replayed([*good, late], seed)["hypervolume_lost"] for seed in range(40)]
    assert min(losses) == 0
    assert 0.01 < max(losses) < 0.9


def test_trials_come_in_the_given_order() -> None:
    good = [row(100 + i, 0.5) for i in range(20)]
    bad = [row(200 + i, 0.1) for i in range(20)]
    first, last = (replay(rows, range(40), 0, steps=90) for rows in (bad + good, good + bad))
    assert first["stopped"] == 0
    assert last["stopped"] > 0.4


def test_fewer_better_trials_end_one_sooner() -> None:
    rows = [row(100 + i % 10, 0.1 + 0.01 * (i % 17)) for i in range(80)]
    saved = [replayed(rows, 0, dominators=dominators)["saved"] for dominators in (2, 3, 8)]
    assert saved[0] > saved[1] > saved[2]


def rung(steps: int, **scores: float) -> dict[str, Any]:
    noisy = {name: {"score": score, "ceiling": 2 * score} for name, score in scores.items()}
    return {"steps": steps, **noisy}


as_fitted = partial(judged_rows, end_exponent=0)
"""Scores, not outlooks."""


def test_the_size_of_a_network_counts_at_rungs_and_at_the_end() -> None:
    rungs = [rung(10, smooth_ap=0.1)]
    rows = [{"macs": macs, "ap": 0.5, "rungs": rungs} for macs in (USUAL_MACS, 16 * USUAL_MACS)]
    table = {"fit": {"steps": 90}, "rows": rows}
    usual, large = judged_rows(table, rungs={1: 0.5}, end_exponent=0.25)
    assert (usual["score"], large["score"]) == (0.5, pytest.approx(1.0))
    assert usual["rungs"][0]["shown"] == [0.1]
    assert large["rungs"][0]["shown"] == [pytest.approx(0.4)]
    assert large["rungs"][0]["own"] == [pytest.approx(0.8)]


def test_a_table_is_read_by_one_of_its_scores_at_some_of_its_rungs() -> None:
    rungs = [rung(20, smooth_ap=0.1, promise=0.2), rung(30, smooth_ap=0.3, promise=0.4)]
    row = {"macs": 7, "ap": 0.5, "promise": 0.6, "rungs": rungs}
    table = {"fit": {"steps": 90}, "raised": "promise", "rows": [row]}
    assert as_fitted(table, by="promise", rungs={3: 0}) == [
        {"macs": 7, "score": 0.6, "rungs": [{"steps": 30, "own": [0.8], "shown": [0.4]}]}
    ]
    with pytest.raises(UserError, match=r"rungs at \[20, 30\] steps, not at all of \[10, 20\]"):
        judged_rows(table)


def test_a_table_of_architectures_has_smooth_ap_alone() -> None:
    rungs = [{"steps": steps, "score": 0.1, "ceiling": 0.2} for steps in (20, 30)]
    table = {"fit": {"steps": 90}, "rows": [{"macs": 7, "ap": 0.5, "rungs": rungs}]}
    judged = [{"steps": steps, "own": [0.2], "shown": [0.1]} for steps in (20, 30)]
    assert as_fitted(table, rungs={2: 0, 3: 0}) == [{"macs": 7, "score": 0.5, "rungs": judged}]
    with pytest.raises(UserError, match="no promise at its rungs"):
        judged_rows(table, by="promise", rungs={3: 0})


def test_scores_are_compared_draw_by_draw_where_a_table_has_them() -> None:
    draws = [0.1, 0.3, 0.2]
    known = {"score": 0.2, "ceiling": 0.3, "replicates": draws}
    rungs = [{"steps": 10, "smooth_ap": known}]
    table = {"fit": {"steps": 90}, "rows": [{"macs": 7, "ap": 0.5, "rungs": rungs}]}
    (paired,), (alone,) = (as_fitted(table, rungs={1: 0}, paired=one) for one in (True, False))
    assert paired["rungs"] == [{"steps": 10, "own": draws, "shown": draws}]
    assert alone["rungs"] == [{"steps": 10, "own": [0.3], "shown": [0.2]}]


def test_the_summary_is_of_all_orders() -> None:
    assert summarise([{"saved": 0.0}, {"saved": 1.0}]) == {
        "saved": {"mean": 0.5, "interval": pytest.approx([0.05, 0.95])}
    }
