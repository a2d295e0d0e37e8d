import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from nas.stop_rule import StopRule
from objectives.latency_table import TableError
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from studies.executors import InProcess, Workers, local_workers
from studies.front import read_front
from studies.search import run_search
from studies.storage import Score, completed_trials, load_study
from studies.study_report import write_study_report
from studies.workspace import Workspace
from tests.objectives.made_up_table import made_up_table
from tests.studies.toy import make_toy, toy_scores, toy_search, toy_settings


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A study of eight trials and nothing beside its database."""
    workspace = Workspace(tmp_path, "toy")
    with local_workers(make_toy, processes=1) as workers:
        run_search(toy_search(workspace.folder, toy_settings()), workers, budget=8)
    return workspace


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def report_of(workspace: Workspace) -> str:
    path = write_study_report(workspace, workspace.storage_url)
    assert path == workspace.file("report.html")
    return path.read_text()


def test_a_study_is_reported_before_its_later_stages_have_run(workspace: Workspace) -> None:
    text = report_of(workspace)
    for row in read_front(workspace, None):
        assert row["key"] in text
    assert "No network was retrained." in text
    assert "No network was benchmarked." in text


def test_the_report_opens_without_a_network(workspace: Workspace) -> None:
    text = report_of(workspace)
    for outside in ('src="http', "src='http", '<link rel="stylesheet" href="http'):
        assert outside not in text


def test_an_exported_network_is_reported_before_it_is_benchmarked(workspace: Workspace) -> None:
    trial = read_front(workspace, None)[0]["trial"]
    write(workspace.trial(trial) / "model.onnx", "network")
    text = report_of(workspace)
    assert "No network was retrained." not in text
    assert "No network was benchmarked." in text


def test_what_the_stages_wrote_is_in_the_report(workspace: Workspace) -> None:
    folder = workspace.trial(read_front(workspace, None)[0]["trial"])
    write(folder / "model.onnx", "network")
    write(folder / "retrain.json", {"steps": 777, "data": "drawn pictures", "start": "scratch"})
    write(folder / "evaluation.json", {"ap": 0.4321, "interval": [0.4, 0.5]})
    latency = {"threads": 1, "image_size": 640, "p50_ms": 9.125, "p90_ms": 9.5}
    write(folder / "benchmark.json", {"latencies": [latency], "file_bytes": 1000})
    write(workspace.file("timings.json"), {"stage of the test": 12.5})
    write(workspace.file("front.json"), {"commit": "abcdef123", "seed": 0, "date": "today"})
    text = report_of(workspace)
    for fact in ("777", "drawn pictures", "0.432", "stage of the test", "abcdef123"):
        assert fact in text


def test_finals_are_reported_as_what_the_front_is_made_of(workspace: Workspace) -> None:
    (first, *others) = read_front(workspace, None)
    study = load_study(workspace.study, workspace.storage_url)
    network = {"trial": first["trial"], "key": first["key"], "trial_ap": first["ap"], "ap": 0.8765}
    finals = {"steps": 77, "networks": [network]}
    some = {"tau": 0.5, "tau_interval": [0, 1], "architectures": [], "proxies": {}}
    record = {**some, "alone": {"steps": 1}, "trials": len(completed_trials(study))}
    write(workspace.file("fidelity.json"), {**record, "finals": finals})
    text = report_of(workspace)
    assert "The front is that of 1 networks fitted alone for 77 steps" in text
    assert "0.876" in text or "0.877" in text
    assert "make likely" not in text
    finals["networks"] = [{**network, "expected_ap": 0.6543}]
    write(workspace.file("fidelity.json"), {**record, "finals": finals})
    assert "this and their trials make likely" in report_of(workspace)
    assert others
    write(workspace.file("fidelity.json"), {**record, "finals": None})
    assert "The front is that of" not in report_of(workspace)


def test_a_timed_study_is_reported(tmp_path: Path) -> None:
    def timed(architecture: Architecture, trial: int, _rule: StopRule) -> dict[str, Score]:
        return {**toy_scores(architecture, trial), "latency_ms": 1.0 + 10 * (trial % 5)}

    workspace = Workspace(tmp_path, "toy")
    search = toy_search(workspace.folder, replace(toy_settings(), objective="latency"))
    rows = run_search(search, Workers(InProcess, timed), budget=8)
    text = report_of(workspace)
    assert "There is no curve of random search: the study has no latency_table.json." in text
    error = TableError(architectures=12, spearman=0.987, median_error=0.04, bias=-0.01)
    write(workspace.latency_table, replace(made_up_table(), threads=3, error=error).to_json())
    text = report_of(workspace)
    assert "takes 20 completed trials, and there are 8" in text
    for fact in (
        "phone",
        "<dt>threads</dt><dd>3</dd>",
        "correlation 0.987",
        "median error of 4.0%",
    ):
        assert fact in text
    for one in read_front(workspace, None):
        assert one["latency_ms"] == rows[one["trial"]].scores["latency_ms"]
        assert one["key"] in text


def test_a_study_that_is_not_there_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, "nothing")
    with pytest.raises(UserError, match="no study 'nothing'"):
        write_study_report(workspace, workspace.storage_url)
    assert list(tmp_path.iterdir()) == []


def test_the_first_networks_are_counted_among_the_settings(tmp_path: Path) -> None:
    """By their keys they would fill the page."""
    workspace = Workspace(tmp_path, "toy")
    settings = replace(toy_settings(), starts=(SPACE.corner(largest=False).key,))
    with local_workers(make_toy, processes=1) as workers:
        run_search(toy_search(workspace.folder, settings), workers, budget=2)
    assert "<dt>starts</dt><dd>1</dd>" in report_of(workspace)
