"""MobileNetV1 a quarter as wide, without its classifier: the backbone of small RetinaFaces."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from search_spaces.context import LEAK

BGR_MEAN = (104.0, 117.0, 123.0)

STAGES = (
    (8, (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)),
    (64, (128, 2), (128, 1), (128, 1), (128, 1), (128, 1), (128, 1)),
    (128, (256, 2), (256, 1)),
)
"""Of each stage: the channels that enter it, then (channels, stride) of each of its blocks."""

WIDTHS = (64, 128, 256)
"""Channels of the three maps."""


def conv_norm_leaky(
    c_in: int, c_out: int, kernel_size: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias, batch norm, leaky ReLU; the kernel is odd."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel_size, stride, kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
        nn.LeakyReLU(LEAK, inplace=True),
    )


def _stage(c_in: int, *blocks: tuple[int, int]) -> nn.Sequential:
    layers = []
    for (narrow, _), (wide, stride) in pairwise(((c_in, 1), *blocks)):
        layers.append(conv_norm_leaky(narrow, narrow, 3, stride=stride, groups=narrow))
        layers.append(conv_norm_leaky(narrow, wide, 1))
    return nn.Sequential(*layers)


class MobileNetV1(nn.Module):
    """Features of three strides. 213,072 parameters.

    Shape: (B, 3, H, W) float, BGR from 0 to 255 -> (B, 64, H / 8, W / 8), (B, 128, H / 16, W / 16)
    and (B, 256, H / 32, W / 32).

    Source: Howard et al., MobileNets, arXiv:1704.04861, table 1 with a width multiplier of 0.25;
    leaky ReLU and the subtracted mean of colours as in biubug6/Pytorch_Retinaface.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean = torch.tensor(BGR_MEAN).view(3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.stem = conv_norm_leaky(3, STAGES[0][0], 3, stride=2)
        self.stages = nn.ModuleList(_stage(c_in, *blocks) for c_in, *blocks in STAGES)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = [self.stem(images - self.mean)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return tuple(maps[1:])
