"""Samplers compared in seconds, on a table of architectures that were fitted once.

A sampler names architectures of the whole space, of which a table holds a hundred. Scoring a
proposal as the table's nearest unused row would be simple, but two architectures drawn at random
differ in most genes: the nearest row then says little about the proposal, the cost that the
sampler aimed at is lost, and whoever finds the good rows first is handed bad ones later, until all
samplers have used up the table and are equal. So a proposal keeps its own exact cost, and its AP
is a `Surrogate`'s, as in NAS-Bench-301 (Zela et al., arXiv:2008.09777); how well that guesses rows
it has not seen, and how well the nearest row would, is printed with every comparison.

A sampler is told the AP of one fit, with the noise that the table shows. What counts is the AP
expected of the architectures it had trained, so that luck earns nothing.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.study import Study
from optuna.trial import TrialState
from scipy.stats import t as student_t

from data.errors import UserError
from data.processes import ProcessPool
from data.progress import Progress, silent
from nas.pareto import Box
from nas.records import record_header, usable_cores
from objectives.cost import architecture_cost
from objectives.limits import MEASURED_BY, CostFunction, Limits
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE, Space
from studies.design_rules import Candidate, DesignRules
from studies.samplers import FeasibleSampler
from studies.say import Say, unsaid
from studies.surrogate import FEWEST_ROWS, Surrogate

RANDOM = "random"
FEWEST_SEEDS = 2
CONFIDENCE = 0.9

MOST_INFEASIBLE = 1000
"""Proposals in a row that may break the limits before a replay gives up."""

RECORD = "python -m benchmarks.record_table SHARDS --write FILE"


@dataclass(frozen=True, slots=True)
class SearchTable:
    """Architectures with the AP that each reached alone.

    limits: that they keep. facts: what the file says of its making, rows left out.
    """

    candidates: tuple[Candidate, ...]
    aps: tuple[float, ...]
    limits: Limits
    facts: Mapping[str, Any]


def load_table(path: Path, space: Space, cost: Callable[[Limits], CostFunction]) -> SearchTable:
    """Read and check a table that `benchmarks.record_table` wrote.

    cost: the cost of architectures at an image size that limits give.

    Raises:
        UserError: there is no such file, it is damaged or too small, or it was recorded with
            another space or with networks that have changed since.
    """
    facts = _read(path)
    try:
        rows = facts.pop("rows")
        limits = Limits(**facts["limits"])
        keys = [str(row["key"]) for row in rows]
        aps = [float(row["ap"]) for row in rows]
        costs = [(row["params"], row["macs"]) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, repr(error)) from error
    if not all(0 <= ap <= 1 for ap in aps):
        raise _damaged(path, "an AP is not in 0..1")
    if len(set(keys)) < len(keys):
        raise _damaged(path, "an architecture stands there twice")
    if len(keys) < FEWEST_ROWS or min(aps) == max(aps):
        raise UserError(
            f"{path} has {len(keys)} rows; a comparison needs {FEWEST_ROWS} of different AP; "
            f"record more: {RECORD}"
        )
    rules = DesignRules(space, cost(limits), limits)
    candidates = tuple(_candidate(path, rules, key) for key in keys)
    for candidate, recorded in zip(candidates, costs, strict=True):
        now = candidate.cost.params, candidate.cost.macs
        if now != recorded:
            raise UserError(
                f"{path} was recorded with other networks: {candidate.architecture.key} had "
                f"{recorded} parameters and MACs and has {now} now; record it again: {RECORD}"
            )
    return SearchTable(candidates, tuple(aps), limits, facts)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"there is no table {path}; record one: {RECORD}")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(facts, dict):
        raise _damaged(path, "it holds no object")
    return facts


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is no table of architectures ({reason}); record it again: {RECORD}")


def _candidate(path: Path, rules: DesignRules, key: str) -> Candidate:
    try:
        return rules.candidate(rules.space.encode(Architecture.from_key(key)))
    except ValueError as error:
        raise UserError(
            f"{path} was recorded with another space: {error}; record it again: {RECORD}"
        ) from error


Score = Callable[[Candidate], float]
"""What training a candidate gives: AP."""

Contender = Callable[[DesignRules, Score, int], Iterator[Candidate]]
"""(rules, score, seed) -> the candidates that are trained, in their order, without end."""


def ours(base: str) -> Contender:
    """`FeasibleSampler` around a base: as a search uses it, but without starting points and with
    each result known before the next proposal."""

    def play(rules: DesignRules, score: Score, seed: int) -> Iterator[Candidate]:
        sampler = FeasibleSampler(rules, base=base, seed=seed)
        study = _study(sampler)
        for number in range(2**31):
            proposal = sampler.propose(study, number)
            candidate = proposal.candidate
            study.add_trial(
                optuna.create_trial(
                    params=rules.parameters(candidate.genotype),
                    distributions={**rules.distributions},
                    values=[score(candidate), candidate.cost.macs],
                    system_attrs=proposal.system_attributes,
                )
            )
            yield candidate

    return play


def plain(make: Callable[[int], BaseSampler]) -> Contender:
    """An Optuna sampler as it comes, made from a seed.

    It is told by how much each limit is broken (Optuna's own constraints); what breaks one is not
    trained, and what was trained before is trained again.
    """

    def play(rules: DesignRules, score: Score, seed: int) -> Iterator[Candidate]:
        study = _study(make(seed))
        infeasible = 0
        while True:
            trial = study.ask({**rules.distributions})
            candidate = rules.candidate(rules.genotype(trial.params))
            violations = rules.limits.violations(candidate.cost)
            for name in MEASURED_BY:
                trial.set_constraint(name, violations.get(name, 0.0))
            ap = 0.0 if violations else score(candidate)
            study.tell(trial, (ap, candidate.cost.macs), state=TrialState.COMPLETE)
            infeasible = infeasible + 1 if violations else 0
            if infeasible == MOST_INFEASIBLE:
                raise UserError(
                    f"{infeasible} proposals of plain Optuna in a row broke the table's limits; "
                    f"record a table with wider ones: {RECORD}"
                )
            if not violations:
                yield candidate

    return play


def _study(sampler: BaseSampler) -> Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)


CONTENDERS: Mapping[str, Contender] = {
    RANDOM: ours("random"),
    "plain tpe": plain(lambda seed: TPESampler(seed=seed)),
    "plain nsga2": plain(lambda seed: NSGAIISampler(seed=seed)),
    "ours tpe": ours("tpe"),
    "ours nsga2": ours("nsga2"),
    "ours gp": ours("gp"),
}
"""Name -> who plays. One more sampler is one more line."""


class Replay:
    """Plays contenders on a table."""

    def __init__(self, table: SearchTable, rules: DesignRules) -> None:
        self.rules = rules
        self.surrogate = Surrogate(rules.space, table.candidates, table.aps)
        smallest = rules.cost(rules.space.corner(largest=False))
        self._box = Box(smallest.macs, rules.limits.max_macs)

    def curve(self, contender: Contender, *, trials: int, seed: int) -> list[float]:
        """Hypervolume after each trained trial: log MACs down and AP up, as a share of the box
        from the smallest network of the space to the limit and from AP 0 to 1."""

        def score(candidate: Candidate) -> float:
            return self.surrogate.observed(candidate, seed=seed)

        points = [
            (math.log(candidate.cost.macs), self.surrogate.expected(candidate))
            for candidate in islice(contender(self.rules, score, seed), trials)
        ]
        return self._box.curve(points)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonPlan:
    """trials: trained ones of each replay. seeds: replays of each contender, from `seed` on.
    workers: processes, None for one a core; they change no result."""

    trials: int = 100
    seeds: int = 20
    seed: int = 0
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise UserError(f"--trials must be at least 1, got {self.trials}")
        if self.seeds < FEWEST_SEEDS:
            raise UserError(
                f"--seeds must be at least {FEWEST_SEEDS}, for an interval, got {self.seeds}"
            )


def replay_table(
    path: Path, plan: ComparisonPlan, *, say: Say = unsaid, progress: Progress = silent
) -> dict[str, Any]:
    """Every contender replayed on a recorded table of the usual space, ready for JSON.

    Raises:
        UserError: the table cannot be used, or an Optuna sampler finds nothing within its limits.
    """
    table = load_table(path, SPACE, _usual_cost)
    replay = Replay(table, DesignRules(SPACE, _usual_cost(table.limits), table.limits))
    check = replay.surrogate.check(seed=plan.seed)
    low, high = check.tau_interval
    say(
        f"{path}: {len(table.aps)} architectures; each is guessed from the others with an error "
        f"of {check.rmse:.3f} AP (root mean square) and Kendall's tau {check.tau:.2f} (90 % "
        f"interval {low:.2f} to {high:.2f}; the nearest row: {check.nearest_tau:.2f})"
    )
    return {
        **record_header(seed=plan.seed, data_hash=table.facts.get("data_hash")),
        "table": {name: table.facts.get(name) for name in ("commit", "date", "data", "fit")},
        "rows": len(table.aps),
        "limits": asdict(table.limits),
        "surrogate": check.to_json(),
        "trials": plan.trials,
        "seeds": plan.seeds,
        "contenders": compare_samplers(replay, plan, progress=progress),
    }


def _usual_cost(limits: Limits) -> CostFunction:
    return partial(architecture_cost, image_size=limits.image_size)


def compare_samplers(
    replay: Replay,
    plan: ComparisonPlan,
    *,
    contenders: Sequence[str] = tuple(CONTENDERS),
    progress: Progress = silent,
) -> dict[str, Any]:
    """Name -> anytime hypervolume of each contender, as plain values.

    `mean`, `low`, `high`: after each trained trial, over the seeds, with the mean's 90 % interval
    (Student's t). `against_random` and its interval: the last hypervolume over random's mean,
    less 1, in pairs of equal seeds. `trials_to_random`: the fewest trials after which the mean is
    at least random's last; None where it never is.

    contenders: names of CONTENDERS; random is always among them.
    """
    names = tuple(dict.fromkeys((RANDOM, *contenders)))
    jobs = [(name, plan.seed + i) for name in names for i in range(plan.seeds)]
    found: dict[tuple[str, int], list[float]] = {}
    for job, curve in _play_all(replay, jobs, plan):
        found[job] = curve
        progress("replays", len(found), len(jobs))
    curves = {
        name: np.array([found[name, plan.seed + i] for i in range(plan.seeds)]) for name in names
    }
    goal = float(curves[RANDOM].mean(axis=0)[-1])
    return {
        name: _standing(curve, curves[RANDOM][:, -1], goal=goal) for name, curve in curves.items()
    }


Job = tuple[str, int]
"""Name of a contender and seed."""


def _play_all(
    replay: Replay, jobs: Sequence[Job], plan: ComparisonPlan
) -> Iterator[tuple[Job, list[float]]]:
    workers = min(plan.workers or usable_cores(), len(jobs))
    if workers == 1:
        for job in jobs:
            yield job, _play(replay, job, plan.trials)
        return
    level = optuna.logging.WARNING
    pool = ProcessPool(workers, optuna.logging.set_verbosity, (level,))
    try:
        running = {pool.submit(_play, replay, job, plan.trials): job for job in jobs}
        for future in as_completed(running):
            yield running[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _play(replay: Replay, job: Job, trials: int) -> list[float]:
    name, seed = job
    return replay.curve(CONTENDERS[name], trials=trials, seed=seed)


def _standing(
    curves: NDArray[np.float64], random: NDArray[np.float64], *, goal: float
) -> dict[str, Any]:
    """curves: (seeds, trials). random: its last values, of the same seeds. goal: their mean."""
    mean, half = _mean_and_half(curves)
    gain, gain_half = _mean_and_half((curves[:, -1] - random) / goal)
    reached = np.flatnonzero(mean >= goal)
    return {
        "mean": mean.tolist(),
        "low": (mean - half).tolist(),
        "high": (mean + half).tolist(),
        "against_random": float(gain),
        "against_random_interval": [float(gain - gain_half), float(gain + gain_half)],
        "trials_to_random": int(reached[0]) + 1 if len(reached) else None,
    }


def _mean_and_half(samples: NDArray[np.float64]) -> tuple[Any, Any]:
    """Mean over the first axis, and half the width of its interval."""
    count = len(samples)
    factor = student_t.ppf((1 + CONFIDENCE) / 2, count - 1) / math.sqrt(count)
    return samples.mean(axis=0), factor * samples.std(axis=0, ddof=1)


COLUMNS = ("contender", "hypervolume", "90 % interval", "against random", "90 % interval", "trials")


def comparison_cells(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A table of COLUMNS; the last is the trials needed for random's last hypervolume."""
    return [
        (
            name,
            f"{one['mean'][-1]:.4f}",
            f"{one['low'][-1]:.4f} to {one['high'][-1]:.4f}",
            f"{one['against_random']:+.1%}",
            "{:+.1%} to {:+.1%}".format(*one["against_random_interval"]),
            str(one["trials_to_random"] or "-"),
        )
        for name, one in found.items()
    ]
