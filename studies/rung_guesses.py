"""What a trial that was stopped early would have come to.

Whoever learns from whole fits alone learns from the better architectures alone: the others were
stopped.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import linregress

from nas.stop_rule import RUNG_SCORES

Array = NDArray[np.float64]

FEWEST_PAIRS = 5
"""Whole fits that a rung's guess is learned from."""


class RungGuesses:
    """The score of a whole fit, guessed from that of its last rung: a straight line between the
    roots of both, through the trials that went on."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        pairs: dict[int, list[tuple[float, float]]] = {}
        for trial in trials:
            if trial.state == TrialState.COMPLETE:
                for rung, score in enumerate(trial.user_attrs.get(RUNG_SCORES, ())):
                    pairs.setdefault(rung, []).append((score, trial.values[0]))
        self._lines = {
            rung: _line(np.sqrt(np.array(known)))
            for rung, known in pairs.items()
            if len(known) >= FEWEST_PAIRS
        }

    def score_and_doubt(self, trial: FrozenTrial) -> tuple[float, float] | None:
        """None for a trial that failed, or of whose last rung too little is known."""
        if trial.state == TrialState.COMPLETE:
            return float(trial.values[0]), 0.0
        scores = trial.user_attrs.get(RUNG_SCORES, ())
        if trial.state != TrialState.PRUNED or len(scores) - 1 not in self._lines:
            return None
        start, slope, doubt = self._lines[len(scores) - 1]
        return max(0.0, start + slope * math.sqrt(scores[-1])) ** 2, doubt


def _line(roots: Array) -> tuple[float, float, float]:
    """Start, slope and scatter of the least-squares line. roots: (N, 2), from and to."""
    if np.ptp(roots[:, 0]) == 0:
        return float(roots[:, 1].mean()), 0.0, float(roots[:, 1].std())
    line = linregress(roots[:, 0], roots[:, 1])
    scatter = (roots[:, 1] - line.intercept - line.slope * roots[:, 0]).std()
    return float(line.intercept), float(line.slope), float(scatter)
