"""What early stopping spared a study, and what the trials that it may not stop say of its price."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.pareto import hypervolume, pareto_front
from nas.stop_rule import EXEMPT_SHARE, FIT_STEPS, RUNG_SCORES, SPARED_AT
from studies.front import cost_name


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingReport:
    """Trials and steps of a study whose fits were judged at rungs.

    steps: of all fits. full_steps: what they would have been without the rule. spared: trials
    that the rule would have stopped and that went on because they were drawn to.
    spared_on_front: how many of these came onto the front. hypervolume_lost: share of the
    hypervolume, log cost against AP, that the spared ones account for; with as many stopped
    trials for each spared one as EXEMPT_SHARE says, an estimate of the rule's price from below.
    """

    trials: int
    stopped: int
    steps: int
    full_steps: int
    spared: int
    spared_on_front: int
    hypervolume_lost: float

    @property
    def saved_share(self) -> float:
        """Steps that were not made, as a share of those without the rule."""
        return 1 - self.steps / self.full_steps

    @property
    def line(self) -> str:
        """The report for a person."""
        on_front = f"{self.spared_on_front} of them on the front" if self.spared else "none to see"
        return (
            f"early stopping: {self.stopped} of {self.trials} trials stopped, "
            f"{self.saved_share:.0%} of the fits' steps saved; {self.spared} went on against the "
            f"rule, as one in {round(1 / EXEMPT_SHARE)} does: {on_front}, "
            f"{self.hypervolume_lost:.1%} of the hypervolume"
        )

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {**asdict(self), "saved_share": self.saved_share}


def stopping_report(study: Study) -> StoppingReport | None:
    """What the rule did in a study; None where no completed trial was judged at rungs."""
    wanted = (TrialState.COMPLETE, TrialState.PRUNED)
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False, states=wanted)
        if RUNG_SCORES in trial.user_attrs
    ]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return None
    cost = cost_name(study)
    points = [(float(trial.user_attrs[cost]), float(trial.values[0])) for trial in complete]
    front = {complete[i].number for i in pareto_front(points)}
    spared = [trial for trial in complete if SPARED_AT in trial.user_attrs]
    return StoppingReport(
        trials=len(trials),
        stopped=len(trials) - len(complete),
        steps=sum(trial.user_attrs[FIT_STEPS] for trial in trials),
        full_steps=max(trial.user_attrs[FIT_STEPS] for trial in complete) * len(trials),
        spared=len(spared),
        spared_on_front=sum(trial.number in front for trial in spared),
        hypervolume_lost=_share_of(spared, complete, points),
    )


def _share_of(
    some: Sequence[FrozenTrial],
    trials: Sequence[FrozenTrial],
    points: Sequence[tuple[float, float]],
) -> float:
    """Share of the hypervolume of all points that is lost without some of the trials."""
    gone = {trial.number for trial in some}
    logs = [(math.log(cost), score) for cost, score in points]
    others = [point for point, trial in zip(logs, trials, strict=True) if trial.number not in gone]
    reference = max(cost for cost, _ in logs), 0.0
    whole = hypervolume(logs, reference=reference)
    return 1 - hypervolume(others, reference=reference) / whole if whole else 0.0
