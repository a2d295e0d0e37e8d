"""A run's hypervolume beside random's: worked out by hand, and on made-up precisions."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import TrialState, create_trial

from nas.stop_rule import RUNG_SCORES
from objectives.limits import Limits
from search_spaces.space import SPACE
from studies import hypervolume_curves
from studies.design_rules import Candidate, DesignRules
from studies.hypervolume_curves import (
    Ground,
    Run,
    StoppedRow,
    compare_with_random,
    comparison_line,
    stopped_rows,
)
from studies.storage import TrialRow
from tests.studies.made_up_rows import made_up_ap
from tests.studies.toy import LIMITS, toy_cost


def macs_of(candidate: Candidate) -> float:
    return candidate.cost.macs


def ground(limits: Limits = LIMITS, *, seed: int = 0) -> Ground:
    return Ground(DesignRules(SPACE, toy_cost, limits), macs_of, limits.max_macs, seed)


def drawn(count: int) -> list[Candidate]:
    """Feasible architectures that no random search of a test draws."""
    rules, generator = ground().rules, np.random.default_rng(77)
    found: dict[str, Candidate] = {}
    while len(found) < count:
        one = rules.candidate(SPACE.random_genotype(generator))
        if LIMITS.allow(one.cost):
            found[one.architecture.key] = one
    return list(found.values())


def run_of(candidates: Sequence[Candidate], numbers: Sequence[int] | None = None) -> Run:
    """A run that tried these, with precisions that are made up."""
    numbers = numbers or range(len(candidates))
    generator = np.random.default_rng(5)
    aps = [
        (made_up_ap(one.architecture) ** 0.5 + 0.02 * generator.standard_normal()) ** 2
        for one in candidates
    ]
    rows = [
        TrialRow(
            trial=number,
            key=one.architecture.key,
            ap=ap,
            score=ap,
            macs=one.cost.macs,
            params=one.cost.params,
            peak_bytes=one.cost.peak_bytes,
            scores={},
        )
        for number, one, ap in zip(numbers, candidates, aps, strict=True)
    ]
    return Run(rows, max(numbers) + 1, "macs")


def best_last(count: int, among: int) -> list[Candidate]:
    """Some drawn architectures, then as many of those that add most, each for itself."""

    def adds(one: Candidate) -> float:
        return math.log(LIMITS.max_macs / one.cost.macs) * made_up_ap(one.architecture)

    candidates = drawn(among)
    half = count // 2
    return [*candidates[:half], *sorted(candidates[half:], key=adds)[-half:]]


def test_a_run_that_is_itself_random_does_as_random_does() -> None:
    found = compare_with_random(run_of(drawn(60)), ground())
    assert found["random"]["low"][-1] < found["final"]["run"] < found["random"]["high"][-1]


def test_a_run_that_finds_the_best_of_many_is_ahead_of_random() -> None:
    found = compare_with_random(run_of(best_last(60, among=400)), ground())
    final = found["final"]
    assert final["run"] > found["random"]["high"][-1]
    assert final["ratio"] == pytest.approx(final["run"] / final["random"])
    needed = final["trials_to_random"]
    assert found["run"]["mean"][needed - 1] >= final["random"] > found["run"]["mean"][needed - 2]
    assert "random search" in comparison_line(found)
    assert f"reached after {needed} trials" in comparison_line(found)


def test_curves_have_a_value_a_trial_never_fall_and_are_plain() -> None:
    found = compare_with_random(run_of(drawn(30)), ground())
    for name in ("run", "random"):
        for curve in found[name].values():
            assert len(curve) == 30
            assert curve == sorted(curve)
        low, mean, high = (np.array(found[name][end]) for end in ("low", "mean", "high"))
        assert (low <= high).all()
        assert mean.min() >= low.min()
    assert found["measured"] == sorted(found["measured"])
    assert (found["searches"], found["compared"], found["completed"]) == (20, 30, 30)
    assert json.loads(json.dumps(found)) == found | {
        "surrogate": found["surrogate"] | {"tau_interval": [*found["surrogate"]["tau_interval"]]}
    }


def test_equal_seeds_give_equal_curves() -> None:
    run = run_of(drawn(25))
    assert compare_with_random(run, ground()) == compare_with_random(run, ground())
    others = compare_with_random(run, ground(seed=1))
    assert others["random"] != compare_with_random(run, ground())["random"]


def test_a_trial_that_was_stopped_uses_up_its_number() -> None:
    candidates = drawn(24)
    numbers = [0, 1, 5, *range(6, 27)]  # 2 to 4 were stopped, and so were 27 and 28
    found = compare_with_random(replace(run_of(candidates, numbers), trials=29), ground())
    assert len(found["random"]["mean"]) == len(found["run"]["mean"]) == 29
    for curve in (found["measured"], found["run"]["mean"]):
        assert len({*curve[1:5]}) == 1
        assert curve[26] == curve[28]
    straight = compare_with_random(run_of(candidates), ground())
    assert found["measured"][5:27] == straight["measured"][2:]


def test_stopped_trials_keep_random_architectures_from_being_thought_as_good_as_the_others() -> (
    None
):
    """A random run whose worse half was stopped: who knows the other half alone is too kind to
    random."""
    candidates = drawn(80)
    whole = run_of(candidates)
    roots = np.sqrt([made_up_ap(one.architecture) for one in candidates])
    size = np.log([one.cost.macs for one in candidates])
    line = np.polynomial.Polynomial.fit(size, roots, 1)
    worse = {i for i in range(80) if roots[i] < line(size[i])}
    kept = [row for row in whole.rows if row.trial not in worse]
    stopped = [
        StoppedRow(row.trial, row.key, row.macs, row.score, doubt=0.02)
        for row in whole.rows
        if row.trial in worse
    ]
    blind, seeing = Run(kept, 80, "macs"), Run(kept, 80, "macs", stopped)
    random = {
        name: compare_with_random(run, ground())["final"]["random"]
        for name, run in {"whole": whole, "blind": blind, "seeing": seeing}.items()
    }
    assert random["blind"] > 1.05 * random["whole"]
    assert random["seeing"] == pytest.approx(random["whole"], rel=0.05)
    assert seeing.first(40).stopped == [row for row in stopped if row.trial < 40]


def test_stopped_trials_of_a_study_are_found_with_what_is_likely_of_them() -> None:
    attributes = {"key": "x", "macs": 7}
    whole = [
        create_trial(values=[0.1 * n, 7], user_attrs={**attributes, RUNG_SCORES: [0.01 * n]})
        for n in range(1, 7)
    ]
    stopped = create_trial(state=TrialState.PRUNED, user_attrs={**attributes, RUNG_SCORES: [0.04]})
    stopped.number = 9
    failed = create_trial(state=TrialState.FAIL)
    (row,) = stopped_rows([*whole, stopped, failed])
    assert (row.trial, row.key, row.macs) == (9, "x", 7)
    assert row.score == pytest.approx(0.4)
    assert stopped_rows([stopped, failed]) == []


def test_long_runs_are_compared_as_far_as_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypervolume_curves, "MOST_TRIALS", 25)
    run = run_of(drawn(40))
    found = compare_with_random(run, ground())
    assert found["compared"] == len(found["run"]["mean"]) == 25
    assert len(found["measured"]) == found["trials"] == 40
    assert found["run"] == compare_with_random(run.first(25), ground())["run"]


@pytest.mark.parametrize(
    ("run", "limits", "why_not"),
    [
        (run_of(drawn(19)), LIMITS, "takes 20 completed trials, and there are 19"),
        (
            replace(
                run_of(drawn(30)), rows=[replace(r, score=0.5) for r in run_of(drawn(30)).rows]
            ),
            LIMITS,
            "all trials have one score, 0.500",
        ),
        (
            replace(run_of(drawn(30)), rows=[replace(r, macs=7) for r in run_of(drawn(30)).rows]),
            LIMITS,
            "trial 0 had 7 MACs and has",
        ),
        (
            replace(run_of(drawn(30)), rows=[replace(r, key="x") for r in run_of(drawn(30)).rows]),
            LIMITS,
            "the search space has changed",
        ),
        (run_of(drawn(30)), replace(LIMITS, max_params=1), "0 of 2,000 random architectures keep"),
    ],
)
def test_where_random_cannot_be_guessed_the_run_stands_alone_and_it_is_said(
    run: Run, limits: Limits, why_not: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypervolume_curves, "MOST_DRAWS", 2_000)
    found = compare_with_random(run, ground(limits))
    assert why_not in found["why_not"]
    assert why_not in comparison_line(found)
    assert len(found["measured"]) == run.trials
    assert not found.keys() & {"run", "random", "final", "surrogate"}


def test_without_a_limit_the_box_ends_at_the_most_expensive_network() -> None:
    run = run_of(drawn(25))
    found = compare_with_random(run, replace(ground(), highest=None))
    assert LIMITS.max_macs > found["box"]["highest"] >= max(row.macs for row in run.rows)
