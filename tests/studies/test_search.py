"""A search is a function of its settings: not of stops, kills, workers or timing."""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from optuna.trial import TrialState

from data.errors import UserError
from nas.stop_rule import (
    DOMINATORS,
    RUNG_REPLICATES,
    RUNG_SCORES,
    SPARED_AT,
    STOPPED_AT,
    StopRule,
)
from objectives.limits import Limits
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from studies.executors import Evaluate, InProcess, Workers, local_workers
from studies.search import FAILURE, Search, run_search
from studies.settings import SAMPLERS
from studies.storage import Score, completed_trials, load_study
from tests.studies.toy import (
    BUDGET,
    LIMITS,
    deadly_toy,
    make_toy,
    toy_cost,
    toy_scores,
    toy_search,
    toy_settings,
)


def in_process() -> Workers:
    return local_workers(make_toy, processes=1)


def keys_of(search: Search) -> list[str]:
    study = load_study(search.study_name, search.storage_url)
    return [trial.user_attrs["key"] for trial in study.get_trials(deepcopy=False)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trials_are_feasible_distinct_and_complete_or_stopped(tmp_path: Path, sampler: str) -> None:
    search = toy_search(tmp_path, toy_settings(sampler=sampler))
    rows = run_search(search, in_process(), budget=40)
    trials = load_study("toy", search.storage_url).get_trials(deepcopy=False)
    complete = [trial.number for trial in trials if trial.state == TrialState.COMPLETE]
    stopped = [trial.number for trial in trials if trial.state == TrialState.PRUNED]
    assert sorted(complete + stopped) == list(range(40))
    assert [row.trial for row in rows] == complete
    assert len(set(keys_of(search))) == 40
    for row in rows:
        cost = toy_cost(Architecture.from_key(row.key))
        assert LIMITS.allow(cost)
        assert (row.params, row.macs, row.peak_bytes) == (cost.params, cost.macs, cost.peak_bytes)
        assert row.ap == row.scores["ap"]
    study = load_study("toy", search.storage_url)
    assert study.metric_names == ["ap", "macs"]
    values = [trial.values for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert values == [[row.ap, row.macs] for row in rows]


def test_trials_are_stopped_by_what_their_choice_could_know_of(tmp_path: Path) -> None:
    settings = toy_settings(sampler="random")
    search = toy_search(tmp_path, settings)
    run_search(search, in_process(), budget=60)
    trials = load_study("toy", search.storage_url).get_trials(deepcopy=False)
    stopped = [trial for trial in trials if trial.state == TrialState.PRUNED]
    spared = [trial for trial in trials if SPARED_AT in trial.user_attrs]
    assert stopped
    assert spared
    for trial in trials:
        known = trials[: max(0, trial.number - settings.lookahead + 1)]
        ceiling = trial.user_attrs[RUNG_SCORES][0] + 0.02
        better = [
            peer.number
            for peer in known
            if peer.user_attrs["macs"] <= trial.user_attrs["macs"]
            and peer.user_attrs[RUNG_SCORES][0] > ceiling
        ]
        is_beaten = trial in stopped or trial in spared
        assert is_beaten == (len(better) >= DOMINATORS)
    assert all(trial.user_attrs[STOPPED_AT] == 1 for trial in stopped)
    assert all(trial.values is None and trial.user_attrs["ap"] > 0 for trial in stopped)
    assert len(spared) < len(stopped) / 4


def draw_by_draw(architecture: Architecture, trial: int, rule: StopRule) -> Mapping[str, Score]:
    """Toy scores that differ much from draw to draw, as much for all."""
    scores = dict(toy_scores(architecture, trial))
    ap = scores["ap"]
    assert isinstance(ap, float)
    replicates = [ap / 4 + luck for luck in (-0.3, 0.0, 0.3)]
    scores |= {RUNG_SCORES: [ap / 4], RUNG_REPLICATES: [replicates]}
    return scores | {STOPPED_AT: 1} if rule.is_beaten(0, replicates) else scores


def test_trials_are_compared_draw_by_draw_also_after_a_pause(tmp_path: Path) -> None:
    settings = toy_settings(sampler="random")
    straight, grown = toy_search(tmp_path / "a", settings), toy_search(tmp_path / "b", settings)
    workers = Workers(InProcess, draw_by_draw)
    run_search(straight, workers, budget=40)
    for budget in (11, 40):
        run_search(grown, workers, budget=budget)
    trials, others = (
        load_study("toy", search.storage_url).get_trials() for search in (straight, grown)
    )
    assert [trial.state for trial in trials] == [trial.state for trial in others]
    for trial in trials:
        assert RUNG_REPLICATES not in trial.user_attrs, "dashboards would show every number"
        known = trials[: max(0, trial.number - settings.lookahead + 1)]
        better = [
            peer
            for peer in known
            if peer.user_attrs["macs"] <= trial.user_attrs["macs"]
            and peer.user_attrs[RUNG_SCORES][0] > trial.user_attrs[RUNG_SCORES][0]
        ]
        assert (trial.state == TrialState.PRUNED) == (len(better) >= DOMINATORS)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_growing_a_study_makes_the_trials_of_a_straight_run(tmp_path: Path, sampler: str) -> None:
    settings = toy_settings(sampler=sampler)
    straight, grown = toy_search(tmp_path / "a", settings), toy_search(tmp_path / "b", settings)
    run_search(straight, in_process(), budget=45)
    for budget in (1, 14, 37, 45):
        run_search(grown, in_process(), budget=budget)
    assert keys_of(grown) == keys_of(straight)


def interrupted_at(trial_to_stop: int) -> Workers:
    stops = [trial_to_stop]

    def evaluate(architecture: Architecture, trial: int, _rule: StopRule) -> dict[str, Score]:
        if trial in stops:
            raise KeyboardInterrupt
        return dict(toy_scores(architecture, trial))

    return Workers(InProcess, evaluate)


def test_an_interrupted_study_goes_on_with_the_same_trials(tmp_path: Path) -> None:
    straight = toy_search(tmp_path / "a", toy_settings())
    stopped = toy_search(tmp_path / "b", toy_settings())
    run_search(straight, in_process(), budget=30)
    for trial in (0, 3, 17, 28):
        with pytest.raises(KeyboardInterrupt):
            run_search(stopped, interrupted_at(trial), budget=30)
        in_flight = len(keys_of(stopped)) - trial
        assert in_flight == min(4, 30 - trial)
    assert len(run_search(stopped, in_process(), budget=30)) == 30
    assert keys_of(stopped) == keys_of(straight)


def test_a_killed_study_goes_on_with_the_same_trials(tmp_path: Path) -> None:
    straight = toy_search(tmp_path / "a", toy_settings())
    killed = toy_search(tmp_path / "b", toy_settings())
    run_search(straight, in_process(), budget=BUDGET)
    for wanted in (3, 12):
        with searching(tmp_path / "b", processes=1) as process:
            wait_for_trials(killed, wanted, process)
            process.send_signal(signal.SIGKILL)
    run_search(killed, in_process(), budget=BUDGET)
    assert keys_of(killed) == keys_of(straight)


def searching(folder: Path, *, processes: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.studies.toy", str(folder), str(processes)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL, start_new_session=True)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_driver(tmp_path: Path, stop: signal.Signals) -> None:
    heartbeat = tmp_path / "heartbeat"
    with searching(tmp_path, processes=2) as process:
        deadline = time.monotonic() + 60
        while not heartbeat.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(stop)
        try:
            process.wait(timeout=20)  # an evaluation would take a minute
        finally:
            process.kill()
    time.sleep(1)
    last = heartbeat.stat().st_mtime_ns
    time.sleep(0.5)
    assert heartbeat.stat().st_mtime_ns == last


def wait_for_trials(search: Search, count: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if len(keys_of(search)) >= count:
                return
        except UserError:  # no file, no table or no study yet
            pass
        assert process.poll() is None, "the search has ended by itself"
        time.sleep(0.05)
    raise AssertionError(f"no {count} trials after a minute")


@pytest.mark.slow
def test_processes_make_the_same_trials_and_a_deadly_one_fails_alone(tmp_path: Path) -> None:
    settings = toy_settings()
    search = toy_search(tmp_path, settings)
    with local_workers(deadly_toy, processes=2) as workers:
        rows = run_search(search, workers, budget=6)
    assert [row.trial for row in rows] == [0, 1, 3, 4, 5]
    trial = load_study("toy", search.storage_url).trials[2]
    assert trial.state.name == "FAIL"
    assert "died twice" in trial.user_attrs[FAILURE]
    straight = toy_search(tmp_path / "straight", settings)
    run_search(straight, in_process(), budget=6)
    assert keys_of(search) == keys_of(straight)


def test_starts_come_first_as_far_as_they_are_feasible(tmp_path: Path) -> None:
    largest, smallest = SPACE.corner(largest=True).key, SPACE.corner(largest=False).key
    search = toy_search(tmp_path, toy_settings(starts=(largest, smallest, smallest)))
    run_search(search, in_process(), budget=3)
    assert keys_of(search)[0] == smallest
    assert largest not in keys_of(search)


def always(value: float) -> Evaluate:
    return lambda _architecture, _trial, _rule: {"ap": value}


def test_a_search_whose_trials_all_fail_stops_and_says_why(tmp_path: Path) -> None:
    search = toy_search(tmp_path, toy_settings())
    with pytest.raises(UserError, match=r"5 trials in a row failed.*nan"):
        run_search(search, Workers(InProcess, always(float("nan"))), budget=20)
    assert completed_trials(load_study("toy", search.storage_url)) == ()


def test_a_missing_score_is_a_fault_of_the_evaluation(tmp_path: Path) -> None:
    workers = Workers(InProcess, lambda _architecture, _trial, _rule: {"recall": 1.0})
    with pytest.raises(ValueError, match=r"scores must hold ap and macs, got"):
        run_search(toy_search(tmp_path, toy_settings()), workers, budget=1)


@pytest.mark.parametrize("budget", [0, -3])
def test_a_budget_below_one_is_refused_before_anything_is_written(
    tmp_path: Path, budget: int
) -> None:
    with pytest.raises(UserError, match=rf"--budget must be at least 1 trial, got {budget}"):
        run_search(toy_search(tmp_path, toy_settings()), in_process(), budget=budget)
    assert list(tmp_path.iterdir()) == []


def test_limits_that_nothing_meets_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.samplers.FREE_TRIES", 50)
    settings = toy_settings()
    object.__setattr__(settings, "limits", Limits(max_params=10, max_macs=10**9))
    with pytest.raises(UserError, match=r"none met --max-params 10; the nearest was .* over it"):
        run_search(toy_search(tmp_path, settings), in_process(), budget=1)
