"""RetinaFace on MobileNetV1 x0.25, and the anchors and head that networks like it share."""

import torch
from torch import Tensor, nn

from search_spaces.codes import AnchorCode
from search_spaces.context import ContextModule
from search_spaces.face_network import FaceNetwork
from search_spaces.heads import LANDMARK_CHANNELS, PRIOR_LOGIT, STRIDES
from search_spaces.necks import enlarge
from search_spaces.zoo.mobilenet_v1 import WIDTHS, MobileNetV1, conv_norm_leaky

RETINAFACE_CODE = AnchorCode(
    STRIDES, sizes=((16.0, 32.0), (64.0, 128.0), (256.0, 512.0)), extras=LANDMARK_CHANNELS
)
"""Two square anchors a position; five landmarks of each come after its six numbers."""

WIDTH = 64


def _predict(width: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(width, outputs, 1)
    assert layer.bias is not None
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


class AnchorHead(nn.Module):
    """One 1x1 convolution each for the class, the box and the landmarks of a level's anchors.

    Shape: (B, width, H, W) -> (B, anchors * 16, H, W), in the order of `AnchorCode`.
    """

    def __init__(self, width: int, anchors: int) -> None:
        super().__init__()
        self.anchors = anchors
        self.classes = _predict(width, anchors * 2)
        self.box = _predict(width, anchors * 4)
        self.landmarks = _predict(width, anchors * LANDMARK_CHANNELS)
        assert self.classes.bias is not None
        with torch.no_grad():
            self.classes.bias[1::2] = PRIOR_LOGIT

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.classes, self.box, self.landmarks)
        by_anchor = zip(*(layer(x).chunk(self.anchors, 1) for layer in layers), strict=True)
        return torch.cat([numbers for anchor in by_anchor for numbers in anchor], 1)


def anchor_heads(width: int) -> nn.ModuleList:
    """A head for each level of RETINAFACE_CODE."""
    levels = range(len(RETINAFACE_CODE.strides))
    return nn.ModuleList(AnchorHead(width, RETINAFACE_CODE.anchors_of(level)) for level in levels)


def each(layers: nn.ModuleList, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Every map through its own layer."""
    return tuple(layer(x) for layer, x in zip(layers, maps, strict=True))


class FeaturePyramid(nn.Module):
    """Top-down: each level is smoothed by a 3x3 convolution after the coarser one is added.

    Shape: the backbone's maps -> maps of the same heights and widths with `width` channels.

    Source: Lin et al., FPN, arXiv:1612.03144, figure 3.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(conv_norm_leaky(c, width, 1) for c in WIDTHS)
        self.smooth8 = conv_norm_leaky(width, width, 3)
        self.smooth16 = conv_norm_leaky(width, width, 3)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x8, x16, x32 = each(self.laterals, maps)
        y16 = self.smooth16(x16 + enlarge(x32))
        return self.smooth8(x8 + enlarge(y16)), y16, x32


class RetinaFace(FaceNetwork):
    """Backbone, feature pyramid, a context module and a head for each level.

    Source: Deng et al., RetinaFace, arXiv:1905.00641, section 4.2; widths, anchors and heads as in
    biubug6/Pytorch_Retinaface.
    """

    def __init__(self) -> None:
        super().__init__("retinaface-mnet025", RETINAFACE_CODE)
        self.backbone = MobileNetV1()
        self.neck = FeaturePyramid(WIDTH)
        self.context = nn.ModuleList(ContextModule(WIDTH, WIDTH) for _ in STRIDES)
        self.heads = anchor_heads(WIDTH)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the context modules make of the pyramid."""
        return each(self.context, self.neck(self.backbone(images)))

    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Sixteen numbers for each of a position's two anchors."""
        return each(self.heads, features)


def retinaface_mnet025() -> RetinaFace:
    """RetinaFace on MobileNetV1 x0.25: 426,608 parameters, 981M MACs at 640x640."""
    return RetinaFace()
