"""What a table tells about architectures that it does not hold."""

import math
from functools import cache

import numpy as np
import pytest
from scipy.stats import kendalltau

from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from studies import surrogate
from studies.design_rules import Candidate, DesignRules
from studies.surrogate import Surrogate
from tests.studies.made_up_rows import made_up_ap, made_up_rows
from tests.studies.toy import LIMITS, toy_cost

RULES = DesignRules(SPACE, toy_cost, LIMITS)


@cache
def table(noise: float = 0.01) -> tuple[tuple[Candidate, ...], tuple[float, ...]]:
    rows = made_up_rows(LIMITS, toy_cost, noise=noise)["rows"]
    keys = [row["key"] for row in rows]
    candidates = [RULES.candidate(SPACE.encode(Architecture.from_key(key))) for key in keys]
    return tuple(candidates), tuple(row["ap"] for row in rows)


def strangers(count: int) -> list[Candidate]:
    generator = np.random.default_rng(1)
    drawn = (RULES.candidate(SPACE.random_genotype(generator)) for _ in range(100 * count))
    return [candidate for candidate in drawn if LIMITS.allow(candidate.cost)][:count]


def test_architectures_outside_the_table_are_put_in_order() -> None:
    guess = Surrogate(SPACE, *table())
    others = strangers(60)
    expected = [guess.expected(candidate) for candidate in others]
    truth = [made_up_ap(candidate.architecture) for candidate in others]
    assert kendalltau(expected, truth).statistic > 0.5
    assert np.corrcoef(expected, truth)[0, 1] > 0.7


def test_the_check_believes_a_structure_and_doubts_scores_that_have_none() -> None:
    candidates, aps = table()
    check = Surrogate(SPACE, candidates, aps).check(seed=0)
    assert check.r2 > 0.4
    assert check.tau_interval[0] > check.nearest_tau
    mixed = np.random.default_rng(0).permutation(aps).tolist()
    doubted = Surrogate(SPACE, candidates, mixed).check(seed=0)
    assert doubted.r2 < 0.15
    assert doubted.tau_interval[0] < 0.2


def test_the_check_is_a_guess_without_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worked out by leaving each row out, with the covariance of the whole table."""
    candidates, aps = table()
    whole = Surrogate(SPACE, candidates, aps)
    monkeypatch.setattr(surrogate, "_most_likely", lambda *_: whole.parameters)
    guesses = []
    for left_out in range(len(aps)):
        others = [i for i in range(len(aps)) if i != left_out]
        rest = Surrogate(SPACE, [candidates[i] for i in others], [aps[i] for i in others])
        guesses.append(rest.expected(candidates[left_out]))
    rmse = math.sqrt(np.mean((np.array(guesses) - aps) ** 2))
    assert whole.check(seed=0).rmse == pytest.approx(rmse, rel=0.02)


def test_noisy_tables_have_noise() -> None:
    calm, wild = (Surrogate(SPACE, *table(noise)) for noise in (0.01, 0.1))
    assert wild.noise > 0.05 > calm.noise
    assert wild.check(seed=0).noise == wild.noise


def test_one_fit_scatters_around_what_is_expected() -> None:
    guess = Surrogate(SPACE, *table(0.05))
    candidate = strangers(1)[0]
    roots = [math.sqrt(guess.observed(candidate, seed=seed)) for seed in range(400)]
    assert np.mean(roots) == pytest.approx(math.sqrt(guess.expected(candidate)), abs=0.01)
    assert np.std(roots) == pytest.approx(guess.noise, rel=0.15)
    assert guess.observed(candidate, seed=3) == guess.observed(candidate, seed=3)


def test_tables_that_say_nothing_are_refused() -> None:
    candidates, aps = table()
    with pytest.raises(ValueError, match="at least 20, got 19"):
        Surrogate(SPACE, candidates[:19], aps[:19])
    with pytest.raises(ValueError, match=r"scores must differ, got 0\.5 for all"):
        Surrogate(SPACE, candidates, [0.5] * len(candidates))


def test_drawn_functions_agree_where_something_is_known() -> None:
    candidates, aps = table()
    guess = Surrogate(SPACE, candidates, aps)
    others = strangers(40)
    drawn = np.array([guess.drawn([*candidates, *others], seed=seed) for seed in range(60)])
    assert guess.drawn([*candidates, *others], seed=3) == drawn[3].tolist()
    roots = np.sqrt(drawn)
    known, unknown = roots[:, : len(aps)], roots[:, len(aps) :]
    assert known.std(axis=0).mean() < unknown.std(axis=0).mean()
    expected = np.sqrt([guess.expected(candidate) for candidate in others])
    # The mean of 60 draws is off by an eighth of their deviation.
    assert np.abs(unknown.mean(axis=0) - expected).mean() < 0.3 * unknown.std(axis=0).mean()
    assert unknown.max(axis=1).mean() > expected.max()
