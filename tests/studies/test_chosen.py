import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from nas.weights import load_detector, save_weights
from search_spaces.space import SPACE
from search_spaces.supernet import Supernet
from studies.chosen import (
    RetrainOptions,
    RetrainRequest,
    export_trial,
    measure_trial,
    plan_retrain,
    retrain_trial,
)
from studies.executors import local_workers
from studies.front import measured
from studies.schedule import retrain_settings, schedule_for
from studies.search import run_search
from studies.workspace import Workspace
from tests.data.drawn_faces import DrawnFaces
from tests.studies.toy import make_toy, toy_search, toy_settings
from tests.tiny_training import CPU, FIT, SMALLEST, equal_weights, weights_of

SOURCE = DrawnFaces(count=4, width=96, height=64)
SCHEDULE = schedule_for(10, cuda=False)
REQUEST = RetrainRequest(
    trial=1, key=SMALLEST.key, settings=replace(FIT, steps=1), supernet=None, seed=0
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, "toy")


@pytest.fixture
def searched(workspace: Workspace) -> Workspace:
    """A study of three trials whose supernet is called "weights"."""
    stages: dict[str, Any] = {"schedule": SCHEDULE.to_json(), "supernet": "weights"}
    search = toy_search(workspace.folder, replace(toy_settings(), stages=stages))
    with local_workers(make_toy, processes=1) as workers:
        run_search(search, workers, budget=3)
    return workspace


def plan(workspace: Workspace, options: RetrainOptions, **changes: Any) -> RetrainRequest:
    arguments: dict[str, Any] = {"trial": 1, "seed": 5, "cuda": False} | changes
    trial = arguments.pop("trial")
    return plan_retrain(workspace, None, trial, options, **arguments)


def test_a_plan_is_the_studys_own_but_for_what_is_asked(searched: Workspace) -> None:
    scratch = RetrainOptions(start="scratch")
    usual = plan(searched, scratch)
    assert (usual.trial, usual.seed, usual.supernet) == (1, 5, None)
    assert usual.settings == SCHEDULE.retrain
    asked = plan(searched, replace(scratch, steps=7, image_size=64, learning_rate=0.5))
    assert asked.settings == replace(SCHEDULE.retrain, steps=7, image_size=64, learning_rate=0.5)
    assert plan(searched, scratch, cuda=True).settings == retrain_settings(1.0, cuda=True)


def test_a_plan_starts_from_the_supernet_if_it_is_there(searched: Workspace) -> None:
    with pytest.raises(UserError, match=r"the supernet .* is gone; .* or use --start scratch"):
        plan(searched, RetrainOptions())
    supernet = searched.supernet("weights")
    supernet.parent.mkdir(parents=True)
    supernet.touch()
    assert plan(searched, RetrainOptions()).supernet == supernet


def test_a_study_or_a_trial_that_is_not_there_is_refused(searched: Workspace) -> None:
    with pytest.raises(UserError, match=r"no completed trial 9; completed: 0-2"):
        plan(searched, RetrainOptions(start="scratch"), trial=9)
    with pytest.raises(UserError, match="no study 'other'"):
        plan(Workspace(searched.runs, "other"), RetrainOptions(start="scratch"))


@pytest.mark.parametrize(
    "change",
    [{"start": "supernett"}, {"image_size": 100}, {"learning_rate": 0.0}, {"learning_rate": -1.0}],
)
def test_options_out_of_range_are_the_users_to_put_right(change: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        RetrainOptions(**change)


def test_a_trial_is_retrained_exported_and_measured(workspace: Workspace) -> None:
    folder = workspace.trial(1)
    with pytest.raises(UserError, match=r"has not been retrained; run: .* --study toy --trial 1"):
        export_trial(workspace, 1)
    retrained = retrain_trial(workspace, REQUEST, SOURCE, device=CPU)
    assert json.loads((folder / "retrain.json").read_text()) == retrained
    assert (retrained["trial"], retrained["start"], retrained["steps"]) == (1, "scratch", 1)
    export_trial(workspace, 1)
    measure_trial(workspace, 1, SOURCE, image_size=64, seed=0)
    known = measured(folder)
    assert known["onnx"] == str(folder / "model.onnx")
    assert known["retrained_ap"] == json.loads((folder / "evaluation.json").read_text())["ap"]
    assert known["latency_ms"] > 0

    retrain_trial(workspace, replace(REQUEST, seed=1), SOURCE, device=CPU)
    assert measured(folder) == {}  # what is known of older weights is not said of newer ones


def test_a_retraining_follows_from_its_seed(workspace: Workspace) -> None:
    def weights(trial: int, seed: int) -> Any:
        request = replace(REQUEST, trial=trial, seed=seed)
        retrain_trial(workspace, request, SOURCE, device=CPU)
        return weights_of(load_detector(workspace.trial(trial) / "weights.safetensors")[0])

    first = weights(0, 0)
    assert equal_weights(weights(1, 0), first)
    assert not equal_weights(weights(2, 1), first)


def test_a_retraining_starts_from_the_supernets_weights(workspace: Workspace) -> None:
    supernet, path = Supernet(SPACE, seed=3), workspace.supernet("x")
    save_weights(path, supernet.state_dict(), {"space": SPACE.fingerprint})
    still = replace(FIT, steps=1, learning_rate=1e-12)
    request = replace(REQUEST, supernet=path, settings=still)
    assert retrain_trial(workspace, request, SOURCE, device=CPU)["start"] == "supernet"
    trained = dict(load_detector(workspace.trial(1) / "weights.safetensors")[0].named_parameters())
    for name, value in supernet.extract(SMALLEST).named_parameters():
        assert trained[name].allclose(value, atol=1e-6)
