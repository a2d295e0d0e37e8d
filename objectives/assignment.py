"""Which grid points answer for which faces: dynamic assignment over the whole batch at once.

Shape letters: B images, N grid points of all levels, F faces (padded), C candidate points of a
face, Q points a face wishes for, W wishes of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import softplus

from data.boxes import aligned_iou, box_areas, box_xyxy_to_cxcywh, points_in_boxes
from search_spaces.heads import STRIDES, TYPICAL_FACE_STRIDES, level_points

AssignmentKind = Literal["simota", "task_aligned"]

LEAST_IOU = 1e-3
"""Boxes that overlap less are all equally bad: keeps -log(IoU) finite."""


@dataclass(frozen=True, slots=True)
class AssignmentSettings:
    """How faces choose their points. Costs are in nats; lower is chosen first.

    assignment_kind: simota, or task_aligned, see `assign_faces`.
    reach_cells: candidates lie at most this many cells from the one that holds the face's centre.
    centre_radius_strides: candidates outside the face must be this near its centre.
    most_positives: the most points of one face.
    iou_weight: of -log(IoU) of the box predicted now, in simota. score_exponent, overlap_exponent:
    of the class probability and of that IoU in the alignment of task_aligned.
    centre_weight: of the squared distance from the centre in strides. size_weight: of the squared
    octaves between the face's size (root of its area) and face_strides strides; it sends faces to
    levels before boxes mean anything.
    """

    assignment_kind: AssignmentKind = "simota"
    reach_cells: int = 2
    centre_radius_strides: float = 1.0
    most_positives: int = 10
    iou_weight: float = 3.0
    score_exponent: float = 1.0
    overlap_exponent: float = 6.0
    centre_weight: float = 0.25
    size_weight: float = 0.5
    face_strides: float = TYPICAL_FACE_STRIDES

    def __post_init__(self) -> None:
        if self.assignment_kind not in get_args(AssignmentKind):
            raise ValueError(
                f"assignment_kind must be one of {', '.join(get_args(AssignmentKind))}, "
                f"got {self.assignment_kind}"
            )
        if self.reach_cells < 0:
            raise ValueError(f"reach_cells must be at least 0, got {self.reach_cells}")
        if self.most_positives < 1:
            raise ValueError(f"most_positives must be at least 1, got {self.most_positives}")
        if self.face_strides <= 0:
            raise ValueError(f"face_strides must be positive, got {self.face_strides}")
        for name in ("score_exponent", "overlap_exponent"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


@torch.no_grad()
def assign_faces(
    levels: Sequence[Tensor],
    predicted_xyxy: Tensor,
    class_logits: Tensor,
    faces_xyxy: Tensor,
    wanted: Tensor,
    *,
    settings: AssignmentSettings,
) -> Tensor:
    """The face each point answers for, or -1. Shape (B, N), int64.

    levels: (B, channels, H / stride, W / stride), read for their shapes only. predicted_xyxy:
    (B, N, 4) and class_logits: (B, N), in the order of `level_points`. faces_xyxy: (B, F, 4).
    wanted: (B, F) bool.

    simota (Ge et al., YOLOX, arXiv:2107.08430, section 2.1): a face takes its k cheapest
    candidates, k being the sum of their best IoUs. task_aligned (Feng et al., TOOD,
    arXiv:2108.07755, section 3.2): a face takes the `most_positives` points inside it (13 in the
    paper) whose alignment, probability^score_exponent * IoU^overlap_exponent, is greatest.

    Three differences from both: candidates are a small window of cells around the face's centre on
    every level, found by arithmetic, so that the work does not grow with N; every face first gets
    one point of its own, as long as one of its candidates is free; and the cost knows the face's
    size, because the boxes of an untrained network say little about which level suits it.
    """
    candidates = _candidates(levels, faces_xyxy, settings)
    index, usable = candidates.index, candidates.usable & wanted[..., None]
    flat = index.flatten(1)
    boxes = predicted_xyxy.gather(1, flat[..., None].expand(-1, -1, 4)).view(*index.shape, 4)
    iou = aligned_iou(boxes, faces_xyxy[..., None, :]).masked_fill(~usable, 0)
    class_cost = softplus(-class_logits.gather(1, flat)).view_as(index)
    score_weight, iou_weight = (
        (1.0, settings.iou_weight)
        if settings.assignment_kind == "simota"
        else (settings.score_exponent, settings.overlap_exponent)
    )
    cost = candidates.cost + score_weight * class_cost
    cost = cost - iou_weight * iou.clamp(min=LEAST_IOU).log()
    cost = cost.masked_fill(~usable, torch.inf)

    owner = one_point_each(index, cost, points=class_logits.shape[1])
    most = min(settings.most_positives, index.shape[-1])
    if settings.assignment_kind == "simota":
        positives = iou.topk(most).values.sum(-1, keepdim=True).round().clamp(min=1)
    else:
        positives = torch.full_like(iou[..., :1], most)
        cost = cost.masked_fill(~candidates.inside, torch.inf)
    cheapest, which = cost.topk(most, largest=False)
    cheapest = cheapest.masked_fill(torch.arange(most, device=cost.device) >= positives, torch.inf)
    return _award_wishes(owner, index.gather(-1, which), cheapest)


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Points each face may take, all (B, F, C): index into N; whether the face may take it, and
    whether it lies in the face; what it costs by its place."""

    index: Tensor
    usable: Tensor
    inside: Tensor
    cost: Tensor


def _candidates(
    levels: Sequence[Tensor], faces_xyxy: Tensor, settings: AssignmentSettings
) -> _Candidates:
    centres_xy = box_xyxy_to_cxcywh(faces_xyxy)[..., :2]
    index, in_grid = _windows(levels, centres_xy, reach=settings.reach_cells)
    points, strides = level_points(levels)
    points, strides = points[index], strides[index]
    distance = (points - centres_xy[..., None, :]).square().sum(-1) / strides.square()

    window = (2 * settings.reach_cells + 1) ** 2
    is_home = torch.arange(index.shape[-1], device=index.device) % window == window // 2
    near = distance <= settings.centre_radius_strides**2
    inside = points_in_boxes(points, faces_xyxy[..., None, :]).squeeze(-1)

    sizes = box_areas(faces_xyxy).clamp(min=1).sqrt()[..., None]
    octaves = (sizes / (settings.face_strides * strides)).log2()
    cost = settings.centre_weight * distance + settings.size_weight * octaves.square()
    return _Candidates(index, in_grid & (is_home | near | inside), in_grid & inside, cost)


def _windows(levels: Sequence[Tensor], centres_xy: Tensor, *, reach: int) -> tuple[Tensor, Tensor]:
    """The square of cells around each centre on each level: index into N, and whether it exists.

    (B, F, 2) -> two of (B, F, C), level by level; the middle cell of a square holds the centre.
    """
    device = centres_xy.device
    sizes = torch.tensor([level.shape[:1:-1] for level in levels], device=device)  # columns, rows
    first = sizes.prod(1).cumsum(0) - sizes.prod(1)
    strides = torch.tensor(STRIDES, device=device)
    home = (centres_xy[..., None, :] / strides[:, None]).floor().long()
    home = home.clamp(min=torch.zeros_like(sizes), max=sizes - 1)
    step = torch.arange(-reach, reach + 1, device=device)
    cells = home[..., None, :] + torch.cartesian_prod(step, step)
    in_grid = ((cells >= 0) & (cells < sizes[:, None])).all(-1)
    index = first[:, None] + cells[..., 1] * sizes[:, None, 0] + cells[..., 0]
    return index.masked_fill(~in_grid, 0).flatten(2), in_grid.flatten(2)


def one_point_each(index: Tensor, cost: Tensor, *, points: int) -> Tensor:
    """Owners (B, points) after every face took one point; cheaper claims go first.

    index: (B, F, C) candidate points of each face. cost: (B, F, C), infinite where it may not.

    Faces that lose a point try again with what is left, and each round settles at least one face
    for every point fought over, so this ends; one to three rounds are usual.
    """
    owner = torch.full((len(index), points), -1, device=index.device)
    while True:
        settled = torch.zeros(index.shape[0], index.shape[1] + 1, device=index.device).bool()
        settled = settled.scatter(1, owner + 1, value=True)[:, 1:, None]
        cheapest, which = cost.masked_fill(settled, torch.inf).min(-1, keepdim=True)
        owner_after = _award_wishes(owner, index.gather(-1, which), cheapest)
        if torch.equal(owner, owner_after):
            return owner
        owner = owner_after
        taken = owner.gather(1, index.flatten(1)).view_as(index) >= 0
        cost = cost.masked_fill(taken, torch.inf)


def _award_wishes(owner: Tensor, wished: Tensor, costs: Tensor) -> Tensor:
    """`award` where every face has as many wishes: points and costs are (B, F, Q)."""
    faces = torch.arange(wished.shape[1], device=owner.device).view(-1, 1).expand_as(wished)
    return award(owner, faces.flatten(1), wished.flatten(1), costs=costs.flatten(1))


def award(owner: Tensor, faces: Tensor, points: Tensor, *, costs: Tensor) -> Tensor:
    """Owners (B, N) after each free point went to the face that wishes it at the lowest cost.

    faces, points, costs: (B, W), one wish each; the cost is infinite where nothing is wished.
    """
    lowest = torch.full_like(owner, torch.inf, dtype=costs.dtype)
    lowest = lowest.scatter_reduce(1, points, costs, "amin")
    wins = (costs == lowest.gather(1, points)) & costs.isfinite() & (owner.gather(1, points) < 0)
    return owner.scatter_reduce(1, points, faces.masked_fill(~wins, -1), "amax")


def positions_inside(level: Tensor, stride: int, boxes_xyxy: Tensor, images: Tensor) -> Tensor:
    """Whether the middle of a level's position lies strictly in a box of its image. (B, H, W).

    level: (B, channels, H, W), read for its shape only. boxes_xyxy: (M, 4). images: (M,), the
    image of each. Each box adds one over a rectangle of positions, whose corners alone are written
    down, so that the work and memory are those of B * H * W + M numbers.
    """
    batch, _, rows, columns = level.shape
    most = torch.tensor([columns, rows], device=level.device)
    first = (boxes_xyxy[:, :2] / stride - 0.5).floor().long() + 1
    first = first.clamp(min=torch.zeros_like(most), max=most)
    end = (boxes_xyxy[:, 2:] / stride - 0.5).ceil().long()
    end = end.clamp(min=first).clamp(max=most)
    counts = torch.zeros(batch, rows + 1, columns + 1, dtype=torch.int32, device=level.device)
    for x, y, change in ((first, first, 1), (end, first, -1), (first, end, -1), (end, end, 1)):
        value = counts.new_tensor(change).expand(len(images))
        counts.index_put_((images, y[:, 1], x[:, 0]), value, accumulate=True)
    return (counts.cumsum(1).cumsum(2) > 0)[:, :-1, :-1]
