"""Zero-cost scores: relations that hold whatever their values."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from objectives.zero_cost import ZERO_COST_SCORES, naswot, synflow, zen, zero_cost_scores
from search_spaces.architecture import Architecture
from search_spaces.catalogue import REFERENCES, build_network
from search_spaces.codes import AnchorFreeCode
from search_spaces.face_network import FaceNetwork
from search_spaces.network import Detector, build
from search_spaces.space import SPACE
from tests.tiny_training import SMALLEST, equal_weights, tiny_network, weights_of

LARGEST = SPACE.corner(largest=True)
ONE_OF_EACH_CODE = ("yunet-n", "retinaface-mnet025", "yolo-mobilenetv3-small")


def drawn_images(count: int = 6, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((count, 3, 64, 64), generator=generator) * 255


def network_of(architecture: Architecture) -> Detector:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(architecture)


def widened(architecture: Architecture) -> Architecture:
    """The same with stages of twice the width."""
    stage8, stage16, stage32 = (
        replace(stage, width=2 * stage.width) for stage in architecture.stages
    )
    return replace(architecture, stages=(stage8, stage16, stage32))


class Chain(FaceNetwork):
    """Convolutions of fixed weights: a score of it can be worked out by hand."""

    def __init__(self, *weights: float, norm: bool = False) -> None:
        super().__init__("chain", AnchorFreeCode())
        layers = [nn.Conv2d(1, 1, 1, bias=False) for _ in weights]
        for layer, weight in zip(layers, weights, strict=True):
            nn.init.constant_(layer.weight, weight)
        self.layers = nn.ModuleList(layers)
        self.norm = nn.BatchNorm2d(1) if norm else nn.Identity()
        if isinstance(self.norm, nn.BatchNorm2d):
            nn.init.constant_(self.norm.bias, 7.0)  # so that it is not the identity

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        x = images[:, :1]
        for layer in self.layers:
            x = functional.relu(self.norm(layer(x)))
        return (x,)

    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return features


@pytest.mark.parametrize("key", [*ONE_OF_EACH_CODE, SMALLEST.key, LARGEST.key])
def test_every_network_has_finite_scores_and_stays_as_it_is(key: str) -> None:
    with torch.random.fork_rng(devices=[]):
        network = build_network(key)
    network.train()
    before = weights_of(network)
    images = drawn_images(2)
    kept = images.clone()
    scores = zero_cost_scores(network, images, seed=0)
    assert scores.keys() == ZERO_COST_SCORES.keys()
    assert all(math.isfinite(score) for score in scores.values())
    assert equal_weights(before, network.state_dict())
    assert network.training
    assert all(weight.grad is None for weight in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(images, kept)


@pytest.mark.slow
@pytest.mark.parametrize("key", sorted(REFERENCES))
def test_every_reference_has_finite_scores(key: str) -> None:
    with torch.random.fork_rng(devices=[]):
        network = build_network(key)
    assert all(map(math.isfinite, zero_cost_scores(network, drawn_images(2), seed=0).values()))


def test_equal_seeds_give_equal_scores_and_others_another_perturbation() -> None:
    network, images = tiny_network(), drawn_images()
    first = zero_cost_scores(network, images, seed=0)
    assert zero_cost_scores(network, images, seed=0) == first
    other = zero_cost_scores(network, images, seed=1)
    assert {name for name in first if other[name] != first[name]} == {"zen"}


def test_nothing_is_drawn_from_torchs_global_generator() -> None:
    network, images = tiny_network(), drawn_images(2)
    before = torch.get_rng_state()
    zero_cost_scores(network, images, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_wider_network_has_more_of_everything() -> None:
    images = drawn_images()
    narrow = zero_cost_scores(network_of(SMALLEST), images, seed=0)
    wide = zero_cost_scores(network_of(widened(SMALLEST)), images, seed=0)
    assert {name for name in narrow if wide[name] > narrow[name]} == narrow.keys()


@pytest.mark.parametrize("architecture", [SMALLEST, LARGEST])
def test_identical_images_have_the_lowest_naswot(architecture: Architecture) -> None:
    images = drawn_images(4)
    halves = torch.cat([images[:2], images[:2]])
    same = images[:1].repeat(4, 1, 1, 1)
    scores = [naswot(network_of(architecture), each, 0) for each in (same, halves, images)]
    assert scores == sorted(scores)
    assert scores[0] < scores[1] < scores[2]


def test_naswot_of_a_network_worked_out_by_hand() -> None:
    """One activation a pixel: two images of 2 x 2 pixels that agree in three of the four signs."""
    pixels = torch.tensor([[[1.0, 1.0], [1.0, -1.0]], [[1.0, 1.0], [-1.0, -1.0]]])
    images = pixels[:, None].repeat(1, 3, 1, 1)
    kernel = np.array([[4.0, 3.0], [3.0, 4.0]]) + np.eye(2)
    assert naswot(Chain(1.0), images, 0) == pytest.approx(math.log(np.linalg.det(kernel)))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("weights", [(2.0, 3.0), (-2.0, 3.0), (-2.0, -3.0)])
def test_synflow_of_a_network_worked_out_by_hand(weights: tuple[float, ...], norm: bool) -> None:  # noqa: FBT001
    """Each of the two weights, times its gradient, is 2 * 3 * 255 a pixel, whatever the signs."""
    flow = 2 * (2 * 3 * 255 * 4)
    network = Chain(*weights, norm=norm)
    assert synflow(network, torch.rand(2, 3, 2, 2), 0) == pytest.approx(math.log(flow))


def test_synflow_does_not_look_at_the_images() -> None:
    first, second = (synflow(tiny_network(), drawn_images(seed=seed), 0) for seed in (0, 1))
    assert first == second


def test_zen_counts_what_a_batch_norm_divides_away() -> None:
    """Ten times brighter images change features ten times as much; a batch norm hides that."""

    def scores(*, norm: bool) -> list[float]:
        networks = [Chain(1.0, norm=norm) for _ in range(2)]
        return [
            zen(network, scale * drawn_images(), 0)
            for network, scale in zip(networks, (1.0, 10.0), strict=True)
        ]

    plain, normed = scores(norm=False), scores(norm=True)
    assert plain[1] - plain[0] == pytest.approx(math.log(10), abs=1e-3)
    assert normed[1] - normed[0] == pytest.approx(math.log(10), abs=1e-3)


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_is_not_enough(count: int) -> None:
    with pytest.raises(ValueError, match=f"images must be at least 2, got {count}"):
        zero_cost_scores(tiny_network(), drawn_images(count), seed=0)
