import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.errors import UserError
from data.sample import Batch
from nas.fitting import FitSettings
from nas.recipe import Recipe, override, recipe_from_json
from nas.retrain import Company, RetrainReport, Row, Validate, retrain
from nas.weights import load_detector
from search_spaces.face_network import FaceNetwork
from search_spaces.network import Detector, build
from search_spaces.space import SPACE
from tests.tiny_training import (
    FIT,
    SMALLEST,
    TinyBatches,
    diverge,
    equal_weights,
    fitted,
    tiny_network,
    tiny_shards,
    weights_of,
)

AVERAGED = replace(FIT, average_decay=0.9)
VALIDATED = Recipe(fit=AVERAGED, validate_every=1)
FINISHED = {"training.jsonl", "weights.safetensors"}


@pytest.fixture
def batches(tmp_path: Path) -> TinyBatches:
    return TinyBatches(tiny_shards(tmp_path / "shards")[0])


@pytest.fixture(autouse=True)
def _checkpoint_every_other_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.retrain.CHECKPOINT_STEPS", 2)
    monkeypatch.setattr("nas.retrain.LOG_STEPS", 1)


def run(
    folder: Path,
    batches: TinyBatches,
    settings: FitSettings | Recipe = FIT,
    *,
    network: Detector | None = None,
    stop_after: int | None = None,
    company: Company | None = None,
) -> RetrainReport:
    def stop(_label: str, done: int, _total: int) -> None:
        if done == stop_after:
            raise KeyboardInterrupt

    recipe = settings if isinstance(settings, Recipe) else Recipe(fit=settings)
    company = replace(company or Company(), progress=stop)
    network = network or tiny_network()
    return retrain(network, batches, recipe, folder=folder, facts={"x": 1}, company=company)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def weights_in(path: Path) -> dict[str, Tensor]:
    return weights_of(load_detector(path)[0])


def says(*aps: float) -> Validate:
    """A validation that gives these, one after the other, whatever the network."""
    row = iter(aps)
    return lambda _network: {"ap": next(row)}


def sum_of_weights(network: FaceNetwork) -> dict[str, float]:
    """A validation that only equal weights agree on; it falls, so that the first is the best."""
    assert not network.training
    return {"ap": -sum(float(value.sum()) for value in network.state_dict().values())}


@dataclass
class Notebook:
    """A tracker that keeps what it hears."""

    steps: list[Row] = field(default_factory=list)
    evaluations: list[Row] = field(default_factory=list)
    closed: int = 0

    def step(self, row: Row) -> None:
        self.steps.append(row)

    def evaluation(self, row: Row) -> None:
        self.evaluations.append(row)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("settings", [FIT, AVERAGED])
def test_two_steps_and_two_more_are_four(
    tmp_path: Path, batches: TinyBatches, settings: FitSettings
) -> None:
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    assert run(straight, batches, settings).resumed_at == 0
    with pytest.raises(KeyboardInterrupt):
        run(cut, batches, settings, stop_after=3)
    assert names(cut) == {"last.pt"}
    report = run(cut, batches, settings, network=tiny_network(seed=1))
    assert (report.resumed_at, report.steps) == (2, 4)
    one, other = (weights_in(f / "weights.safetensors") for f in (straight, cut))
    assert equal_weights(one, other)
    logs = [(folder / "training.jsonl").read_text() for folder in (straight, cut)]
    assert logs[0] == logs[1]
    assert names(cut) == FINISHED


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("stops", [(10,), (11,), (1, 3, 20)])
def test_interrupted_anywhere_twenty_validated_steps_are_the_same(
    tmp_path: Path, batches: TinyBatches, optimizer: str, stops: tuple[int, ...]
) -> None:
    settings = replace(AVERAGED, steps=20, optimizer=optimizer, learning_rate=1e-3)
    recipe = Recipe(fit=settings, validate_every=5)
    company = Company(validate=sum_of_weights)
    straight = run(tmp_path / "straight", batches, recipe, company=company)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", batches, recipe, company=company, stop_after=stop)
    resumed = run(tmp_path / "cut", batches, recipe, company=company)
    assert resumed.resumed_at == (stops[-1] - 1) // 2 * 2
    for name in ("training.jsonl", "evaluations.jsonl"):
        one, other = ((tmp_path / f / name).read_text() for f in ("straight", "cut"))
        assert one == other, name
    for name in ("best.safetensors", "weights.safetensors"):
        first, second = (load_detector(tmp_path / f / name) for f in ("straight", "cut"))
        assert equal_weights(weights_of(first[0]), weights_of(second[0]))
        assert first[1] == second[1]
    assert names(tmp_path / "cut") == names(tmp_path / "straight")
    assert resumed.best_step == straight.best_step == 5
    assert resumed.best_ap == straight.best_ap
    assert (resumed.last_loss, resumed.gradient_norm) == (
        straight.last_loss,
        straight.gradient_norm,
    )


@pytest.mark.parametrize("settings", [FIT, AVERAGED])
def test_retraining_is_fitting_and_its_result_is_what_is_saved(
    tmp_path: Path, batches: TinyBatches, settings: FitSettings
) -> None:
    report = run(tmp_path / "x", batches, settings)
    network, facts = load_detector(tmp_path / "x" / "weights.safetensors")
    assert equal_weights(weights_of(network), weights_of(fitted(tiny_network(), batches, settings)))
    assert (facts["x"], facts["step"], facts["architecture"]) == (1, 4, SMALLEST.key)
    assert recipe_from_json(facts["recipe"]) == Recipe(fit=settings)
    rows = [json.loads(x) for x in (tmp_path / "x" / "training.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] == report.last_loss
    assert rows[-1]["gradient_norm"] == report.gradient_norm
    assert report.images_per_second > 0
    assert report.peak_memory_bytes > 10**7
    assert (report.best_step, report.best_ap, report.notes) == (None, None, ())
    assert json.loads(json.dumps(report.to_json())) == report.to_json()


def test_the_best_weights_are_kept_and_are_the_result(tmp_path: Path, batches: TinyBatches) -> None:
    seen: list[dict[str, Tensor]] = []

    def validate(network: FaceNetwork) -> dict[str, Any]:
        seen.append(weights_of(network))
        return {"ap": [0.1, 0.4, 0.3, 0.4][len(seen) - 1], "strata": {"small": 0.0}}

    report = run(tmp_path / "x", batches, VALIDATED, company=Company(validate=validate))
    assert (report.best_step, report.best_ap, report.steps) == (2, 0.4, 4)
    for name in ("best", "weights"):
        network, facts = load_detector(tmp_path / "x" / f"{name}.safetensors")
        assert equal_weights(weights_of(network), seen[1])
        assert facts["validation"] == {"ap": 0.4, "strata": {"small": 0.0}}
        assert (facts["step"], facts["x"]) == (2, 1)
    lines = (tmp_path / "x" / "evaluations.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["step"], row["ap"]) for row in rows] == [(1, 0.1), (2, 0.4), (3, 0.3), (4, 0.4)]
    assert [row["best_ap"] for row in rows] == [0.1, 0.4, 0.4, 0.4]


def test_validation_does_not_disturb_training(tmp_path: Path, batches: TinyBatches) -> None:
    for settings in (FIT, AVERAGED):
        recipe = Recipe(fit=settings, validate_every=1)
        company = Company(validate=says(1, 2, 3, 4))
        run(tmp_path / "x", batches, recipe, company=company)
        last = weights_in(tmp_path / "x" / "weights.safetensors")
        assert equal_weights(last, weights_of(fitted(tiny_network(), batches, settings)))


def test_the_last_step_is_validated_whatever_its_number(
    tmp_path: Path, batches: TinyBatches
) -> None:
    notebook = Notebook()
    company = Company(validate=says(0.2, 0.1), trackers=[notebook])
    run(tmp_path / "x", batches, replace(VALIDATED, validate_every=3), company=company)
    assert [row["step"] for row in notebook.evaluations] == [3, 4]


def test_training_stops_when_validation_gains_nothing(tmp_path: Path, batches: TinyBatches) -> None:
    recipe = Recipe(fit=replace(FIT, steps=50), validate_every=2, patience=2)
    company = Company(validate=says(0.1, 0.3, 0.2, 0.3, 0.9))
    report = run(tmp_path / "x", batches, recipe, company=company)
    assert (report.steps, report.best_step) == (8, 4)
    assert report.notes == ("stopped at step 8: 2 validations without gain",)
    assert "last.pt" not in names(tmp_path / "x")


def test_without_a_number_to_compare_the_last_weights_are_kept(
    tmp_path: Path, batches: TinyBatches
) -> None:
    nan = float("nan")
    company = Company(validate=says(nan, nan, nan, nan))
    report = run(tmp_path / "x", batches, VALIDATED, company=company)
    assert (report.best_step, report.best_ap) == (None, None)
    assert load_detector(tmp_path / "x" / "weights.safetensors")[1]["step"] == 4


def test_patience_needs_validation(tmp_path: Path, batches: TinyBatches) -> None:
    with pytest.raises(ValueError, match="patience must be 0 without validation, got 3"):
        run(tmp_path, batches, replace(VALIDATED, patience=3))


@pytest.mark.parametrize("name", ["batch_size", "image_size"])
def test_batches_of_another_size_are_refused(
    tmp_path: Path, batches: TinyBatches, name: str
) -> None:
    with pytest.raises(ValueError, match=f"{name} must be the recipe's 32, got batches of"):
        run(tmp_path, batches, override(Recipe(fit=FIT), [f"{name}=32"]))


def test_trackers_hear_of_every_row_and_of_the_end(tmp_path: Path, batches: TinyBatches) -> None:
    notebook, other = Notebook(), Notebook()
    company = Company(validate=says(0.2, 0.1, 0.3, 0.1), trackers=[notebook, other])
    run(tmp_path / "x", batches, VALIDATED, company=company)
    assert [row["step"] for row in notebook.steps] == [1, 2, 3, 4]
    assert notebook.steps[1]["epoch"] == 2 / batches.batches_per_epoch
    expected = "classification quality box positives loss learning_rate gradient_norm"
    timing = "images_per_second data_wait_share peak_memory_bytes"
    assert {*expected.split(), *timing.split()} <= notebook.steps[0].keys()
    assert all(0 <= row["data_wait_share"] <= 1 for row in notebook.steps)
    assert [row["ap"] for row in notebook.evaluations] == [0.2, 0.1, 0.3, 0.1]
    assert (notebook.closed, other.closed) == (1, 1)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "y", batches, company=Company(trackers=[notebook]), stop_after=1)
    assert notebook.closed == 2


@dataclass(frozen=True)
class SlowBatches(TinyBatches):
    """Takes its time."""

    def batch(self, step: int) -> Batch:
        time.sleep(0.4)
        return TinyBatches.batch(self, step)


def test_waiting_for_data_is_measured(tmp_path: Path, batches: TinyBatches) -> None:
    slow = SlowBatches(batches.shards)
    report = run(tmp_path / "x", slow, replace(FIT, steps=6))
    assert report.data_wait_share > 0.3
    assert report.seconds > 0.4


def pause(_network: FaceNetwork) -> dict[str, float]:
    time.sleep(0.5)
    return {"ap": 0.5}


def test_validation_takes_no_time_from_training(tmp_path: Path, batches: TinyBatches) -> None:
    before = time.perf_counter()
    report = run(tmp_path / "x", batches, VALIDATED, company=Company(validate=pause))
    assert report.seconds < time.perf_counter() - before - 4 * 0.5


def interrupted(folder: Path, batches: TinyBatches) -> Path:
    """A folder's checkpoint after two steps of four."""
    with pytest.raises(KeyboardInterrupt):
        run(folder, batches, stop_after=3)
    return folder / "last.pt"


def test_a_checkpoint_of_another_retraining_is_refused_and_kept(
    tmp_path: Path, batches: TinyBatches
) -> None:
    checkpoint = interrupted(tmp_path / "x", batches)
    before = checkpoint.read_bytes()
    other = build(SPACE.decode((1, *SPACE.encode(SMALLEST)[1:])))
    with pytest.raises(UserError, match=r"last\.pt belongs to another .*architecture is .*delete"):
        run(tmp_path / "x", batches, network=other)
    with pytest.raises(UserError, match=r"another retraining \(steps is 4 there, 8 here\)"):
        run(tmp_path / "x", batches, replace(FIT, steps=8))
    with pytest.raises(UserError, match="extra_loss is  there, teacher here"):
        run(tmp_path / "x", batches, company=Company(extra_name="teacher"))
    with pytest.raises(UserError, match="x is 1 there, 2 here"):
        retrain(tiny_network(), batches, Recipe(fit=FIT), folder=checkpoint.parent, facts={"x": 2})
    assert checkpoint.read_bytes() == before


class Trap:
    """Would leave a file behind if its pickle were run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "damage", ["cut", "one byte", "empty", "text", "foreign", "a list", "code"]
)
def test_a_damaged_checkpoint_is_refused_and_runs_nothing(
    tmp_path: Path, batches: TinyBatches, damage: str
) -> None:
    checkpoint = interrupted(tmp_path / "x", batches)
    content = checkpoint.read_bytes()
    if damage in ("foreign", "a list"):
        torch.save({"weights": torch.ones(2)} if damage == "foreign" else [1, 2], checkpoint)
    elif damage == "code":
        torch.save(Trap(tmp_path / "sprung"), checkpoint)
    else:
        half = len(content) // 2
        flipped = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        damaged = {"cut": content[:half], "one byte": flipped, "empty": b"", "text": b"no zip"}
        checkpoint.write_bytes(damaged[damage])
    with pytest.raises(UserError, match=r"last\.pt is damaged .*; delete it to start anew"):
        run(tmp_path / "x", batches)
    assert checkpoint.is_file()
    assert not (tmp_path / "sprung").exists()


def test_a_loss_that_is_not_finite_keeps_the_checkpoint_and_says_what_to_try(
    tmp_path: Path, batches: TinyBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path / "x", batches)
    notebook = Notebook()
    with monkeypatch.context() as patch:
        diverge(patch, "nas.fitting")
        with pytest.raises(UserError, match=r"nan at step 2; .*last\.pt: try a lower learning"):
            run(tmp_path / "x", batches, company=Company(trackers=[notebook]))
        with pytest.raises(UserError, match=r"nan at step 0: try a lower learning rate"):
            run(tmp_path / "y", batches)
    assert names(tmp_path / "x") == {"last.pt"}
    assert notebook.closed == 1
    assert run(tmp_path / "x", batches).resumed_at == 2


def test_a_new_retraining_forgets_the_best_of_an_older_one(
    tmp_path: Path, batches: TinyBatches
) -> None:
    run(tmp_path / "x", batches, VALIDATED, company=Company(validate=says(4, 3, 2, 1)))
    assert "best.safetensors" in names(tmp_path / "x")
    run(tmp_path / "x", batches)
    assert names(tmp_path / "x") == FINISHED


class Pull(nn.Module):
    """An extra loss with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(
        self, _images: Tensor, features: tuple[Tensor, ...], _levels: tuple[Tensor, ...]
    ) -> Tensor:
        return (self.scale * features[0]).square().mean()


def test_an_extra_loss_is_resumed_with_the_network(tmp_path: Path, batches: TinyBatches) -> None:
    def company() -> Company:
        return Company(extra_loss=Pull(), extra_name="pull")

    run(tmp_path / "straight", batches, company=company())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", batches, company=company(), stop_after=3)
    run(tmp_path / "cut", batches, company=company())
    run(tmp_path / "without", batches)
    straight, cut, without = (
        weights_in(tmp_path / name / "weights.safetensors")
        for name in ("straight", "cut", "without")
    )
    assert equal_weights(straight, cut)
    assert not equal_weights(straight, without)
