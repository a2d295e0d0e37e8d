"""How a network's numbers become boxes and scores: one code for each kind of head.

A network gives one tensor a level. Shape letters: B images, A anchors of a position, K numbers of
an anchor, H and W positions of a level, N predictions of all levels, level by level.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from data.boxes import box_cxcywh_to_xyxy
from search_spaces.heads import STRIDES, decode_boxes, detection_scores, position_centres

CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
"""What a head's offsets are multiplied by, so that those to learn are not far from 1: the usual
ones of SSD, which its paper does not name."""

LARGEST_LOG_GROWTH = 4.0
"""An anchor's side grows at most exp(4) = 55 times; beyond it exp would overflow in training."""


@runtime_checkable
class BoxCode(Protocol):
    """What a head's numbers mean; frozen, so that equal codes are equal values."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between two positions of each level."""

    def anchors_of(self, level: int) -> int:
        """A, the predictions of a position of a level, whether or not they start from anchors."""

    def decode(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes (B, N, 4), corners in pixels, and scores (B, N) in 0..1, float32."""


@dataclass(frozen=True, slots=True)
class AnchorFreeCode:
    """One prediction a position: class, quality, box, as `search_spaces.heads` says.

    Levels: (B, 6 or 16, H, W) at the strides 8, 16, 32; N positions, row by row.
    """

    @property
    def strides(self) -> tuple[int, ...]:
        return STRIDES

    def anchors_of(self, level: int) -> int:  # noqa: ARG002
        return 1

    def decode(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        boxes_xyxy, class_logits, quality_logits = decode_boxes(levels)
        return boxes_xyxy, detection_scores(class_logits, quality_logits)


@dataclass(frozen=True, slots=True)
class AnchorCode:
    """Several anchors a position, each with logits of background and face and four box offsets.

    strides: of the levels. sizes: for each level the sides of its anchors in pixels, the square
    root of their areas. ratios: heights over widths; every size comes in every ratio, ratios
    varying fastest. extras: further numbers of an anchor, after the six, that are not decoded.

    Levels: (B, A * K, H, W), anchor by anchor: background logit, face logit, dx, dy, dw, dh,
    extras. N: in a level anchor by anchor, then row by row. As in SSD (Liu et al.,
    arXiv:1512.02325, section 2.2): centre = anchor's centre + CENTRE_VARIANCE * (dx, dy) *
    anchor's size; size = anchor's size * exp(SIZE_VARIANCE * (dw, dh)).

    Raises:
        ValueError: strides and sizes differ in number, or a number is out of range.
    """

    strides: tuple[int, ...]
    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...] = (1.0,)
    extras: int = 0

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.sizes) or not self.strides:
            raise ValueError(
                f"sizes must be one tuple a stride, got {len(self.sizes)} for {self.strides}"
            )
        numbers = (*self.strides, *self.ratios, *(side for level in self.sizes for side in level))
        if min(numbers) <= 0 or not all(self.sizes) or not self.ratios or self.extras < 0:
            raise ValueError(f"strides, sizes and ratios must be positive, got {self}")

    @property
    def numbers(self) -> int:
        """K, the numbers of an anchor."""
        return 6 + self.extras

    def anchors_of(self, level: int) -> int:
        """A, sizes times ratios."""
        return len(self.sizes[level]) * len(self.ratios)

    def split(self, levels: Sequence[Tensor]) -> Tensor:
        """All levels in one tensor (B, N, K), float32."""
        parts = []
        for index, level in enumerate(levels):
            batch, _, rows, columns = level.shape
            anchors = level.reshape(batch, self.anchors_of(index), self.numbers, rows * columns)
            parts.append(anchors.transpose(2, 3).flatten(1, 2))
        return torch.cat(parts, 1).float()

    def anchors_cxcywh(self, levels: Sequence[Tensor]) -> Tensor:
        """The anchors (N, 4), centre and size in pixels; centres are those of the positions."""
        parts = []
        for stride, sides, level in zip(self.strides, self.sizes, levels, strict=True):
            x, y = position_centres(level, stride).flatten(0, 1).unbind(1)
            for side in sides:
                for ratio in self.ratios:
                    width, height = side / math.sqrt(ratio), side * math.sqrt(ratio)
                    size = torch.full_like(x, width), torch.full_like(x, height)
                    parts.append(torch.stack([x, y, *size], 1))
        return torch.cat(parts)

    def offsets_to_boxes(self, offsets: Tensor, anchors_cxcywh: Tensor) -> Tensor:
        """Offsets (B, N, 4) and their anchors (N, 4) -> boxes_xyxy (B, N, 4)."""
        size = anchors_cxcywh[:, 2:]
        centres = anchors_cxcywh[:, :2] + CENTRE_VARIANCE * offsets[..., :2] * size
        growth = (SIZE_VARIANCE * offsets[..., 2:]).clamp(max=LARGEST_LOG_GROWTH)
        sizes = size * growth.exp()
        boxes_xyxy: Tensor = box_cxcywh_to_xyxy(torch.cat([centres, sizes], -1))
        return boxes_xyxy

    def decode(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        numbers = self.split(levels)
        boxes_xyxy = self.offsets_to_boxes(numbers[..., 2:6], self.anchors_cxcywh(levels))
        return boxes_xyxy, (numbers[..., 1] - numbers[..., 0]).sigmoid()  # softmax of two


@dataclass(frozen=True, slots=True)
class GridCode:
    """A few boxes for each cell of one coarse grid, as YOLO's first version has them.

    stride: side of a cell in pixels. boxes: predictions of a cell. unit: pixels in which widths
    and heights are counted.

    One level (B, boxes * 5, H, W), box by box: x, y, w, h, c. Centre = (cell + (x, y)) * stride;
    size = (w, h) squared * unit; score = c, cut to 0..1. N: box by box, then row by row.
    Redmon et al., You Only Look Once, arXiv:1506.02640, section 2, with all numbers linear as in
    section 2.2: under a squared error, a sigmoid near 0 has no slope to learn confidence by. There
    (w, h) are roots of shares of the one image size the network takes; here images are of any
    size, so the unit is fixed. With faces as the only class, no class probability is predicted
    beside the confidence.

    Raises:
        ValueError: a number is not positive.
    """

    stride: int
    boxes: int = 2
    unit: float = 640.0

    def __post_init__(self) -> None:
        if min(self.stride, self.boxes, self.unit) <= 0:
            raise ValueError(f"stride, boxes and unit must be positive, got {self}")

    @property
    def strides(self) -> tuple[int, ...]:
        return (self.stride,)

    def anchors_of(self, level: int) -> int:  # noqa: ARG002
        return self.boxes

    def split(self, levels: Sequence[Tensor]) -> Tensor:
        """The level's numbers (B, boxes, H, W, 5), float32."""
        (level,) = levels
        batch, _, rows, columns = level.shape
        return level.reshape(batch, self.boxes, 5, rows, columns).permute(0, 1, 3, 4, 2).float()

    def boxes_cxcywh(self, numbers: Tensor) -> Tensor:
        """Numbers (B, boxes, H, W, 5) -> centre and size in pixels (B, boxes, H, W, 4)."""
        middles = position_centres(numbers[..., 0], self.stride)
        centres = middles + (numbers[..., :2] - 0.5) * self.stride
        return torch.cat([centres, numbers[..., 2:4].square() * self.unit], -1)

    def decode(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        numbers = self.split(levels)
        boxes_xyxy: Tensor = box_cxcywh_to_xyxy(self.boxes_cxcywh(numbers))
        return boxes_xyxy.flatten(1, 3), numbers[..., 4].clamp(0, 1).flatten(1)
