"""A whole detector keeps its contract for any architecture."""

import pytest
import torch

from search_spaces.architecture import Architecture
from search_spaces.heads import CODE_CHANNELS, LANDMARK_CHANNELS, decode_boxes
from search_spaces.network import build
from search_spaces.space import SPACE
from search_spaces.supernet import covering_architectures
from tests.search_spaces.contracts import (
    assert_batched_equals_single,
    assert_gradient_reaches_every_parameter,
    example_architecture,
    noise_images,
    random_architectures,
    shapes,
)


def by_key(architecture: Architecture) -> str:
    return architecture.key


@pytest.mark.parametrize("architecture", random_architectures(8, seed=0), ids=by_key)
def test_random_architectures(architecture: Architecture) -> None:
    torch.manual_seed(0)
    network, images = build(architecture), noise_images(2, 64, 96)
    expected = [(2, CODE_CHANNELS, 64 // s, 96 // s) for s in (8, 16, 32)]
    assert shapes(network(images)) == expected
    assert_gradient_reaches_every_parameter(network, images)
    assert_batched_equals_single(network, images)


def test_both_corners_and_what_covers_the_space() -> None:
    corners = [SPACE.corner(largest=False), SPACE.corner(largest=True)]
    for architecture in [*corners, *covering_architectures(SPACE)]:
        with torch.no_grad():
            levels = build(architecture).eval()(noise_images(1, 32, 64))
        assert shapes(levels) == [(1, CODE_CHANNELS, 32 // s, 64 // s) for s in (8, 16, 32)]


def test_one_network_takes_images_of_every_size() -> None:
    network = build(example_architecture()).eval()
    for height, width in ((32, 32), (32, 160), (96, 64)):
        levels = network(noise_images(1, height, width))
        positions = sum(height * width // s**2 for s in (8, 16, 32))
        assert decode_boxes(levels)[0].shape == (1, positions, 4)


def test_grey_images_are_zeros_inside() -> None:
    """Pixels are centred, so the padding of the first convolution is mid-grey."""
    network = build(example_architecture()).eval()
    seen = []
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.full((1, 3, 32, 32), 127.5))
    network(noise_images(1, 32, 32))
    assert not seen[0].any()
    assert seen[1].abs().max() <= 2


def test_weights_follow_the_seed() -> None:
    networks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        networks.append(build(example_architecture()).state_dict())
    same, again, other = networks
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert not all(torch.equal(same[name], other[name]) for name in same)


def test_parameter_names_and_shapes_tell_architectures_apart() -> None:
    seen = set()
    for architecture in random_architectures(30, seed=1):
        network = build(architecture)
        assert network.architecture == architecture
        seen.add(tuple((name, tuple(p.shape)) for name, p in network.named_parameters()))
    assert len(seen) == 30


def test_landmarks_are_off_unless_asked_for() -> None:
    images = noise_images(1, 32, 32)
    network = build(example_architecture(), landmarks=True)
    assert {x.shape[1] for x in network.eval()(images)} == {CODE_CHANNELS + LANDMARK_CHANNELS}
