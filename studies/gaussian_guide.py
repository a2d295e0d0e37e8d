"""Choosing architectures by what they are likely to add to the front, their cost being known.

A base sampler of Optuna learns both objectives from trials. But what an architecture costs is
known before it is trained: only its score is to be guessed. A `Surrogate` of the trials guesses
it, with its doubt, for a pool of feasible architectures, and the one is chosen that is expected
to raise the hypervolume (log cost down, score up) most. That expectation is a sum over the steps
of the front, as in Emmerich, Deutz and Klinkenberg, Hypervolume-based expected improvement, CEC
2011, with one objective exact.

Trials are noisy, and a search that believes each of them runs after the lucky ones: so the front is
that of the guesses, in which every trial is corrected by its neighbours, and part of the scatter
is taken for noise in any case. A trial that was stopped early has a guess from its last rung, with
the doubt that such guesses had for the trials that went on. Trials in flight count as if they had
come out as guessed (Ginsbourger et al., Kriging is well-suited to parallelize optimization, 2010),
so that the next one is another.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from scipy.stats import norm
from threadpoolctl import ThreadpoolController

from nas.pareto import nearest_front, pareto_front, spread
from search_spaces.space import Genotype
from studies.design_rules import Candidate, CostOf, DesignRules, relative
from studies.rung_guesses import RungGuesses
from studies.surrogate import FEWEST_ROWS, Surrogate
from studies.trial_memory import FORGET_EVERY, remembered

Array = NDArray[np.float64]

MEMORY = 300
"""Finished trials that the surrogate learns from, at most: its time grows with their square."""

LEARN_EVERY = 20
"""Finished trials after which the surrogate's parameters are renewed."""

LEARN_ROWS = 120
"""Trials, of all that are remembered, that the parameters are learned from."""

LEAST_NOISE = 0.2
"""Share of the trials' variance in root AP that is noise at least: of networks of like cost three
fits of 300 steps on real crops differ by 0.032, the networks by 0.053."""

STRANGERS, RELATIVES = 500, 100
"""The pool of a proposal: random architectures, and near neighbours of those next to the front."""

PARENTS = 20

GLANCES = 2_000
"""Relatives that are kept in mind: one in three was looked at before, for an earlier trial."""

NODES: Array = norm.ppf((np.arange(16) + 0.5) / 16)
"""Where expectations over a normal distribution are taken, equally likely each."""


@dataclass(frozen=True, slots=True)
class Result:
    """What is known of a trial: its score, or a guess of it, with its doubt in the score's root."""

    candidate: Candidate
    score: float
    doubt: float


class GaussianGuide:
    """Proposals for trial after trial of one study. The first value of its trials, the score, is
    to be raised, the second is lowered.

    lowered: that second value, of any architecture. seed: of the pools.
    """

    def __init__(self, rules: DesignRules, lowered: CostOf, *, seed: int) -> None:
        self._rules = rules
        self._lowered = lowered
        self._seed = seed
        self._memory: tuple[int, frozenset[int]] = (0, frozenset())
        self._learned: tuple[int, Array | None] = (0, None)
        self._drawn: list[Candidate] | None = None
        self._glance = lru_cache(GLANCES)(rules.glance)
        self._threads = ThreadpoolController().select(user_api="blas")

    def draws(
        self, number: int, told: Sequence[FrozenTrial], tried: Mapping[int, Candidate]
    ) -> list[Genotype]:
        """Feasible genotypes, the most promising first; none while too little is known.

        told: the finished trials that may be known, in their order. tried: what every trial before
        this one tries, by its number; those that are not told are in flight.
        """
        with self._threads.limit(limits=1):  # small matrices; the workers have the cores
            return self._ranked(number, told, tried)

    def _ranked(
        self, number: int, told: Sequence[FrozenTrial], tried: Mapping[int, Candidate]
    ) -> list[Genotype]:
        """What `draws` gives."""
        parameters = self._parameters(told, tried)
        results = self._results(told, tried)
        if parameters is None or not _can_learn(results):
            return []
        running = [tried[i] for i in range(len(told), number)]
        results += self._as_guessed(results, running, parameters)
        surrogate = _learn(self._rules, results, parameters)
        candidates = [result.candidate for result in results]
        scores = surrogate.likely(candidates).tolist()
        points = list(zip(self._log_costs(candidates), scores, strict=True))
        parents = [candidates[i].genotype for i in nearest_front(points, PARENTS)]
        pool = self._pool(number, parents, {candidate.key for candidate in tried.values()})
        if not pool:
            return []
        costs = self._log_costs(pool)
        highest = max(*costs, *(cost for cost, _ in points))
        steps = FrontSteps.of(points, highest=highest)
        gains = steps.expected_gain(np.array(costs), *surrogate.guess(pool))
        return [pool[i].genotype for i in np.argsort(-gains, kind="stable")]

    def _parameters(
        self, told: Sequence[FrozenTrial], tried: Mapping[int, Candidate]
    ) -> Array | None:
        """The surrogate's, learned from the first so many trials; None while they are too few."""
        due = len(told) // LEARN_EVERY * LEARN_EVERY
        if due != self._learned[0]:
            every = self._results(told[:due], tried)
            results = [every[i] for i in spread(range(len(every)), LEARN_ROWS)]
            learned = _learn(self._rules, results, None).parameters if _can_learn(results) else None
            self._learned = due, learned
        return self._learned[1]

    def _results(self, told: Sequence[FrozenTrial], tried: Mapping[int, Candidate]) -> list[Result]:
        """Of the trials that are remembered, those that say something of their score."""
        forgotten = len(told) // FORGET_EVERY * FORGET_EVERY
        if forgotten != self._memory[0]:
            directions = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
            numbers = remembered(told[:forgotten], directions, MEMORY - FORGET_EVERY)
            self._memory = forgotten, frozenset(numbers)
        kept = [t for t in told if t.number >= forgotten or t.number in self._memory[1]]
        rungs = RungGuesses(kept)
        return [
            Result(tried[trial.number], *known)
            for trial in kept
            if (known := rungs.score_and_doubt(trial)) is not None
        ]

    def _as_guessed(
        self, results: Sequence[Result], running: Sequence[Candidate], parameters: Array
    ) -> list[Result]:
        if not running:
            return []
        scores = _learn(self._rules, results, parameters).likely(running).tolist()
        return [Result(one, score, 0.0) for one, score in zip(running, scores, strict=True)]

    def _log_costs(self, candidates: Sequence[Candidate]) -> list[float]:
        return [math.log(self._lowered(candidate)) for candidate in candidates]

    def _pool(self, number: int, parents: Sequence[Genotype], known: set[str]) -> list[Candidate]:
        """Feasible and not known: strangers, and relatives of the parents."""
        generator = np.random.default_rng([self._seed, number])
        draw = self._rules.space.random_genotype
        relatives = [
            relative(parents[i % len(parents)], draw(generator), generator)
            for i in range(RELATIVES)
        ]
        pool = {one.key: one for one in (*self._strangers(), *self._feasible(relatives))}
        return [one for key, one in pool.items() if key not in known]

    def _strangers(self) -> list[Candidate]:
        """The same for all trials: new ones each time would teach little and cost most."""
        if self._drawn is None:
            generator = np.random.default_rng(self._seed)
            space = self._rules.space
            drawn = [space.random_genotype(generator) for _ in range(STRANGERS)]
            self._drawn = self._feasible(drawn)
        return self._drawn

    def _feasible(self, genotypes: Sequence[Genotype]) -> list[Candidate]:
        looked_at = map(self._glance, genotypes)
        return [one for one in looked_at if self._rules.limits.allow(one.cost)]


def _can_learn(results: Sequence[Result]) -> bool:
    return len(results) >= FEWEST_ROWS and len({result.score for result in results}) > 1


def _learn(rules: DesignRules, results: Sequence[Result], parameters: Array | None) -> Surrogate:
    return Surrogate(
        rules.space,
        [result.candidate for result in results],
        [result.score for result in results],
        doubts=[result.doubt for result in results],
        parameters=parameters,
        least_noise=LEAST_NOISE,
    )


@dataclass(frozen=True, slots=True)
class FrontSteps:
    """The best score that is to be had up to each cost: (S,) levels between (S + 1,) edges, the
    first of which lies at minus infinity."""

    edges: Array
    levels: Array

    @staticmethod
    def of(points: Sequence[tuple[float, float]], *, highest: float) -> "FrontSteps":
        """points: logarithmic cost and score. highest: logarithmic cost at which steps end."""
        front = [points[i] for i in pareto_front(points)]
        edges = [-math.inf, *(cost for cost, _ in front), highest]
        return FrontSteps(np.array(edges), np.array([0.0, *(score for _, score in front)]))

    def expected_gain(self, costs: Array, roots: Array, deviations: Array) -> Array:
        """Hypervolume that each of N is expected to add: at these logarithmic costs, with a root
        of the score distributed normally. Shape (N,)."""
        starts = np.maximum(self.edges[None, :-1], costs[:, None])
        widths = np.maximum(0.0, self.edges[None, 1:] - starts)
        scores = np.maximum(0.0, roots[:, None] + deviations[:, None] * NODES) ** 2
        gains = np.maximum(0.0, scores[:, :, None] - self.levels).mean(axis=1)
        return np.asarray((widths * gains).sum(axis=1))
