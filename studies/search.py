"""The driver of a search: asks the sampler, has architectures evaluated, tells the study.

Trials are asked and told strictly in the order of their numbers, through a window of `lookahead`
trials in flight, and a trial may only be stopped by trials that its choice could know of. So a
study depends on its settings and scores alone: any number of workers, at any speed, stopped and
gone on with at any time, makes the same trials.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from data.errors import UserError
from data.progress import Progress, silent
from nas.stop_rule import (
    EXEMPT_SHARE,
    RUNG_REPLICATES,
    STOPPED_AT,
    Peer,
    StopRule,
    peer_of,
)
from objectives.limits import CostFunction
from search_spaces.architecture import Architecture
from search_spaces.space import Space
from studies.design_rules import CostOf, DesignRules, by_macs
from studies.executors import WorkerDied, Workers
from studies.samplers import FeasibleSampler
from studies.settings import StudySettings
from studies.storage import (
    COSTS,
    Score,
    TrialRow,
    completed_trials,
    one_writer,
    open_study,
    storage_trouble,
)

FAILURE = "failure"
"""User attribute of a failed trial: why it failed."""

MAX_CONSECUTIVE_FAILURES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A study to be made or gone on with.

    cost: cost of an architecture at the limits' image size. lowered: the value that trials lower,
    of any candidate.
    """

    study_name: str
    storage_url: str
    settings: StudySettings
    space: Space
    cost: CostFunction
    lowered: CostOf = by_macs

    @property
    def rules(self) -> DesignRules:
        """What may be built."""
        return DesignRules(self.space, self.cost, self.settings.limits)


def run_search(
    search: Search, workers: Workers, *, budget: int, progress: Progress = silent
) -> tuple[TrialRow, ...]:
    """Bring a study to `budget` trials, failed and stopped ones counted, and give its completed
    trials. A stopped one ends PRUNED, with its scores as user attributes.

    Trials that an earlier run left unfinished are evaluated first. On Ctrl-C the trials in flight
    stay unfinished for the next run.

    Raises:
        UserError: the budget is below 1; the study was made with other settings; nothing new
            keeps the limits; several trials in a row failed; the storage cannot be used.
    """
    if budget < 1:
        raise UserError(f"--budget must be at least 1 trial, got {budget}")
    with one_writer(search.storage_url), storage_trouble(search.storage_url):
        study = open_study(search.study_name, search.storage_url, search.settings)
        _Driver(search, study, workers).run(budget, progress)
        return completed_trials(study)


class _Driver:
    def __init__(self, search: Search, study: Study, workers: Workers) -> None:
        settings = search.settings
        self._settings = settings
        self._rules = search.rules
        self._study = study
        self._workers = workers
        self._in_flight: dict[int, FrozenTrial] = {}
        self._peers: dict[int, Peer] = {}
        self._sampler = FeasibleSampler(
            self._rules,
            base=settings.sampler,
            seed=settings.seed,
            lookahead=settings.lookahead,
            starts=tuple(map(Architecture.from_key, settings.starts)),
            lowered=search.lowered,
        )

    def run(self, budget: int, progress: Progress) -> None:
        stored = self._study.get_trials(deepcopy=False)
        told = sum(trial.state.is_finished() for trial in stored)  # told in order: the first ones
        for trial in stored[:told]:
            self._remember(trial.number, {**trial.user_attrs, **trial.system_attrs})
        queued = told
        failures = 0
        progress("trials", min(told, budget), budget)
        for number in range(told, budget):
            while queued < min(number + self._settings.lookahead, budget):
                self._queue(stored[queued] if queued < len(stored) else self._ask(queued))
                queued += 1
            failure = self._settle(number)
            failures = failures + 1 if failure else 0
            progress("trials", number + 1, budget)
            if failures == MAX_CONSECUTIVE_FAILURES:
                raise UserError(
                    f"{failures} trials in a row failed, the last because {failure}; "
                    "put that right and run the same command again"
                )

    def _ask(self, number: int) -> FrozenTrial:
        """Choose and store the next trial, in one commit.

        Raises:
            UserError: another process adds trials to the same study.
        """
        proposal = self._sampler.propose(self._study, number)
        candidate = proposal.candidate
        self._study.add_trial(
            optuna.create_trial(
                state=TrialState.RUNNING,
                params=self._rules.parameters(candidate.genotype),
                distributions={**self._rules.distributions},
                user_attrs={"key": candidate.architecture.key}
                | {name: getattr(candidate.cost, name) for name in COSTS},
                system_attrs=proposal.system_attributes,
            )
        )
        trial = self._study.get_trials(deepcopy=False)[-1]
        if trial.number != number or trial.user_attrs["key"] != candidate.architecture.key:
            raise UserError(
                f"another process adds trials to study {self._study.study_name!r}; "
                "stop it, or choose another --study name"
            )
        return trial

    def _queue(self, trial: FrozenTrial) -> None:
        self._in_flight[trial.number] = trial
        architecture = Architecture.from_key(trial.user_attrs["key"])
        self._workers.submit(architecture, trial.number, self._rule(trial))

    def _rule(self, trial: FrozenTrial) -> StopRule:
        """When to stop a trial, from the trials that its choice could know of."""
        latest = trial.number - self._settings.lookahead
        generator = np.random.default_rng([self._settings.seed, trial.number])
        return StopRule(
            cost=trial.user_attrs.get(self._settings.metric_names[1], math.inf),
            peers=tuple(peer for number, peer in self._peers.items() if number <= latest),
            is_exempt=bool(generator.random() < EXEMPT_SHARE),
        )

    def _remember(self, number: int, known: Mapping[str, Any]) -> None:
        """Keep what later trials are compared with."""
        if RUNG_REPLICATES in known:
            cost = float(known[self._settings.metric_names[1]])
            self._peers[number] = peer_of(cost, known[RUNG_REPLICATES])

    def _settle(self, number: int) -> str | None:
        """Wait for a trial and tell the study. Why the trial failed, or None.

        Raises:
            ValueError: the evaluation did not return a score that the study needs.
        """
        trial = self._in_flight.pop(number)
        try:
            scores = self._workers.result(number)
        except WorkerDied as error:
            return self._fail(trial, str(error))
        known = {**{name: trial.user_attrs[name] for name in COSTS}, **scores}
        names = self._settings.metric_names
        if not known.keys() >= set(names):
            raise ValueError(f"scores must hold {' and '.join(names)}, got {sorted(scores)}")
        values = [float(known[name]) for name in names]
        if not all(map(math.isfinite, values)):
            return self._fail(trial, f"its {' and '.join(names)} came out as {values}")
        self._note(trial, scores)
        self._remember(number, known)
        if STOPPED_AT in scores:
            self._study.tell(number, state=TrialState.PRUNED)
        else:
            self._study.tell(number, values)
        return None

    def _fail(self, trial: FrozenTrial, reason: str) -> str:
        self._note(trial, {FAILURE: reason})
        self._study.tell(trial.number, state=TrialState.FAIL)
        return reason

    def _note(self, trial: FrozenTrial, attributes: Mapping[str, Score]) -> None:
        storage = self._study._storage
        for name, value in attributes.items():
            if name == RUNG_REPLICATES:  # hundreds of numbers, which dashboards need not show
                storage.set_trial_system_attr(trial._trial_id, name, value)
            else:
                storage.set_trial_user_attr(trial._trial_id, name, value)
