"""The grid detectors: their costs, what pooling changes and what it does not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nas.export import export_onnx
from objectives.cost import count_macs, count_macs_by_torch, count_parameters
from search_spaces.heads import position_centres
from search_spaces.zoo.mobilenet_v3 import MobileNetV3Small, scaled_width
from search_spaces.zoo.resnet import ResidualBlock, ResNet
from search_spaces.zoo.yolo_grid import (
    CODE,
    GridDetector,
    yolo_mobilenetv3,
    yolo_mobilenetv3_small,
    yolo_poolresnet,
    yolo_poolresnet_small,
    yolo_resnet,
    yolo_resnet_small,
)
from tests.search_spaces.contracts import (
    assert_batched_equals_single,
    assert_gradient_reaches_every_parameter,
    noise,
    noise_images,
    seeded,
    shapes,
)

Make = Callable[[], GridDetector]

COSTS = {
    "yolo-resnet": (yolo_resnet, 258_874, 723_148_800),
    "yolo-resnet-small": (yolo_resnet_small, 83_010, 220_185_600),
    "yolo-poolresnet": (yolo_poolresnet, 258_874, 855_859_200),
    "yolo-poolresnet-small": (yolo_poolresnet_small, 83_010, 286_540_800),
    "yolo-mobilenetv3": (yolo_mobilenetv3, 255_808, 266_084_832),
    "yolo-mobilenetv3-small": (yolo_mobilenetv3_small, 77_934, 106_998_848),
}
every_detector = pytest.mark.parametrize("make", [make for make, _, _ in COSTS.values()])
pooled_pairs = pytest.mark.parametrize(
    ("strided", "pooled"),
    [(yolo_resnet, yolo_poolresnet), (yolo_resnet_small, yolo_poolresnet_small)],
)


@pytest.mark.parametrize("key", COSTS)
def test_parameters_and_macs(key: str) -> None:
    make, parameters, macs = COSTS[key]
    network = make()
    assert network.key == key
    assert count_parameters(network) == parameters
    assert count_macs_by_torch(network, image_size=640) == macs < 1_000_000_000
    assert count_macs(network, image_size=640) == macs


@pooled_pairs
def test_pooling_has_the_same_weights_and_costs_only_in_the_stem(
    strided: Make, pooled: Make
) -> None:
    first, second = strided(), pooled()
    assert [(n, p.shape) for n, p in first.named_parameters() if "backbone.0" not in n] == [
        (n, p.shape) for n, p in second.named_parameters() if "backbone.0" not in n
    ]
    assert count_parameters(first) == count_parameters(second)
    stem = 27 * first.backbone[0][0][0].out_channels  # type: ignore[index]
    difference = count_macs(second, image_size=64) - count_macs(first, image_size=64)
    assert difference == stem * (64 * 64 - 32 * 32)


@every_detector
def test_no_pooled_convolution_has_a_stride(make: Make) -> None:
    network = make()
    strides = {m.stride for m in network.modules() if isinstance(m, torch.nn.Conv2d)}
    assert strides == ({(1, 1)} if "pool" in network.key else {(1, 1), (2, 2)})


def test_pooled_and_strided_blocks_agree_on_what_stride_cannot_miss() -> None:
    """With 1x1 pixels repeated to 2x2 and kernels of a centre only, nothing tells them apart."""
    strided = ResidualBlock(8, 12, stride=2).eval()
    pooled = ResidualBlock(8, 12, stride=2, pooled=True).eval()
    pooled.load_state_dict(strided.state_dict())
    for block in (strided, pooled):
        for name in ("first.weight", "second.weight"):
            weight = block.get_parameter(name)
            with torch.no_grad():
                weight.mul_(torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]))
    x = noise(2, 8, 3, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(strided(x), pooled(x))


@every_detector
@pytest.mark.parametrize("size", [(64, 96), (160, 32)])
def test_one_level_of_two_boxes_a_cell(make: Make, size: tuple[int, int]) -> None:
    height, width = size
    network = seeded(make).eval()
    with torch.no_grad():
        levels = network(noise_images(2, height, width))
    assert shapes(levels) == [(2, 10, height // 16, width // 16)]
    boxes, scores = network.code.decode(levels)
    assert boxes.shape == (2, 2 * height * width // 256, 4)
    assert scores.max() < 0.2


def test_an_untrained_cell_offers_a_small_and_a_large_box() -> None:
    network = seeded(yolo_resnet_small).eval()
    torch.nn.init.zeros_(network.head.weight)
    boxes, scores = CODE.decode(network(noise_images(1, 64, 64)))
    sides = (boxes[0, :, 2:] - boxes[0, :, :2]).mean(1)
    torch.testing.assert_close(sides, torch.tensor([14.4] * 16 + [102.4] * 16))
    centres = position_centres(torch.empty(1, 1, 4, 4), CODE.stride).flatten(0, 1)
    torch.testing.assert_close((boxes[0, :, 2:] + boxes[0, :, :2]) / 2, centres.repeat(2, 1))
    torch.testing.assert_close(scores, torch.full_like(scores, 0.01))


@every_detector
def test_gradient_reaches_every_parameter(make: Make) -> None:
    assert_gradient_reaches_every_parameter(seeded(make), noise_images(2, 64, 96))


@every_detector
def test_batched_equals_single(make: Make) -> None:
    assert_batched_equals_single(seeded(make), noise_images(3, 64, 96))


@pytest.mark.parametrize("make", [yolo_resnet_small, yolo_poolresnet_small, yolo_mobilenetv3_small])
def test_exported_equals_eager(make: Make, tmp_path: Path) -> None:
    report = export_onnx(
        seeded(make),
        tmp_path / "network.onnx",
        metadata={},
        check_shapes=((1, 64, 64), (2, 96, 160)),
    )
    assert report.max_difference <= 1e-4


def test_mobilenet_of_full_width_is_the_published_one() -> None:
    """The published features have 927,008 parameters, with the hidden widths of
    squeeze-and-excitation rounded to multiples of 8: 64 of 240 twice, 32 of 120, 40 of 144.
    """
    rounding = sum(
        times * (theirs - hidden // 4) * (2 * hidden + 1)
        for hidden, theirs, times in ((240, 64, 2), (120, 32, 1), (144, 40, 1))
    )
    assert count_parameters(MobileNetV3Small(1.0)) == 927_008 - rounding


def test_widths_are_multiples_of_eight_and_hardly_ever_smaller() -> None:
    assert [scaled_width(c, 0.25) for c in (16, 24, 40, 48, 96, 576)] == [8, 8, 16, 16, 24, 144]
    assert [scaled_width(c, 1.0) for c in (16, 72, 88)] == [16, 72, 88]


@pytest.mark.parametrize("pooled", [False, True])
def test_resnet_sees_far_beyond_its_cell(pooled: bool) -> None:  # noqa: FBT001
    """Windows of 447 and 484 px; without dilation they would be 128 px narrower."""
    backbone = seeded(lambda: ResNet((8, 8, 8, 8), (1, 2, 2, 2), pooled=pooled)).eval()
    images = noise_images(1, 512, 512).requires_grad_()
    backbone((images - 127.5) / 64)[0, :, 16, 16].sum().backward()
    assert images.grad is not None
    rows = images.grad[0].abs().amax((0, 2)).nonzero().flatten()
    assert int(rows.max() - rows.min()) + 1 == (484 if pooled else 447)
