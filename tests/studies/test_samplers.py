"""Contracts that every base sampler keeps inside `FeasibleSampler`."""

from dataclasses import replace

import optuna
import pytest
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState, create_trial

from data.errors import UserError
from objectives.cost import Cost
from objectives.limits import Limits
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from studies.design_rules import DesignRules
from studies.samplers import BASES, BaseKind, FeasibleSampler
from tests.studies.toy import LIMITS, toy_cost, toy_scores

RULES = DesignRules(SPACE, toy_cost, LIMITS)


def objective(trial: optuna.Trial) -> tuple[float, float]:
    values = {name: trial._suggest(name, d) for name, d in RULES.distributions.items()}
    architecture = SPACE.decode(RULES.genotype(values))
    ap = toy_scores(architecture, trial.number)["ap"]
    assert isinstance(ap, float)
    return ap, toy_cost(architecture).macs


def plain_study(sampler: FeasibleSampler) -> Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    return optuna.create_study(directions=directions, sampler=sampler)


def optimized(sampler: FeasibleSampler, *, trials: int, jobs: int = 1) -> Study:
    study = plain_study(sampler)
    study.optimize(objective, n_trials=trials, n_jobs=jobs)
    return study


def keys_of(study: Study) -> list[str]:
    return [SPACE.decode(RULES.genotype(trial.params)).key for trial in study.trials]


@pytest.mark.parametrize("base", BASES)
def test_plain_optuna_studies_get_feasible_distinct_trials(base: str) -> None:
    study = optimized(FeasibleSampler(RULES, base=base), trials=40)
    keys = keys_of(study)
    assert len(set(keys)) == 40
    assert all(LIMITS.allow(toy_cost(Architecture.from_key(key))) for key in keys)


@pytest.mark.parametrize("base", BASES)
def test_equal_seeds_give_equal_trials(base: str) -> None:
    first, again, other = (
        keys_of(optimized(FeasibleSampler(RULES, base=base, seed=seed), trials=25))
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


def test_bases_differ_once_they_know_something() -> None:
    runs = [keys_of(optimized(FeasibleSampler(RULES, base=base), trials=30)) for base in BASES]
    assert all(run[:10] == runs[0][:10] for run in runs)
    assert len({tuple(run) for run in runs}) == len(BASES)


def test_threads_of_one_study_do_not_repeat_a_trial() -> None:
    study = optimized(FeasibleSampler(RULES, base="random", lookahead=4), trials=20, jobs=2)
    assert len(set(keys_of(study))) == 20


@pytest.mark.parametrize("base", BASES)
def test_results_inside_the_lookahead_are_not_seen(base: str) -> None:
    """Two studies that differ only in the last three results propose the same next trial."""
    proposals = []
    for worth in (0.0, 1.0):
        sampler = FeasibleSampler(RULES, base=base, lookahead=4)
        study = plain_study(FeasibleSampler(RULES, base="random"))
        study.optimize(objective, n_trials=25)
        for _ in range(3):
            trial = study.ask(dict(RULES.distributions))
            study.tell(trial, (worth, 1.0))
        proposals.append(sampler.propose(study, 28).candidate.genotype)
    assert proposals[0] == proposals[1]


def test_tpe_is_told_of_the_best_and_the_newest_trials_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A study gone on with, the same one resumed, and one whose forgotten results were others."""
    monkeypatch.setattr("studies.samplers.FORGET_EVERY", 10)
    monkeypatch.setitem(dict_of_bases(), "tpe", BaseKind(BASES["tpe"].make, memory=20))
    sampler, resumed = FeasibleSampler(RULES, base="tpe"), FeasibleSampler(RULES, base="tpe")
    study = optimized(sampler, trials=45)
    proposal = resumed.propose(study, 45)
    assert sampler.propose(study, 45) == proposal
    assert resumed._copy is not None
    told = resumed._copy.study.get_trials(states=[TrialState.COMPLETE])
    assert len(told) == 25  # 20 of the first 40, and the five since
    assert {tuple(t.values) for t in study.best_trials} <= {tuple(t.values) for t in told}

    numbers = {trial.number for trial in told}
    other = plain_study(FeasibleSampler(RULES, base="tpe"))
    for trial in study.trials:
        values = trial.values if trial.number in numbers else [0.0, 1e12]
        other.add_trial(
            create_trial(params=trial.params, distributions=trial.distributions, values=values)
        )
    assert FeasibleSampler(RULES, base="tpe").propose(other, 45) == proposal


def dict_of_bases() -> dict[str, BaseKind]:
    assert isinstance(BASES, dict)
    return BASES


def test_stored_parameters_are_canonical() -> None:
    study = optimized(FeasibleSampler(RULES), trials=15)
    for trial in study.trials:
        genotype = RULES.genotype(trial.params)
        assert SPACE.encode(SPACE.decode(genotype)) == genotype


def only(*keys: str) -> DesignRules:
    """Rules that a few architectures keep."""

    def cost(architecture: Architecture) -> Cost:
        return Cost(1 if architecture.key in keys else 10, 1, 1)

    return DesignRules(SPACE, cost, Limits(max_params=2))


def test_rejection_ends_when_everything_feasible_was_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("studies.samplers.FREE_TRIES", 2000)
    smallest = SPACE.corner(largest=False)
    neighbour = replace(smallest, stem_depth=2)
    sampler = FeasibleSampler(only(smallest.key, neighbour.key), starts=(smallest,))
    study = plain_study(sampler)
    study.optimize(objective, n_trials=2)  # the second is found by mutating the first
    assert set(keys_of(study)) == {smallest.key, neighbour.key}
    with pytest.raises(UserError, match=r"tried every one that keeps the limits already"):
        study.optimize(objective, n_trials=1)


def test_unknown_base_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown sampler 'tpa'.*nsga2.*Did you mean 'tpe'"):
        FeasibleSampler(RULES, base="tpa")


def test_a_parameter_that_is_no_gene_is_refused() -> None:
    study = plain_study(FeasibleSampler(RULES))
    with pytest.raises(ValueError, match=r"param_name must be a gene of the space, got 'rate'"):
        study.ask().suggest_float("rate", 0, 1)
