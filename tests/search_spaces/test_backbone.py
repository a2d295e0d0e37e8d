"""The backbone gives features at three strides; its names say what may share weights."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from search_spaces.architecture import Stage
from search_spaces.attention import ATTENTION
from search_spaces.backbone import Backbone, build_stage, build_stem
from search_spaces.blocks import BLOCKS, EXPANDING
from tests.search_spaces.contracts import (
    assert_batched_equals_single,
    assert_gradient_reaches_every_parameter,
    example_architecture,
    noise,
    random_architectures,
    shapes,
)


def make_stage(block: str, attention: str = "none", *, depth: int = 2) -> Stage:
    return Stage(block, depth, 32, 3, 2 if block in EXPANDING else 1, attention)


def names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("side", "quarter"), [(32, 8), (31, 8), (29, 8), (33, 9)])
def test_stem_shape(depth: int, side: int, quarter: int) -> None:
    assert build_stem(8, depth)(noise(2, 3, side, 32)).shape == (2, 16, quarter, 8)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("attention", ATTENTION)
def test_every_stage_halves_and_learns(block: str, attention: str) -> None:
    torch.manual_seed(0)
    stage = build_stage(16, make_stage(block, attention))
    assert stage(noise(2, 16, 9, 8)).shape == (2, 32, 5, 4)
    assert_gradient_reaches_every_parameter(stage, noise(2, 16, 9, 8))


def test_features_have_the_widths_and_strides_of_the_stages() -> None:
    for architecture in random_architectures(10, seed=0):
        expected = [
            (2, stage.width, 64 // stride, 96 // stride)
            for stage, stride in zip(architecture.stages, (8, 16, 32), strict=True)
        ]
        assert shapes(Backbone(architecture)(noise(2, 3, 64, 96))) == expected


def test_batched_equals_single() -> None:
    assert_batched_equals_single(Backbone(example_architecture()), noise(3, 3, 64, 64))


@pytest.mark.parametrize("block", BLOCKS)
def test_a_deeper_stage_has_the_names_of_a_shallower_one(block: str) -> None:
    shallow, deep = (names(build_stage(32, make_stage(block, "se", depth=d))) for d in (1, 3))
    assert shallow < deep


def test_other_blocks_and_attentions_have_other_names() -> None:
    for first in BLOCKS:
        for second in BLOCKS:
            shared = names(build_stage(32, make_stage(first))) & names(
                build_stage(32, make_stage(second))
            )
            assert bool(shared) == (first == second)
    own = [names(build_stage(32, make_stage("depthwise", a))) for a in ATTENTION]
    assert set.intersection(*own) == names(build_stage(32, make_stage("depthwise")))


def test_widths_kernels_and_expansions_do_not_change_names() -> None:
    stage = make_stage("inverted", "se")
    expected = names(build_stage(32, stage))
    for other in (
        replace(stage, width=64),
        replace(stage, kernel_size=5),
        replace(stage, expand_ratio=4),
    ):
        assert names(build_stage(48, other)) == expected
