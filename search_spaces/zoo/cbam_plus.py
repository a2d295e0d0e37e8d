"""CBAM++: what CBAM does, with weights that do not grow with the channels."""

import torch
from torch import Tensor, nn


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
