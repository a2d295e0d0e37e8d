"""What a predicted box costs that should be another: the IoU family, and offsets from an anchor.

All are 0 for equal boxes with an area and take any leading shape, (..., 4) -> (...).
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from data.boxes import aligned_iou, box_areas, box_xyxy_to_cxcywh, enclosing_boxes

BoxKind = Literal["eiou", "diou", "giou", "iou", "smooth_l1"]

LEAST_AREA = 1e-6
"""Square pixels: boxes that touch in a point have no box around them to divide by."""


def iou_loss(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """1 - IoU. Range 0 to 1; boxes that do not overlap do not pull."""
    return 1 - aligned_iou(boxes_a, boxes_b)


def giou_loss(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """1 - IoU, plus the share of the smallest box around both that neither fills.

    Rezatofighi et al., arXiv:1902.09630, algorithm 1. Range 0 to 2.
    """
    iou = aligned_iou(boxes_a, boxes_b)
    union = (box_areas(boxes_a) + box_areas(boxes_b)) / (1 + iou)
    around = box_areas(enclosing_boxes(boxes_a, boxes_b)).clamp(min=LEAST_AREA)
    return 1 - iou + (1 - union / around).clamp(min=0)


def diou_loss(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """1 - IoU, plus the centres' squared distance over the squared diagonal of the box around both.

    Zheng et al., arXiv:1911.08287, equation 7. Range 0 to 2.
    """
    a, b, around = _centres_sizes_and_surroundings(boxes_a, boxes_b)
    distance = (a - b)[..., :2].square().sum(-1) / around.sum(-1)
    return 1 - aligned_iou(boxes_a, boxes_b) + distance


def eiou_loss(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """1 - IoU, plus what still pulls when boxes do not overlap.

    To 1 - IoU are added the squared differences of the centres over the squared diagonal of the
    smallest box around both (DIoU), and of the widths and heights over that box's own (EIoU:
    Zhang et al., arXiv:2101.08158, equation 6). Range 0 to 4.
    """
    a, b, around = _centres_sizes_and_surroundings(boxes_a, boxes_b)
    apart = (a - b).square()
    distance = apart[..., :2].sum(-1) / around.sum(-1)
    return 1 - aligned_iou(boxes_a, boxes_b) + distance + (apart[..., 2:] / around).sum(-1)


def offset_loss(offsets_a: Tensor, offsets_b: Tensor) -> Tensor:
    """Smooth L1 of four offsets from an anchor: SSD, arXiv:1512.02325, equation 2."""
    return smooth_l1_loss(offsets_a, offsets_b, reduction="none").sum(-1)


IOU_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "eiou": eiou_loss,
    "diou": diou_loss,
    "giou": giou_loss,
    "iou": iou_loss,
}
"""The losses that compare boxes in pixels, by the name of their kind."""


def _centres_sizes_and_surroundings(
    boxes_a: Tensor, boxes_b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Both as centre and size (..., 4), and the squared sides of the box around both (..., 2)."""
    a, b = box_xyxy_to_cxcywh(boxes_a), box_xyxy_to_cxcywh(boxes_b)
    around = box_xyxy_to_cxcywh(enclosing_boxes(boxes_a, boxes_b))[..., 2:]
    return a, b, around.square().clamp(min=LEAST_AREA)
