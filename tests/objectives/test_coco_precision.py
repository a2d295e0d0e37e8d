"""AP by COCO's rules: worked examples, and how it stands to our own."""

import json
import sys

import numpy as np
import pytest
from numpy.typing import ArrayLike

from data.errors import UserError
from data.sample import Faces
from objectives.average_precision import Detections, evaluate_detections
from objectives.coco_precision import CocoReport, coco_precision

SMALL, MEDIUM, LARGE = (10, 10, 30, 30), (60, 60, 120, 120), (200, 200, 400, 400)
NOWHERE = (500, 500, 560, 560)


def found(boxes: ArrayLike, scores: ArrayLike) -> Detections:
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(scores, np.float32).reshape(-1)
    )


def faces_at(*boxes: tuple[float, ...], ignored: tuple[int, ...] = ()) -> Faces:
    return Faces.of(np.array(boxes, np.float32), ignore=np.isin(np.arange(len(boxes)), ignored))


def one_image(detections: Detections, faces: Faces) -> CocoReport:
    return coco_precision([detections], [faces])


def random_case(images: int, *, seed: int) -> tuple[list[Detections], list[Faces]]:
    """Detections scattered around faces and elsewhere, every score another, none ignored."""
    rng = np.random.default_rng(seed)
    all_found, all_faces = [], []
    for _ in range(images):
        corner = rng.uniform(0, 400, (rng.integers(0, 6), 2))
        boxes = np.concatenate([corner, corner + rng.uniform(6, 150, corner.shape)], 1)
        near = np.repeat(boxes, rng.integers(0, 3, len(boxes)), axis=0)
        near = near + rng.normal(0, 4, near.shape)
        far = rng.uniform(0, 400, (rng.integers(0, 4), 2))
        near = np.concatenate([near, np.concatenate([far, far + 50], 1)])
        all_found.append(found(near, rng.uniform(0, 1, len(near))))
        all_faces.append(Faces.of(boxes))
    return all_found, all_faces


def test_perfect_detections_give_one() -> None:
    report = one_image(
        found([SMALL, MEDIUM, LARGE], [0.3, 0.9, 0.6]), faces_at(SMALL, MEDIUM, LARGE)
    )
    shares = (report.ap50, report.ap75, report.ap50_95, report.recall)
    assert shares == pytest.approx((1, 1, 1, 1))
    assert (report.ap_small, report.ap_medium, report.ap_large) == pytest.approx((1, 1, 1))
    assert (report.images, report.faces, report.cut_images) == (1, 3, 0)


def test_no_detections_give_zero_and_a_band_without_faces_none() -> None:
    report = one_image(found([], []), faces_at(SMALL))
    assert (report.ap50, report.ap50_95, report.ap_small, report.recall) == (0, 0, 0, 0)
    assert report.ap_medium is report.ap_large is None


def test_worked_example() -> None:
    # Right, wrong, right: precision 1 at the recalls 0 to 0.5, 2/3 at 0.51 to 1; 51 and 50 of 101.
    report = one_image(found([SMALL, NOWHERE, LARGE], [0.9, 0.8, 0.7]), faces_at(SMALL, LARGE))
    assert report.ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_box_that_fits_loosely_counts_at_low_thresholds_only() -> None:
    shifted = (60, 60, 120, 105)  # IoU 0.75: right at 0.50, 0.55, ... 0.75, six of ten
    report = one_image(found([shifted], [0.9]), faces_at(MEDIUM))
    assert (report.ap50, report.ap75, report.ap50_95) == pytest.approx((1, 1, 0.6))


def test_ignored_faces_count_neither_way() -> None:
    faces = faces_at(SMALL, LARGE, ignored=(1,))
    inside_the_ignored = (250, 250, 300, 300)
    report = one_image(found([LARGE, inside_the_ignored, SMALL], [0.9, 0.8, 0.7]), faces)
    assert report.ap50 == report.ap50_95 == pytest.approx(1)
    assert report.faces == 1


def test_boxes_without_an_area_do_no_harm() -> None:
    faces = faces_at(SMALL, (5, 5, 5, 9), (40, 40, 30, 50), ignored=(1, 2))
    report = one_image(found([SMALL, (5, 5, 5, 9)], [0.9, 0.8]), faces)
    assert report.ap50 == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_our_own_average_precision(seed: int) -> None:
    detections, faces = random_case(60, seed=seed)
    ours = evaluate_detections(detections, faces, iou_threshold=0.5, resamples=1).ap
    assert 0.2 < ours < 0.95
    assert coco_precision(detections, faces).ap50 == pytest.approx(ours, abs=0.01)


def test_images_with_more_detections_than_counted_are_told() -> None:
    detections = found([NOWHERE, NOWHERE, SMALL], [0.9, 0.8, 0.7])
    all_of_them = coco_precision([detections], [faces_at(SMALL)], max_detections=3)
    cut = coco_precision([detections], [faces_at(SMALL)], max_detections=2)
    assert (all_of_them.cut_images, cut.cut_images) == (0, 1)
    assert all_of_them.ap50 == pytest.approx(1 / 3)
    assert cut.ap50 == 0


def test_nothing_is_printed_and_the_report_is_json(capfd: pytest.CaptureFixture[str]) -> None:
    report = one_image(found([SMALL], [0.9]), faces_at(SMALL))
    assert capfd.readouterr() == ("", "")
    assert json.loads(json.dumps(report.to_json()))["ap_large"] is None


def test_the_order_of_images_does_not_matter() -> None:
    detections, faces = random_case(20, seed=9)
    assert coco_precision(detections[::-1], faces[::-1]) == coco_precision(detections, faces)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="got 1 for 0 images"):
        coco_precision([found([], [])], [])
    with pytest.raises(ValueError, match="got none in 1 images"):
        one_image(found([], []), faces_at(SMALL, ignored=(0,)))
    with pytest.raises(ValueError, match="max_detections must be positive, got 0"):
        coco_precision([found([], [])], [faces_at(SMALL)], max_detections=0)


def test_without_the_package_the_user_is_told_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[coco\]'"):
        one_image(found([SMALL], [0.9]), faces_at(SMALL))
