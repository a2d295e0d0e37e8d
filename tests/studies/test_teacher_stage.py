from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import UserError
from data.sample import Batch
from data.shards import ShardSet
from nas.fitting import NotFiniteError, StepReport, Trainer
from nas.recipe import Recipe
from nas.teachers import WEIGHTS, open_teacher
from nas.weights import load_detector, save_detector
from search_spaces.catalogue import build_network
from search_spaces.face_network import FaceNetwork
from search_spaces.heads import STRIDES
from studies.teacher_stage import TEACHER, TeacherJob, check_teacher, keep_teacher, train_teacher
from studies.workspace import Workspace
from tests.tiny_training import CPU, FIT, equal_weights, tiny_network, tiny_shards, weights_of


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return tiny_shards(tmp_path_factory.mktemp("teacher"))[0]


@pytest.fixture
def job(shards: ShardSet) -> TeacherJob:
    return TeacherJob(shards, held_out_share=0.3, recipe=Recipe(fit=FIT), seed=0, device=CPU)


def workspace(folder: Path) -> Workspace:
    return Workspace(folder / "runs", "taught")


def test_a_teacher_is_trained_once_and_named_by_what_it_is_trained_with(
    tmp_path: Path, job: TeacherJob
) -> None:
    said, heard = list[str](), list[tuple[str, int, int]]()
    place = workspace(tmp_path)
    folder = train_teacher(place, job, say=said.append, progress=lambda *step: heard.append(step))
    assert heard == [("teacher", done, FIT.steps) for done in range(1, FIT.steps + 1)]
    network, facts = load_detector(folder / WEIGHTS)
    assert network.key == TEACHER
    assert facts["data_hash"] == job.shards.hash
    assert train_teacher(place, job, say=said.append) == folder
    assert [line.split(": ")[1] for line in said] == [
        f"trained; --teacher {folder} gives it to another study",
        "trained before",
    ]
    longer = replace(job, recipe=Recipe(fit=replace(FIT, steps=5)))
    for other in (longer, replace(job, seed=1), replace(job, held_out_share=0.2)):
        assert train_teacher(place, other) != folder


def test_it_never_sees_what_trials_are_judged_on(
    tmp_path: Path, job: TeacherJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = job.shards.split(job.held_out_share, seed=job.seed)
    learned, hidden = (
        {image.tobytes() for crop in part.images for image in (crop, crop[:, ::-1])}
        for part in parts
    )
    assert hidden - learned
    seen: list[bytes] = []
    step = Trainer.step

    def watch(self: Trainer[FaceNetwork], batch: Batch) -> StepReport:
        seen.extend(image.tobytes() for image in batch.images)
        return step(self, batch)

    monkeypatch.setattr(Trainer, "step", watch)
    train_teacher(workspace(tmp_path), job)
    assert len(seen) == FIT.steps * FIT.batch_size
    assert learned >= set(seen)


def test_it_goes_on_where_it_was_stopped(
    tmp_path: Path, job: TeacherJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.retrain.CHECKPOINT_STEPS", 2)
    whole = train_teacher(workspace(tmp_path / "whole"), job)

    def interrupt(_: str, done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    stopped = workspace(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        train_teacher(stopped, job, progress=interrupt)
    heard: list[int] = []
    folder = train_teacher(stopped, job, progress=lambda _, done, __: heard.append(done))
    assert heard == [3, 4]
    one, other = (load_detector(place / WEIGHTS)[0] for place in (whole, folder))
    assert equal_weights(weights_of(one), weights_of(other))


def test_a_teacher_that_diverges_says_what_to_do(
    tmp_path: Path, job: TeacherJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> StepReport:
        raise NotFiniteError("loss is nan at step 0")

    monkeypatch.setattr(Trainer, "step", fail)
    with pytest.raises(UserError, match=r"loss is nan at step 0.*--no-teach"):
        train_teacher(workspace(tmp_path), job)


def test_a_given_teacher_is_kept_by_its_content(tmp_path: Path, job: TeacherJob) -> None:
    place, said = workspace(tmp_path), list[str]()
    trained = train_teacher(workspace(tmp_path / "elsewhere"), job)
    data_hash = job.shards.hash

    def keep(given: Path, *, seed: int = 0) -> Path:
        check_teacher(given)
        return keep_teacher(place, given, data_hash=data_hash, seed=seed, say=said.append)

    kept = keep(trained)
    assert kept == keep(trained / WEIGHTS)
    assert kept.parent == place.cache / "teachers"
    assert (kept / WEIGHTS).read_bytes() == (trained / WEIGHTS).read_bytes()
    assert open_teacher(str(kept), device=CPU).key == TEACHER
    assert said == [f"teacher {kept.name}: given, {TEACHER}"] * 2
    keep(trained, seed=1)
    assert "may have seen images that trials are judged on" in said[-1]


def nothing(path: Path) -> None:
    assert not path.exists()


def damaged(path: Path) -> None:
    save_detector(path, tiny_network(), {})
    path.write_bytes(path.read_bytes()[:-100])


def with_strides_of_its_own(path: Path) -> None:
    network = next(
        network
        for name in ("ulfg-rfb", "yolo-resnet")
        if (network := build_network(name)).code.strides != STRIDES
    )
    save_detector(path, network, {})


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (nothing, "a.safetensors", "there is no teacher at .*a.safetensors"),
        (nothing, "model.onnx", "learn from feature maps, which the exported .* does not show"),
        (damaged, "a.safetensors", "is damaged"),
        (with_strides_of_its_own, "a.safetensors", r"the networks of the space at \(8, 16, 32\)"),
    ],
)
def test_what_cannot_teach_is_refused(
    tmp_path: Path, make: Callable[[Path], None], name: str, message: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(UserError, match=message):
        check_teacher(tmp_path / name)
