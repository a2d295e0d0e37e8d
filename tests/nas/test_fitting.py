import copy
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.errors import UserError
from nas.fitting import (
    BETAS,
    FitSettings,
    NotFiniteError,
    Trainer,
    WeightAverage,
    images_to_tensor,
    learning_rate_at,
    make_optimizer,
    seeded,
    targets_to_tensors,
    to_channels_last,
)
from objectives.loss import detection_loss
from search_spaces.codes import AnchorCode, BoxCode, GridCode
from search_spaces.face_network import FaceNetwork
from tests.tiny_training import (
    CPU,
    FIT,
    TinyBatches,
    diverge,
    equal_weights,
    fitted,
    tiny_network,
    tiny_shards,
    weights_of,
)

ANCHORS = AnchorCode(strides=(16,), sizes=((8.0, 24.0),))
SGD = replace(FIT, optimizer="sgd", learning_rate=1e-3)


class Plain(FaceNetwork):
    """Two convolutions, and no batch norm that would tell whole batches from parts."""

    def __init__(self, code: BoxCode, channels: int) -> None:
        super().__init__("plain", code)
        self.look = nn.Conv2d(3, 8, 16, 16)
        self.say = nn.Conv2d(8, channels, 1)
        self.most_images = 10**6

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        if len(images) > self.most_images:
            raise torch.OutOfMemoryError(f"{len(images)} images")
        return (self.look(images / 128 - 1).relu(),)

    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.say(features[0]),)


def plain(code: BoxCode = ANCHORS, channels: int = 12) -> Plain:
    with seeded(0):
        return Plain(code, channels)


class Adaptor(nn.Module):
    """An extra loss with weights of its own; a frozen one stands for a teacher."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(1):
            self.adapt = nn.Conv2d(8, 4, 1)
            self.teacher = nn.Conv2d(3, 4, 16, 16).requires_grad_(requires_grad=False)

    def forward(
        self, images: Tensor, features: tuple[Tensor, ...], levels: tuple[Tensor, ...]
    ) -> Tensor:
        assert levels[0].shape[2:] == features[0].shape[2:]
        apart: Tensor = self.adapt(features[0]) - self.teacher(images / 255)
        return apart.square().mean()


@pytest.fixture
def batches(tmp_path: Path) -> TinyBatches:
    return TinyBatches(tiny_shards(tmp_path)[0])


@pytest.mark.parametrize("average_decay", [0.0, 0.9])
def test_equal_starts_and_batches_give_equal_weights(
    batches: TinyBatches, average_decay: float
) -> None:
    settings = replace(FIT, average_decay=average_decay)
    first, second = (weights_of(fitted(tiny_network(), batches, settings)) for _ in range(2))
    assert equal_weights(first, second)
    other = weights_of(fitted(tiny_network(seed=1), batches, settings))
    assert not equal_weights(first, other)


@pytest.mark.parametrize("average_decay", [0.0, 0.9])
def test_five_steps_and_five_more_are_ten(batches: TinyBatches, average_decay: float) -> None:
    settings = replace(FIT, steps=10, average_decay=average_decay)
    straight = weights_of(fitted(tiny_network(), batches, settings))
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
    assert fitted(network, batches, FIT) is network


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


@pytest.mark.parametrize("schedule", ["onecycle", "constant"])
def test_other_schedules_rise_to_the_same_peak(schedule: str) -> None:
    settings = FitSettings(steps=100, warmup_share=0.3, learning_rate=2.0, schedule=schedule)
    rates = np.array([learning_rate_at(step, settings) for step in range(101)])
    assert rates.max() == 2.0
    assert (np.diff(rates[:30]) > 0).all()
    if schedule == "constant":
        assert (rates[30:] == 2.0).all()
    else:
        assert rates.argmax() == 30
        assert rates[0] == pytest.approx(2.0 / 25)
        assert (np.diff(rates[30:]) < 0).all()
        assert rates[100] == pytest.approx(2.0 / 250_000)


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


def test_the_usual_fit_is_adamw_on_a_cosine_to_the_last_bit(batches: TinyBatches) -> None:
    """The loop written plainly, as it was before it could do more."""
    settings = replace(FIT, steps=6)
    network = to_channels_last(tiny_network()).train()
    every = list(network.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in every if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in every if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=BETAS, foreach=True)
    losses = []
    for step in range(6):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings)
        batch = batches.batch(step)
        levels = network(images_to_tensor(batch.images, CPU))
        loss = detection_loss(levels, *targets_to_tensors(batch, CPU)).total
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
        optimizer.step()

    trainer = Trainer(tiny_network(), settings)
    assert [trainer.step(batches.batch(step)).loss for step in range(6)] == losses
    assert equal_weights(weights_of(trainer.network), weights_of(network))


def test_the_average_is_the_formulas(batches: TinyBatches) -> None:
    trainer = Trainer(plain(), replace(FIT, steps=20, average_decay=0.5))
    expected = trainer.network.say.weight.detach().clone()
    for step in range(12):
        trainer.step(batches.batch(step))
        decay = min(0.5, (step + 1) / (step + 10))
        expected = decay * expected + (1 - decay) * trainer.network.say.weight.detach()
    assert trainer.result.say.weight.allclose(expected, atol=1e-6)
    assert not trainer.result.say.weight.requires_grad


def test_the_average_counts_batches_and_averages_statistics(batches: TinyBatches) -> None:
    trainer = Trainer(tiny_network(), replace(FIT, average_decay=0.9))
    for step in range(3):
        trainer.step(batches.batch(step))
    own, other = weights_of(trainer.network), weights_of(trainer.result)
    for name, value in own.items():
        if name.endswith("num_batches_tracked"):
            assert other[name] == value == 3
        if name.endswith("running_mean"):
            assert not torch.equal(other[name], value)


def test_an_average_without_memory_is_the_network() -> None:
    network = plain()
    average = WeightAverage(network, 0.0)
    nn.init.ones_(network.say.weight)
    assert not equal_weights(weights_of(average.network), weights_of(network))
    average.update(step=5)
    assert equal_weights(weights_of(average.network), weights_of(network))


@pytest.mark.parametrize(
    ("code", "channels"), [(ANCHORS, 12), (GridCode(stride=16, boxes=2, unit=64), 10)]
)
def test_networks_with_anchors_or_a_grid_are_fitted_by_their_own_loss(
    batches: TinyBatches, code: BoxCode, channels: int
) -> None:
    trainer = Trainer(plain(code, channels), replace(FIT, steps=25, learning_rate=0.01))
    losses = [trainer.step(batches.batch(0)).loss for _ in range(25)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_has_nesterovs_momentum(batches: TinyBatches, momentum: float) -> None:
    settings = replace(SGD, momentum=momentum, weight_decay=0.0)
    trainer = Trainer(plain(), settings)
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    rolling = trainer.network.say.weight
    before = rolling.detach().clone()
    rate = trainer.step(batches.batch(0)).learning_rate
    assert rolling.grad is not None  # torch has added the momentum to it
    assert rolling.detach().allclose(before - rate * rolling.grad, atol=1e-7)
    group = trainer.optimizer.param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (momentum, momentum > 0)


@pytest.mark.parametrize("most_images", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("code", "channels"), [(ANCHORS, 12), (GridCode(stride=16, boxes=2, unit=64), 10)]
)
def test_a_batch_too_large_for_memory_is_learned_in_parts_to_the_same_weights(
    tmp_path: Path, code: BoxCode, channels: int, most_images: int
) -> None:
    batches = TinyBatches(tiny_shards(tmp_path)[0], batch_size=7)
    settings = replace(SGD, batch_size=7)
    whole, parted = (Trainer(plain(code, channels), settings) for _ in range(2))
    parted.network.most_images = most_images
    for step in range(4):
        one, other = whole.step(batches.batch(step)), parted.step(batches.batch(step))
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.box == pytest.approx(one.box, rel=1e-5)
        assert other.positives == one.positives > 0
        assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
    for name, value in whole.network.state_dict().items():
        assert parted.network.state_dict()[name].allclose(value, atol=1e-6), name
    assert -(-7 // parted.parts) <= most_images
    assert whole.notes == []
    if most_images < 7:
        assert "out of memory at step 0: batches of 7 images are learned in" in parted.notes[-1]
    resumed = Trainer(plain(code, channels), settings)
    resumed.load_state_dict(parted.state_dict())
    assert (resumed.parts, resumed.notes) == (parted.parts, parted.notes)


def test_a_single_image_too_large_for_memory_is_the_users_to_put_right(
    batches: TinyBatches,
) -> None:
    trainer = Trainer(plain(), FIT)
    trainer.network.most_images = 0
    with pytest.raises(UserError, match=r"out of memory at step 0; use a smaller batch_size or"):
        trainer.step(batches.batch(0))


def test_an_extra_loss_is_added_and_its_own_weights_learn(batches: TinyBatches) -> None:
    settings = replace(FIT, steps=10)
    alone = Trainer(plain(), settings)
    extra = Adaptor()
    first = weights_of(extra)
    both = Trainer(plain(), settings, extra_loss=extra)
    batch = batches.batch(0)
    images = images_to_tensor(batch.images, CPU)
    features = both.network.features(images)
    added = extra(images, features, both.network.predict(features)).item()
    one, other = alone.step(batch), both.step(batch)
    assert other.loss == pytest.approx(one.loss + added, rel=1e-6)
    assert (other.box, other.classification) == (one.box, one.classification)
    learned = weights_of(extra)
    changed = {name for name in first if not torch.equal(first[name], learned[name])}
    assert changed == {"adapt.weight", "adapt.bias"}


def test_an_extra_loss_that_is_a_function_is_added_too(batches: TinyBatches) -> None:
    trainer = Trainer(plain(), FIT, extra_loss=lambda _images, features, _levels: features[0].sum())
    other = Trainer(plain(), FIT)
    assert trainer.step(batches.batch(0)).loss != other.step(batches.batch(0)).loss


def test_an_extra_loss_goes_on_where_it_was(batches: TinyBatches) -> None:
    first, second = Adaptor(), Adaptor()
    straight = Trainer(plain(), FIT, extra_loss=first)
    straight.step(batches.batch(0))
    resumed = Trainer(plain(), FIT, extra_loss=second)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    assert straight.step(batches.batch(1)) == resumed.step(batches.batch(1))
    assert equal_weights(weights_of(first), weights_of(second))


def test_a_gradient_that_is_not_finite_leaves_the_weights(batches: TinyBatches) -> None:
    def steep(_images: Tensor, features: tuple[Tensor, ...], _levels: object) -> Tensor:
        return (features[0] * 0).abs().sum().sqrt()

    trainer = Trainer(plain(), FIT, extra_loss=steep)
    before = weights_of(trainer.network)
    with pytest.raises(NotFiniteError, match=r"gradient is (nan|inf) at step 0"):
        trainer.step(batches.batch(0))
    assert equal_weights(before, weights_of(trainer.network))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_compiled_network_learns_the_same(batches: TinyBatches) -> None:
    whole, compiled = Trainer(plain(), SGD), Trainer(plain(), SGD, compiled=True)
    for step in range(2):
        one, other = whole.step(batches.batch(step)), compiled.step(batches.batch(step))
        assert other.loss == pytest.approx(one.loss, rel=1e-4)
    assert compiled.network.state_dict().keys() == whole.network.state_dict().keys()


def test_a_fit_learns_from_an_extra_loss_too(batches: TinyBatches) -> None:
    def small(_images: Tensor, _features: object, levels: tuple[Tensor, ...]) -> Tensor:
        return levels[0].square().mean()

    plain, again, other = (
        weights_of(fitted(tiny_network(), batches, FIT, extra_loss=extra))
        for extra in (None, None, small)
    )
    assert equal_weights(plain, again)
    assert not equal_weights(plain, other)


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
        {"weight_decay": -0.1},
        {"momentum": 1.0},
        {"optimizer": "adam"},
        {"schedule": "step"},
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
        replace(FIT, **change)
