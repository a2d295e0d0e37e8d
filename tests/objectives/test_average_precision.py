"""Average precision: worked examples, and what must never change it."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from data.sample import Faces
from objectives.average_precision import (
    SMOOTH_IOU_THRESHOLDS,
    STRATA,
    Detections,
    PrecisionReport,
    evaluate_detections,
)

FACE_A, FACE_B, NOWHERE = (10, 10, 30, 30), (60, 60, 80, 80), (200, 200, 220, 220)


def found(boxes: ArrayLike, scores: ArrayLike) -> Detections:
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(scores, np.float32).reshape(-1)
    )


def faces_at(*boxes: tuple[float, ...], ignored: tuple[int, ...] = ()) -> Faces:
    return Faces.of(np.array(boxes, np.float32), ignore=np.isin(np.arange(len(boxes)), ignored))


def random_case(
    images: int, *, seed: int, detections: int = 12
) -> tuple[list[Detections], list[Faces]]:
    """Detections scattered around faces, some ignored, many with equal scores."""
    rng = np.random.default_rng(seed)
    all_found, all_faces = [], []
    for _ in range(images):
        corner = rng.uniform(0, 400, (rng.integers(1, 6), 2))
        boxes = np.concatenate([corner, corner + rng.uniform(6, 150, corner.shape)], 1)
        near = boxes[rng.integers(0, len(boxes), detections)]
        near = near + rng.normal(0, 4, near.shape)
        all_found.append(found(near, rng.integers(0, 20, detections) / 20))
        all_faces.append(Faces.of(boxes, ignore=np.arange(len(boxes)) > 3))
    return all_found, all_faces


def one_image(detections: Detections, faces: Faces) -> PrecisionReport:
    return evaluate_detections([detections], [faces], resamples=5)


def test_worked_example() -> None:
    # Right, wrong, right: precision 1/1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    report = one_image(found([FACE_A, NOWHERE, FACE_B], [0.9, 0.8, 0.7]), faces_at(FACE_A, FACE_B))
    assert report.ap == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert report.recall == 1
    assert (report.images, report.faces) == (1, 2)


def test_envelope_uses_the_best_precision_at_a_higher_recall() -> None:
    # Wrong, right, right: precision 0, 1/2, 2/3; the envelope is 2/3 all along.
    report = one_image(found([NOWHERE, FACE_A, FACE_B], [0.9, 0.8, 0.7]), faces_at(FACE_A, FACE_B))
    assert report.ap == pytest.approx(2 / 3)


def test_half_of_the_faces_found() -> None:
    report = one_image(found([FACE_A], [0.3]), faces_at(FACE_A, FACE_B))
    assert report.ap == report.recall == 0.5


def test_second_detection_of_a_face_is_a_mistake() -> None:
    # Precision 1/1, 1/2, 2/3.
    report = one_image(found([FACE_A, FACE_A, FACE_B], [0.9, 0.8, 0.7]), faces_at(FACE_A, FACE_B))
    assert report.ap == pytest.approx(5 / 6)


def test_a_detection_takes_the_next_best_face_when_its_best_is_taken() -> None:
    left, right = (0, 0, 20, 20), (4, 0, 24, 20)  # IoU 2/3
    report = one_image(found([left, left], [0.9, 0.8]), faces_at(left, right))
    assert report.ap == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_equal_scores_are_one_step_in_any_order(order: tuple[int, int]) -> None:
    boxes = np.array([FACE_A, NOWHERE])[list(order)]
    assert one_image(found(boxes, [0.5, 0.5]), faces_at(FACE_A)).ap == 0.5


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_equal_scores_the_better_box_is_matched(order: tuple[int, int]) -> None:
    close = np.array([(10, 10, 30, 30), (14, 10, 34, 30)])[list(order)]
    report = one_image(found(close, [0.5, 0.5]), faces_at((4, 10, 24, 30), FACE_A))
    assert (
        report.recall == 0.5
    )  # the exact box takes FACE_A, the other overlaps the first too little


def test_perfect_detections_score_one() -> None:
    _, faces = random_case(6, seed=0)
    exact = [found(f.boxes_xyxy, np.linspace(0.1, 0.9, len(f))) for f in faces]
    report = evaluate_detections(exact, faces)
    assert report.ap == report.smooth_ap == report.recall == 1
    assert report.interval == (1, 1)
    assert all(stratum.ap == 1 for stratum in report.strata.values())


def test_no_detections_score_zero() -> None:
    report = one_image(found([], []), faces_at(FACE_A))
    assert (report.ap, report.smooth_ap, report.recall, report.interval) == (0, 0, 0, (0, 0))


def test_ignored_regions_count_neither_way() -> None:
    faces = faces_at(FACE_A, (100, 100, 180, 180), ignored=(1,))
    small_inside, matching, beside = (
        (110, 110, 120, 120),
        (104, 104, 180, 180),
        (170, 170, 220, 220),
    )
    right = found([FACE_A], [0.1])
    for box, expected in ((small_inside, 1.0), (matching, 1.0), (beside, 0.5)):
        more = found([FACE_A, box], [0.1, 0.9])
        assert one_image(more, faces).ap == expected, box
    assert one_image(right, faces).faces == 1


def test_a_wanted_face_inside_an_ignored_region_can_be_found() -> None:
    faces = faces_at(FACE_A, (0, 0, 100, 100), ignored=(1,))
    report = one_image(found([FACE_A, FACE_B], [0.5, 0.9]), faces)
    assert report.ap == report.recall == 1


def test_strata_split_the_faces_and_judge_each_band_alone() -> None:
    small, large = (0, 0, 20, 20), (100, 100, 300, 300)
    wrong_small, wrong_large = (50, 0, 70, 20), (400, 400, 600, 600)
    detections = found([wrong_small, small, large, wrong_large], [0.9, 0.8, 0.7, 0.6])
    report = one_image(detections, faces_at(small, large))
    assert {name: s.ap for name, s in report.strata.items()} == {"small": 0.5, "large": 1.0}
    assert {name: s.faces for name, s in report.strata.items()} == {"small": 1, "large": 1}
    assert {name: s.recall for name, s in report.strata.items()} == {"small": 1, "large": 1}


def test_strata_hold_every_wanted_face_once() -> None:
    report = evaluate_detections(*random_case(80, seed=1))
    assert sum(stratum.faces for stratum in report.strata.values()) == report.faces
    assert set(report.strata) == set(STRATA)


def test_order_of_images_changes_nothing() -> None:
    detections, faces = random_case(30, seed=2)
    report = evaluate_detections(detections, faces)
    other = evaluate_detections(detections[::-1], faces[::-1])
    assert _without_intervals(other) == _without_intervals(report)


def _without_intervals(report: PrecisionReport) -> dict[str, Any]:
    value = report.to_json()
    for one in (value, *value["strata"].values()):
        for name in [name for name in one if name.endswith("interval")]:
            del one[name]
    return value


def test_repeating_all_images_changes_nothing_but_the_counts() -> None:
    detections, faces = random_case(10, seed=3)
    once, twice = (evaluate_detections(detections * n, faces * n) for n in (1, 2))
    assert (twice.ap, twice.smooth_ap) == pytest.approx((once.ap, once.smooth_ap))
    assert twice.faces == 2 * once.faces


@pytest.mark.parametrize("seed", range(5))
def test_a_mistake_never_helps_and_one_under_all_scores_costs_nothing(seed: int) -> None:
    detections, faces = random_case(8, seed=seed)
    before = evaluate_detections(detections, faces).ap
    after = {}
    for score in (-1.0, 0.5, 2.0):
        boxes = np.concatenate([detections[0].boxes_xyxy, [(900, 900, 920, 920)]])
        more = found(boxes, np.append(detections[0].scores, score))
        after[score] = evaluate_detections([more, *detections[1:]], faces).ap
    assert before == after[-1.0] >= after[0.5] >= after[2.0]
    assert before > after[2.0]


SCORES = {
    "ap": "interval",
    "smooth_ap": "smooth_interval",
    "quality_ap": "quality_interval",
    "recall": "recall_interval",
    "promise": "promise_interval",
}
"""Score -> its interval."""


def test_the_promise_counts_recall_twice() -> None:
    report = evaluate_detections(*random_case(12, seed=4))
    assert 0 < report.ap < report.recall
    assert report.promise == pytest.approx((report.ap * report.recall * report.recall) ** (1 / 3))


def test_intervals_are_the_spread_over_redrawn_images() -> None:
    detections, faces = random_case(12, seed=4)
    report = evaluate_detections(detections, faces, seed=7, resamples=40)
    draws = np.random.default_rng(7).multinomial(12, np.full(12, 1 / 12), size=40)
    slow = [
        evaluate_detections([detections[i] for i in images], [faces[i] for i in images])
        for images in (np.repeat(np.arange(12), draw) for draw in draws)
    ]
    bands = [one.strata["small"] for one in slow if "small" in one.strata]
    assert 0 < len(bands) < len(slow), "some draws have no small faces"
    small = report.strata["small"]
    for ours, redrawn, names in (
        (report, slow, SCORES),
        (small, bands, {"ap": "interval", "recall": "recall_interval"}),
    ):
        for score, interval in names.items():
            low, high = getattr(ours, interval)
            spread = np.percentile([getattr(one, score) for one in redrawn], [5, 95])
            assert (low, high) == pytest.approx(tuple(spread)), score
            assert low <= getattr(ours, score) <= high, score


def test_a_band_that_no_draw_has_could_be_anything() -> None:
    faces = [faces_at((0, 0, 200, 200)), *(faces_at(FACE_A) for _ in range(40))]
    detections = [found([(0, 0, 200, 200)], [0.5]), *(found([], []) for _ in range(40))]
    for seed in range(5):
        large = evaluate_detections(detections, faces, resamples=1, seed=seed).strata["large"]
        assert large.ap == 1
        assert large.interval in ((1, 1), (0, 1))


def test_quality_counts_a_face_by_the_overlap_it_was_found_with() -> None:
    loose = (10, 10, 30, 19)  # IoU 0.45
    report = one_image(found([FACE_B, NOWHERE, loose], [0.9, 0.8, 0.7]), faces_at(FACE_A, FACE_B))
    assert report.ap == pytest.approx(1 / 2)
    assert report.quality_ap == pytest.approx(1 / 2 * 1 * 1 + 1 / 2 * 0.45 * 2 / 3)


def test_quality_is_at_most_the_precision_at_the_lowest_overlap() -> None:
    detections, faces = random_case(20, seed=9)
    lowest = min(SMOOTH_IOU_THRESHOLDS)
    report = evaluate_detections(detections, faces, iou_threshold=lowest)
    assert lowest * report.ap <= report.quality_ap < report.ap


def test_interval_narrows_with_more_images_and_follows_the_seed() -> None:
    few, many = (evaluate_detections(*random_case(n, seed=5)) for n in (10, 160))
    assert np.ptp(many.interval) < np.ptp(few.interval)
    assert evaluate_detections(*random_case(10, seed=5)) == few
    assert evaluate_detections(*random_case(10, seed=5), seed=1).interval != few.interval


def test_images_without_faces_add_mistakes_and_may_be_all_a_resample_draws() -> None:
    detections = [found([FACE_A], [0.5]), found([NOWHERE], [0.9])]
    report = evaluate_detections(detections, [faces_at(FACE_A), Faces.of(np.empty((0, 4)))])
    assert report.ap == 0.5
    assert np.isfinite(report.interval).all()


def test_smooth_ap_is_the_mean_over_thresholds_and_sees_loose_boxes() -> None:
    detections, faces = random_case(10, seed=6)
    aps = [
        evaluate_detections(detections, faces, iou_threshold=t).ap for t in SMOOTH_IOU_THRESHOLDS
    ]
    assert evaluate_detections(detections, faces).smooth_ap == pytest.approx(np.mean(aps))
    loose = one_image(found([(10, 10, 30, 19)], [0.5]), faces_at(FACE_A))  # IoU 0.45
    assert loose.ap == 0
    assert loose.smooth_ap == pytest.approx(2 / 3)


def test_report_is_json() -> None:
    report = evaluate_detections(*random_case(5, seed=8))
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert value["ap"] == report.ap
    assert value["interval"] == list(report.interval)
    small = report.strata["small"]
    assert value["strata"]["small"] == {
        "ap": small.ap,
        "interval": list(small.interval),
        "recall": small.recall,
        "recall_interval": list(small.recall_interval),
        "faces": small.faces,
    }


def test_bad_input_is_refused() -> None:
    some, faces = found([FACE_A], [0.5]), faces_at(FACE_A)
    with pytest.raises(ValueError, match="got 1 for 2 images"):
        evaluate_detections([some], [faces, faces])
    with pytest.raises(ValueError, match="iou_threshold"):
        evaluate_detections([some], [faces], iou_threshold=0)
    with pytest.raises(ValueError, match="resamples"):
        evaluate_detections([some], [faces], resamples=0)
    with pytest.raises(ValueError, match="got none in 1 images"):
        evaluate_detections([some], [faces_at(FACE_A, ignored=(0,))])
    with pytest.raises(ValueError, match="finite"):
        found([FACE_A], [np.nan])
    with pytest.raises(ValueError, match="scores must be"):
        found([FACE_A], [0.5, 0.6])
