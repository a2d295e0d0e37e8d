"""EResFD: a ResNet of 16 channels, a pyramid fused in two separate parts, anchors on six levels.

Source: Jeong, Kim, Yu and Yoo, EResFD: Rediscovery of the Effectiveness of Standard Convolution
for Lightweight Face Detection, WACV 2024, arXiv:2204.01209; widths, the order of layers and the
anchors from github.com/clovaai/EResFD, width multiplier 1/16 ("1x"). Max-out background labels:
Zhang et al., S3FD, arXiv:1708.05237, section 3.3.

Where we differ: biases of the face logits start from a prior face share. The activations before
its prediction layers are left out, as their inputs are never negative.

Shape letters: B images, C channels. A map of stride s is (B, C, ceil(H / s), ceil(W / s)).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.blocks import conv_norm_act
from search_spaces.codes import AnchorCode
from search_spaces.face_network import FaceNetwork
from search_spaces.heads import PRIOR_LOGIT
from search_spaces.necks import WeightedSum

STRIDES = (4, 8, 16, 32, 64, 128)
ANCHOR_RATIO = 1.25
ANCHOR_WIDTHS = (16, 32, 64, 128, 256, 512)
"""One anchor a position, 1.25 times as high as wide."""

WIDTH = 16
STAGE_BLOCKS = (3, 3, 3, 2, 2)
BACKGROUNDS = 3
"""Background logits of the first level, of which the largest counts."""

BGR_MEANS = (104.0, 117.0, 123.0)


def _conv_norm(c_in: int, c_out: int, kernel_size: int, *, stride: int = 1) -> nn.Sequential:
    """A linear convolution: no bias, batch norm, no activation."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel_size, stride, kernel_size // 2, bias=False),
        nn.BatchNorm2d(c_out),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, a strided 1x1 where the stride is 2; no ReLU after.

    Shape: (B, C, h, w) -> (B, C, ceil(h / stride), ceil(w / stride)).
    """

    def __init__(self, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.filter = nn.Sequential(
            conv_norm_act(width, width, 3, stride=stride), _conv_norm(width, width, 3)
        )
        self.shortcut = nn.Identity() if stride == 1 else _conv_norm(width, width, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.filter(x) + self.shortcut(x)
        return y


def _stage(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(width, stride=2), *(ResidualBlock(width) for _ in range(blocks - 1))
    )


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    """To the height and width of `like`, up to twice those of x, by repeating pixels."""
    return functional.interpolate(x, size=like.shape[2:], mode="nearest")


class SeparatedPyramid(nn.Module):
    """Top-down in two parts: strides 128 and 64; then 32 to 4, which start from the unfused 64.

    Every level adds the coarser one to a lateral; those between the outermost then filter the sum
    and add their own input to it. All sums have learned shares. So the maps for small faces are
    not blurred by those for large ones.

    Shape: six maps of C channels -> the same shapes.

    Source: arXiv:2204.01209, SepFPN.
    """

    separation = 3
    """The level, of stride 32, that begins the second part."""

    def __init__(self, width: int) -> None:
        super().__init__()
        levels = len(STRIDES)
        self.laterals = nn.ModuleList(conv_norm_act(width, width, 1) for _ in range(levels - 1))
        self.sums_down = nn.ModuleList(WeightedSum(2) for _ in range(levels - 1))
        self.filters = nn.ModuleList(conv_norm_act(width, width, 3) for _ in range(levels - 2))
        self.sums_own = nn.ModuleList(WeightedSum(2) for _ in range(levels - 2))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fused = [maps[-1]]
        for i in reversed(range(len(self.laterals))):
            coarser = maps[i + 1] if i == self.separation else fused[0]
            lateral = self.laterals[i](maps[i])
            fused.insert(0, self.sums_down[i](lateral, _enlarge(coarser, lateral)))
        for i, (filter_, sum_) in enumerate(zip(self.filters, self.sums_own, strict=True), start=1):
            fused[i] = sum_(filter_(fused[i]), maps[i])
        return fused


class CascadedContext(nn.Module):
    """Context of three sizes side by side: after one, three and five 3x3 convolutions.

    Shape: (B, C, h, w) -> (B, C, h, w): C / 2, C / 4 and C / 4 channels, none negative.

    Source: arXiv:2204.01209, cascade context prediction module.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        self.near = conv_norm_act(width, half, 3)
        self.middle = nn.Sequential(
            conv_norm_act(half, quarter, 3), conv_norm_act(quarter, quarter, 3)
        )
        self.far = nn.Sequential(
            conv_norm_act(quarter, quarter, 3), conv_norm_act(quarter, quarter, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        near = self.near(x)
        middle = self.middle(near)
        return torch.cat([near, middle, self.far(middle)], 1)


class LevelHead(nn.Module):
    """One anchor a position; of several background logits the largest is the anchor's.

    Starts with small weights, and with every anchor a face with the prior probability.

    Shape: (B, C, h, w) -> (B, 6, h, w), as `AnchorCode` has it.
    """

    def __init__(self, width: int, *, backgrounds: int) -> None:
        super().__init__()
        self.backgrounds = backgrounds
        self.classes = nn.Conv2d(width, backgrounds + 1, 1)
        self.box = nn.Conv2d(width, 4, 1)
        for conv, bias in (
            (self.classes, [0.0] * backgrounds + [PRIOR_LOGIT]),
            (self.box, [0.0] * 4),
        ):
            assert conv.bias is not None
            nn.init.normal_(conv.weight, std=0.01)
            with torch.no_grad():
                conv.bias.copy_(torch.tensor(bias))

    def forward(self, x: Tensor) -> Tensor:
        classes = self.classes(x)
        if self.backgrounds > 1:
            background, face = classes.split([self.backgrounds, 1], 1)
            classes = torch.cat([background.amax(1, keepdim=True), face], 1)
        return torch.cat([classes, self.box(x)], 1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.constant_(module.weight, 0.5)


class EResFD(FaceNetwork):
    """The network "1x".

    Inside, the input is RGB less the channels' means, not scaled. The features are what the
    head's 1x1 convolutions read, after the context modules.
    """

    means: Tensor

    def __init__(self) -> None:
        sides = tuple((width * math.sqrt(ANCHOR_RATIO),) for width in ANCHOR_WIDTHS)
        super().__init__("eresfd", AnchorCode(STRIDES, sides, ratios=(ANCHOR_RATIO,)))
        means = torch.tensor(BGR_MEANS).view(1, 3, 1, 1)
        self.register_buffer("means", means, persistent=False)
        self.stem = nn.Sequential(
            _conv_norm(3, WIDTH // 2, 5, stride=4),
            conv_norm_act(WIDTH // 2, WIDTH // 2, 3),
            conv_norm_act(WIDTH // 2, WIDTH, 3),
            ResidualBlock(WIDTH),
        )
        self.stages = nn.ModuleList(_stage(WIDTH, blocks) for blocks in STAGE_BLOCKS)
        self.pyramid = SeparatedPyramid(WIDTH)
        self.contexts = nn.ModuleList(CascadedContext(WIDTH) for _ in STRIDES)
        self.apply(_initialise)
        self.heads = nn.ModuleList(
            LevelHead(WIDTH, backgrounds=BACKGROUNDS if stride == STRIDES[0] else 1)
            for stride in STRIDES
        )

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.stem((images - self.means).flip(1))
        maps = [x]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        fused = self.pyramid(maps)
        return tuple(context(x) for context, x in zip(self.contexts, fused, strict=True))

    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(head(x) for head, x in zip(self.heads, features, strict=True))


def eresfd() -> EResFD:
    """92,208 parameters."""
    return EResFD()
