"""A neck whose levels attend to one another and are added by shares chosen at each position.

Shape letters: B batch, C channels, H height, W width, N positions of all levels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.blocks import DepthwiseSeparable, conv_norm_act
from search_spaces.necks import enlarge
from search_spaces.zoo.ultra_efficient_vit import PartialLinearAttention


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
        weighed = [term * shares[:, i : i + 1] for i, term in enumerate(terms)]
        return torch.stack(weighed).sum(0)


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


class PyramidAttentionFusion(nn.Module):
    """1x1 laterals to one width, then cells one after another; 71,826 parameters as defaults are.

    c_in: channels of the backbone's maps at strides 8, 16 and 32. c_out: of all maps that come
    out. attended: channels that attend across scales.

    Shape: three maps (B, c_in, H / s, W / s), s = 8, 16, 32 -> (B, c_out, H / s, W / s).
    """

    def __init__(
        self,
        c_in: Sequence[int],
        c_out: int,
        *,
        repeats: int = 2,
        attended: int = 32,
        kernel_size: int = 5,
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(conv_norm_act(c, c_out, 1) for c in c_in)
        self.cells = nn.Sequential(
            *(
                PyramidAttentionCell(c_out, attended=attended, kernel_size=kernel_size)
                for _ in range(repeats)
            )
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        laterals = zip(self.laterals, maps, strict=True)
        return tuple(self.cells([lateral(x) for lateral, x in laterals]))
