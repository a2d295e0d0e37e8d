"""Axis-aligned boxes: the only file that knows the order of a box's numbers.

Everywhere a box is (x1, y1, x2, y2) in pixels, with x2 and y2 exclusive, so that the width is
x2 - x1. Functions take numpy arrays or torch tensors and return the kind they were given.
`nms` takes numpy arrays only. Shape letters: N, M boxes; ... any leading dimensions.
"""

from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Array = TypeVar("Array", bound=Any)


def _namespace(array: Any) -> Any:
    """numpy or torch: the module whose functions take this array."""
    if isinstance(array, np.ndarray):
        return np
    import torch  # only tensors reach this line, so torch is loaded already

    return torch


def box_xywh_to_xyxy(boxes_xywh: Array) -> Array:
    """Left, top, width, height to corners. Shape (..., 4) -> (..., 4)."""
    xp = _namespace(boxes_xywh)
    return xp.concatenate([boxes_xywh[..., :2], boxes_xywh[..., :2] + boxes_xywh[..., 2:]], -1)


def box_xyxy_to_xywh(boxes_xyxy: Array) -> Array:
    """Corners to left, top, width, height. Shape (..., 4) -> (..., 4)."""
    xp = _namespace(boxes_xyxy)
    return xp.concatenate([boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]], -1)


def box_cxcywh_to_xyxy(boxes_cxcywh: Array) -> Array:
    """Centre and size to corners. Shape (..., 4) -> (..., 4)."""
    xp = _namespace(boxes_cxcywh)
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return xp.concatenate([centre - half, centre + half], -1)


def box_xyxy_to_cxcywh(boxes_xyxy: Array) -> Array:
    """Corners to centre and size. Shape (..., 4) -> (..., 4)."""
    xp = _namespace(boxes_xyxy)
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return xp.concatenate([(low + high) / 2, high - low], -1)


def box_areas(boxes_xyxy: Array) -> Array:
    """Areas in square pixels; 0 for a box turned inside out. Shape (..., 4) -> (...)."""
    size = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clip(min=0)
    return size[..., 0] * size[..., 1]


def box_heights(boxes_xyxy: Array) -> Array:
    """Heights in pixels. Shape (..., 4) -> (...)."""
    return boxes_xyxy[..., 3] - boxes_xyxy[..., 1]


def box_widths(boxes_xyxy: Array) -> Array:
    """Widths in pixels. Shape (..., 4) -> (...)."""
    return boxes_xyxy[..., 2] - boxes_xyxy[..., 0]


def clip_boxes(boxes_xyxy: Array, *, width: float, height: float) -> Array:
    """Boxes cut at the image's border. Shape (..., 4) -> (..., 4)."""
    xp = _namespace(boxes_xyxy)
    x, y = boxes_xyxy[..., 0::2].clip(0, width), boxes_xyxy[..., 1::2].clip(0, height)
    return xp.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def flip_boxes(boxes_xyxy: Array, *, width: float) -> Array:
    """Boxes after mirroring the image left to right. Shape (..., 4) -> (..., 4)."""
    xp = _namespace(boxes_xyxy)
    x1, y1, x2, y2 = (boxes_xyxy[..., i] for i in range(4))
    return xp.stack([width - x2, y1, width - x1, y2], -1)


def move_boxes(boxes_xyxy: Array, *, scale: float, shift: tuple[float, float]) -> Array:
    """Boxes after x -> scale * x + shift[0], y -> scale * y + shift[1]. Shape kept."""
    xp = _namespace(boxes_xyxy)
    x, y = boxes_xyxy[..., 0::2] * scale + shift[0], boxes_xyxy[..., 1::2] * scale + shift[1]
    return xp.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def points_in_boxes(points_xy: Array, boxes_xyxy: Array) -> Array:
    """Which points lie strictly inside which boxes. (..., N, 2), (..., M, 4) -> (..., N, M)."""
    points, boxes = points_xy[..., :, None, :], boxes_xyxy[..., None, :, :]
    after_first = (points > boxes[..., :2]).all(-1)
    before_last = (points < boxes[..., 2:]).all(-1)
    return after_first & before_last


def intersection_areas(boxes_a: Array, boxes_b: Array) -> Array:
    """Area shared by corresponding boxes, broadcasting. (..., 4), (..., 4) -> (...)."""
    xp = _namespace(boxes_a)
    low = xp.maximum(boxes_a[..., :2], boxes_b[..., :2])
    size = (xp.minimum(boxes_a[..., 2:], boxes_b[..., 2:]) - low).clip(min=0)
    return size[..., 0] * size[..., 1]


def enclosing_boxes(boxes_a: Array, boxes_b: Array) -> Array:
    """The smallest box around each corresponding pair, broadcasting. Shape (..., 4)."""
    xp = _namespace(boxes_a)
    low = xp.minimum(boxes_a[..., :2], boxes_b[..., :2])
    return xp.concatenate([low, xp.maximum(boxes_a[..., 2:], boxes_b[..., 2:])], -1)


def aligned_iou(boxes_a: Array, boxes_b: Array) -> Array:
    """Intersection over union of corresponding boxes, broadcasting; 0 where the union is empty."""
    shared = intersection_areas(boxes_a, boxes_b)
    union = box_areas(boxes_a) + box_areas(boxes_b) - shared
    return shared / union.clip(min=1e-9)


def pairwise_iou(boxes_a: Array, boxes_b: Array) -> Array:
    """Intersection over union of all pairs. (..., N, 4), (..., M, 4) -> (..., N, M)."""
    return aligned_iou(boxes_a[..., :, None, :], boxes_b[..., None, :, :])


def pairwise_coverage(boxes_a: Array, boxes_b: Array) -> Array:
    """Share of each box a's own area that box b covers. (..., N, 4), (..., M, 4) -> (..., N, M)."""
    a, b = boxes_a[..., :, None, :], boxes_b[..., None, :, :]
    return intersection_areas(a, b) / box_areas(a).clip(min=1e-9)


def nms(
    boxes_xyxy: NDArray[np.float32],
    scores: NDArray[np.float32],
    *,
    iou_threshold: float,
    max_boxes: int,
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression: indices of the boxes kept, best score first.

    A box is dropped when its IoU with a kept box of higher score is over the threshold.
    """
    order = np.argsort(-scores, kind="stable")
    boxes_xywh = boxes_xyxy[order].astype(np.float64)
    boxes_xywh[:, 2:] -= boxes_xywh[:, :2]
    ranks = np.arange(order.size, 0, -1, dtype=np.float32)  # OpenCV drops scores of 0
    kept = cv2.dnn.NMSBoxes(boxes_xywh, ranks, 0.0, iou_threshold)  # type: ignore[arg-type]
    return order[np.asarray(kept, dtype=np.int64).reshape(-1)[:max_boxes]]
