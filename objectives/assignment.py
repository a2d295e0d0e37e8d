"""Which grid points answer for which faces: dynamic assignment over the whole batch at once.

Shape letters: B images, N grid points of all levels, F faces (padded), C candidate points of a
face, Q points a face wishes for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from data.boxes import aligned_iou, box_areas, box_xyxy_to_cxcywh, points_in_boxes
from search_spaces.heads import STRIDES, level_points

LEAST_IOU = 1e-3
"""Boxes that overlap less are all equally bad: keeps -log(IoU) finite."""


@dataclass(frozen=True, slots=True)
class AssignmentSettings:
    """How faces choose their points. Costs are in nats; lower is chosen first.

    reach_cells: candidates lie at most this many cells from the one that holds the face's centre.
    centre_radius_strides: candidates outside the face must be this near its centre.
    most_positives: the most points of one face.
    iou_weight: of -log(IoU) of the box predicted now. centre_weight: of the squared distance from
    the centre in strides. size_weight: of the squared octaves between the face's size (root of
    its area) and face_strides strides; it sends faces to levels before boxes mean anything.
    """

    reach_cells: int = 2
    centre_radius_strides: float = 1.0
    most_positives: int = 10
    iou_weight: float = 3.0
    centre_weight: float = 0.25
    size_weight: float = 0.5
    face_strides: float = 2.5

    def __post_init__(self) -> None:
        if self.reach_cells < 0:
            raise ValueError(f"reach_cells must be at least 0, got {self.reach_cells}")
        if self.most_positives < 1:
            raise ValueError(f"most_positives must be at least 1, got {self.most_positives}")
        if self.face_strides <= 0:
            raise ValueError(f"face_strides must be positive, got {self.face_strides}")


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

    As in SimOTA (Ge et al., YOLOX, arXiv:2107.08430, section 2.1) a face takes its k cheapest
    candidates, k being the sum of their best IoUs. Three differences: candidates are a small
    window of cells around the face's centre on every level, found by arithmetic, so that the work
    does not grow with N; every face first gets one point of its own, as long as one of its
    candidates is free; and the cost knows the face's size, because the boxes of an untrained
    network say little about which level suits it.
    """
    index, usable, prior_cost = _candidates(levels, faces_xyxy, settings)
    usable = usable & wanted[..., None]
    flat = index.flatten(1)
    boxes = predicted_xyxy.gather(1, flat[..., None].expand(-1, -1, 4)).view(*index.shape, 4)
    iou = aligned_iou(boxes, faces_xyxy[..., None, :]).masked_fill(~usable, 0)
    class_cost = softplus(-class_logits.gather(1, flat)).view_as(index)
    cost = prior_cost + class_cost - settings.iou_weight * iou.clamp(min=LEAST_IOU).log()
    cost = cost.masked_fill(~usable, torch.inf)

    owner = _one_point_each(index, cost, points=class_logits.shape[1])
    most = min(settings.most_positives, index.shape[-1])
    positives = iou.topk(most).values.sum(-1, keepdim=True).round().clamp(min=1)
    cheapest, which = cost.topk(most, largest=False)
    cheapest = cheapest.masked_fill(torch.arange(most, device=cost.device) >= positives, torch.inf)
    wished = index.gather(-1, which)
    return _award(owner, wished, cheapest)


def _candidates(
    levels: Sequence[Tensor], faces_xyxy: Tensor, settings: AssignmentSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Points each face may take: index into N, whether usable, cost by place. All (B, F, C)."""
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
    return index, in_grid & (is_home | near | inside), cost


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


def _one_point_each(index: Tensor, cost: Tensor, *, points: int) -> Tensor:
    """Owners (B, N) after every face took one point; cheaper claims go first.

    Faces that lose a point try again with what is left, and each round settles at least one face
    for every point fought over, so this ends; one to three rounds are usual.
    """
    owner = torch.full((len(index), points), -1, device=index.device)
    while True:
        settled = torch.zeros(index.shape[0], index.shape[1] + 1, device=index.device).bool()
        settled = settled.scatter(1, owner + 1, value=True)[:, 1:, None]
        cheapest, which = cost.masked_fill(settled, torch.inf).min(-1, keepdim=True)
        owner_after = _award(owner, index.gather(-1, which), cheapest)
        if torch.equal(owner, owner_after):
            return owner
        owner = owner_after
        taken = owner.gather(1, index.flatten(1)).view_as(index) >= 0
        cost = cost.masked_fill(taken, torch.inf)


def _award(owner: Tensor, wished: Tensor, costs: Tensor) -> Tensor:
    """Owners (B, N) after each free point went to the face that wishes it at the lowest cost.

    wished: (B, F, Q) points. costs: (B, F, Q), infinite where nothing is wished.
    """
    faces = torch.arange(wished.shape[1], device=owner.device).view(-1, 1).expand_as(wished)
    points, costs = wished.flatten(1), costs.flatten(1)
    lowest = torch.full_like(owner, torch.inf, dtype=costs.dtype)
    lowest = lowest.scatter_reduce(1, points, costs, "amin")
    wins = (costs == lowest.gather(1, points)) & costs.isfinite() & (owner.gather(1, points) < 0)
    winners = faces.flatten(1).masked_fill(~wins, -1)
    return owner.scatter_reduce(1, points, winners, "amax")
