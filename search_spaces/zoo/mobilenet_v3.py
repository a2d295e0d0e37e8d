"""MobileNetV3-small of any width.

Shape letters: B batch, C channels, H height, W width.
"""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from search_spaces.attention import SqueezeExcitation
from search_spaces.blocks import conv_norm

STEM_WIDTH, LAST_WIDTH = 16, 576
COARSEST_STRIDE = 16


@dataclass(frozen=True, slots=True)
class Row:
    """A block of the paper's table 2. hidden: channels inside. hard: hard-swish, not ReLU."""

    kernel_size: int
    hidden: int
    width: int
    stride: int = 1
    hard: bool = True
    squeezes: bool = True


ROWS = (
    Row(3, 16, 16, stride=2, hard=False),
    Row(3, 72, 24, stride=2, hard=False, squeezes=False),
    Row(3, 88, 24, hard=False, squeezes=False),
    Row(5, 96, 40, stride=2),
    Row(5, 240, 40),
    Row(5, 240, 40),
    Row(5, 120, 48),
    Row(5, 144, 48),
    Row(5, 288, 96, stride=2),
    Row(5, 576, 96),
    Row(5, 576, 96),
)


def scaled_width(channels: int, multiplier: float) -> int:
    """The nearest multiple of 8, at least 8; the next one if that would take over a tenth away."""
    wanted = channels * multiplier
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def _convolve(c_in: int, c_out: int, kernel_size: int, *, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm, hard-swish."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel_size, stride, kernel_size // 2, bias=False),
        nn.BatchNorm2d(c_out),
        nn.Hardswish(inplace=True),
    )


class MobileBottleneck(nn.Module):
    """Widen, filter each channel, weigh the channels, narrow; the input is added if it fits.

    row: widths already scaled. dilation: pixels between two taps of the filter.

    Shape: (B, c_in, H, W) -> (B, row.width, ceil(H / row.stride), ceil(W / row.stride)).

    Source: figure 4. Squeeze-and-excitation is this project's, whose hidden width is a quarter
    of the channels without rounding to a multiple of 8.
    """

    def __init__(self, c_in: int, row: Row, *, dilation: int = 1) -> None:
        super().__init__()
        hidden, activation = row.hidden, nn.Hardswish if row.hard else nn.ReLU
        reach = dilation * (row.kernel_size // 2)
        layers: list[nn.Module] = []
        if hidden != c_in:
            widen = nn.Conv2d(c_in, hidden, 1, bias=False)
            layers += [widen, nn.BatchNorm2d(hidden), activation(inplace=True)]
        layers += [
            nn.Conv2d(
                hidden,
                hidden,
                row.kernel_size,
                row.stride,
                reach,
                dilation=dilation,
                groups=hidden,
                bias=False,
            ),
            nn.BatchNorm2d(hidden),
            activation(inplace=True),
        ]
        if row.squeezes:
            layers.append(SqueezeExcitation(hidden))
        self.body = nn.Sequential(*layers, conv_norm(hidden, row.width))
        self.is_residual = row.stride == 1 and c_in == row.width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.is_residual else y


class MobileNetV3Small(nn.Sequential):
    """Stem, eleven blocks and the last 1x1 convolution, to stride 16.

    multiplier: of all widths. `c_out` says how many channels come out.

    Where the paper halves to stride 32, the blocks are dilated instead, as the paper has it for
    segmentation (section 6.4).

    Shape: (B, 3, H, W) -> (B, c_out, H / 16, W / 16), H and W multiples of 16.

    Source: Howard et al., Searching for MobileNetV3, arXiv:1905.02244, table 2 up to its pooling.
    """

    def __init__(self, multiplier: float) -> None:
        c_in = scaled_width(STEM_WIDTH, multiplier)
        super().__init__(_convolve(3, c_in, 3, stride=2))
        stride, dilation = 2, 1
        for row in ROWS:
            if stride * row.stride > COARSEST_STRIDE:
                dilation *= row.stride
                row = replace(row, stride=1)
            stride *= row.stride
            row = replace(
                row,
                hidden=scaled_width(row.hidden, multiplier),
                width=scaled_width(row.width, multiplier),
            )
            self.append(MobileBottleneck(c_in, row, dilation=dilation))
            c_in = row.width
        self.c_out = scaled_width(LAST_WIDTH, multiplier)
        self.append(_convolve(c_in, self.c_out, 1))
