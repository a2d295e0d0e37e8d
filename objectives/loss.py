"""What training minimises: is there a face, how well does the box fit, and where is it.

Here are the settings and the parts that all heads share, and the loss of anchor-free heads; for
the others see `multibox`, `grid_loss` and, to choose among them, `network_loss`.

Shape letters: B images, N grid points of all levels, F faces (padded), P positive points, R
ignored regions of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from data.boxes import aligned_iou, pairwise_coverage, points_in_boxes
from objectives.assignment import AssignmentSettings, assign_faces
from objectives.box_losses import IOU_LOSSES, BoxKind
from search_spaces.heads import decode_boxes, level_points

ClassKind = Literal["focal", "bce"]

PAIRS_AT_ONCE = 2**20
"""Pairs of a point and a box that are compared in one go: bounds the memory of crowded images, and
on the CPU larger parts are slower (640 px, batch 8: 0.08 s with 2**22, 0.06 s with 2**20)."""


@dataclass(frozen=True, slots=True)
class LossSettings:
    """How the parts are weighed. What a head does not have, it does not read.

    class_weight, quality_weight, box_weight: factors in the total.
    box_kind: what the boxes of points and anchors cost, see `box_losses`. smooth_l1 compares
    offsets from anchors and is refused by heads that have none.

    Anchor-free heads and grids:
    least_target: class target of a positive point whose box does not fit yet, of a grid its
    confidence's; 1 makes the class loss plain focal loss and leaves the fit to the quality branch.
    Soft targets starve the first steps, when no box fits: after 1,000 steps of batch 8 on real
    crops AP was 0.002 with 0.3 and 0.028 with 1.

    Anchor-free heads:
    class_kind: focal, or bce, which is cross-entropy without focus.
    focus: exponent of |target - probability| in the focal class loss.
    ignored_coverage: a point whose box is covered by an ignored region beyond this share is not
    judged.
    assignment: which points answer for which faces.

    Heads with anchors:
    match_iou: anchors that overlap a face at least this much answer for it (0.35: RetinaFace,
    arXiv:1905.00641, section 4.2).
    negative_ratio: anchors without a face that are judged for each that has one, hardest first.

    Grids, with the weights of YOLO, arXiv:1506.02640, equation 3, instead of the three above:
    coordinate_weight: of the box. no_object_weight: of the confidence where there is no face.
    """

    class_weight: float = 1.0
    quality_weight: float = 0.5
    box_weight: float = 5.0
    box_kind: BoxKind = "eiou"
    class_kind: ClassKind = "focal"
    focus: float = 2.0
    least_target: float = 1.0
    ignored_coverage: float = 0.5
    assignment: AssignmentSettings = field(default_factory=AssignmentSettings)
    match_iou: float = 0.35
    negative_ratio: int = 7
    coordinate_weight: float = 5.0
    no_object_weight: float = 0.5

    def __post_init__(self) -> None:
        weights = ("class_weight", "quality_weight", "box_weight", "focus")
        for name in (*weights, "coordinate_weight", "no_object_weight", "negative_ratio"):
            least = 1 if name == "negative_ratio" else 0
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("least_target", "ignored_coverage"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        for name, kinds in (("box_kind", get_args(BoxKind)), ("class_kind", get_args(ClassKind))):
            if getattr(self, name) not in kinds:
                raise ValueError(
                    f"{name} must be one of {', '.join(kinds)}, got {getattr(self, name)}"
                )
        if not 0 < self.match_iou <= 1:
            raise ValueError(f"match_iou must be in 0..1, 0 excluded, got {self.match_iou}")


SHORT_FIT = LossSettings(assignment=AssignmentSettings(most_positives=20))
"""For fits of a few hundred steps: the more points a face may have, the faster AP rises. After 250
steps of batch 8 from scratch AP was 1.7 times that of the usual 10 points, and with batches of 4,
at equal cost, 2.2 times (docs/results/fit_speed.json)."""


@dataclass(frozen=True, slots=True)
class Losses:
    """Scalar tensors. The three parts are unweighted; `total` is their weighted sum.

    All four are sums over the batch divided by p, its number of positives but at least 1: so the
    loss of a batch times its p equals the sum, over its images, of the image's loss alone times
    its own p, and one learning rate suits every head.
    """

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
    """The loss of one batch of an anchor-free head; `total` is the one to differentiate.

    levels: as `Detector.forward` gives them, of any float type. boxes_xyxy: (B, F, 4) pixels.
    wanted, ignore: (B, F) bool; padding is neither.

    Classification is the quality focal loss (Li et al., arXiv:2006.04388, equation 3) over all
    points, with the IoU of the predicted box as the target of positive ones. Quality is the
    cross-entropy to that IoU, box the loss of `box_kind`, both over positive points.

    A point that is not positive and lies in an ignored region, or whose box does, costs nothing.

    Raises:
        ValueError: `box_kind` needs anchors.
    """
    settings = LossSettings() if settings is None else settings
    if settings.box_kind not in IOU_LOSSES:
        raise ValueError(
            f"box_kind must be one of {', '.join(IOU_LOSSES)} without anchors, "
            f"got {settings.box_kind}"
        )
    predicted, class_logits, quality_logits = decode_boxes(levels)
    owner = assign_faces(
        levels, predicted, class_logits, boxes_xyxy, wanted, settings=settings.assignment
    )
    positive = owner >= 0
    faces = boxes_xyxy[positive.nonzero()[:, 0], owner[positive]]
    iou = aligned_iou(predicted[positive].detach(), faces)

    target = torch.zeros_like(class_logits)
    target[positive] = iou.clamp(min=settings.least_target)
    points, _ = level_points(levels)
    unjudged = _in_ignored(
        predicted.detach(), points, boxes_xyxy, ignore, coverage=settings.ignored_coverage
    )
    judged = positive | ~unjudged
    count = positive.sum().clamp(min=1)
    focus = settings.focus if settings.class_kind == "focal" else 0.0
    class_losses = quality_focal(class_logits, target, focus=focus)
    classification = class_losses.where(judged, 0).sum() / count
    quality = (
        binary_cross_entropy_with_logits(quality_logits[positive], iou, reduction="sum") / count
    )
    box = IOU_LOSSES[settings.box_kind](predicted[positive], faces).sum() / count
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


def _in_ignored(
    predicted_xyxy: Tensor,
    points_xy: Tensor,
    boxes_xyxy: Tensor,
    ignore: Tensor,
    *,
    coverage: float,
) -> Tensor:
    """Points that lie in an ignored region, or whose predicted box is covered by one. (B, N)."""
    hits = torch.zeros_like(predicted_xyxy[..., 0], dtype=torch.int32)
    at_once = max(1, PAIRS_AT_ONCE // len(points_xy))
    images, regions = ignore.nonzero()[:, 0], boxes_xyxy[ignore]  # without padding
    for start in range(0, len(images), at_once):
        image, region = images[start : start + at_once], regions[start : start + at_once]
        inside = points_in_boxes(points_xy, region).T
        covered = pairwise_coverage(predicted_xyxy[image], region[:, None]).squeeze(-1) > coverage
        hits.index_add_(0, image, (inside | covered).int())
    return hits > 0
