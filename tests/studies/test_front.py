import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from studies.executors import local_workers
from studies.front import (
    choose_to_retrain,
    front_rows,
    front_trials,
    measured,
    points_of,
    read_front,
)
from studies.search import run_search
from studies.storage import TrialRow
from studies.workspace import Workspace
from tests.studies.toy import make_toy, toy_search, toy_settings


def row(trial: int, macs: int, ap: float, **scores: Any) -> TrialRow:
    return TrialRow(
        trial=trial,
        key=f"key{trial}",
        ap=ap,
        score=ap,
        macs=macs,
        params=10,
        peak_bytes=20,
        scores=scores,
    )


ROWS = (
    row(0, 100, 0.1),
    row(1, 400, 0.6),
    row(2, 500, 0.5),  # beaten by 1
    row(3, 200, 0.55),
    row(4, 1600, 0.7),
    row(5, 1600, 0.6),  # beaten by 4
    row(6, 800, 0.65),
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, "toy")


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_no_trial_beats_one_of_the_front_and_one_of_the_front_beats_every_other() -> None:
    front = front_trials(ROWS, "macs")
    assert [one.trial for one in front] == [0, 3, 1, 6, 4]
    for other in ROWS:
        better = [one for one in front if one.macs <= other.macs and one.ap >= other.ap]
        assert better
        assert (other in front) == (better == [other])


def test_trials_are_compared_by_the_score_that_was_raised_and_shown_by_their_ap(
    workspace: Workspace,
) -> None:
    rows = [replace(row(0, 100, 0.2), score=0.5), replace(row(1, 200, 0.3), score=0.4)]
    (shown,) = front_rows(workspace, rows, "macs")
    assert (shown["trial"], shown["ap"]) == (0, 0.2)


def test_a_timed_study_has_its_front_in_milliseconds() -> None:
    rows = [row(0, 1, 0.5, latency_ms=9.0), row(1, 2, 0.5, latency_ms=3.0)]
    assert points_of(rows, "latency_ms") == [(9.0, 0.5), (3.0, 0.5)]
    assert [one.trial for one in front_trials(rows, "latency_ms")] == [1]
    with pytest.raises(TypeError, match="latency_ms of trial 0 must be a number, got 'slow'"):
        points_of([row(0, 1, 0.5, latency_ms="slow")], "latency_ms")


def test_the_ends_and_the_bend_have_roles(workspace: Workspace) -> None:
    roles = {one["trial"]: one["role"] for one in front_rows(workspace, ROWS, "macs")}
    assert roles == {0: "cheapest", 3: "knee", 1: None, 6: None, 4: "most precise"}
    assert [one["role"] for one in front_rows(workspace, ROWS[:1], "macs")] == ["knee"]
    assert front_rows(workspace, (), "macs") == []


@pytest.mark.parametrize(
    ("choice", "trials"),
    [
        ("none", []),
        ("0", []),
        ("1", [3]),
        ("2", [3, 4]),
        ("3", [3, 4, 0]),
        ("4", [3, 4, 0, 6]),
        ("99", [3, 4, 0, 6, 1]),
        ("roles", [3, 4, 0]),
        ("all", [0, 3, 1, 6, 4]),
    ],
)
def test_the_bend_is_retrained_first_then_the_ends(choice: str, trials: list[int]) -> None:
    front = front_trials(ROWS, "macs")
    assert [one.trial for one in choose_to_retrain(front, "macs", choice)] == trials
    assert choose_to_retrain([], "macs", choice) == []


def test_rows_show_what_retraining_and_benchmark_gave(workspace: Workspace) -> None:
    folder = workspace.trial(3)
    write(folder / "model.onnx", "network")
    write(folder / "evaluation.json", {"ap": 0.8, "interval": [0.7, 0.9]})
    latencies = [
        {"threads": 1, "image_size": 640, "p50_ms": 9.0},
        {"threads": 1, "image_size": 256, "p50_ms": 2.0},
        {"threads": 2, "image_size": 640, "p50_ms": 5.0},
    ]
    write(folder / "benchmark.json", {"latencies": latencies, "file_bytes": 1000})
    rows = front_rows(workspace, ROWS, "macs")
    known = {
        "onnx": str(folder / "model.onnx"),
        "retrained_ap": 0.8,
        "retrained_ap_interval": [0.7, 0.9],
        "latency_ms": 9.0,
        "file_bytes": 1000,
    }
    assert rows[1] == rows[1] | known
    for one in (rows[0], *rows[2:]):
        assert not one.keys() & known.keys()


def test_the_latency_that_was_lowered_stays_when_a_network_is_benchmarked(
    workspace: Workspace,
) -> None:
    latencies = [{"threads": 1, "image_size": 640, "p50_ms": 5.0}]
    write(workspace.trial(0) / "benchmark.json", {"latencies": latencies, "file_bytes": 1000})
    rows = front_rows(workspace, [row(0, 1, 0.5, latency_ms=9.0)], "latency_ms")
    assert (rows[0]["latency_ms"], rows[0]["measured_latency_ms"]) == (9.0, 5.0)


def test_a_benchmark_without_one_thread_gives_no_latency(workspace: Workspace) -> None:
    latencies = [{"threads": 2, "image_size": 640, "p50_ms": 5.0}]
    write(workspace.trial(3) / "benchmark.json", {"latencies": latencies, "file_bytes": 1000})
    assert measured(workspace.trial(3)) == {"file_bytes": 1000}
    assert measured(workspace.trial(4)) == {}


def test_a_front_is_read_from_the_database(workspace: Workspace) -> None:
    with pytest.raises(UserError, match="no study 'toy'"):
        read_front(workspace, None)
    search = toy_search(workspace.folder, toy_settings())
    with local_workers(make_toy, processes=1) as workers:
        rows = run_search(search, workers, budget=12)
    assert read_front(workspace, None) == front_rows(workspace, rows, "macs")
    assert read_front(workspace, search.storage_url) == read_front(workspace, None)
