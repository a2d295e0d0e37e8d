"""YOLO's first version on tiny backbones: one grid of cells, two boxes a cell.

| name | parameters | MACs at 640x640 |
|---|---:|---:|
| yolo-resnet | 258,874 | 723M |
| yolo-resnet-small | 83,010 | 220M |
| yolo-poolresnet | 258,874 | 856M |
| yolo-poolresnet-small | 83,010 | 287M |
| yolo-mobilenetv3 | 255,808 | 266M |
| yolo-mobilenetv3-small | 77,934 | 107M |
"""

import torch
from torch import Tensor, nn

from search_spaces.codes import GridCode
from search_spaces.face_network import FaceNetwork
from search_spaces.heads import PRIOR_FACE_SHARE
from search_spaces.zoo.mobilenet_v3 import MobileNetV3Small
from search_spaces.zoo.resnet import ResNet

FIRST_ROOTS = (0.15, 0.4)
"""What an untrained network says of widths and heights: 14 px for a cell's first box, 102 px for
its second. Away from zero, where a square has no slope, and apart, so that the boxes of a cell
take different faces from the first step on."""

CODE = GridCode(stride=16, boxes=len(FIRST_ROOTS))
"""Of 19,852 faces of 8 px and more, in 2,278 WIDER train images of 640 px, 3.8 % come second or
later in their cell at this stride and 0.2 % third or later; at stride 32 it is 19 % and 6 %."""

MEDIUM_WIDTHS, SMALL_WIDTHS = (16, 32, 48, 64), (8, 16, 24, 40)
DEPTHS = (1, 2, 2, 2)
MEDIUM_MULTIPLIER, SMALL_MULTIPLIER = 0.5, 0.25


def _grid_prediction(c_in: int) -> nn.Conv2d:
    """(B, c_in, H, W) -> the level of CODE."""
    predict = nn.Conv2d(c_in, CODE.boxes * 5, 1)
    assert predict.bias is not None
    nn.init.normal_(predict.weight, std=0.01)
    first = [(0.5, 0.5, root, root, PRIOR_FACE_SHARE) for root in FIRST_ROOTS]
    with torch.no_grad():
        predict.bias.copy_(torch.tensor(first).flatten())
    return predict


class GridDetector(FaceNetwork):
    """A backbone to stride 16 and one 1x1 convolution.

    c_in: channels that the backbone gives.

    Source: Redmon et al., You Only Look Once, arXiv:1506.02640, section 2. Differences: the
    backbones; convolutions to the end, where the paper has two dense layers, so that images of
    any size will do and not only 448x448; a grid of 16 px and not of 64; see also `GridCode`.
    """

    def __init__(self, key: str, backbone: nn.Module, c_in: int) -> None:
        super().__init__(key, CODE)
        self.backbone = backbone
        self.head = _grid_prediction(c_in)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """The backbone's last map."""
        return (self.backbone((images - 127.5) / 64),)

    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Ten numbers a cell."""
        (x,) = features
        return (self.head(x),)


def _on_resnet(key: str, widths: tuple[int, ...], *, pooled: bool) -> GridDetector:
    return GridDetector(key, ResNet(widths, DEPTHS, pooled=pooled), widths[-1])


def _on_mobilenet(key: str, multiplier: float) -> GridDetector:
    backbone = MobileNetV3Small(multiplier)
    return GridDetector(key, backbone, backbone.c_out)


def yolo_resnet() -> GridDetector:
    """The grid on a residual network of strided convolutions, medium size."""
    return _on_resnet("yolo-resnet", MEDIUM_WIDTHS, pooled=False)


def yolo_resnet_small() -> GridDetector:
    """The grid on a residual network of strided convolutions, small size."""
    return _on_resnet("yolo-resnet-small", SMALL_WIDTHS, pooled=False)


def yolo_poolresnet() -> GridDetector:
    """`yolo_resnet` with pooling in place of every stride, at the same parameters."""
    return _on_resnet("yolo-poolresnet", MEDIUM_WIDTHS, pooled=True)


def yolo_poolresnet_small() -> GridDetector:
    """`yolo_resnet_small` with pooling in place of every stride, at the same parameters."""
    return _on_resnet("yolo-poolresnet-small", SMALL_WIDTHS, pooled=True)


def yolo_mobilenetv3() -> GridDetector:
    """The grid on MobileNetV3-small of half its widths."""
    return _on_mobilenet("yolo-mobilenetv3", MEDIUM_MULTIPLIER)


def yolo_mobilenetv3_small() -> GridDetector:
    """The grid on MobileNetV3-small of a quarter of its widths."""
    return _on_mobilenet("yolo-mobilenetv3-small", SMALL_MULTIPLIER)
