"""What the guide expects of architectures, and that searching by it pays."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.pareto import Point, anytime_hypervolume, hypervolume
from nas.stop_rule import RUNG_SCORES
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from studies import gaussian_guide
from studies.design_rules import Candidate, DesignRules, by_macs
from studies.gaussian_guide import FrontSteps, GaussianGuide
from studies.replay import ours
from tests.studies.made_up_rows import made_up_ap
from tests.studies.toy import LIMITS, toy_cost

RULES = DesignRules(SPACE, toy_cost, LIMITS)
HIGHEST = 6.0
FRONT = [(1.0, 0.2), (3.0, 0.5), (4.0, 0.6)]


@pytest.mark.parametrize("cost", [0.5, 1.0, 2.0, 3.5, 5.0, 6.0])
@pytest.mark.parametrize("ap", [0.0, 0.1, 0.3, 0.55, 0.9])
def test_a_sure_point_gains_the_hypervolume_that_it_adds(cost: float, ap: float) -> None:
    steps = FrontSteps.of([*FRONT, (3.5, 0.4)], highest=HIGHEST)
    (gain,) = steps.expected_gain(np.array([cost]), np.array([math.sqrt(ap)]), np.zeros(1))
    before, after = (hypervolume(points, reference=(HIGHEST, 0.0)) for points in _with(cost, ap))
    assert gain == pytest.approx(after - before)


def _with(cost: float, ap: float) -> tuple[Sequence[Point], Sequence[Point]]:
    return FRONT, [*FRONT, (cost, ap)]


def test_an_unsure_point_gains_the_mean_over_what_it_may_be() -> None:
    steps = FrontSteps.of(FRONT, highest=HIGHEST)
    root, deviation = 0.6, 0.15
    (gain,) = steps.expected_gain(np.array([2.0]), np.array([root]), np.array([deviation]))
    drawn = np.maximum(0, np.random.default_rng(0).normal(root, deviation, 4000)) ** 2
    areas = [hypervolume(_with(2.0, ap)[1], reference=(HIGHEST, 0.0)) for ap in drawn.tolist()]
    assert gain == pytest.approx(
        np.mean(areas) - hypervolume(FRONT, reference=(HIGHEST, 0.0)), rel=0.05
    )


def test_doubt_is_worth_something_where_the_guess_alone_is_not() -> None:
    steps = FrontSteps.of(FRONT, highest=HIGHEST)
    roots = np.full(3, 0.7)
    gains = steps.expected_gain(np.full(3, 3.5), roots, np.array([0.0, 0.1, 0.2]))
    assert gains[0] == 0
    assert 0 < gains[1] < gains[2]


def trial(number: int, candidate: Candidate, ap: float, *rungs: float) -> FrozenTrial:
    """A finished trial; one without an AP was stopped at its last rung."""
    done = create_trial(
        state=TrialState.PRUNED if math.isnan(ap) else TrialState.COMPLETE,
        params=RULES.parameters(candidate.genotype),
        distributions={**RULES.distributions},
        values=None if math.isnan(ap) else [ap, candidate.cost.macs],
        user_attrs={RUNG_SCORES: list(rungs)} if rungs else {},
    )
    done.number = number
    return done


def strangers(count: int) -> list[Candidate]:
    generator = np.random.default_rng(7)
    drawn = (RULES.candidate(SPACE.random_genotype(generator)) for _ in range(100 * count))
    return [candidate for candidate in drawn if LIMITS.allow(candidate.cost)][:count]


def whole_trials(count: int) -> list[FrozenTrial]:
    return [trial(i, one, made_up_ap(one.architecture)) for i, one in enumerate(strangers(count))]


def proposals(told: Sequence[FrozenTrial], *, flying: int = 0, seed: int = 0) -> list[str]:
    tried = dict(enumerate(strangers(len(told) + flying)))
    guide = GaussianGuide(RULES, by_macs, seed=seed)
    return [RULES.glance(genotype).key for genotype in guide.draws(len(tried), told, tried)]


def test_proposals_keep_the_limits_and_are_new() -> None:
    told = whole_trials(40)
    keys = proposals(told)
    tried = {RULES.candidate(RULES.genotype(one.params)).key for one in told}
    assert len(keys) == len(set(keys)) > 100
    assert not tried & set(keys)
    assert proposals(told) == keys
    assert proposals(told, seed=1) != keys


def test_too_few_trials_say_nothing() -> None:
    assert proposals(whole_trials(19)) == []
    equal = [trial(i, one, 0.3) for i, one in enumerate(strangers(30))]
    assert proposals(equal) == []


def test_a_trial_in_flight_is_not_proposed_again() -> None:
    told = whole_trials(40)
    first = proposals(told)[0]
    chosen = RULES.candidate(SPACE.encode(Architecture.from_key(first)))
    tried = dict(enumerate([*strangers(40), chosen]))
    guide = GaussianGuide(RULES, by_macs, seed=0)
    assert first not in {RULES.glance(one).key for one in guide.draws(41, told, tried)}


def test_what_is_forgotten_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaussian_guide, "MEMORY", 60)
    monkeypatch.setattr(gaussian_guide, "FORGET_EVERY", 30)
    monkeypatch.setattr(gaussian_guide, "LEARN_EVERY", 30)
    told = whole_trials(95)
    keys = proposals(told)
    guide = GaussianGuide(RULES, by_macs, seed=0)
    tried = dict(enumerate(strangers(95)))
    kept = {result.candidate.key for result in guide._results(told, tried)}
    assert len(kept) == 35  # 30 of the first 90, and the five since
    best = max(told, key=lambda one: one.values[0])
    assert tried[best.number].key in kept
    others = [
        one
        if tried[one.number].key in kept
        else trial(one.number, tried[one.number], 0.0001 * one.number)
        for one in told
    ]
    assert others != told
    assert proposals(others) == keys


@pytest.mark.slow
def test_a_guided_search_finds_more_than_tpe_and_random_draws() -> None:
    areas = {}
    for base in ("gp", "tpe", "random"):
        curves = []
        for seed in range(3):
            noise = np.random.default_rng(seed)

            def score(candidate: Candidate, noise: np.random.Generator = noise) -> float:
                root = math.sqrt(made_up_ap(candidate.architecture)) + 0.05 * noise.normal()
                return max(0.0, root) ** 2

            found = zip(range(60), ours(base)(RULES, score, seed), strict=False)
            points = [(math.log(one.cost.macs), made_up_ap(one.architecture)) for _, one in found]
            reference = (math.log(LIMITS.max_macs), 0.0)
            curves.append(anytime_hypervolume(points, reference=reference)[-1])
        areas[base] = float(np.mean(curves))
    assert areas["gp"] > areas["tpe"] > areas["random"]
