"""Deformable convolution: a convolution whose taps are read where the image tells it to.

Shape letters: B batch, C channels in, D channels out, H height, W width, T taps of the kernel,
row by row.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional


def deformable_convolution(x: Tensor, weight: Tensor, offsets: Tensor, mask: Tensor) -> Tensor:
    """A convolution of stride 1 with moved and weighed taps; it keeps the height and width.

    x: (B, C, H, W). weight: (D, C, k, k), k odd. offsets: (B, 2 * T, H, W), pixels that each tap
    moves to the right, then those that it moves down. mask: (B, T, H, W), factors of the taps.
    Gives (B, D, H, W).

    Between pixels x is interpolated linearly, beyond its border it is zero. Interpolating and
    mixing channels commute, so channels are mixed first: of each tap D maps are interpolated
    instead of C, and the multiply-adds of the mixing are those of the ordinary convolution.

    Source: Zhu et al., Deformable ConvNets v2, arXiv:1811.11168, equation 1.
    """
    c_out, _, side, _ = weight.shape
    rows, columns = x.shape[2:]
    mixed = functional.conv2d(x, weight.permute(2, 3, 0, 1).flatten(0, 2)[..., None, None])
    sampled = functional.grid_sample(
        mixed.reshape(-1, c_out, rows, columns).float(),
        _sampling_grid(offsets.float(), side).reshape(-1, rows, columns, 2),
        padding_mode="zeros",
        align_corners=False,
    )
    sampled = sampled.to(mixed.dtype).reshape(-1, side * side, c_out, rows, columns)
    return (sampled * mask.unsqueeze(2)).sum(1)


def _sampling_grid(offsets: Tensor, side: int) -> Tensor:
    """Where every tap reads (B, T, H, W, 2), x and y; -1 and 1 are the image's borders."""
    rows, columns = offsets.shape[2:]
    axis = partial(torch.arange, device=offsets.device, dtype=offsets.dtype)
    reach = axis(side) - side // 2 + 0.5  # from a pixel's corner to the middle of a tap
    right, down = offsets[:, : side * side], offsets[:, side * side :]
    x = axis(columns) + reach.repeat(side)[:, None, None] + right
    y = axis(rows)[:, None] + reach.repeat_interleave(side)[:, None, None] + down
    return 2 * torch.stack([x / columns, y / rows], 4) - 1


class DeformableConvolution(nn.Module):
    """A 3x3 deformable convolution that sees from its input where and how much to read.

    It starts as the ordinary convolution: offsets of zero, factors of one. The factors are twice
    a sigmoid, so that a tap can count for more than its weight.

    Shape: (B, c_in, H, W) -> (B, c_out, H, W).
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_out, c_in, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as nn.Conv2d does
        self.aim = nn.Conv2d(c_in, 3 * 9, 3, padding=1)  # x, y and factor of each tap
        nn.init.zeros_(self.aim.weight)
        assert self.aim.bias is not None
        nn.init.zeros_(self.aim.bias)

    def forward(self, x: Tensor) -> Tensor:
        offsets, logits = self.aim(x).split((2 * 9, 9), 1)
        return deformable_convolution(x, self.weight, offsets, 2 * logits.sigmoid())
