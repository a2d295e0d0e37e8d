"""What training minimises: is there a face, how well does the box fit, and where is it.

Shape letters: B images, N grid points of all levels, F faces (padded), P positive points.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from data.boxes import (
    aligned_iou,
    box_xyxy_to_cxcywh,
    enclosing_boxes,
    pairwise_coverage,
    points_in_boxes,
)
from objectives.assignment import AssignmentSettings, assign_faces
from search_spaces.heads import decode_boxes, level_points


@dataclass(frozen=True, slots=True)
class LossSettings:
    """How the parts are weighed.

    class_weight, quality_weight, box_weight: factors in the total.
    focus: exponent of |target - probability| in the class loss; 0 is plain cross-entropy.
    least_target: class target of a positive point whose box does not fit yet; 1 makes the class
    loss plain focal loss and leaves the fit to the quality branch. Soft targets starve the first
    steps, when no box fits: after 1,000 steps of batch 8 on real crops AP was 0.002 with 0.3
    and 0.028 with 1.
    ignored_coverage: a point whose box is covered by an ignored region beyond this share is not
    judged.
    """

    class_weight: float = 1.0
    quality_weight: float = 0.5
    box_weight: float = 5.0
    focus: float = 2.0
    least_target: float = 1.0
    ignored_coverage: float = 0.5
    assignment: AssignmentSettings = field(default_factory=AssignmentSettings)

    def __post_init__(self) -> None:
        for name in ("class_weight", "quality_weight", "box_weight", "focus"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("least_target", "ignored_coverage"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Losses:
    """Scalar tensors. The three parts are unweighted; `total` is their weighted sum."""

    total: Tensor
    classification: Tensor
    quality: Tensor
    box: Tensor
    positives: Tensor


def detection_loss(
    levels: Sequence[Tensor],
    boxes_xyxy: Tensor,
    wanted: Tensor,
    ignore: Tensor,
    *,
    settings: LossSettings | None = None,
) -> Losses:
    """The loss of one batch; `total` is the one to differentiate.

    levels: as `Detector.forward` gives them, of any float type. boxes_xyxy: (B, F, 4) pixels.
    wanted, ignore: (B, F) bool; padding is neither.

    Classification is the quality focal loss (Li et al., arXiv:2006.04388, equation 3) over all
    points, with the IoU of the predicted box as the target of positive ones. Quality is the
    cross-entropy to that IoU, box the EIoU loss, both over positive points. All three are sums
    over the batch divided by p, its number of positives but at least 1: so the loss of a batch
    times its p equals the sum, over its images, of the image's loss alone times its own p.

    A point that is not positive and lies in an ignored region, or whose box does, costs nothing.
    """
    settings = LossSettings() if settings is None else settings
    predicted, class_logits, quality_logits = decode_boxes(levels)
    owner = assign_faces(
        levels, predicted, class_logits, boxes_xyxy, wanted, settings=settings.assignment
    )
    positive = owner >= 0
    faces = boxes_xyxy.gather(1, owner.clamp(min=0)[..., None].expand(-1, -1, 4))[positive]
    iou = aligned_iou(predicted[positive].detach(), faces)

    target = torch.zeros_like(class_logits)
    target[positive] = iou.clamp(min=settings.least_target)
    points, _ = level_points(levels)
    unjudged = _in_ignored(
        predicted.detach(), points, boxes_xyxy, ignore, coverage=settings.ignored_coverage
    )
    judged = positive | ~unjudged
    count = positive.sum().clamp(min=1)
    classification = (
        quality_focal(class_logits, target, focus=settings.focus).where(judged, 0).sum() / count
    )
    quality = (
        binary_cross_entropy_with_logits(quality_logits[positive], iou, reduction="sum") / count
    )
    box = eiou_loss(predicted[positive], faces).sum() / count
    total = (
        settings.class_weight * classification
        + settings.quality_weight * quality
        + settings.box_weight * box
    )
    return Losses(total, classification, quality, box, positive.sum())


def quality_focal(logits: Tensor, target: Tensor, *, focus: float) -> Tensor:
    """Cross-entropy to soft targets, times |target - probability| to the power `focus`."""
    distance = (target - logits.sigmoid()).abs()
    entropy = binary_cross_entropy_with_logits(logits, target, reduction="none")
    return distance.pow(focus) * entropy


def eiou_loss(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """1 - IoU, plus what still pulls when boxes do not overlap. (..., 4), (..., 4) -> (...).

    To 1 - IoU are added the squared differences of the centres over the squared diagonal of the
    smallest box around both (DIoU), and of the widths and heights over that box's own (EIoU:
    Zhang et al., arXiv:2101.08158, equation 6). Range 0 to 4; 0 for equal boxes.
    """
    a, b = box_xyxy_to_cxcywh(boxes_a), box_xyxy_to_cxcywh(boxes_b)
    around = box_xyxy_to_cxcywh(enclosing_boxes(boxes_a, boxes_b))[..., 2:].square().clamp(min=1e-6)
    apart = (a - b).square()
    distance = apart[..., :2].sum(-1) / around.sum(-1)
    return 1 - aligned_iou(boxes_a, boxes_b) + distance + (apart[..., 2:] / around).sum(-1)


def _in_ignored(
    predicted_xyxy: Tensor,
    points_xy: Tensor,
    boxes_xyxy: Tensor,
    ignore: Tensor,
    *,
    coverage: float,
) -> Tensor:
    """Points that lie in an ignored region, or whose predicted box is covered by one. (B, N)."""
    most = int(ignore.sum(1).max())
    if most == 0:
        return torch.zeros_like(predicted_xyxy[..., 0], dtype=torch.bool)
    rows = ignore.int().topk(most, 1).indices  # leaves padding and wanted faces out
    regions = boxes_xyxy.gather(1, rows[..., None].expand(-1, -1, 4))
    inside = points_in_boxes(points_xy, regions)
    covered = pairwise_coverage(predicted_xyxy, regions) > coverage
    return ((inside | covered) & ignore.gather(1, rows)[:, None]).any(-1)
