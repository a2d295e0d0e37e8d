"""Necks: features of three strides, fused so that each level knows of the others.

Every cell maps three tensors (B, C, H / s, W / s), s = 8, 16, 32, to three of the same shapes.
Smaller maps are enlarged by repeating pixels, larger ones reduced by a strided convolution.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.architecture import Neck
from search_spaces.blocks import (
    HEAD_CHANNELS,
    DepthwiseSeparable,
    PartialLinearAttention,
    conv_norm_act,
)


def enlarge(x: Tensor) -> Tensor:
    """Twice the height and width, by repeating pixels."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _smooth(width: int, *, stride: int = 1) -> DepthwiseSeparable:
    return DepthwiseSeparable(width, width, kernel_size=3, stride=stride)


class FeaturePyramidCell(nn.Module):
    """Top-down: each level is smoothed after the coarser one is added.

    Source: Lin et al., FPN, arXiv:1612.03144, figure 3, with separable smoothing.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.smooth16 = _smooth(width)
        self.smooth8 = _smooth(width)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        x8, x16, x32 = levels
        y16 = self.smooth16(x16 + enlarge(x32))
        return [self.smooth8(x8 + enlarge(y16)), y16, x32]


class PathAggregationCell(nn.Module):
    """Top-down as in FPN, then bottom-up.

    Source: Liu et al., PANet, arXiv:1803.01534, section 3.1, with separable convolutions.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.top_down = FeaturePyramidCell(width)
        self.reduce8 = _smooth(width, stride=2)
        self.reduce16 = _smooth(width, stride=2)
        self.merge16 = _smooth(width)
        self.merge32 = _smooth(width)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        y8, y16, y32 = self.top_down(levels)
        z16 = self.merge16(y16 + self.reduce8(y8))
        return [y8, z16, self.merge32(y32 + self.reduce16(z16))]


class WeightedSum(nn.Module):
    """The sum of tensors of one shape, each by a learned share; the shares add up to one.

    Source: Tan et al., EfficientDet, arXiv:1911.09070, fast normalized fusion, section 3.3.
    """

    def __init__(self, terms: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(terms))

    def forward(self, *terms: Tensor) -> Tensor:
        positive = functional.relu(self.weight)
        share = positive / (positive.sum() + 1e-4)
        total = terms[0] * share[0]
        for i, term in enumerate(terms[1:], start=1):
            total = total + term * share[i]
        return total


class BidirectionalCell(nn.Module):
    """BiFPN: top-down and bottom-up with learned shares and a skip from each input.

    Source: Tan et al., EfficientDet, arXiv:1911.09070, figure 2d.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sum_down16, self.sum_down8 = WeightedSum(2), WeightedSum(2)
        self.sum_up16, self.sum_up32 = WeightedSum(3), WeightedSum(2)
        self.smooth_down16, self.smooth_down8 = _smooth(width), _smooth(width)
        self.smooth_up16, self.smooth_up32 = _smooth(width), _smooth(width)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        x8, x16, x32 = levels
        y16 = self.smooth_down16(self.sum_down16(x16, enlarge(x32)))
        z8 = self.smooth_down8(self.sum_down8(x8, enlarge(y16)))
        z16 = self.smooth_up16(self.sum_up16(x16, y16, functional.max_pool2d(z8, 2)))
        z32 = self.smooth_up32(self.sum_up32(x32, functional.max_pool2d(z16, 2)))
        return [z8, z16, z32]


class CrossScaleAttention(nn.Module):
    """Every position of every level attends to all positions of all levels.

    The levels' positions are put in one row, over which linear attention costs as much as over
    the levels one by one.

    Shape: maps (B, channels, any, any) -> the same.
    """

    def __init__(self, channels: int, attended: int) -> None:
        super().__init__()
        self.attend = PartialLinearAttention(channels, attended)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        rows = [x.flatten(2) for x in levels]
        joined = self.attend(torch.cat(rows, 2).unsqueeze(3)).squeeze(3)  # (B, C, N)
        mixed, start = [], 0
        for x, row in zip(levels, rows, strict=True):
            stop = start + row.shape[2]
            mixed.append(joined[:, :, start:stop].reshape_as(x))
            start = stop
        return mixed


class AdaptiveSum(nn.Module):
    """The sum of maps of one shape, by shares that depend on the image and the position.

    A 1x1 convolution scores each map at each position; the softmax of the scores is its share.

    Shape: `terms` maps (B, channels, H, W) -> (B, channels, H, W).

    Source: Liu et al., ASFF, arXiv:1911.09516, section 3.2.2.
    """

    def __init__(self, channels: int, terms: int) -> None:
        super().__init__()
        self.score = nn.ModuleList(nn.Conv2d(channels, 1, 1) for _ in range(terms))

    def forward(self, *terms: Tensor) -> Tensor:
        scores = [score(term) for score, term in zip(self.score, terms, strict=True)]
        shares = torch.cat(scores, 1).softmax(1)
        total = terms[0] * shares[:, :1]
        for i, term in enumerate(terms[1:], start=1):
            total = total + term * shares[:, i : i + 1]
        return total


class PyramidAttentionCell(nn.Module):
    """Cross-scale attention, then top-down and bottom-up with adaptive sums.

    Shape: three maps (B, width, H / s, W / s), s = 8, 16, 32 -> the same.

    Source: the paths of BiFPN, arXiv:1911.09070, figure 2d.
    """

    def __init__(self, width: int, *, attended: int, kernel_size: int) -> None:
        super().__init__()

        def smooth() -> nn.Module:
            return DepthwiseSeparable(width, width, kernel_size=kernel_size)

        self.attend = CrossScaleAttention(width, attended)
        self.sum_down16, self.sum_down8 = AdaptiveSum(width, 2), AdaptiveSum(width, 2)
        self.sum_up16, self.sum_up32 = AdaptiveSum(width, 3), AdaptiveSum(width, 2)
        self.smooth_down16, self.smooth_down8 = smooth(), smooth()
        self.smooth_up16, self.smooth_up32 = smooth(), smooth()

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        x8, x16, x32 = self.attend(levels)
        y16 = self.smooth_down16(self.sum_down16(x16, enlarge(x32)))
        z8 = self.smooth_down8(self.sum_down8(x8, enlarge(y16)))
        z16 = self.smooth_up16(self.sum_up16(x16, y16, functional.max_pool2d(z8, 2)))
        z32 = self.smooth_up32(self.sum_up32(x32, functional.max_pool2d(z16, 2)))
        return [z8, z16, z32]


ATTENTION_KERNEL_SIZE = 5

CELLS: dict[str, Callable[[int], nn.Module]] = {
    "fpn": FeaturePyramidCell,
    "pan": PathAggregationCell,
    "bifpn": BidirectionalCell,
    "pyramid_attention": partial(
        PyramidAttentionCell, attended=HEAD_CHANNELS, kernel_size=ATTENTION_KERNEL_SIZE
    ),
}
"""Every fusion cell by the name its gene uses; called with the width."""


class FusionNeck(nn.Module):
    """1x1 laterals to one width, then the fusion cells one after another.

    Shape: features of c_in channels at strides 8, 16, 32 -> the same with `neck.width` channels.
    """

    def __init__(self, c_in: tuple[int, int, int], neck: Neck) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(conv_norm_act(c, neck.width, 1) for c in c_in)
        self.cells = nn.Sequential(
            OrderedDict(
                (f"{i}_{neck.kind}", CELLS[neck.kind](neck.width)) for i in range(neck.repeats)
            )
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        laterals = zip(self.laterals, features, strict=True)
        levels: list[Tensor] = self.cells([lateral(x) for lateral, x in laterals])
        return levels
