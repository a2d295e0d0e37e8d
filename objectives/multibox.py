"""The loss of heads with anchors: which anchor answers for which face, and hard negatives.

As in SSD (Liu et al., arXiv:1512.02325, section 2.2). Its two ways to lose a face are closed: no
face takes another's best anchor, and none goes without an anchor for being small.

Shape letters: B images, N anchors of all levels, F faces (padded), M boxes of the whole batch
(not padded), L planes, a plane being the anchors of one shape on one level, S slots of all planes'
windows along one axis, C anchors in all planes' windows, P pairs of a box and an anchor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from data.boxes import box_areas, box_xyxy_to_cxcywh
from objectives.assignment import award, one_point_each, positions_inside
from objectives.box_losses import IOU_LOSSES, offset_loss
from objectives.loss import PAIRS_AT_ONCE, Losses, LossSettings
from search_spaces.codes import CENTRE_VARIANCE, SIZE_VARIANCE, AnchorCode

LEAST_REACH = 2
"""Windows go at least this many cells each way, so that crowded faces find anchors of their own."""

CLAIMS = 64
"""Anchors a face may try for, best first, while others take them."""

DISTANCE_WEIGHT = 1e-3
"""What a claim loses for each squared side of the anchor between the centres. All anchors around a
small face overlap it alike, and of those the nearest should have it."""


def multibox_loss(
    code: AnchorCode,
    levels: Sequence[Tensor],
    boxes_xyxy: Tensor,
    wanted: Tensor,
    ignore: Tensor,
    *,
    settings: LossSettings | None = None,
) -> Losses:
    """The loss of one batch of a head with anchors.

    levels: as `AnchorCode` says, of any float type. boxes_xyxy: (B, F, 4) pixels. wanted, ignore:
    (B, F) bool; padding is neither.

    Classification is the cross-entropy of the anchors that answer for a face and, in each image,
    of the `negative_ratio` times as many others that are most mistaken for one (an image without
    faces counts as one with a single anchor). Box is the loss of `box_kind` over the former. There
    is no quality.

    Anchors that would answer for an ignored region if it were wanted, or whose centre lies in one,
    are no negatives. (One that is covered beyond a half always has its centre in the region.)
    """
    settings = LossSettings() if settings is None else settings
    match_iou = settings.match_iou
    owner = match_anchors(code, levels, boxes_xyxy, wanted, match_iou=match_iou)
    silenced = silenced_anchors(code, levels, boxes_xyxy, ignore, match_iou=match_iou)
    positive = owner >= 0
    numbers = code.split(levels)
    face_logits = numbers[..., 1] - numbers[..., 0]  # of the softmax of two
    mistaken = softplus(face_logits).masked_fill(positive | silenced, 0)

    images, anchors = positive.nonzero(as_tuple=True)
    count = positive.sum().clamp(min=1)
    missed = softplus(-face_logits[images, anchors]).sum()
    negatives = settings.negative_ratio * positive.sum(1).clamp(min=1)
    classification = (missed + _largest(mistaken, negatives).sum()) / count

    offsets = numbers[..., 2:6][images, anchors]
    anchors_cxcywh = code.anchors_cxcywh(levels)[anchors]
    faces = boxes_xyxy[images, owner[images, anchors]]
    if settings.box_kind == "smooth_l1":
        box_losses = offset_loss(offsets, boxes_to_offsets(faces, anchors_cxcywh))
    else:
        predicted = code.offsets_to_boxes(offsets, anchors_cxcywh)
        box_losses = IOU_LOSSES[settings.box_kind](predicted, faces)
    box = box_losses.sum() / count
    total = settings.class_weight * classification + settings.box_weight * box
    return Losses(total, classification, torch.zeros_like(box), box, positive.sum())


def boxes_to_offsets(boxes_xyxy: Tensor, anchors_cxcywh: Tensor) -> Tensor:
    """What `AnchorCode.offsets_to_boxes` takes to these boxes. (P, 4), (P, 4) -> (P, 4)."""
    boxes = box_xyxy_to_cxcywh(boxes_xyxy)
    centres = (boxes[:, :2] - anchors_cxcywh[:, :2]) / anchors_cxcywh[:, 2:] / CENTRE_VARIANCE
    sizes = (boxes[:, 2:].clamp(min=0.1) / anchors_cxcywh[:, 2:]).log() / SIZE_VARIANCE
    return torch.cat([centres, sizes], 1)


@torch.no_grad()
def match_anchors(
    code: AnchorCode,
    levels: Sequence[Tensor],
    boxes_xyxy: Tensor,
    wanted: Tensor,
    *,
    match_iou: float,
) -> Tensor:
    """The face each anchor answers for, or -1. Shape (B, N), int64.

    First every face takes one anchor, the one that overlaps it most and is still free, the better
    overlaps going first; then every other anchor that overlaps faces by `match_iou` or more goes
    to the one it overlaps most.
    """
    images, columns = wanted.nonzero(as_tuple=True)
    near = _anchors_near(code, levels, boxes_xyxy[wanted], match_iou=match_iou)
    anchors = sum(code.anchors_of(i) * x[0, 0].numel() for i, x in enumerate(levels))
    start = images * anchors  # the whole batch is matched as one image of B * N anchors
    owner = one_point_each(
        (near.nearest + start[:, None])[None], near.costs[None], points=len(wanted) * anchors
    )
    matched = near.matched_anchors + start[near.matched_boxes]
    owner = award(owner, near.matched_boxes[None], matched[None], costs=near.matched_costs[None])
    return pad(columns, (0, 1), value=-1)[owner].view(len(wanted), anchors)


@torch.no_grad()
def silenced_anchors(
    code: AnchorCode,
    levels: Sequence[Tensor],
    boxes_xyxy: Tensor,
    ignore: Tensor,
    *,
    match_iou: float,
) -> Tensor:
    """Anchors that match an ignored region, are its best, or have their centre in it. (B, N)."""
    images, regions = ignore.nonzero()[:, 0], boxes_xyxy[ignore]
    parts = []
    for index, (level, stride) in enumerate(zip(levels, code.strides, strict=True)):
        inside = positions_inside(level, stride, regions, images)
        parts.append(inside.flatten(1).repeat(1, code.anchors_of(index)))
    silenced = torch.cat(parts, 1)
    near = _anchors_near(code, levels, regions, match_iou=match_iou)
    silenced[images, near.nearest[:, 0]] = True
    silenced[images[near.matched_boxes], near.matched_anchors] = True
    return silenced


def _largest(values: Tensor, counts: Tensor) -> Tensor:
    """The largest values of each row, as many as `counts` says, zeros after. (B, N) -> (B, most)"""
    most = min(int(counts.max()), values.shape[1])
    ranks = torch.arange(most, device=values.device)
    return values.topk(most, 1).values.where(ranks < counts[:, None], 0)


@dataclass(frozen=True, slots=True)
class _Near:
    """The anchors near each box.

    nearest: (M, at most CLAIMS), indices into N, cheapest first. costs: (M, at most CLAIMS).
    matched_boxes, matched_anchors, matched_costs: (P,), all pairs that overlap enough.
    """

    nearest: Tensor
    costs: Tensor
    matched_boxes: Tensor
    matched_anchors: Tensor
    matched_costs: Tensor


def _anchors_near(
    code: AnchorCode, levels: Sequence[Tensor], boxes_xyxy: Tensor, *, match_iou: float
) -> _Near:
    """The anchors near each box of (M, 4): all that can overlap it by `match_iou`, and more.

    A box is compared with a window of anchors on every plane, found by arithmetic; a plane's best
    overlap is always in its window.
    """
    windows = _windows(code, levels, match_iou=match_iou)
    at_once = max(1, PAIRS_AT_ONCE // len(windows.plane))
    parts = []
    for start in range(0, max(1, len(boxes_xyxy)), at_once):
        anchors, iou, costs = _compare(boxes_xyxy[start : start + at_once], windows)
        cheapest, which = costs.topk(min(CLAIMS, costs.shape[1]), largest=False)
        box, slot = (iou >= match_iou).nonzero(as_tuple=True)
        matched = (box + start, anchors[box, slot], costs[box, slot])
        parts.append((anchors.gather(1, which), cheapest, *matched))
    return _Near(*(torch.cat(part) for part in zip(*parts, strict=True)))


@dataclass(frozen=True, slots=True)
class _Axis:
    """The windows of all planes along x or y.

    stride, side, cells, reach, length, first: (L,), of the positions in pixels, of the anchors in
    pixels, of the level, of the windows each way, of the windows in all, of the windows' slots.
    plane, step: (S,), of a slot: its plane and its place in that plane's window.
    """

    stride: Tensor
    side: Tensor
    cells: Tensor
    reach: Tensor
    length: Tensor
    first: Tensor
    plane: Tensor
    step: Tensor


@dataclass(frozen=True, slots=True)
class _Windows:
    """Which anchors a box is compared with: each pair of a slot in x and a slot in y of a plane.

    start: (L,), the plane's first anchor. plane, slot_x, slot_y: (C,), of an anchor in a window.
    """

    x: _Axis
    y: _Axis
    start: Tensor
    plane: Tensor
    slot_x: Tensor
    slot_y: Tensor


def _windows(code: AnchorCode, levels: Sequence[Tensor], *, match_iou: float) -> _Windows:
    grids = [
        (stride, level.shape[3], level.shape[2])
        for index, (stride, level) in enumerate(zip(code.strides, levels, strict=True))
        for _ in range(code.anchors_of(index))
    ]
    stride, columns, rows = torch.tensor(grids, device=levels[0].device).unbind(1)
    start = (rows * columns).cumsum(0) - rows * columns
    width, height = code.anchors_cxcywh(levels)[start, 2:].unbind(1)
    x = _axis(stride, width, columns, match_iou=match_iou)
    y = _axis(stride, height, rows, match_iou=match_iou)
    plane, place = _spread(x.length * y.length)
    across = x.length[plane]
    return _Windows(
        x, y, start, plane, x.first[plane] + place % across, y.first[plane] + place // across
    )


def _axis(stride: Tensor, side: Tensor, cells: Tensor, *, match_iou: float) -> _Axis:
    """Windows that hold every anchor whose overlap with a box can be `match_iou` or more.

    The overlap of two boxes is at most that of their shadows on the axis. Shadows overlap by t
    while the centres are apart by no more than (1 - t) / 2t sides of one of them.
    """
    apart = side * (1 - match_iou) / (2 * match_iou)
    reach = (apart / stride + 0.5).clamp(max=1e6).floor().long().clamp(min=LEAST_REACH)
    length = (2 * reach + 1).minimum(cells)
    plane, step = _spread(length)
    return _Axis(stride, side, cells, reach, length, length.cumsum(0) - length, plane, step)


def _spread(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """For lengths (2, 3): which of them (0, 0, 1, 1, 1), and the place in it (0, 1, 0, 1, 2)."""
    which = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    first = lengths.cumsum(0) - lengths
    return which, torch.arange(len(which), device=lengths.device) - first[which]


def _compare(boxes_xyxy: Tensor, windows: _Windows) -> tuple[Tensor, Tensor, Tensor]:
    """The anchors near each box: index into N, IoU, and the cost of claiming it. All (M, C)."""
    x, y, plane = windows.x, windows.y, windows.plane
    column, shared_x, apart_x = _compare_along(x, boxes_xyxy[:, 0::2])
    row, shared_y, apart_y = _compare_along(y, boxes_xyxy[:, 1::2])
    before = windows.start[y.plane] + row * x.cells[y.plane]  # the row's first anchor
    anchors = before[:, windows.slot_y] + column[:, windows.slot_x]
    shared = shared_x[:, windows.slot_x] * shared_y[:, windows.slot_y]
    areas = box_areas(boxes_xyxy)[:, None] + (x.side * y.side)[plane]
    iou = shared / (areas - shared)
    apart = apart_x[:, windows.slot_x] + apart_y[:, windows.slot_y]
    return anchors, iou, DISTANCE_WEIGHT * apart - iou


def _compare_along(axis: _Axis, ends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes' ends (M, 2) along an axis with their windows' anchors, all (M, S): the cell, the
    pixels shared, and the square of the sides of the anchor between the centres."""
    low, high = ends[:, :1], ends[:, 1:]
    middle = (low + high) / 2
    start = (middle / axis.stride).floor().long() - axis.reach
    start = start.clamp(min=torch.zeros_like(axis.cells), max=axis.cells - axis.length)
    cell = start[:, axis.plane] + axis.step
    centre, side = (cell + 0.5) * axis.stride[axis.plane], axis.side[axis.plane]
    shared = (high.minimum(centre + side / 2) - low.maximum(centre - side / 2)).clamp(min=0)
    return cell, shared, ((centre - middle) / side).square()
