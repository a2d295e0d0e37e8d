"""A small study whose trials are fitted: taught, from weights of their own, judged at rungs."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import study_trials
from nas.outlook import OUTLOOK
from nas.proxy import ProxyEvaluator
from nas.teachers import WEIGHTS
from nas.weights import save_detector
from studies.executors import InProcess, Workers
from studies.fidelity_stage import job_of_trials
from studies.schedule import TEACHING, schedule_for
from studies.search import run_search
from studies.settings import JSON
from studies.workspace import Workspace
from tests.studies.toy import toy_search, toy_settings
from tests.tiny_training import FIT, tiny_network, tiny_shards

TRIALS = 3


def taught_study(runs: Path) -> Workspace:
    """Where it lies: in a new folder of `runs`, with its shards and its teacher."""
    workspace = Workspace(runs, "toy")
    shards, _ = tiny_shards(workspace.shards)
    save_detector(workspace.teacher("tiny") / WEIGHTS, tiny_network(), {})
    schedule = schedule_for(10, cuda=False)
    proxy = replace(
        schedule.proxy,
        fit=replace(FIT, steps=9),
        inherit=False,
        teaching=TEACHING,
        early_stopping=True,
        recalibration_images=4,
        held_out_images=6,
        rung_images=3,
    )
    schedule = replace(schedule, proxy=proxy)
    stages: dict[str, JSON] = {
        "schedule": schedule.to_json(),
        "supernet": None,
        "teacher": "tiny",
    }
    settings = replace(toy_settings(), data=shards.hash, stages=stages, raised=OUTLOOK)
    search = toy_search(workspace.folder, settings, name=workspace.study)
    evaluator = ProxyEvaluator(job_of_trials(workspace, settings.to_json(), device="cpu"))
    run_search(search, Workers(InProcess, evaluator), budget=TRIALS)
    return workspace


def measure_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks of a study's trials measure here, anew each time, and keep nothing."""
    monkeypatch.setattr(
        study_trials, "kept_rows", lambda rows, **_: [row() for row in rows.values()]
    )
