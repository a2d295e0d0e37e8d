"""RetinaFace on MobileNetV1 x0.25 as published."""

from pathlib import Path

import pytest
import torch

from nas.export import export_onnx
from objectives.cost import count_macs_by_torch, count_parameters
from search_spaces.context import ContextModule
from search_spaces.face_network import FaceNetwork
from search_spaces.heads import PRIOR_FACE_SHARE
from search_spaces.zoo.mobilenet_v1 import MobileNetV1
from search_spaces.zoo.retinaface import AnchorHead, retinaface_mnet025
from tests.search_spaces.contracts import (
    assert_batched_equals_single,
    noise,
    noise_images,
    shapes,
)


@pytest.fixture(scope="module")
def network() -> FaceNetwork:
    """Its batch norms have seen something."""
    torch.manual_seed(0)
    network = retinaface_mnet025().train()
    with torch.no_grad():
        network(noise_images(4, 64, 96))
    return network.eval()


def test_the_published_counts(network: FaceNetwork) -> None:
    assert count_parameters(network) == 426_608
    assert count_parameters(MobileNetV1()) == 213_072
    assert count_macs_by_torch(network, image_size=640) == 981_145_600


@pytest.mark.parametrize(("height", "width"), [(64, 96), (160, 128)])
def test_two_anchors_of_sixteen_numbers_a_position(
    network: FaceNetwork, height: int, width: int
) -> None:
    levels = network(noise_images(2, height, width))
    assert shapes(levels) == [(2, 32, height // s, width // s) for s in (8, 16, 32)]
    boxes, scores = network.code.decode(levels)
    positions = sum(height // s * width // s for s in (8, 16, 32))
    assert boxes.shape == (2, 2 * positions, 4)
    assert scores.shape == (2, 2 * positions)


def test_class_and_box_reach_every_parameter_but_the_landmarks(network: FaceNetwork) -> None:
    levels = network(noise_images(1, 64, 96))
    numbers = torch.cat([level.unflatten(1, (2, 16))[:, :, :6].flatten() for level in levels])
    weights = dict(network.named_parameters())
    reached = torch.autograd.grad((numbers * noise(len(numbers))).sum(), list(weights.values()))
    for name, gradient in zip(weights, reached, strict=True):
        assert gradient.isfinite().all(), name
        assert gradient.any() == ("landmark" not in name), name


def test_batched_equals_single(network: FaceNetwork) -> None:
    assert_batched_equals_single(network, noise_images(3, 64, 96))


def test_the_mean_colour_is_zero_to_the_first_convolution() -> None:
    backbone, seen = MobileNetV1(), []
    backbone.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    backbone(torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1).expand(2, 3, 32, 64))
    assert not seen[0].any()


def test_onnx_runtime_agrees_at_sizes_not_traced(network: FaceNetwork, tmp_path: Path) -> None:
    report = export_onnx(network, tmp_path / "model.onnx", metadata={}, check_shapes=[(1, 64, 160)])
    assert report.max_difference <= 1e-4


def test_the_head_keeps_the_order_of_the_code() -> None:
    """Each anchor: two class numbers, four of the box, ten of the landmarks."""
    head = AnchorHead(8, anchors=2)
    kinds = [head.classes, head.box, head.landmarks]
    for kind, layer in enumerate(kinds):
        torch.nn.init.zeros_(layer.weight)
        assert layer.bias is not None
        with torch.no_grad():
            layer.bias.copy_(100 * kind + torch.arange(len(layer.bias)))
    anchors = head(torch.zeros(1, 8, 1, 1)).flatten().view(2, 16).tolist()
    for anchor, numbers in enumerate(anchors):
        start = [kind * 100 + anchor * size for kind, size in enumerate((2, 4, 10))]
        expected = [
            n for i, size in enumerate((2, 4, 10)) for n in range(start[i], start[i] + size)
        ]
        assert numbers == expected


def test_training_starts_from_the_prior_share_of_faces() -> None:
    torch.manual_seed(0)
    network = retinaface_mnet025().train()
    _, scores = network.code.decode(network(noise_images(2, 64, 64)))
    assert PRIOR_FACE_SHARE / 2 < scores.mean() < PRIOR_FACE_SHARE * 2


def test_a_context_module_sees_seven_pixels() -> None:
    module = ContextModule(4, 8).eval()
    x = torch.zeros(1, 4, 21, 21)
    x[:, :, 10, 10] = 1
    change = (module(x) - module(torch.zeros_like(x)))[0].abs().sum(0)
    rows = change.sum(1).nonzero().flatten().tolist()
    assert rows == list(range(7, 14))


def test_a_context_module_of_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        ContextModule(4, 6)
