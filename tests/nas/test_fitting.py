import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.fitting import (
    FitSettings,
    NotFiniteError,
    Trainer,
    fit,
    images_to_tensor,
    learning_rate_at,
    make_optimizer,
    seeded,
)
from tests.tiny_training import (
    CPU,
    FIT,
    TinyBatches,
    diverge,
    equal_weights,
    tiny_network,
    tiny_shards,
    weights_of,
)


@pytest.fixture
def batches(tmp_path: Path) -> TinyBatches:
    return TinyBatches(tiny_shards(tmp_path)[0])


@pytest.mark.parametrize("average_decay", [0.0, 0.9])
def test_equal_starts_and_batches_give_equal_weights(
    batches: TinyBatches, average_decay: float
) -> None:
    settings = replace(FIT, average_decay=average_decay)
    first, second = (weights_of(fit(tiny_network(), batches, settings)) for _ in range(2))
    assert equal_weights(first, second)
    other = weights_of(fit(tiny_network(seed=1), batches, settings))
    assert not equal_weights(first, other)


@pytest.mark.parametrize("average_decay", [0.0, 0.9])
def test_five_steps_and_five_more_are_ten(batches: TinyBatches, average_decay: float) -> None:
    settings = replace(FIT, steps=10, average_decay=average_decay)
    straight = weights_of(fit(tiny_network(), batches, settings))
    first = Trainer(tiny_network(), settings)
    for step in range(5):
        first.step(batches.batch(step))
    stored = io.BytesIO()
    torch.save(first.state_dict(), stored)
    stored.seek(0)
    second = Trainer(tiny_network(seed=1), settings)
    second.load_state_dict(torch.load(stored, weights_only=True))
    for step in range(5, 10):
        second.step(batches.batch(step))
    assert equal_weights(weights_of(second.result), straight)


def test_fitting_lowers_the_loss(batches: TinyBatches) -> None:
    trainer = Trainer(tiny_network(), replace(FIT, steps=25))
    reports = [trainer.step(batches.batch(0)) for _ in range(25)]
    assert reports[-1].loss < 0.7 * reports[0].loss
    assert [report.step for report in reports] == list(range(1, 26))


def test_the_average_lies_behind_the_weights_and_is_the_result(batches: TinyBatches) -> None:
    trainer = Trainer(tiny_network(), replace(FIT, average_decay=0.9))
    names = [name for name, _ in trainer.network.named_parameters()]
    start = weights_of(trainer.network)
    for step in range(4):
        trainer.step(batches.batch(step))
    assert trainer.result is not trainer.network
    last, average = weights_of(trainer.network), weights_of(trainer.result)
    moved = sum(float((last[name] - start[name]).abs().sum()) for name in names)
    followed = sum(float((average[name] - start[name]).abs().sum()) for name in names)
    assert 0 < followed < moved


def test_without_an_average_the_network_itself_is_fitted(batches: TinyBatches) -> None:
    network = tiny_network()
    assert fit(network, batches, FIT) is network


def test_a_loss_that_is_not_finite_leaves_the_weights(
    batches: TinyBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tiny_network(), FIT)
    trainer.step(batches.batch(0))
    before = {name: value.detach().clone() for name, value in trainer.network.named_parameters()}
    diverge(monkeypatch, "nas.fitting")
    with pytest.raises(NotFiniteError, match="loss is nan at step 1"):
        trainer.step(batches.batch(1))
    assert trainer.step_count == 1
    assert equal_weights(before, dict(trainer.network.named_parameters()))


def test_the_rate_rises_in_a_line_to_its_peak_and_falls_to_almost_nothing() -> None:
    settings = FitSettings(steps=100, warmup_share=0.1, learning_rate=2.0)
    rates = np.array([learning_rate_at(step, settings) for step in range(100)])
    assert rates.argmax() in (9, 10)
    assert rates.max() == 2.0
    assert np.allclose(np.diff(rates[:10]), 0.2)
    assert (np.diff(rates[10:]) < 0).all()
    assert 0 < rates[-1] < 0.002
    assert rates[55] == pytest.approx(1.0)  # half of the cosine


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup_share", [0.0, 0.1, 0.5, 0.99])
def test_the_rate_of_every_step_is_positive_and_at_most_the_peak(
    steps: int, warmup_share: float
) -> None:
    settings = FitSettings(steps=steps, warmup_share=warmup_share)
    rates = [learning_rate_at(step, settings) for step in range(steps)]
    assert all(0 < rate <= settings.learning_rate for rate in rates)


def test_each_weight_has_one_optimizer_group_and_only_kernels_decay() -> None:
    network = tiny_network()
    decayed, free = make_optimizer(network.parameters(), FIT).param_groups
    assert len(decayed["params"]) + len(free["params"]) == len(list(network.parameters()))
    assert all(value.dim() > 1 for value in decayed["params"])
    assert all(value.dim() <= 1 for value in free["params"])
    assert (decayed["weight_decay"], free["weight_decay"]) == (FIT.weight_decay, 0.0)


def test_images_become_tensors_with_the_same_numbers() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    tensor = images_to_tensor(images, CPU)
    assert tensor.shape == (2, 3, 4, 6)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), images.astype(np.float32))


def test_seeded_draws_from_the_seed_and_puts_the_global_generator_back() -> None:
    state = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(2)
    with seeded(3):
        assert torch.equal(torch.rand(2), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_counts_every_step(batches: TinyBatches) -> None:
    heard: list[tuple[str, int, int]] = []
    fit(tiny_network(), batches, FIT, progress=lambda *step: heard.append(step))
    assert heard == [("fit", done, 4) for done in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"image_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"gradient_clip": -1.0},
        {"warmup_share": 1.0},
        {"average_decay": -0.1},
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
        replace(FIT, **change)
