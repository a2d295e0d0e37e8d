"""YuNet has the published counts, and its branches are where the code looks for them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nas.export import export_onnx
from objectives.cost import count_macs_by_torch, count_parameters
from search_spaces.heads import CODE_CHANNELS, LANDMARK_CHANNELS, STRIDES
from search_spaces.zoo.yunet import LevelHead, YuNet, yunet_n, yunet_s
from tests.search_spaces.contracts import assert_batched_equals_single, noise_images, shapes

CHANNELS = CODE_CHANNELS + LANDMARK_CHANNELS
both = pytest.mark.parametrize("make", [yunet_n, yunet_s])


def built(make: Callable[[], YuNet]) -> YuNet:
    torch.manual_seed(0)
    return make()


def settled(make: Callable[[], YuNet]) -> YuNet:
    """A network whose batch norms have seen something."""
    network = built(make).train()
    with torch.no_grad():
        network(noise_images(2, 64, 64))
    return network.eval()


@pytest.mark.parametrize(
    ("make", "params", "macs"),
    [(yunet_n, 75_856, 542_393_600), (yunet_s, 54_608, 344_224_000)],
)
def test_counts_are_the_published_ones(make: Callable[[], YuNet], params: int, macs: int) -> None:
    network = built(make)
    assert count_parameters(network) == params
    assert count_macs_by_torch(network, image_size=640) == macs


@both
def test_landmarks_are_part_of_the_counts(make: Callable[[], YuNet]) -> None:
    network = built(make)
    landmarks = {n: p for n, p in network.named_parameters() if "landmark" in n}
    separable = (64 + 1) * LANDMARK_CHANNELS + (9 + 1) * LANDMARK_CHANNELS
    assert sum(p.numel() for p in landmarks.values()) == len(STRIDES) * separable == 2_250


@both
@pytest.mark.parametrize(("height", "width"), [(64, 96), (160, 128)])
def test_levels_have_sixteen_channels(make: Callable[[], YuNet], height: int, width: int) -> None:
    network, images = settled(make), noise_images(2, height, width)
    sizes = [(height // s, width // s) for s in STRIDES]
    assert shapes(network.features(images)) == [(2, 64, *size) for size in sizes]
    assert shapes(network(images)) == [(2, CHANNELS, *size) for size in sizes]
    assert_batched_equals_single(network, images)


@both
def test_class_and_box_reach_every_weight_but_those_of_landmarks(
    make: Callable[[], YuNet],
) -> None:
    """In evaluation mode: in training, batch norm takes the effect of the biases before it."""
    network = settled(make)
    levels = network(noise_images(2, 96, 64))
    torch.cat([level[:, :CODE_CHANNELS].flatten(1) for level in levels], 1).sin().sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()) != ("landmark" in name), name


@both
def test_each_branch_has_its_channels(make: Callable[[], YuNet]) -> None:
    network, images = settled(make), noise_images(1, 32, 32)
    channels = {"face": [0], "quality": [1], "box": [2, 3, 4, 5], "landmarks": [*range(6, 16)]}
    with torch.no_grad():
        before = network(images)
        for branch, own in channels.items():
            for head in network.heads:
                assert isinstance(head, LevelHead)
                getattr(head, branch)[-1].bias += 1
            after = network(images)
            for old, new in zip(before, after, strict=True):
                moved = (new - old).abs().amax((0, 2, 3)) > 0.5
                assert moved.nonzero().flatten().tolist() == own
            before = after


@both
def test_an_untrained_network_calls_little_a_face(make: Callable[[], YuNet]) -> None:
    network = built(make).train()
    _, scores = network.code.decode(network(noise_images(2, 64, 64)))
    assert scores.mean() < 0.15


@both
def test_onnx_agrees(make: Callable[[], YuNet], tmp_path: Path) -> None:
    check_shapes = ((1, 64, 64), (2, 96, 160), (1, 224, 32))
    report = export_onnx(
        settled(make), tmp_path / "model.onnx", metadata={}, check_shapes=check_shapes
    )
    assert report.max_difference <= 1e-4
