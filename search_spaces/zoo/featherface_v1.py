"""FeatherFace as its authors published it: RetinaFace's plan with heavier parts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.context import ContextModule
from search_spaces.face_network import FaceNetwork
from search_spaces.heads import STRIDES
from search_spaces.necks import WeightedSum, enlarge
from search_spaces.zoo.deformable import DeformableConvolution
from search_spaces.zoo.mobilenet_v1 import WIDTHS, MobileNetV1
from search_spaces.zoo.retinaface import RETINAFACE_CODE, anchor_heads, each

WIDTH = 64
FUSION_LAYERS = 3
CHANNELS_PER_HIDDEN = 16


class ResidualBlockAttention(nn.Module):
    """CBAM with its input added again: by channels, then by positions.

    Only C / 16 numbers lie between the two layers of the channel gate. The first layer starts
    without negative weights and biases, so that its ReLU passes them and they learn.

    Shape: (B, C, H, W) -> the same.

    Source: Woo et al., CBAM, arXiv:1807.06521, equations 2 and 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // CHANNELS_PER_HIDDEN
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)
        with torch.no_grad():
            for parameter in self.squeeze.parameters():
                parameter.abs_()
        self.spatial = nn.Sequential(
            nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1, momentum=0.01)
        )

    def forward(self, x: Tensor) -> Tensor:
        mean, peak = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        logits = [self.excite(functional.relu(self.squeeze(pooled))) for pooled in (mean, peak)]
        y = x * torch.sigmoid(logits[0] + logits[1])
        maps = torch.cat([y.amax(1, keepdim=True), y.mean(1, keepdim=True)], 1)
        return functional.relu(x + y * torch.sigmoid(self.spatial(maps)))


def _slow_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with the constants of EfficientDet."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _laterals(c_in: Sequence[int], width: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Sequential(nn.Conv2d(c, width, 1), _slow_norm(width)) for c in c_in)


class Fusion(nn.Module):
    """Maps of one shape added by learned shares, then smoothed by a separable convolution.

    weights: how many learned weights the shares are taken of, at least as many as the maps.
    """

    def __init__(self, width: int, *, weights: int) -> None:
        super().__init__()
        self.sum = WeightedSum(weights)
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.Conv2d(width, width, 1),
            _slow_norm(width),
        )

    def forward(self, *maps: Tensor) -> Tensor:
        y: Tensor = self.smooth(functional.silu(self.sum(*maps)))
        return y


def halve(x: Tensor) -> Tensor:
    """Half the even height and width: the maximum of 3x3 pixels, at the lower right of fewer.

    The published code has zeros beyond the lower right border, which differ only where all of a
    border window is negative.
    """
    return functional.max_pool2d(x, 3, 2, ceil_mode=True)


class BidirectionalLayer(nn.Module):
    """BiFPN on three levels.

    c_in: channels of the maps, where they are the backbone's; 1x1 convolutions bring them to
    `width` first, and others do so for the skips of the two coarser levels.

    The coarsest level adds two maps by shares of three weights, as published.

    Source: Tan et al., EfficientDet, arXiv:1911.09070, figure 2d and section 3.3.
    """

    def __init__(self, width: int, c_in: Sequence[int] | None = None) -> None:
        super().__init__()
        as_they_are = [nn.Identity()] * 3
        self.laterals = _laterals(c_in, width) if c_in else nn.ModuleList(as_they_are)
        self.skips = _laterals(c_in[1:], width) if c_in else nn.ModuleList(as_they_are[1:])
        self.down16, self.down8 = Fusion(width, weights=2), Fusion(width, weights=2)
        self.up16, self.up32 = Fusion(width, weights=3), Fusion(width, weights=3)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x8, x16, x32 = each(self.laterals, maps)
        skip16, skip32 = each(self.skips, maps[1:])
        y16 = self.down16(x16, enlarge(x32))
        z8 = self.down8(x8, enlarge(y16))
        z16 = self.up16(skip16, y16, halve(z8))
        return z8, z16, self.up32(skip32, halve(z16))


class ShuffledBottleneck(nn.Module):
    """Channels shuffled in two groups, then a separable bottleneck of half the width.

    Source: Zhang et al., ShuffleNet, arXiv:1707.01083, figure 2b. The 1x1 convolution after the
    shuffle reads all channels, so the shuffle only orders its weights; it is kept as published.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.bottleneck = nn.Sequential(
            nn.Conv2d(width, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, _, rows, columns = x.shape
        shuffled = x.reshape(batch, -1, 2, rows, columns).transpose(1, 2).reshape(x.shape)
        y: Tensor = self.bottleneck(shuffled)
        return y


class FeatherFace(FaceNetwork):
    """MobileNetV1, CBAM, three BiFPN layers, CBAM, deformable context modules, anchor heads.

    592,371 parameters. Its paper states 0.49M, which is the 488,661 of thop's count: thop sees
    neither the 103,680 weights of the deformable convolutions nor the 30 of the weighted sums.

    Source: Kim et al., FeatherFace: Robust and Lightweight Face Detection via Optimal Feature
    Integration, Electronics 2025, 14(3), 517; details as in its code, kept in
    fokouarnaud/featherface-train and dohun-mat/FeatherFace_MM.
    """

    def __init__(self) -> None:
        super().__init__("featherface-v1", RETINAFACE_CODE)
        self.backbone = MobileNetV1()
        self.attend_maps = nn.ModuleList(ResidualBlockAttention(c) for c in WIDTHS)
        later = (BidirectionalLayer(WIDTH) for _ in range(FUSION_LAYERS - 1))
        self.neck = nn.Sequential(BidirectionalLayer(WIDTH, WIDTHS), *later)
        self.attend_levels = nn.ModuleList(ResidualBlockAttention(WIDTH) for _ in STRIDES)
        self.context = nn.ModuleList(
            nn.Sequential(
                ContextModule(WIDTH, WIDTH, convolution=DeformableConvolution),
                ShuffledBottleneck(WIDTH),
            )
            for _ in STRIDES
        )
        self.heads = anchor_heads(WIDTH)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the context modules make of the fused levels."""
        maps = each(self.attend_maps, self.backbone(images))
        return each(self.context, each(self.attend_levels, self.neck(maps)))

    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Sixteen numbers for each of a position's two anchors."""
        return each(self.heads, features)


def featherface_v1() -> FeatherFace:
    """FeatherFace as published: 592,371 parameters, 1,244M MACs at 640x640."""
    return FeatherFace()
