"""Residual networks for tiny detectors, halved by strides or by pooling.

Shape letters: B batch, C channels, H height, W width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from search_spaces.blocks import conv_norm_act


class EveryPixel(nn.Module):
    """Every `step`-th pixel of every `step`-th row: what a 1x1 convolution of that stride reads.

    A 1x1 convolution of stride 2 with 8 channels in, in channels_last order, writes beyond its
    memory when it is differentiated on a CPU (torch 2.13); one of stride 1 does not.
    """

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.step, :: self.step] if self.step > 1 else x


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where shapes differ.

    stride: 1 or 2. pooled: halve by the maximum of 2x2 pixels in front of both branches, and
    convolve with stride 1; weights and MACs are those of the strided block. dilation: pixels
    between two taps of the 3x3 convolutions.

    Shape: (B, c_in, H, W) -> (B, c_out, H / stride, W / stride).

    Source: He et al., Deep Residual Learning, arXiv:1512.03385, figure 2 and section 3.3.
    """

    def __init__(
        self, c_in: int, c_out: int, *, stride: int = 1, pooled: bool = False, dilation: int = 1
    ) -> None:
        super().__init__()
        pools = pooled and stride == 2
        step = 1 if pools else stride
        self.pool = nn.MaxPool2d(2) if pools else nn.Identity()
        self.first = nn.Conv2d(c_in, c_out, 3, step, dilation, dilation=dilation, bias=False)
        self.first_norm = nn.BatchNorm2d(c_out)
        self.second = nn.Conv2d(c_out, c_out, 3, 1, dilation, dilation=dilation, bias=False)
        self.second_norm = nn.BatchNorm2d(c_out)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and c_in == c_out
            else nn.Sequential(
                EveryPixel(step), nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        y = torch.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return torch.relu(self.shortcut(x) + y)


def _stem(c_out: int, *, pooled: bool) -> nn.Sequential:
    """To stride 4. Pooling comes behind the convolution here: the image keeps its detail."""
    convolve = conv_norm_act(3, c_out, 3, stride=1 if pooled else 2)
    halve = [nn.MaxPool2d(2)] if pooled else []
    return nn.Sequential(convolve, *halve, nn.MaxPool2d(3, stride=2, padding=1))


class ResNet(nn.Sequential):
    """A stem to stride 4 and four stages at strides 4, 8, 16 and 16.

    widths: channels of the four stages; the stem has those of the first. depths: blocks of each.
    pooled: every strided convolution becomes one of stride 1 with pooling; the parameters stay,
    and so do the MACs of the stages, while the stem convolves four times as many positions.

    Differences to the source: a 3x3 instead of a 7x7 stem, and a last stage that is dilated
    instead of strided, which keeps the grid fine (as in DeepLab, arXiv:1606.00915, section 3.1).

    Shape: (B, 3, H, W) -> (B, widths[-1], H / 16, W / 16), H and W multiples of 16.

    Source: He et al., arXiv:1512.03385, table 1.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int], *, pooled: bool) -> None:
        super().__init__(_stem(widths[0], pooled=pooled))
        c_in = widths[0]
        plans = zip(widths, depths, (1, 2, 2, 1), (1, 1, 1, 2), strict=True)
        for c_out, depth, stride, dilation in plans:
            for block in range(depth):
                step = stride if block == 0 else 1
                self.append(
                    ResidualBlock(c_in, c_out, stride=step, pooled=pooled, dilation=dilation)
                )
                c_in = c_out
