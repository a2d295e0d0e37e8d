import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from nas.recipe import USUAL, Recipe
from nas.weights import load_detector, save_weights
from search_spaces.space import SPACE
from search_spaces.supernet import Supernet
from studies.chosen import (
    RetrainOptions,
    RetrainRequest,
    export_network,
    find_teacher,
    measure_network,
    plan_retrain,
    retrain_network,
)
from studies.executors import local_workers
from studies.front import measured
from studies.schedule import retrain_settings, schedule_for
from studies.search import run_search
from studies.workspace import Choice, Workspace
from tests.data.drawn_faces import DrawnFaces
from tests.studies.toy import make_toy, toy_search, toy_settings
from tests.tiny_training import CPU, FIT, SMALLEST, equal_weights, weights_of

SOURCE = DrawnFaces(count=4, width=96, height=64)
SCHEDULE = schedule_for(10, cuda=False)


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


def short_request(workspace: Workspace, *, trial: int = 1, seed: int = 0) -> RetrainRequest:
    recipe = Recipe(fit=replace(FIT, steps=1))
    subject = workspace.subject(trial)
    return RetrainRequest(subject=subject, key=SMALLEST.key, recipe=recipe, seed=seed)


def plan(
    workspace: Workspace, options: RetrainOptions, *, trial: int = 1, cuda: bool = False
) -> RetrainRequest:
    choice = Choice(workspace.runs, workspace.study, trial)
    return plan_retrain(choice, options, storage_url=None, seed=5, cuda=cuda)


def test_a_plan_is_the_studys_own_but_for_what_is_asked(searched: Workspace) -> None:
    scratch = RetrainOptions(start="scratch")
    usual = plan(searched, scratch)
    assert (usual.subject, usual.seed, usual.supernet) == (searched.subject(1), 5, None)
    assert usual.recipe == Recipe(fit=SCHEDULE.retrain)
    asked = plan(
        searched,
        replace(scratch, steps=7, image_size=64, learning_rate=0.5, changes=("steps=8",)),
    )
    fit = replace(SCHEDULE.retrain, steps=8, image_size=64, learning_rate=0.5)
    assert asked.recipe == Recipe(fit=fit)
    assert plan(searched, scratch, cuda=True).recipe == USUAL


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


def test_a_reference_is_trained_from_scratch(tmp_path: Path) -> None:
    choice = Choice(tmp_path, architecture="yunet-s")
    request = plan_retrain(choice, RetrainOptions(), storage_url=None, seed=0, cuda=False)
    assert (request.key, request.supernet) == ("yunet-s", None)
    assert request.recipe.fit == retrain_settings(1.0, cuda=False)
    with pytest.raises(UserError, match="only trials of a study start from a supernet"):
        plan_retrain(choice, RetrainOptions(start="supernet"), storage_url=None, seed=0, cuda=False)
    unknown = Choice(tmp_path, architecture="yunet-z")
    with pytest.raises(UserError, match=r"unknown architecture 'yunet-z'.*'yunet-"):
        plan_retrain(unknown, RetrainOptions(), storage_url=None, seed=0, cuda=False)


@pytest.mark.parametrize(
    "options",
    [
        RetrainOptions(image_size=100),
        RetrainOptions(learning_rate=-1.0),
        RetrainOptions(changes=("learning_rat=1",)),
        RetrainOptions(changes=("optimizer=adam",)),
    ],
)
def test_settings_out_of_range_are_the_users_to_put_right(options: RetrainOptions) -> None:
    with pytest.raises(UserError):
        options.recipe(USUAL)


def test_an_unknown_start_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="scratch, supernet"):
        RetrainOptions(start="supernett")


def test_a_teacher_is_a_file_a_trial_or_an_architecture(searched: Workspace) -> None:
    choice = Choice(searched.runs, searched.study, 1)
    with pytest.raises(UserError, match=r"trial 2 of study 'toy', has not been trained; run: "):
        find_teacher(choice, "2")
    weights = searched.subject(2).weights
    weights.parent.mkdir()
    weights.touch()
    assert find_teacher(choice, "2") == weights
    assert find_teacher(choice, str(weights)) == weights
    with pytest.raises(UserError, match=r"run: python run_search\.py retrain --arch yunet-n"):
        find_teacher(choice, "yunet-n")
    with pytest.raises(UserError, match=r"there is no teacher gone\.onnx"):
        find_teacher(choice, "gone.onnx")
    with pytest.raises(UserError, match="unknown architecture"):
        find_teacher(choice, "yunet")


def test_a_trial_is_retrained_exported_and_measured(workspace: Workspace) -> None:
    subject, request = workspace.subject(1), short_request(workspace)
    with pytest.raises(UserError, match=r"has not been retrained; run: .* --study toy --trial 1"):
        export_network(subject)
    retrained = retrain_network(request, SOURCE, device=CPU)
    assert json.loads((subject.folder / "retrain.json").read_text()) == retrained
    assert (retrained["key"], retrained["start"], retrained["steps"]) == (
        SMALLEST.key,
        "scratch",
        1,
    )
    export_network(subject)
    measure_network(subject, SOURCE, image_size=64, seed=0)
    known = measured(subject.folder)
    assert known["onnx"] == str(subject.onnx)
    evaluation = json.loads((subject.folder / "evaluation.json").read_text())
    assert known["retrained_ap"] == evaluation["ap"]
    assert known["latency_ms"] > 0

    retrain_network(replace(request, seed=1), SOURCE, device=CPU)
    assert measured(subject.folder) == {}  # what is known of older weights is not said of newer


def test_validation_holds_images_out_and_keeps_the_best_weights(workspace: Workspace) -> None:
    request = short_request(workspace)
    recipe = replace(request.recipe, fit=replace(FIT, steps=2), validate_every=1)
    report = retrain_network(replace(request, recipe=recipe), SOURCE, device=CPU)
    assert report["best_step"] in (1, 2)
    rows = (request.subject.folder / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2]


def test_a_retraining_follows_from_its_seed(workspace: Workspace) -> None:
    def weights(trial: int, seed: int) -> Any:
        request = short_request(workspace, trial=trial, seed=seed)
        retrain_network(request, SOURCE, device=CPU)
        return weights_of(load_detector(request.subject.weights)[0])

    first = weights(0, 0)
    assert equal_weights(weights(1, 0), first)
    assert not equal_weights(weights(2, 1), first)


def test_a_retraining_starts_from_the_supernets_weights(workspace: Workspace) -> None:
    supernet, path = Supernet(SPACE, seed=3), workspace.supernet("x")
    save_weights(path, supernet.state_dict(), {"space": SPACE.fingerprint})
    still = Recipe(fit=replace(FIT, steps=1, learning_rate=1e-12))
    request = replace(short_request(workspace), supernet=path, recipe=still)
    assert retrain_network(request, SOURCE, device=CPU)["start"] == "supernet"
    trained = dict(load_detector(request.subject.weights)[0].named_parameters())
    for name, value in supernet.extract(SMALLEST).named_parameters():
        assert trained[name].allclose(value, atol=1e-6)
