"""ULFG RFB has the published counts, and each anchor its own numbers."""

import math
from pathlib import Path

import pytest
import torch

from nas.export import export_onnx
from objectives.cost import count_macs_by_torch, count_parameters
from search_spaces.codes import AnchorCode
from search_spaces.zoo.ulfg import STRIDES, WIDTHS, LevelHead, UltraLightRFB, ulfg_rfb
from tests.search_spaces.contracts import (
    assert_batched_equals_single,
    noise,
    noise_images,
    shapes,
)

ANCHORS = (3, 2, 2, 3)


def built() -> UltraLightRFB:
    torch.manual_seed(0)
    return ulfg_rfb()


def settled() -> UltraLightRFB:
    """A network whose batch norms have seen something."""
    network = built().train()
    with torch.no_grad():
        network(noise_images(2, 64, 64))
    return network.eval()


def test_counts_are_the_published_ones() -> None:
    network = built()
    assert count_parameters(network) == 276_292
    assert count_macs_by_torch(network, image_size=640) == 531_820_800


@pytest.mark.parametrize(("height", "width"), [(64, 96), (160, 128)])
def test_four_levels_of_rounded_up_sizes(height: int, width: int) -> None:
    network, images = settled(), noise_images(2, height, width)
    sizes = [(math.ceil(height / s), math.ceil(width / s)) for s in STRIDES]
    maps, levels = network.features(images), network(images)
    assert shapes(maps) == [(2, c, *size) for c, size in zip(WIDTHS, sizes, strict=True)]
    assert shapes(levels) == [(2, 6 * a, *size) for a, size in zip(ANCHORS, sizes, strict=True)]
    assert_batched_equals_single(network, images)


def test_the_gradient_reaches_every_weight() -> None:
    """In evaluation mode: in training, batch norm takes the effect of the biases before it."""
    network = settled()
    levels = network(noise_images(2, 96, 64))
    torch.cat([level.flatten(1) for level in levels], 1).sin().sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_anchors_are_the_published_squares() -> None:
    code = built().code
    assert isinstance(code, AnchorCode)
    assert code.extras == 0
    anchors = code.anchors_cxcywh([torch.zeros(1, 6 * a, 1, 1) for a in ANCHORS])
    assert anchors[:, 2].tolist() == [10, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    assert torch.equal(anchors[:, 2], anchors[:, 3])


def test_an_anchor_keeps_its_classes_and_its_box_together() -> None:
    head, x = LevelHead(8, 3, separable=True).eval(), noise(2, 8, 3, 4)
    with torch.no_grad():
        level, classes, boxes = head(x), head.classes(x), head.boxes(x)
    for i in range(3):
        own = level[:, 6 * i : 6 * i + 6]
        assert torch.equal(own[:, :2], classes[:, 2 * i : 2 * i + 2])
        assert torch.equal(own[:, 2:], boxes[:, 4 * i : 4 * i + 4])


def test_mid_grey_is_zero_inside() -> None:
    network, seen = built().eval(), []
    network.backbone[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.full((1, 3, 32, 32), 127.0))
    network(torch.tensor([255.0, 127, 127]).view(1, 3, 1, 1).expand(1, 3, 32, 32))
    assert not seen[0].any()
    assert seen[1][0, :, 0, 0].tolist() == [0, 0, 1], "blue comes last inside"


def test_an_untrained_network_calls_little_a_face() -> None:
    network = built().train()
    _, scores = network.code.decode(network(noise_images(2, 64, 64)))
    assert scores.mean() < 0.02


def test_onnx_agrees(tmp_path: Path) -> None:
    check_shapes = ((1, 64, 64), (2, 96, 160), (1, 224, 32))
    report = export_onnx(settled(), tmp_path / "model.onnx", metadata={}, check_shapes=check_shapes)
    assert report.max_difference <= 1e-4
