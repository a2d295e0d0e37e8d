"""The loss of grid heads, with the sums and weights of YOLO's first version.

Redmon et al., You Only Look Once, arXiv:1506.02640, section 2.2 and equation 3.

Shape letters: B images, F faces (padded), N cells, P cells with a face, A boxes of a cell.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from data.boxes import aligned_iou, box_areas, box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from objectives.assignment import award, positions_inside
from objectives.loss import Losses, LossSettings
from search_spaces.codes import GridCode

PAPER_CELLS = 49
"""Cells of the paper's grid, for which `no_object_weight` was chosen. Finer grids have more empty
cells a face, and these outvote it: with the plain sum over the 400 cells of 320 px images, AP of
yolo-resnet-small after 700 steps of batch 4 was 0.007 instead of 0.030."""


def grid_loss(
    code: GridCode,
    levels: Sequence[Tensor],
    boxes_xyxy: Tensor,
    wanted: Tensor,
    ignore: Tensor,
    *,
    settings: LossSettings | None = None,
) -> Losses:
    """The loss of one batch of a grid head.

    levels: as `GridCode` says, of any float type. boxes_xyxy: (B, F, 4) pixels. wanted, ignore:
    (B, F) bool; padding is neither.

    A face belongs to the cell that holds its centre, and there to the box that overlaps it most
    (while none does, the one whose numbers are nearest). Of several faces in one cell the largest
    is learned and the others are not, as a cell has one answer. All parts are sums of squared
    errors: box of the responsible boxes' x and y in cells and roots of w and h in units, quality
    of their confidence against their IoU or `least_target`, whichever is more, classification of
    all other confidences against 0, as much as if there were PAPER_CELLS cells. As faces are the
    only class, there is no class error. Sums are divided as `Losses` says.

    The paper's own targets are those of least_target 0, its sums are taken by the image, and its
    training starts from a trained backbone, whose boxes soon fit. From scratch their IoU, near 0,
    teaches confidence little: AP as under PAPER_CELLS was 0.009 with 0 and 0.030 with 1.

    Confidences cost nothing in cells that hold the centre of an ignored region or have their
    middle in one, but the box responsible for a face is always judged.
    """
    settings = LossSettings() if settings is None else settings
    numbers = code.split(levels)
    columns = numbers.shape[3]
    owner = cell_owners(code, levels, boxes_xyxy, wanted)
    images, cells = (owner >= 0).nonzero(as_tuple=True)
    faces = boxes_xyxy[images, owner[images, cells]]
    corners = torch.stack([cells % columns, cells // columns], 1)
    target = _targets(code, faces, corners)

    own = numbers.flatten(2, 3)[images, :, cells]  # (P, A, 5)
    predicted = box_cxcywh_to_xyxy(code.boxes_cxcywh(numbers).flatten(2, 3)[images, :, cells])
    iou = aligned_iou(predicted.detach(), faces[:, None])
    errors = (own[..., :4] - target[:, None]).square().sum(-1)
    overlaps = (iou > 0).any(1, keepdim=True)
    responsible = iou.where(overlaps, -errors.detach()).argmax(1)

    each = torch.arange(len(cells), device=cells.device)
    confidence = numbers[..., 4].flatten(2)  # (B, A, N)
    empty = (~_silenced_cells(code, levels, boxes_xyxy, ignore))[:, None].repeat(1, code.boxes, 1)
    empty[images, responsible, cells] = False
    share = PAPER_CELLS / empty.shape[2]
    count = each.new_tensor(len(each)).clamp(min=1)
    sure = iou[each, responsible].clamp(min=settings.least_target)
    quality = (own[each, responsible, 4] - sure).square().sum() / count
    classification = share * confidence.square().where(empty, 0).sum() / count
    box = errors[each, responsible].sum() / count
    total = settings.coordinate_weight * box + quality + settings.no_object_weight * classification
    return Losses(total, classification, quality, box, each.new_tensor(len(each)))


@torch.no_grad()
def cell_owners(
    code: GridCode, levels: Sequence[Tensor], boxes_xyxy: Tensor, wanted: Tensor
) -> Tensor:
    """The face each cell answers for, or -1. Shape (B, N), int64, cells row by row."""
    cells = levels[0][0, 0].numel()
    images, columns = wanted.nonzero(as_tuple=True)
    faces = boxes_xyxy[wanted]
    points = images * cells + _home_cells(code, levels, faces)
    owner = torch.full((1, len(wanted) * cells), -1, device=points.device)
    rows = torch.arange(len(faces), device=points.device)
    owner = award(owner, rows[None], points[None], costs=-box_areas(faces)[None])
    return pad(columns, (0, 1), value=-1)[owner].view(len(wanted), cells)


def _home_cells(code: GridCode, levels: Sequence[Tensor], boxes_xyxy: Tensor) -> Tensor:
    """The cell that holds a box's centre, or is nearest to it. (M, 4) -> (M,)."""
    rows, columns = levels[0].shape[2:]
    column, row = (box_xyxy_to_cxcywh(boxes_xyxy)[:, :2] / code.stride).floor().long().unbind(1)
    return row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)


def _targets(code: GridCode, faces_xyxy: Tensor, corners: Tensor) -> Tensor:
    """x, y in 0..1 of the cell at `corners` (P, 2), and roots of w, h in units. (P, 4)."""
    faces = box_xyxy_to_cxcywh(faces_xyxy)
    inside = (faces[:, :2] / code.stride - corners).clamp(0, 1)
    return torch.cat([inside, (faces[:, 2:] / code.unit).sqrt()], 1)


def _silenced_cells(
    code: GridCode, levels: Sequence[Tensor], boxes_xyxy: Tensor, ignore: Tensor
) -> Tensor:
    """Cells with an ignored region's centre, or with their middle in one. (B, N)."""
    images, regions = ignore.nonzero()[:, 0], boxes_xyxy[ignore]
    silenced = positions_inside(levels[0], code.stride, regions, images).flatten(1)
    silenced[images, _home_cells(code, levels, regions)] = True
    return silenced
