"""Which trials a sampler is still told of when there are more than it can use."""

from collections.abc import Sequence

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.pareto import pareto_front

BEST_REMEMBERED = 0.25
"""Share of a memory that is for the best trials of a study; the rest is for its newest."""

FORGET_EVERY = 100
"""Finished trials after which a memory is cut down to its size again."""


def remembered(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], memory: int
) -> set[int]:
    """Numbers of the best trials, front by front, and of the newest of the others."""
    left = {
        trial.number: _lowered(trial.values, directions)
        for trial in trials
        if trial.state == TrialState.COMPLETE and trial.values is not None
    }
    best: set[int] = set()
    while left and len(best) < BEST_REMEMBERED * memory:
        numbers = list(left)
        front = pareto_front([(left[n][0], -left[n][1]) for n in numbers])
        best |= {numbers[i] for i in front}
        left = {n: values for n, values in left.items() if n not in best}
    others = [trial.number for trial in trials if trial.number not in best]
    return best | set(others[len(others) - max(0, memory - len(best)) :])


def _lowered(values: Sequence[float], directions: Sequence[StudyDirection]) -> tuple[float, float]:
    """The two objectives, so that less is better in both."""
    first, second = (
        -value if direction == StudyDirection.MAXIMIZE else value
        for value, direction in zip(values, directions, strict=True)
    )
    return first, second
