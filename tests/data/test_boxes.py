"""Relations that hold for any boxes, and numpy and torch giving the same numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data.boxes import (
    aligned_iou,
    box_areas,
    box_cxcywh_to_xyxy,
    box_heights,
    box_widths,
    box_xywh_to_xyxy,
    box_xyxy_to_cxcywh,
    box_xyxy_to_xywh,
    clip_boxes,
    enclosing_boxes,
    flip_boxes,
    intersection_areas,
    move_boxes,
    nms,
    pairwise_coverage,
    pairwise_iou,
    points_in_boxes,
)

Boxes = NDArray[np.float32]


def random_boxes(*shape: int, seed: int = 0) -> Boxes:
    """Boxes with an area, some of them partly outside a 100 x 80 image. Shape (*shape, 4)."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-20, 90, (*shape, 2))
    return np.concatenate([low, low + rng.uniform(1, 40, (*shape, 2))], -1).astype(np.float32)


A, B = random_boxes(12), random_boxes(12, seed=1)
FULL = np.array([0, 0, 100, 80], dtype=np.float32)

BOTH_KINDS: dict[str, Callable[[Any, Any], Any]] = {
    "xywh to xyxy": lambda a, _: box_xywh_to_xyxy(a),
    "xyxy to xywh": lambda a, _: box_xyxy_to_xywh(a),
    "cxcywh to xyxy": lambda a, _: box_cxcywh_to_xyxy(a),
    "xyxy to cxcywh": lambda a, _: box_xyxy_to_cxcywh(a),
    "areas": lambda a, _: box_areas(a),
    "heights": lambda a, _: box_heights(a),
    "widths": lambda a, _: box_widths(a),
    "clip": lambda a, _: clip_boxes(a, width=100, height=80),
    "flip": lambda a, _: flip_boxes(a, width=100),
    "move": lambda a, _: move_boxes(a, scale=0.5, shift=(3, -4)),
    "points in boxes": lambda a, b: points_in_boxes(a[..., :2], b),
    "intersection": intersection_areas,
    "enclosing": enclosing_boxes,
    "aligned IoU": aligned_iou,
    "pairwise IoU": pairwise_iou,
    "pairwise coverage": pairwise_coverage,
}


@pytest.mark.parametrize("shape", [(12,), (2, 5), (0,)], ids=str)
@pytest.mark.parametrize("name", BOTH_KINDS)
def test_numpy_and_torch_agree(name: str, shape: tuple[int, ...]) -> None:
    a, b = random_boxes(*shape), random_boxes(*shape, seed=1)
    expected = BOTH_KINDS[name](a, b)
    got = BOTH_KINDS[name](torch.from_numpy(a), torch.from_numpy(b))
    assert isinstance(expected, np.ndarray)
    assert isinstance(got, torch.Tensor)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("there", "back"),
    [
        (box_xyxy_to_xywh, box_xywh_to_xyxy),
        (box_xyxy_to_cxcywh, box_cxcywh_to_xyxy),
        (lambda boxes: flip_boxes(boxes, width=100), lambda boxes: flip_boxes(boxes, width=100)),
        (
            lambda boxes: move_boxes(boxes, scale=2, shift=(10, 6)),
            lambda boxes: move_boxes(boxes, scale=0.5, shift=(-5, -3)),
        ),
    ],
    ids=["xywh", "cxcywh", "flip", "move"],
)
def test_there_and_back_is_where_it_was(
    there: Callable[[Boxes], Boxes], back: Callable[[Boxes], Boxes]
) -> None:
    assert not np.allclose(there(A), A)
    np.testing.assert_allclose(back(there(A)), A, atol=1e-4)


def test_one_box_in_all_forms() -> None:
    corners = np.array([10, 20, 40, 60], dtype=np.float32)
    assert box_xyxy_to_xywh(corners).tolist() == [10, 20, 30, 40]
    assert box_xyxy_to_cxcywh(corners).tolist() == [25, 40, 30, 40]
    sizes = (box_widths(corners), box_heights(corners), box_areas(corners))
    assert [float(size) for size in sizes] == [30, 40, 1200]
    assert flip_boxes(corners, width=100).tolist() == [60, 20, 90, 60]


def test_a_box_turned_inside_out_has_no_area() -> None:
    assert box_areas(np.array([[5, 5, 1, 9], [5, 5, 1, 1]], dtype=np.float32)).tolist() == [0, 0]


def test_a_clipped_box_is_what_the_image_and_the_box_share() -> None:
    clipped = clip_boxes(A, width=100, height=80)
    assert not np.array_equal(clipped, A)
    np.testing.assert_array_equal(clip_boxes(clipped, width=100, height=80), clipped)
    np.testing.assert_allclose(box_areas(clipped), intersection_areas(A, FULL), rtol=1e-5)


def test_mirroring_and_moving_keep_iou() -> None:
    expected = pairwise_iou(A, B)
    flipped = pairwise_iou(flip_boxes(A, width=100), flip_boxes(B, width=100))
    moved = [move_boxes(boxes, scale=3, shift=(7, -9)) for boxes in (A, B)]
    np.testing.assert_allclose(flipped, expected, atol=1e-5)
    np.testing.assert_allclose(pairwise_iou(*moved), expected, atol=1e-5)


def test_iou_is_symmetric_and_1_only_with_itself() -> None:
    iou = pairwise_iou(A, A)
    np.testing.assert_allclose(iou, iou.T)
    np.testing.assert_allclose(np.diag(iou), 1, rtol=1e-6)
    assert (iou[~np.eye(len(A), dtype=bool)] < 1).all()
    assert (iou >= 0).all()


def test_pairs_hold_the_aligned_ones() -> None:
    np.testing.assert_array_equal(np.diag(pairwise_iou(A, B)), aligned_iou(A, B))
    batched = pairwise_iou(A.reshape(3, 4, 4), B.reshape(3, 4, 4))
    np.testing.assert_array_equal(batched[1], pairwise_iou(A[4:8], B[4:8]))


def test_iou_worked_out_by_hand() -> None:
    a = np.array([[0, 0, 10, 10]], dtype=np.float32)
    b = np.array([[5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 7, 6], [3, 3, 3, 3]], dtype=np.float32)
    np.testing.assert_allclose(pairwise_iou(a, b)[0], [50 / 150, 0, 20 / 100, 0], rtol=1e-6)
    np.testing.assert_allclose(pairwise_coverage(a, b)[0], [0.5, 0, 0.2, 0], rtol=1e-6)
    np.testing.assert_allclose(pairwise_coverage(b, a)[:, 0], [0.5, 0, 1, 0], rtol=1e-6)


def test_iou_of_empty_boxes_is_0_and_has_a_gradient() -> None:
    empty = torch.zeros(2, 4, requires_grad=True)
    iou = aligned_iou(empty, empty)
    (gradient,) = torch.autograd.grad(iou.sum(), empty)
    assert iou.tolist() == [0, 0]
    assert torch.isfinite(gradient).all()


def test_enclosing_boxes_cover_both() -> None:
    around = enclosing_boxes(A, B)
    for boxes in (A, B):
        np.testing.assert_allclose(intersection_areas(around, boxes), box_areas(boxes), rtol=1e-5)
    np.testing.assert_array_equal(enclosing_boxes(A, A), A)


def test_points_are_inside_strictly() -> None:
    box = np.array([[10, 20, 40, 60]], dtype=np.float32)
    points = np.array([[25, 40], [10, 40], [25, 60], [41, 40]], dtype=np.float32)
    assert points_in_boxes(points, box)[:, 0].tolist() == [True, False, False, False]
    assert points_in_boxes(box_xyxy_to_cxcywh(A)[:, :2], A).diagonal().all()


def test_nms_keeps_the_best_of_each_heap() -> None:
    boxes, scores = random_boxes(60, seed=2), np.random.default_rng(2).random(60, np.float32)
    kept = nms(boxes, scores, iou_threshold=0.3, max_boxes=100)
    dropped = np.setdiff1d(np.arange(60), kept)
    assert kept[0] == scores.argmax()
    assert (np.diff(scores[kept]) <= 0).all()
    among_kept = pairwise_iou(boxes[kept], boxes[kept]) - np.eye(len(kept))
    assert (among_kept <= 0.3).all()
    assert len(dropped) > 0
    beaten = (pairwise_iou(boxes[dropped], boxes[kept]) > 0.3) & (
        scores[kept] >= scores[dropped][:, None]
    )
    assert beaten.any(axis=1).all()


def test_nms_edges() -> None:
    boxes, scores = random_boxes(20, seed=3), np.linspace(1, 0, 20, dtype=np.float32)
    none = nms(boxes[:0], scores[:0], iou_threshold=0.5, max_boxes=5)
    assert none.shape == (0,)
    assert nms(boxes, scores, iou_threshold=1, max_boxes=3).tolist() == [0, 1, 2]
    same = np.repeat(boxes[:1], 5, axis=0)
    assert nms(same, np.ones(5, np.float32), iou_threshold=0.5, max_boxes=5).tolist() == [0]
