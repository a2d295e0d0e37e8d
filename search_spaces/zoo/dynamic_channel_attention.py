"""Channel attention that differs from position to position."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.attention import bottleneck_width


class DynamicChannelAttention(nn.Module):
    """Two weighings of the channels, and at each position a share of each.

    The means and the maxima of all channels lead, over `hidden` channels, to two gates; a 1x1
    convolution says at each position how much of the first applies and how much of the second.
    Squeeze-and-excitation weighs a face's channels like its background's; this can tell them
    apart.

    hidden: half the channels if not said.

    Shape: (B, C, H, W) -> the same. A map cut to fewer channels uses the first weights.

    Source: the squeeze of CBAM, arXiv:1807.06521, equation 2; the choice between weighings by
    the input, of Dynamic Convolution, arXiv:1912.03458, section 3, here made for each position
    and of gates instead of kernels.
    """

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or max(bottleneck_width(channels), channels // 2)
        self.squeeze_mean = nn.Conv2d(channels, hidden, 1)
        self.squeeze_peak = nn.Conv2d(channels, hidden, 1, bias=False)
        self.excite_first = nn.Conv2d(hidden, channels, 1)
        self.excite_second = nn.Conv2d(hidden, channels, 1)
        self.choose = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean, peak = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        hidden = functional.relu(self.squeeze_mean(mean) + self.squeeze_peak(peak))
        first = torch.sigmoid(self.excite_first(hidden))
        second = torch.sigmoid(self.excite_second(hidden))
        return x * torch.lerp(second, first, torch.sigmoid(self.choose(x)))
