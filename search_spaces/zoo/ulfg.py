"""ULFG RFB: a narrow MobileNet with one receptive field block, and an SSD head on four levels.

Source: github.com/Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB, the network "RFB" (there
is no paper). The block: Liu, Huang and Wang, Receptive Field Block Net, arXiv:1711.07767,
figure 4; the head: Liu et al., SSD, arXiv:1512.02325.

Where we differ: its anchors spread over the whole image where a side is no multiple of 64, and
are clipped to it; ours stand on the stride's grid. Biases of the face logits start from a prior
face share.

Shape letters: B images, A anchors of a position.
"""

import torch
from torch import Tensor, nn

from search_spaces.blocks import conv_norm, conv_norm_act
from search_spaces.codes import AnchorCode
from search_spaces.face_network import FaceNetwork
from search_spaces.heads import PRIOR_LOGIT

STRIDES = (8, 16, 32, 64)
ANCHOR_SIDES = ((10.0, 16.0, 24.0), (32.0, 48.0), (64.0, 96.0), (128.0, 192.0, 256.0))
WIDTHS = (64, 128, 256, 256)
"""Channels of the maps that the head reads."""


def _dilated(channels: int, dilation: int) -> nn.Sequential:
    """A 3x3 whose taps are `dilation` pixels apart, batch norm, no activation."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(channels),
    )


class ReceptiveFieldBlock(nn.Module):
    """Three branches that look further and further, mixed and added to a linear shortcut.

    Shape: (B, channels, h, w) -> the same.

    Source: arXiv:1711.07767, figure 4; branches of channels / 8, dilations 2, 3 and 5, the two
    last 3x3 kernels of the third in place of a 5x5.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow, wide = channels // 8, channels // 4
        between = narrow * 3 // 2
        self.near = nn.Sequential(
            conv_norm(channels, narrow), conv_norm_act(narrow, wide, 3), _dilated(wide, 2)
        )
        self.middle = nn.Sequential(
            conv_norm(channels, narrow), conv_norm_act(narrow, wide, 3), _dilated(wide, 3)
        )
        self.far = nn.Sequential(
            conv_norm(channels, narrow),
            conv_norm_act(narrow, between, 3),
            conv_norm_act(between, wide, 3),
            _dilated(wide, 5),
        )
        self.mix = conv_norm(3 * wide, channels)
        self.shortcut = conv_norm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.cat([self.near(x), self.middle(x), self.far(x)], 1)
        y: Tensor = torch.relu(self.mix(seen) + self.shortcut(x))
        return y


def _separable(c_in: int, c_out: int, *, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3, ReLU, 1x1: with biases, without batch norm."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_in, 3, stride, padding=1, groups=c_in),
        nn.ReLU(),
        nn.Conv2d(c_in, c_out, 1),
    )


def _mobile(c_in: int, c_out: int, *, stride: int = 1) -> nn.Sequential:
    """The pair of MobileNets: depthwise 3x3 and 1x1, a batch norm and a ReLU behind each.

    Source: Howard et al., arXiv:1704.04861, figure 3.
    """
    return nn.Sequential(
        conv_norm_act(c_in, c_in, 3, stride=stride, groups=c_in), conv_norm_act(c_in, c_out, 1)
    )


def _stage(c_in: int, c_out: int, *, depth: int) -> nn.Sequential:
    """Separable convolutions, the first of stride 2."""
    return nn.Sequential(
        _mobile(c_in, c_out, stride=2), *(_mobile(c_out, c_out) for _ in range(depth - 1))
    )


def _backbone() -> nn.ModuleList:
    """Four parts, each from the map of one stride to that of the next, the first from the image."""
    part8 = nn.Sequential(
        conv_norm_act(3, 16, 3, stride=2),
        _mobile(16, 32),
        _stage(32, 32, depth=2),
        _stage(32, 64, depth=3),
        ReceptiveFieldBlock(64),
    )
    part64 = nn.Sequential(
        nn.Conv2d(256, 64, 1), nn.ReLU(), _separable(64, 256, stride=2), nn.ReLU()
    )
    return nn.ModuleList([part8, _stage(64, 128, depth=3), _stage(128, 256, depth=2), part64])


class LevelHead(nn.Module):
    """Class logits and box offsets of a level, each from a convolution of its own.

    Shape: (B, c_in, h, w) -> (B, A * 6, h, w), as `AnchorCode` has it.
    """

    def __init__(self, c_in: int, anchors: int, *, separable: bool) -> None:
        super().__init__()
        self.classes, self.boxes = (
            _separable(c_in, outputs)
            if separable
            else nn.Sequential(nn.Conv2d(c_in, outputs, 3, padding=1))
            for outputs in (2 * anchors, 4 * anchors)
        )

    def forward(self, x: Tensor) -> Tensor:
        anchors = zip(self.classes(x).split(2, 1), self.boxes(x).split(4, 1), strict=True)
        return torch.cat([numbers for anchor in anchors for numbers in anchor], 1)

    def start_from_prior(self) -> None:
        """Set the biases so that every anchor is a face with the prior probability."""
        bias = self.classes[-1].bias
        assert isinstance(bias, Tensor)
        nn.init.zeros_(bias)
        nn.init.constant_(bias[1::2], PRIOR_LOGIT)


class UltraLightRFB(FaceNetwork):
    """The network RFB, for any image size.

    Inside, the input is RGB, (pixel - 127) / 128. The features are what the head reads.
    """

    def __init__(self) -> None:
        super().__init__("ulfg-rfb", AnchorCode(STRIDES, ANCHOR_SIDES))
        self.backbone = _backbone()
        self.heads = nn.ModuleList(
            LevelHead(width, len(sides), separable=stride < STRIDES[-1])
            for stride, width, sides in zip(STRIDES, WIDTHS, ANCHOR_SIDES, strict=True)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, LevelHead):
                module.start_from_prior()

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        x = (images.flip(1) - 127) / 128
        maps = []
        for part in self.backbone:
            x = part(x)
            maps.append(x)
        return tuple(maps)

    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(head(x) for head, x in zip(self.heads, features, strict=True))


def ulfg_rfb() -> UltraLightRFB:
    """276,292 parameters; the 640-pixel version is this network too, trained at that size."""
    return UltraLightRFB()
