"""What the last rung of a stopped trial says of the whole fit it did not have."""

import math

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.stop_rule import RUNG_SCORES
from studies.rung_guesses import RungGuesses


def trial(ap: float | None, *rungs: float) -> FrozenTrial:
    """A finished trial; one without an AP was stopped at its last rung."""
    return create_trial(
        state=TrialState.PRUNED if ap is None else TrialState.COMPLETE,
        values=None if ap is None else [ap, 1.0],
        user_attrs={RUNG_SCORES: list(rungs)},
    )


def test_a_stopped_trial_is_guessed_from_its_last_rung_with_their_doubt() -> None:
    scores = [0.01 * n for n in range(1, 9)]
    scatter = [0.01 * (-1) ** n for n in range(8)]
    whole = [
        trial((0.1 + 2 * math.sqrt(score) + off) ** 2, score, 0.5)
        for score, off in zip(scores, scatter, strict=True)
    ]
    guesses = RungGuesses(whole)
    ap, doubt = guesses.score_and_doubt(trial(None, 0.04)) or (0.0, 0.0)
    assert [ap, doubt] == pytest.approx([0.5**2, 0.01], rel=0.1)
    assert guesses.score_and_doubt(whole[0]) == (whole[0].values[0], 0)
    roots = np.sqrt([one.values[0] for one in whole])
    ap, doubt = guesses.score_and_doubt(trial(None, 0.04, 0.5)) or (0.0, 0.0)
    assert [ap, doubt] == pytest.approx([roots.mean() ** 2, roots.std()]), "all had this score"
    assert guesses.score_and_doubt(trial(None, 0.04, 0.5, 0.6)) is None
    assert RungGuesses(whole[:4]).score_and_doubt(trial(None, 0.04)) is None
