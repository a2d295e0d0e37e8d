"""The anchor-free head and how its numbers become boxes and scores.

Every position of every level predicts CODE_CHANNELS numbers: the class logit (is this a face),
the quality logit (how well will the box fit), and a box code (dx, dy, log w, log h) in units of
the stride: centre = position + (dx, dy) * stride, size = exp(log w, log h) * stride, as in
YOLOX, arXiv:2107.08430. Five landmarks (ten more numbers, offsets from the position in units of
the stride) are optional and off: WIDER FACE's own annotation has none to learn from.

Shape letters: B images, N positions of all levels, level by level and row by row.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from data.boxes import box_cxcywh_to_xyxy
from search_spaces.architecture import STAGE_STRIDES, Head
from search_spaces.attention import ATTENTION
from search_spaces.blocks import DepthwiseSeparable, GroupedConvolution
from search_spaces.context import ContextModule

STRIDES = STAGE_STRIDES
CODE_CHANNELS = 6
LANDMARK_CHANNELS = 10
PRIOR_FACE_SHARE = 0.01
PRIOR_LOGIT = math.log(PRIOR_FACE_SHARE / (1 - PRIOR_FACE_SHARE))
"""The first bias of what says how likely a face is: most positions show none."""

TYPICAL_FACE_STRIDES = 2.5
"""Side of the faces that a level is best at, in its strides, and of the boxes that an untrained
head predicts: a short fit gets further from there than from boxes of one stride."""

LARGEST_LOG_SIZE = 6.0


HEAD_LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "depthwise": partial(DepthwiseSeparable, kernel_size=3),
    "grouped": GroupedConvolution,
    "context": partial(ContextModule, interleaved=True),
}
"""Every layer of a tower by the name its gene uses: (c_in, c_out)."""


def _build_tower(c_in: int, head: Head, outputs: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(head.depth):
        layers[f"{i}_{head.layer}"] = HEAD_LAYERS[head.layer](
            c_in if i == 0 else head.width, head.width
        )
    width = head.width if head.depth else c_in
    if head.attention != "none":
        layers[f"attention_{head.attention}"] = ATTENTION[head.attention](width)
    predict = nn.Conv2d(width, outputs, 1)
    assert predict.bias is not None
    with torch.no_grad():
        predict.weight.normal_(std=0.01)
        predict.bias.zero_()
        predict.bias[0] = PRIOR_LOGIT
        predict.bias[4:6] = math.log(TYPICAL_FACE_STRIDES)
    layers["predict"] = predict
    return nn.Sequential(layers)


class AnchorFreeHead(nn.Module):
    """One tower for all levels, or one for each.

    Shape: three (B, c_in, H / s, W / s) -> three (B, 6 or 16, H / s, W / s), s = 8, 16, 32.
    """

    def __init__(self, c_in: int, head: Head, *, landmarks: bool = False) -> None:
        super().__init__()
        outputs = CODE_CHANNELS + LANDMARK_CHANNELS * landmarks
        names = ["shared"] if head.sharing == "shared" else [f"level{s}" for s in STRIDES]
        self.towers = nn.ModuleDict({n: _build_tower(c_in, head, outputs) for n in names})

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, ...]:
        towers = list(self.towers.values())
        towers = towers * len(levels) if len(towers) == 1 else towers
        return tuple(tower(x) for tower, x in zip(towers, levels, strict=True))


def position_centres(level: Tensor, stride: int) -> Tensor:
    """Centres of a level's positions in pixels (H, W, 2) as x, y: the middles of its cells.

    level: (B, channels, H, W), read for its shape and device only.
    """
    rows, columns = level.shape[2:]
    x = (torch.arange(columns, device=level.device, dtype=torch.float32) + 0.5) * stride
    y = (torch.arange(rows, device=level.device, dtype=torch.float32) + 0.5) * stride
    return torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], 2)


def level_points(levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Centres of all positions in pixels (N, 2) as x, y; and their strides (N,)."""
    centres, strides = [], []
    for level, stride in zip(levels, STRIDES, strict=True):
        centres.append(position_centres(level, stride).flatten(0, 1))
        strides.append(torch.full_like(centres[-1][:, 0], float(stride)))
    return torch.cat(centres), torch.cat(strides)


def _codes(levels: Sequence[Tensor]) -> Tensor:
    """(B, N, channels), float32 whatever the network computed in."""
    return torch.cat([level.flatten(2) for level in levels], 2).transpose(1, 2).float()


def decode_boxes(levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """What the levels say: boxes_xyxy (B, N, 4) in pixels, class and quality logits (B, N)."""
    codes = _codes(levels)
    points, strides = level_points(levels)
    centres = points + codes[..., 2:4] * strides[:, None]
    sizes = codes[..., 4:6].clamp(max=LARGEST_LOG_SIZE).exp() * strides[:, None]
    boxes_xyxy = box_cxcywh_to_xyxy(torch.cat([centres, sizes], 2))
    return boxes_xyxy, codes[..., 0], codes[..., 1]


def decode_landmarks(levels: Sequence[Tensor]) -> Tensor:
    """Five points (B, N, 5, 2) as x, y in pixels.

    Raises:
        ValueError: the network was built without landmarks.
    """
    codes = _codes(levels)[..., CODE_CHANNELS:]
    if codes.shape[2] != LANDMARK_CHANNELS:
        raise ValueError(
            f"levels must have {CODE_CHANNELS + LANDMARK_CHANNELS} channels for landmarks, "
            f"got {CODE_CHANNELS + codes.shape[2]}"
        )
    points, strides = level_points(levels)
    landmarks: Tensor = (
        points[:, None] + codes.reshape(*codes.shape[:2], 5, 2) * strides[:, None, None]
    )
    return landmarks


def detection_scores(class_logits: Tensor, quality_logits: Tensor) -> Tensor:
    """Scores in 0..1: the geometric mean of face probability and expected box quality."""
    return (class_logits.sigmoid() * quality_logits.sigmoid()).sqrt()
