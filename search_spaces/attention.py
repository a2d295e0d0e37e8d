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


ATTENTION: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda _channels: nn.Identity(),
    "se": SqueezeExcitation,
    "eca": EfficientChannelAttention,
    "cbam": ConvolutionalBlockAttention,
    "coordinate": CoordinateAttention,
}
"""Every attention variant by the name its gene uses; called with the number of channels."""
