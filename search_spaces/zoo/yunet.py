"""YuNet: separable convolutions without an expansion, a three-level pyramid, no anchors.

Source: Wu, Peng and Yu, YuNet: A Tiny Millisecond-level Face Detector, Machine Intelligence
Research 2023, doi 10.1007/s11633-023-1423-y; widths and the order of layers from the
configurations yunet_n and yunet_s of github.com/ShiqiYu/libfacedetection.train.

Where we differ: its positions are the corners of the cells, those of our code are the middles,
half a stride to the right and down; class biases start from a prior face share. The score is, as
there, made of class and objectness; objectness is our quality. The biases of convolutions before
a batch norm have no effect in training; they are kept, as its parameter count includes them.

Shape letters: B images; channels of a level: class, quality, dx, dy, log w, log h, 10 landmarks.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.codes import AnchorFreeCode
from search_spaces.face_network import FaceNetwork
from search_spaces.heads import LANDMARK_CHANNELS, PRIOR_LOGIT, STRIDES
from search_spaces.necks import enlarge

PYRAMID_WIDTH = 64
FIRST_BIAS = 0.02


def _separable(c_in: int, c_out: int) -> nn.Sequential:
    """Mix the channels with a 1x1, then filter each with a 3x3; both linear, with biases."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 1), nn.Conv2d(c_out, c_out, 3, padding=1, groups=c_out)
    )


def _unit(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(*_separable(c_in, c_out), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


class YuNetBackbone(nn.Module):
    """A stem and five stages of two units; max pooling halves the map after all but 1 and 5.

    Shape: (B, 3, H, W) -> the last three stages' maps, (B, widths[i], H / s, W / s), s = 8, 16, 32.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        first = widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, stride=2, padding=1),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            _unit(first, first),
        )
        stage4_a, stage4_b, *stages = (
            nn.Sequential(_unit(c_in, c_in), _unit(c_in, c_out)) for c_in, c_out in pairwise(widths)
        )
        self.stage4 = nn.Sequential(stage4_a, stage4_b)
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stage4(functional.max_pool2d(self.stem(images), 2))
        maps = []
        for stage in self.stages:
            x = stage(functional.max_pool2d(x, 2))
            maps.append(x)
        return maps


class TinyPyramid(nn.Module):
    """Top-down: a unit at each level, after the coarser level is added.

    Shape: three (B, C, H / s, W / s) -> the same shapes.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.unit8, self.unit16, self.unit32 = (_unit(width, width) for _ in STRIDES)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, ...]:
        x8, x16, x32 = maps
        y32 = self.unit32(x32)
        y16 = self.unit16(x16 + enlarge(y32))
        return self.unit8(x8 + enlarge(y16)), y16, y32


class LevelHead(nn.Module):
    """Units that all branches share, then one separable convolution for each branch.

    Shape: (B, width, h, w) -> (B, 16, h, w).
    """

    def __init__(self, width: int, *, shared_units: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(*(_unit(width, width) for _ in range(shared_units)))
        self.face = _separable(width, 1)
        self.quality = _separable(width, 1)
        self.box = _separable(width, 4)
        self.landmarks = _separable(width, LANDMARK_CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(x)
        return torch.cat([self.face(x), self.quality(x), self.box(x), self.landmarks(x)], 1)


class YuNet(FaceNetwork):
    """widths: of the stem and the five stages. shared_units: before the branches of each level.

    The input is taken as it is, BGR from 0 to 255. The features are the pyramid's maps.
    """

    def __init__(self, key: str, widths: tuple[int, ...], *, shared_units: int) -> None:
        super().__init__(key, AnchorFreeCode())
        self.backbone = YuNetBackbone(widths)
        self.pyramid = TinyPyramid(PYRAMID_WIDTH)
        self.heads = nn.ModuleList(
            LevelHead(PYRAMID_WIDTH, shared_units=shared_units) for _ in STRIDES
        )
        self._initialise()

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        maps: tuple[Tensor, ...] = self.pyramid(self.backbone(images))
        return maps

    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(head(x) for head, x in zip(self.heads, features, strict=True))

    def _initialise(self) -> None:
        faces = [head.face[-1] for head in self.heads if isinstance(head, LevelHead)]
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.xavier_normal_(module.weight)
                nn.init.constant_(module.bias, PRIOR_LOGIT if module in faces else FIRST_BIAS)


def yunet_n() -> YuNet:
    """The normal size: 75,856 parameters."""
    return YuNet("yunet-n", (16, 64, 64, 64, 64, 64), shared_units=1)


def yunet_s() -> YuNet:
    """The small size: 54,608 parameters. Narrower at stride 4, and no shared units."""
    return YuNet("yunet-s", (16, 32, 64, 64, 64, 64), shared_units=0)
