"""Choosing the next architecture: an Optuna sampler that proposes only new, feasible ones.

Optuna has no hard constraints, so a base sampler is asked again and again until it names an
architecture that keeps the limits and was not tried yet. All of a proposal follows from the
settings, the trial's number and the trials before it: a resumed study goes on as if it had never
stopped.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from data.errors import UserError, unknown_name
from objectives.cost import Cost
from objectives.limits import Limits, flag
from search_spaces.architecture import Architecture
from search_spaces.space import Genotype
from studies.design_rules import Candidate, CostOf, DesignRules, by_macs, relative
from studies.gaussian_guide import GaussianGuide
from studies.settings import DEFAULT_SAMPLER
from studies.trial_memory import FORGET_EVERY, remembered

NSGA2_POPULATION = 16
TPE_CANDIDATES = 64
"""Genotypes that TPE chooses each proposal from; Optuna's 24 are few for 28 genes."""

BASE_TRIES = 10
"""How often the base sampler is asked for one trial."""

FREE_TRIES = 20_000
"""Random and mutated architectures looked at for one trial before giving up."""

RANDOM_TRIES = 500
"""So many of them are all random; where limits are so tight that none of these fits, neighbours of
feasible architectures are likelier to."""

TPE_MEMORY = 300
"""Finished trials that TPE is told of. Its time grows with them; it takes at most 25 for good, and
the older of the others it weighs little."""

STUDY_ATTRIBUTES = "feasible:study"
"""System attribute of the trial whose choice made the base sampler note something on its study."""


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed, multivariate=True, n_ei_candidates=TPE_CANDIDATES)


def _nsga2(seed: int) -> BaseSampler:
    return NSGAIISampler(seed=seed, population_size=NSGA2_POPULATION)


@dataclass(frozen=True, slots=True)
class BaseKind:
    """make: a sampler of Optuna's from a seed; None: none. memory: finished trials it is told of,
    give or take FORGET_EVERY; None: all. guided: whether a `GaussianGuide` proposes. With neither,
    architectures are drawn from the space alone."""

    make: Callable[[int], BaseSampler] | None = None
    memory: int | None = None
    guided: bool = False


BASES: Mapping[str, BaseKind] = {
    "tpe": BaseKind(_tpe, TPE_MEMORY),
    "nsga2": BaseKind(_nsga2),
    "gp": BaseKind(guided=True),
    "random": BaseKind(),
}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate for a trial, and what the base sampler wants remembered with the trial."""

    candidate: Candidate
    system_attributes: dict[str, Any]


class FeasibleSampler(BaseSampler):
    """Asks a base sampler until it names a feasible architecture that was not tried yet.

    For each trial, in this order: the starting architectures, in the first trials, as far as they
    are feasible; up to `BASE_TRIES` proposals of the base sampler, made anew from (seed, trial
    number); then, up to `FREE_TRIES`, random genotypes, after `RANDOM_TRIES` of them in turn with
    tried architectures of which one to three genes are drawn again. While the base sampler knows
    nothing yet, random genotypes take its place.

    lowered: the value that trials lower, of any architecture.

    Trial n sees the results of the trials up to n - lookahead; later ones count as running even
    if their results are known. The base sampler works on a copy of the study in memory, so that
    its notes cost no database commits.

    One sampler serves one study.

    Raises:
        UserError: the base is unknown; later, when nothing new and feasible is found: names the
            limit that was never met.
    """

    def __init__(
        self,
        rules: DesignRules,
        *,
        base: str = DEFAULT_SAMPLER,
        seed: int = 0,
        lookahead: int = 1,
        starts: Sequence[Architecture] = (),
        lowered: CostOf = by_macs,
    ) -> None:
        if base not in BASES:
            raise unknown_name("sampler", base, tuple(BASES))
        self._rules = rules
        self._base = BASES[base]
        self._seed = seed
        self._lookahead = lookahead
        self._starts = _feasible_starts(rules, starts)
        self._guide = GaussianGuide(rules, lowered, seed=seed) if self._base.guided else None
        self._copy: _StudyCopy | None = None
        self._tried: dict[int, Candidate] = {}
        self._lock = threading.Lock()

    def propose(self, study: Study, number: int) -> Proposal:
        """The candidate for the trial of this number, all earlier trials being in the study.

        Raises:
            UserError: nothing new and feasible was found.
        """
        with self._lock:
            if self._copy is None:
                self._copy = _StudyCopy(study, self._rules.distributions, self._base.memory)
            earlier = study.get_trials(deepcopy=False)[:number]
            self._remember(earlier)
            self._copy.follow(earlier, told=number - self._lookahead + 1)
            scratch = self._copy.scratch(number)
            candidate = self._choose(number, earlier, scratch)
            self._tried[number] = candidate
            return Proposal(candidate, self._copy.attributes(number))

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """All genes, always."""
        return {**self._rules.distributions}

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        """A whole genotype, for studies that are run by `study.optimize`."""
        proposal = self.propose(study, trial.number)
        for name, value in proposal.system_attributes.items():
            study._storage.set_trial_system_attr(trial._trial_id, name, value)
        return self._rules.parameters(proposal.candidate.genotype)

    def sample_independent(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        param_name: str,
        param_distribution: BaseDistribution,  # noqa: ARG002
    ) -> Any:
        """Never a value: every gene is sampled together with the others.

        Raises:
            ValueError: the parameter is no gene of the space.
        """
        raise ValueError(f"param_name must be a gene of the space, got {param_name!r}")

    def _remember(self, trials: Sequence[FrozenTrial]) -> None:
        for trial in trials:
            if trial.params and trial.number not in self._tried:
                genotype = self._rules.genotype(trial.params)
                self._tried[trial.number] = self._rules.candidate(genotype)

    def _choose(
        self, number: int, earlier: Sequence[FrozenTrial], scratch: FrozenTrial
    ) -> Candidate:
        tried = {n: c for n, c in self._tried.items() if n < number}
        if self._guide is None:
            draws = self._base_draws(number, scratch)
        else:
            past = earlier[: max(0, number - self._lookahead + 1)]
            told = list(takewhile(lambda trial: trial.state.is_finished(), past))
            draws = iter(self._guide.draws(number, told, tried))
        if number < len(self._starts):
            next(draws, None)  # the base sampler notes the trial's generation when it is asked
            draws = iter((self._starts[number].genotype,))
        known = {candidate.key for candidate in tried.values()}
        generator = np.random.default_rng([self._seed, number])
        refusals = _Refusals(self._rules.limits)
        for source in (draws, self._free_draws(generator, tuple(tried.values()))):
            for genotype in source:
                candidate = self._rules.candidate(genotype)
                if refusals.accept(candidate.cost) and candidate.key not in known:
                    return candidate
        raise refusals.error()

    def _base_draws(self, number: int, scratch: FrozenTrial) -> Iterator[Genotype]:
        """Proposals of a base sampler made for this trial; none while it has no opinion."""
        if self._base.make is None or self._copy is None:
            return
        study = self._copy.study
        base = self._base.make(_seed_of(self._seed, number))
        free = {n: d for n, d in self._rules.distributions.items() if not d.single()}
        for _ in range(BASE_TRIES):
            drawn = base.sample_relative(study, scratch, {**free})
            if not drawn:
                return
            for name, distribution in self._rules.distributions.items():
                if name not in drawn:  # NSGA-II leaves out the genes that mutate
                    drawn[name] = base.sample_independent(study, scratch, name, distribution)
            yield self._rules.genotype(drawn)

    def _free_draws(
        self, generator: np.random.Generator, tried: Sequence[Candidate]
    ) -> Iterator[Genotype]:
        """Random genotypes; later every second one a tried architecture, some genes redrawn."""
        for step in range(FREE_TRIES):
            genotype = self._rules.space.random_genotype(generator)
            if step >= RANDOM_TRIES and step % 2 and tried:
                parent = tried[int(generator.integers(len(tried)))].genotype
                genotype = relative(parent, genotype, generator)
            yield genotype


def _feasible_starts(rules: DesignRules, starts: Sequence[Architecture]) -> tuple[Candidate, ...]:
    candidates = [rules.candidate(rules.space.encode(architecture)) for architecture in starts]
    feasible = {c.key: c for c in candidates if rules.limits.allow(c.cost)}
    return tuple(feasible.values())


def _seed_of(seed: int, number: int) -> int:
    """A seed of 32 bits for one trial."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


class _Refusals:
    """Counts why candidates were refused, to say so when none is left."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._looked_at = 0
        self._infeasible = 0
        self._broken: Counter[str] = Counter()
        self._smallest: dict[str, float] = {}

    def accept(self, cost: Cost) -> bool:
        """Whether the limits allow this cost."""
        violations = self._limits.violations(cost)
        self._looked_at += 1
        self._infeasible += bool(violations)
        self._broken.update(violations.keys())
        for name, violation in violations.items():
            self._smallest[name] = min(violation, self._smallest.get(name, violation))
        return not violations

    def error(self) -> UserError:
        """Names the limit that was never met, or else says what was in the way."""
        looked = f"looked at {self._looked_at:,} architectures"
        if self._infeasible < self._looked_at:
            return UserError(
                f"{looked} and tried every one that keeps the limits already; "
                "raise a limit, or be content with the trials there are"
            )
        name, count = max(self._broken.items(), key=lambda item: (item[1], self._smallest[item[0]]))
        limit = getattr(self._limits, name)
        if count == self._looked_at:
            nearest = f"the nearest was {self._smallest[name]:.1%} over it"
            return UserError(f"{looked} and none met {flag(name)} {limit}; {nearest}; raise it")
        return UserError(
            f"{looked} and none met all limits together; {flag(name)} {limit} was met least often "
            f"(by {self._looked_at - count:,}); raise it"
        )


class _StudyCopy:
    """A copy of a study in memory, with as many results as a sampler may know.

    Trials have the same numbers in both. What base samplers note on trials and on the study is
    kept here, and travels to the real study as system attributes of its trials.

    memory: finished trials that are known as such, once there are FORGET_EVERY more; the others
    count as failed. None: all.
    """

    def __init__(
        self,
        study: Study,
        distributions: Mapping[str, CategoricalDistribution],
        memory: int | None,
    ) -> None:
        self._distributions = distributions
        self._memory = memory
        self._told = 0
        self._sent: dict[str, Any] = {}
        self._name = study.study_name
        self._directions = study.directions
        self._start()

    def _start(self) -> None:
        self._storage = InMemoryStorage()
        self._study_id = self._storage.create_new_study(self._directions, self._name)

    @property
    def study(self) -> Study:
        """The copy as a study. A new object each time: a `Study` keeps the trials it saw first
        until its own `ask` or `tell` is called, and they never are."""
        return optuna.load_study(study_name=self._name, storage=self._storage)

    def follow(self, trials: Sequence[FrozenTrial], *, told: int) -> None:
        """Take over `trials`, all of the study's in order, and the results of the first `told`."""
        new = takewhile(lambda trial: trial.state.is_finished(), trials[self._told : told])
        due = (self._told + sum(1 for _ in new)) // FORGET_EVERY * FORGET_EVERY
        if self._memory is not None and due > max(self._told, self._memory):
            self._forget(trials[:due], self._memory)
        for trial in trials[self._told :]:
            if trial.number >= self._storage.get_n_trials(self._study_id):
                self._add(trial)
            self._fill(trial)
            if trial.number == self._told < told and trial.state.is_finished():
                self._tell(trial, trial.state)
                self._told += 1

    def scratch(self, number: int) -> FrozenTrial:
        """The running trial of this number, which a base sampler may write its notes on."""
        if number >= self._storage.get_n_trials(self._study_id):
            self._storage.create_new_trial(self._study_id)
        return self._storage.get_trial(self._id(number))

    def attributes(self, number: int) -> dict[str, Any]:
        """What was noted on the trial, and on the study since this was last asked."""
        noted = dict(self._storage.get_trial(self._id(number)).system_attrs)
        on_study = self._storage.get_study_system_attrs(self._study_id)
        new = {name: value for name, value in on_study.items() if name not in self._sent}
        self._sent |= new
        return noted | ({STUDY_ATTRIBUTES: new} if new else {})

    def _forget(self, told: Sequence[FrozenTrial], memory: int) -> None:
        """Begin anew with the results of no more than `memory` of the trials: they alone matter,
        so that a resumed study forgets the same ones."""
        self._start()
        self._told = len(told)
        numbers = remembered(told, self._directions, memory)
        for trial in told:
            self._add(trial)
            if trial.number in numbers:
                self._fill(trial)
                self._tell(trial, trial.state)
            else:
                self._tell(trial, TrialState.FAIL)

    def _fill(self, trial: FrozenTrial) -> None:
        copy_id = self._id(trial.number)
        for name, value in trial.params.items():
            distribution = self._distributions[name]
            internal = distribution.to_internal_repr(value)
            self._storage.set_trial_param(copy_id, name, internal, distribution)

    def _tell(self, trial: FrozenTrial, state: TrialState) -> None:
        values = None if state == TrialState.FAIL else trial.values
        self._storage.set_trial_state_values(self._id(trial.number), state, values)

    def _add(self, trial: FrozenTrial) -> None:
        copy_id = self._storage.create_new_trial(self._study_id)
        for name, value in trial.system_attrs.items():
            self._storage.set_trial_system_attr(copy_id, name, value)
        for name, value in trial.system_attrs.get(STUDY_ATTRIBUTES, {}).items():
            self._storage.set_study_system_attr(self._study_id, name, value)
            self._sent[name] = value

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
