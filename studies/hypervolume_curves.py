"""The hypervolume that a search has reached after each trial, beside random search's.

Random search cannot be had by training as much again. So the trials of the run teach a
`Surrogate`, which says what random architectures would have given. Trials that were stopped teach
it too, by what their last rung makes likely: without them it would know the good architectures
alone, and think random ones as good. (For a search on WIDER FACE that was random itself, from the
starting points on, it guessed 0.74 times random's hypervolume; with them it guesses 1.12 times.)

The surrogate says the same of the run's own architectures: the AP that was measured holds the luck
of its fit, and a search keeps the lucky ones. Each random search has a function of its own, drawn
from those that the run's trials leave possible, and the run is judged by the same function.
(Expectations alone would be too kind to the run: its architectures are known and keep their height,
strangers are drawn to the mean. Of a search of 200 trials on WIDER FACE they made 2.4 times
random's hypervolume, drawn functions 2.0 times.)

A search may stop a trial early. Such a trial has no point here, but its number is used up; all
trials of the random search are trained to the end.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from data.files import write_json
from data.progress import Progress, silent
from nas.pareto import Box, Point
from nas.records import record_header
from objectives.cost import architecture_cost
from objectives.latency_table import load_latency_table
from objectives.limits import Limits
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from studies.design_rules import Candidate, CostOf, DesignRules, by_latency, by_macs
from studies.front import cost_name, points_of, score_name
from studies.rung_guesses import RungGuesses
from studies.settings import AVERAGE_PRECISION
from studies.storage import SETTINGS, TrialRow, completed_trials
from studies.surrogate import FEWEST_ROWS, Surrogate
from studies.workspace import Workspace

Array = NDArray[np.float64]

HYPERVOLUME = "hypervolume.json"
SEARCHES, FEWEST_SEARCHES = 20, 5
"""Random searches, where there are enough feasible architectures for as many."""

MOST_TRIALS = 400
"""Trials that are compared: time and memory grow with their square."""

MOST_DRAWS = 100_000
"""Random architectures that are looked at for all searches together."""

BAND = (0.05, 0.95)


class NotComparableError(Exception):
    """Why there is nothing to compare a run with, in a sentence for its reader."""


@dataclass(frozen=True, slots=True)
class StoppedRow:
    """A trial that was stopped, with the score that its last rung makes likely and the doubt of it
    in the root of the score."""

    trial: int
    key: str
    macs: int
    score: float
    doubt: float


@dataclass(frozen=True, slots=True)
class Run:
    """What a search has done.

    rows: completed trials in order of their numbers. trials: how many were begun, those that
    were stopped or failed among them. cost: name of the value that is lowered. stopped: those of
    whose score something is known. raised: the name of the score.
    """

    rows: Sequence[TrialRow]
    trials: int
    cost: str
    stopped: Sequence[StoppedRow] = ()
    raised: str = AVERAGE_PRECISION

    def first(self, trials: int) -> "Run":
        """The run as it was after so many trials."""
        rows = [row for row in self.rows if row.trial < trials]
        stopped = [row for row in self.stopped if row.trial < trials]
        return replace(self, rows=rows, trials=min(self.trials, trials), stopped=stopped)

    def points(self, scores: Sequence[float] | None = None) -> list[Point | None]:
        """Logarithmic cost and score by trial number; None for a trial that has no score.

        scores: in place of those that were measured.
        """
        found: list[Point | None] = [None] * self.trials
        measured = points_of(self.rows, self.cost)
        for i, (row, (cost, score)) in enumerate(zip(self.rows, measured, strict=True)):
            found[row.trial] = math.log(cost), score if scores is None else scores[i]
        return found


@dataclass(frozen=True, slots=True)
class Ground:
    """Where random searches take place.

    cost_of: the cost that is lowered. highest: its limit, None where there is none; the most
    expensive architecture that anyone tried stands for it then.
    """

    rules: DesignRules
    cost_of: CostOf
    highest: float | None = None
    seed: int = 0

    def box(self, costs: Sequence[float]) -> Box:
        """From the smallest network to the highest cost. costs: all that anyone tried."""
        corner = self.rules.space.encode(self.rules.space.corner(largest=False))
        smallest = self.cost_of(self.rules.candidate(corner))
        return Box(min(smallest, *costs), self.highest or max(smallest, *costs))

    def candidates(self, rows: Sequence[TrialRow | StoppedRow]) -> list[Candidate]:
        """The rows as candidates.

        Raises:
            NotComparableError: the space or the networks have changed since they were tried.
        """
        space = self.rules.space
        try:
            found = [
                self.rules.candidate(space.encode(Architecture.from_key(row.key))) for row in rows
            ]
        except ValueError as error:
            raise NotComparableError("the search space has changed since the search") from error
        for row, candidate in zip(rows, found, strict=True):
            if row.macs != candidate.cost.macs:
                raise NotComparableError(
                    f"networks have changed since the search: trial {row.trial} had {row.macs:,} "
                    f"MACs and has {candidate.cost.macs:,} now"
                )
        return found

    def random_searches(self, trials: int) -> list[list[Candidate]]:
        """Feasible architectures of each search, every gene drawn evenly, no two the same.

        Raises:
            NotComparableError: within MOST_DRAWS there are too few for FEWEST_SEARCHES.
        """
        generator = np.random.default_rng(self.seed)
        found: dict[str, Candidate] = {}
        for _ in range(MOST_DRAWS):
            candidate = self.rules.candidate(self.rules.space.random_genotype(generator))
            if self.rules.limits.allow(candidate.cost):
                found[candidate.architecture.key] = candidate
            if len(found) == trials * SEARCHES:
                break
        if len(found) < trials * FEWEST_SEARCHES:
            raise NotComparableError(
                f"{len(found)} of {MOST_DRAWS:,} random architectures keep the limits, too few for "
                f"{FEWEST_SEARCHES} random searches of {trials} trials"
            )
        drawn = list(found.values())
        searches = len(drawn) // trials
        return [drawn[i * trials : (i + 1) * trials] for i in range(searches)]


def write_hypervolume(
    workspace: Workspace, study: Study, *, progress: Progress = silent
) -> dict[str, Any]:
    """Write `hypervolume.json` of a study and return what it holds; nothing before the first AP."""
    rows = completed_trials(study)
    if not rows:
        return {}
    settings = study.user_attrs[SETTINGS]
    limits, cost = Limits(**settings["limits"]), cost_name(study)
    finished = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    run = Run(rows, finished[-1].number + 1, cost, stopped_rows(finished), raised=score_name(study))
    if (ground := _ground(workspace, limits, cost)) is None:
        found = _alone(run, f"the study has no {workspace.latency_table.name}")
    else:
        found = compare_with_random(run, ground, progress=progress)
    facts = {**record_header(seed=settings["seed"], data_hash=settings["data"]), **found}
    write_json(workspace.file(HYPERVOLUME), facts)
    return facts


def stopped_rows(trials: Sequence[FrozenTrial]) -> list[StoppedRow]:
    """The stopped ones of a study's finished trials, of whose score the others tell something."""
    guesses = RungGuesses(trials)
    return [
        StoppedRow(trial.number, trial.user_attrs["key"], trial.user_attrs["macs"], *known)
        for trial in trials
        if trial.state == TrialState.PRUNED
        and (known := guesses.score_and_doubt(trial)) is not None
    ]


def _ground(workspace: Workspace, limits: Limits, cost: str) -> Ground | None:
    """The whole space, also of a study that searched a part of it; None without its costs."""
    rules = DesignRules(SPACE, partial(architecture_cost, image_size=limits.image_size), limits)
    if cost == "macs":
        return Ground(rules, by_macs, limits.max_macs)
    if not workspace.latency_table.is_file():
        return None
    return Ground(rules, by_latency(load_latency_table(workspace.latency_table)))


def compare_with_random(run: Run, ground: Ground, *, progress: Progress = silent) -> dict[str, Any]:
    """The curves of a run and of random search, one value a trial, ready for JSON.

    `measured`: the run's, by the APs of its trials. `run`, `random`: both by the surrogate, over
    `searches` random searches: `mean`, `low` and `high` (5 % and 95 %), as far as `compared`
    trials. `final`: their last means, the `ratio` of them, and after how many trials the run had
    random's last (None: never). `box`: see `Box`. `why_not`: in place of `run`, `random` and
    `final`, why there are none.
    """
    try:
        return _compared(run, ground, progress)
    except NotComparableError as reason:
        return _alone(run, str(reason), ground)


def _alone(run: Run, why_not: str, ground: Ground | None = None) -> dict[str, Any]:
    costs = [cost for cost, _ in points_of(run.rows, run.cost)]
    box = ground.box(costs) if ground else Box(min(costs), max(costs))
    return _measured(run, box) | {"why_not": why_not}


def _measured(run: Run, box: Box) -> dict[str, Any]:
    return {
        "trials": run.trials,
        "completed": len(run.rows),
        "box": {"cost": run.cost, "least": box.least, "highest": box.highest, "raised": run.raised},
        "measured": box.curve(run.points()),
    }


def _compared(run: Run, ground: Ground, progress: Progress) -> dict[str, Any]:
    start = run.first(MOST_TRIALS)
    surrogate = _surrogate(start, ground)
    own = ground.candidates(start.rows)
    strangers = ground.random_searches(start.trials)
    costs = [cost for cost, _ in points_of(run.rows, run.cost)]
    stranger_costs = [[ground.cost_of(one) for one in search] for search in strangers]
    box = ground.box([*costs, *(cost for search in stranger_costs for cost in search)])
    runs, randoms = [], []
    for seed, (search, of_search) in enumerate(zip(strangers, stranger_costs, strict=True)):
        scores = surrogate.drawn([*own, *search], seed=seed)
        runs.append(box.curve(start.points(scores[: len(own)])))
        points = zip(map(math.log, of_search), scores[len(own) :], strict=True)
        randoms.append(box.curve(list(points)))
        progress("random searches", seed + 1, len(strangers))
    return {
        **_measured(run, box),
        "compared": start.trials,
        "searches": len(strangers),
        "surrogate": surrogate.check(seed=ground.seed).to_json(),
        "run": _band(np.array(runs)),
        "random": _band(np.array(randoms)),
        "final": _final(np.mean(runs, axis=0), np.mean(randoms, axis=0)),
    }


def _surrogate(run: Run, ground: Ground) -> Surrogate:
    scores = [row.score for row in run.rows]
    if len(scores) < FEWEST_ROWS:
        raise NotComparableError(
            f"guessing what random architectures give takes {FEWEST_ROWS} completed trials, "
            f"and there are {len(scores)}"
        )
    if min(scores) == max(scores):
        raise NotComparableError(
            f"all trials have one score, {scores[0]:.3f}, which tells nothing of others"
        )
    return Surrogate(
        ground.rules.space,
        ground.candidates([*run.rows, *run.stopped]),
        [*scores, *(row.score for row in run.stopped)],
        doubts=[*(0.0 for _ in scores), *(row.doubt for row in run.stopped)],
    )


def _band(curves: Array) -> dict[str, list[float]]:
    """curves: (searches, trials)."""
    low, high = np.quantile(curves, BAND, axis=0)
    return {"mean": curves.mean(axis=0).tolist(), "low": low.tolist(), "high": high.tolist()}


def _final(run: Array, random: Array) -> dict[str, Any]:
    reached = np.flatnonzero(run >= random[-1])
    return {
        "run": float(run[-1]),
        "random": float(random[-1]),
        "ratio": float(run[-1] / random[-1]) if random[-1] > 0 else None,
        "trials_to_random": int(reached[0]) + 1 if len(reached) else None,
    }


def comparison_line(found: Mapping[str, Any]) -> str:
    """The comparison in a line."""
    if "final" not in found:
        return f"hypervolume: {found['measured'][-1]:.2%}; beside random: {found['why_not']}"
    final = found["final"]
    ratio = "" if final["ratio"] is None else f" ({final['ratio']:.2f} times)"
    needed = final["trials_to_random"]
    when = f"reached after {needed} trials" if needed else "not reached"
    return (
        f"hypervolume after {found['compared']} trials: {final['run']:.2%}, random search "
        f"{final['random']:.2%}{ratio}, {when}; both guessed from the run's own trials, "
        f"tau {found['surrogate']['tau']:.2f}"
    )
