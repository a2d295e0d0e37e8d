"""What early stopping spared is counted from the study alone."""

from pathlib import Path

from optuna.trial import TrialState

from nas.stop_rule import FIT_STEPS, RUNG_SCORES, SPARED_AT, StopRule
from search_spaces.architecture import Architecture
from studies.early_stopping import stopping_report
from studies.executors import InProcess, Workers, local_workers
from studies.search import run_search
from studies.storage import Score, load_study
from tests.studies.toy import make_toy, toy_scores, toy_search, toy_settings


def test_stopped_and_spared_trials_are_counted(tmp_path: Path) -> None:
    search = toy_search(tmp_path, toy_settings(sampler="random"))
    run_search(search, local_workers(make_toy, processes=1), budget=60)
    study = load_study("toy", search.storage_url)
    report = stopping_report(study)
    assert report is not None
    trials = study.get_trials(deepcopy=False)
    assert report.stopped == sum(trial.state == TrialState.PRUNED for trial in trials) > 0
    assert report.spared == sum(SPARED_AT in trial.user_attrs for trial in trials) > 0
    assert report.steps == sum(trial.user_attrs[FIT_STEPS] for trial in trials)
    assert report.full_steps == 9 * len(trials)
    assert 0 <= report.hypervolume_lost < 1
    assert f"{report.stopped} of 60 trials stopped" in report.line
    assert report.to_json()["saved_share"] == 1 - report.steps / report.full_steps


def spared_best(_architecture: Architecture, trial: int, _rule: StopRule) -> dict[str, Score]:
    """All alike, but for the last trial: it is on the front though it should have been stopped."""
    scores: dict[str, Score] = {"ap": 0.5, RUNG_SCORES: [0.1], FIT_STEPS: 9}
    return scores | ({"ap": 1.0, SPARED_AT: 1} if trial == 9 else {})


def test_the_price_is_the_hypervolume_of_the_spared(tmp_path: Path) -> None:
    search = toy_search(tmp_path, toy_settings(sampler="random"))
    run_search(search, Workers(InProcess, spared_best), budget=10)
    report = stopping_report(load_study("toy", search.storage_url))
    assert report is not None
    assert (report.stopped, report.spared, report.spared_on_front) == (0, 1, 1)
    assert 0 < report.hypervolume_lost < 1


def rungless(architecture: Architecture, trial: int, rule: StopRule) -> dict[str, Score]:
    return {"ap": toy_scores(architecture, trial, rule)["ap"]}


def test_a_study_without_rungs_has_no_report(tmp_path: Path) -> None:
    search = toy_search(tmp_path, toy_settings())
    run_search(search, Workers(InProcess, rungless), budget=5)
    assert stopping_report(load_study("toy", search.storage_url)) is None
