"""Attention variants: modules that weigh a feature map and keep its shape.

Shape letters: B batch, C channels, H height, W width. Every variant maps (B, C, H, W) to
(B, C, H, W), works at any H and W, and uses the first c channels' weights of a wider one when it
is cut to c channels, which is what the supernet does.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def bottleneck_width(channels: int) -> int:
    """Hidden channels of the gates below: a quarter, at least 8."""
    return max(8, channels // 4)


class SqueezeExcitation(nn.Module):
    """Weigh each channel by a two-layer network of all channels' means.

    Source: Hu et al., Squeeze-and-Excitation Networks, arXiv:1709.01507, figure 2; hard sigmoid
    as in MobileNetV3, arXiv:1905.02244, section 5.2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = bottleneck_width(channels)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
        return x * functional.hardsigmoid(self.excite(hidden))


class EfficientChannelAttention(nn.Module):
    """Weigh each channel by a 1-D convolution over neighbouring channels' means.

    Source: Wang et al., ECA-Net, arXiv:1910.03151, section 3.2. The kernel is 3 at every width
    (their rule gives 3 up to 64 channels), so that a cut network keeps its weights' meaning.
    """

    def __init__(self, channels: int) -> None:  # noqa: ARG002
        super().__init__()
        self.mix = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3)).unsqueeze(1)
        gate = functional.hardsigmoid(self.mix(means))
        return x * gate.transpose(1, 2).unsqueeze(3)


class ConvolutionalBlockAttention(nn.Module):
    """CBAM: weigh each channel by its mean and maximum, then each position likewise.

    Source: Woo et al., CBAM, arXiv:1807.06521, equations 2 and 3 (7x7 spatial kernel).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = bottleneck_width(channels)
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False)
        self.excite = nn.Conv2d(hidden, channels, 1, bias=False)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.excite(functional.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        peak = self.excite(functional.relu(self.squeeze(x.amax((2, 3), keepdim=True))))
        x = x * torch.sigmoid(mean + peak)
        maps = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.spatial(maps))


class CoordinateAttention(nn.Module):
    """Weigh each row and each column, per channel, from the means along the other direction.

    Source: Hou et al., Coordinate Attention, arXiv:2103.02907, equations 4 to 8. Two
    differences: the hidden width is that of the other gates, and its activation is ReLU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = bottleneck_width(channels)
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.excite_rows = nn.Conv2d(hidden, channels, 1)
        self.excite_columns = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
        both = torch.cat([rows, columns.transpose(2, 3)], 2)
        both = functional.relu(self.norm(self.squeeze(both)))
        by_row = torch.sigmoid(self.excite_rows(both[:, :, :height]))
        by_column = torch.sigmoid(self.excite_columns(both[:, :, height:].transpose(2, 3)))
        return x * by_row * by_column


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


class CbamPlus(nn.Module):
    """Weigh each channel by its and its neighbours' means and maxima, then each position likewise.

    Two changes make CBAM (Woo et al., arXiv:1807.06521) lighter. Its channel gate, two layers of
    channels * hidden weights, becomes a 1-D convolution over neighbouring channels, which ECA-Net
    (Wang et al., arXiv:1910.03151) finds no worse than layers that narrow the channels.
    Its 7x7 spatial kernel becomes a 3x3 one that looks at every third pixel of the same window.
    Together 26 weights at any width; CBAM has 2,146 at 64 channels.

    Shape: (B, C, H, W) -> the same. A map cut to fewer channels uses the same weights.
    """

    def __init__(self, channels: int) -> None:  # noqa: ARG002
        super().__init__()
        self.mix = nn.Conv1d(2, 1, 3, padding=1)
        self.spatial = nn.Conv2d(2, 1, 3, padding=3, dilation=3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.stack([x.mean((2, 3)), x.amax((2, 3))], 1)
        x = x * torch.sigmoid(self.mix(pooled)).transpose(1, 2).unsqueeze(3)
        maps = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.spatial(maps))


ATTENTION: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda _channels: nn.Identity(),
    "se": SqueezeExcitation,
    "eca": EfficientChannelAttention,
    "cbam": ConvolutionalBlockAttention,
    "cbam_plus": CbamPlus,
    "coordinate": CoordinateAttention,
    "dynamic": DynamicChannelAttention,
}
"""Every attention variant by the name its gene uses; called with the number of channels."""
