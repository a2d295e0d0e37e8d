import json
from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import UserError
from nas.fitting import FitSettings, fit
from nas.retrain import RetrainReport, retrain
from nas.weights import load_detector
from search_spaces.network import Detector, build
from search_spaces.space import SPACE
from tests.tiny_training import (
    FIT,
    SMALLEST,
    TinyBatches,
    diverge,
    equal_weights,
    tiny_network,
    tiny_shards,
    weights_of,
)

AVERAGED = replace(FIT, average_decay=0.9)


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
    settings: FitSettings = FIT,
    *,
    network: Detector | None = None,
    stop_after: int | None = None,
) -> RetrainReport:
    def stop(_label: str, done: int, _total: int) -> None:
        if done == stop_after:
            raise KeyboardInterrupt

    return retrain(
        network or tiny_network(), batches, settings, folder=folder, facts={"x": 1}, progress=stop
    )


@pytest.mark.parametrize("settings", [FIT, AVERAGED])
def test_two_steps_and_two_more_are_four(
    tmp_path: Path, batches: TinyBatches, settings: FitSettings
) -> None:
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    assert run(straight, batches, settings).resumed_at == 0
    with pytest.raises(KeyboardInterrupt):
        run(cut, batches, settings, stop_after=3)
    assert [path.name for path in cut.iterdir()] == ["checkpoint.pt"]
    report = run(cut, batches, settings, network=tiny_network(seed=1))
    assert (report.resumed_at, report.steps) == (2, 4)
    one, other = (load_detector(f / "weights.safetensors")[0] for f in (straight, cut))
    assert equal_weights(weights_of(one), weights_of(other))
    logs = [(folder / "training.jsonl").read_text() for folder in (straight, cut)]
    assert logs[0] == logs[1]
    assert {path.name for path in cut.iterdir()} == {"training.jsonl", "weights.safetensors"}


@pytest.mark.parametrize("settings", [FIT, AVERAGED])
def test_retraining_is_fitting_and_its_result_is_what_is_saved(
    tmp_path: Path, batches: TinyBatches, settings: FitSettings
) -> None:
    report = run(tmp_path / "x", batches, settings)
    network, facts = load_detector(tmp_path / "x" / "weights.safetensors")
    assert equal_weights(weights_of(network), weights_of(fit(tiny_network(), batches, settings)))
    assert facts["x"] == 1
    assert facts["architecture"] == SMALLEST.key
    rows = [json.loads(x) for x in (tmp_path / "x" / "training.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] == report.last_loss
    assert report.images_per_second > 0


def test_a_checkpoint_of_another_retraining_is_refused_and_kept(
    tmp_path: Path, batches: TinyBatches
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "x", batches, stop_after=3)
    checkpoint = tmp_path / "x" / "checkpoint.pt"
    before = checkpoint.read_bytes()
    other = build(SPACE.decode((1, *SPACE.encode(SMALLEST)[1:])))
    with pytest.raises(UserError, match=r"checkpoint\.pt belongs to another retraining .*delete"):
        run(tmp_path / "x", batches, network=other)
    with pytest.raises(UserError, match="belongs to another retraining"):
        run(tmp_path / "x", batches, replace(FIT, steps=8))
    assert checkpoint.read_bytes() == before


def test_a_loss_that_is_not_finite_keeps_the_checkpoint_and_says_what_to_try(
    tmp_path: Path, batches: TinyBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "x", batches, stop_after=3)
    diverge(monkeypatch, "nas.fitting")
    with pytest.raises(UserError, match=r"loss is nan at step 2; .*try a lower learning rate"):
        run(tmp_path / "x", batches)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["checkpoint.pt"]
