"""The parts of FeatherFace's second version: their budgets, their costs and what they compute."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nas.export import export_onnx
from objectives.cost import count_macs, count_macs_by_torch, count_parameters
from search_spaces.blocks import PartialLinearAttention
from search_spaces.necks import CrossScaleAttention
from search_spaces.zoo.featherface_v2 import (
    CODE,
    FeatherFaceV2,
    FeatherFaceV2Options,
    featherface_v2,
    featherface_v2_cbam_plus_grouped,
)
from search_spaces.zoo.pyramid_attention_fusion import PyramidAttentionFusion
from search_spaces.zoo.shared_detection_head import (
    ANCHOR_HEADS,
    AnchorPrediction,
    SharedDetectionHead,
    ShuffledConvolution,
    WideContext,
)
from search_spaces.zoo.ultra_efficient_vit import UltraEfficientViT
from tests.search_spaces.contracts import (
    assert_batched_equals_single,
    assert_gradient_reaches_every_parameter,
    macs_of,
    noise,
    noise_images,
    pyramid,
    seeded,
    shapes,
)

VARIANTS = {
    "featherface-v2": (FeatherFaceV2Options(), 241_611, 730_334_976),
    "featherface-v2-cbam-plus": (FeatherFaceV2Options("cbam_plus"), 216_438, 729_925_152),
    "featherface-v2-none": (FeatherFaceV2Options("none"), 216_360, 729_772_800),
    "featherface-v2-grouped": (FeatherFaceV2Options(head="grouped"), 180_407, 520_536_576),
    "featherface-v2-cbam-plus-grouped": (
        FeatherFaceV2Options("cbam_plus", "grouped"),
        155_234,
        520_126_752,
    ),
    "featherface-v2-none-grouped": (FeatherFaceV2Options("none", "grouped"), 155_156, 519_974_400),
}
every_variant = pytest.mark.parametrize("key", VARIANTS)
the_two = pytest.mark.parametrize("make", [featherface_v2, featherface_v2_cbam_plus_grouped])


@every_variant
def test_parameters_and_macs(key: str) -> None:
    options, parameters, macs = VARIANTS[key]
    network = featherface_v2(options)
    assert network.key == key
    assert count_parameters(network) == parameters < 285_000
    assert count_macs_by_torch(network, image_size=640) == macs < 1_000_000_000
    assert count_macs(network, image_size=640) == macs


@pytest.mark.parametrize(
    ("part", "planned", "parameters"),
    [
        ("backbone", 45_000, 47_328),
        ("neck", 75_000, 70_802),
        ("attention", 25_000, 25_251),
        ("head", 100_000, 98_230),
    ],
)
def test_every_part_keeps_within_a_tenth_of_its_budget(
    part: str, planned: int, parameters: int
) -> None:
    found = count_parameters(featherface_v2().get_submodule(part))
    assert found == parameters
    assert abs(found - planned) <= 0.1 * planned


@pytest.mark.parametrize("options", [{"channel_attention": "cbam"}, {"head": "dense"}])
def test_unknown_parts_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        FeatherFaceV2Options(**options)


@pytest.mark.parametrize("size", [(64, 96), (160, 32)])
def test_backbone_gives_three_widths_at_three_strides(size: tuple[int, int]) -> None:
    height, width = size
    maps = UltraEfficientViT()(noise_images(2, height, width))
    assert shapes(maps) == [
        (2, channels, height // stride, width // stride)
        for channels, stride in ((32, 8), (64, 16), (128, 32))
    ]


@pytest.mark.parametrize("size", [(64, 96), (160, 32)])
@the_two
def test_levels_hold_nine_anchors_a_position(
    make: Callable[[], FeatherFaceV2], size: tuple[int, int]
) -> None:
    height, width = size
    network = make().eval()
    with torch.no_grad():
        levels = network(noise_images(2, height, width))
    assert shapes(levels) == [(2, 54, height // s, width // s) for s in (8, 16, 32)]
    boxes, scores = network.code.decode(levels)
    assert boxes.shape == (2, 9 * sum(x[0, 0].numel() for x in levels), 4)
    assert scores.max() < 0.2


def test_anchor_sides_grow_evenly_over_all_levels() -> None:
    sides = torch.tensor(CODE.sizes).flatten()
    torch.testing.assert_close(sides[1:] / sides[:-1], torch.full((8,), 2 ** (2 / 3)))
    torch.testing.assert_close(sides[1::3], torch.tensor([16.0, 64.0, 256.0]))


@the_two
def test_gradient_reaches_every_parameter(make: Callable[[], FeatherFaceV2]) -> None:
    assert_gradient_reaches_every_parameter(seeded(make), noise_images(2, 64, 96))


@the_two
def test_batched_equals_single(make: Callable[[], FeatherFaceV2]) -> None:
    assert_batched_equals_single(seeded(make), noise_images(3, 64, 96))


@pytest.mark.slow
@the_two
def test_exported_equals_eager(make: Callable[[], FeatherFaceV2], tmp_path: Path) -> None:
    """With batch norms that have seen something and predictions that say something."""
    network = seeded(make).train()
    with torch.no_grad():
        network(noise_images(4, 64, 96))
        for name, value in network.named_parameters():
            if "predict" in name and name.endswith("weight"):
                value.mul_(30)
    target, checked = tmp_path / "network.onnx", ((1, 64, 64), (2, 96, 160))
    report = export_onnx(network, target, metadata={}, check_shapes=checked)
    assert 0 < report.max_difference <= 1e-4


def test_attention_costs_are_linear_in_the_pixels() -> None:
    """Twice the pixels, twice the MACs: to the last one, in the blocks and across scales."""
    attention, across = PartialLinearAttention(64, 32), CrossScaleAttention(64, 32)
    single, double = noise(1, 64, 16, 16), noise(1, 64, 16, 32)
    assert macs_of(attention, double) == 2 * macs_of(attention, single)
    levels = [pyramid(64, batch=1, sides=sides) for sides in ((16, 16), (16, 32))]
    assert macs_of(across, levels[1]) == 2 * macs_of(across, levels[0])


def test_backbone_costs_are_linear_in_the_pixels() -> None:
    backbone = UltraEfficientViT()
    single, double = noise_images(1, 64, 64), noise_images(1, 64, 128)
    assert macs_of(backbone, double) == 2 * macs_of(backbone, single)


def test_neck_widths_are_its_arguments() -> None:
    neck = PyramidAttentionFusion((16, 24, 40), 48, repeats=1, attended=16, kernel_size=3)
    maps = [noise(2, c, 8 >> i, 12 >> i) for i, c in enumerate((16, 24, 40))]
    assert shapes(neck(maps)) == [(2, 48, 8 >> i, 12 >> i) for i in range(3)]


@pytest.mark.parametrize("name", ANCHOR_HEADS)
def test_head_widths_are_its_arguments(name: str) -> None:
    head = ANCHOR_HEADS[name](24, 32, anchors=4)
    assert shapes(head(pyramid(24))) == [(2, 24, 8 >> i, 12 >> i) for i in range(3)]


def test_prediction_puts_each_anchors_numbers_together() -> None:
    predict = AnchorPrediction(8, anchors=3)
    for_classes, for_boxes = noise(1, 8, 2, 2), noise(1, 8, 2, 2, seed=1)
    classes, boxes = predict.classes(for_classes), predict.boxes(for_boxes)
    level = predict(for_classes, for_boxes)
    torch.testing.assert_close(level[:, 6:8], classes[:, 2:4])
    torch.testing.assert_close(level[:, 8:12], boxes[:, 4:8])


def test_context_keeps_any_size() -> None:
    maps = [noise(2, 16, *size) for size in ((8, 8), (5, 3), (3, 1))]
    assert shapes(WideContext(16, 24)(maps)) == [(2, 24, 8, 8), (2, 24, 5, 3), (2, 24, 3, 1)]


def test_the_shared_head_looks_at_all_levels_alike() -> None:
    """Equal maps give equal levels; in training each level is normalised by itself."""
    head = seeded(lambda: SharedDetectionHead(16, 16, anchors=2)).eval()
    x = noise(2, 16, 6, 4)
    first, second, third = head([x, x, x])
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    head.train()([x, 5 * x + 3, x - 2])
    means = [head.get_buffer(f"detail.norms.{level}.running_mean") for level in range(3)]
    assert not any(torch.equal(means[0], other) for other in means[1:])


def test_every_group_reads_channels_of_all_groups() -> None:
    module = ShuffledConvolution(16, 8)
    x = noise(1, 16, 3, 3)
    for group in range(4):
        changed = x.clone()
        changed[:, 4 * group : 4 * group + 4] += 1
        moved = (module(changed) - module(x)).abs().amax((0, 2, 3)) > 1e-6
        assert moved.all()
