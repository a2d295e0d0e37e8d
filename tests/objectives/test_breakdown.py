"""Results by kind of face: worked examples, and what must hold between parts and whole."""

import numpy as np
import pytest

from data.sample import ATTRIBUTES, Faces
from objectives.average_precision import evaluate_detections
from objectives.breakdown import (
    BEST_F1,
    SCORE,
    Matches,
    OperatingPoint,
    breakdown,
    match_detections,
    operating_points,
    precision_recall,
    worst_images,
)
from tests.objectives.test_average_precision import (
    FACE_A,
    FACE_B,
    NOWHERE,
    faces_at,
    found,
    random_case,
)

NONE = found([], [])


def with_attribute(faces: Faces, name: str, values: list[int]) -> Faces:
    attributes = faces.attributes.copy()
    attributes[:, ATTRIBUTES.index(name)] = values
    return Faces(faces.boxes_xyxy, attributes, faces.ignore)


def point(matches: Matches, name: str) -> OperatingPoint:
    return next(one for one in operating_points(matches) if one.name == name)


@pytest.fixture
def two_images() -> Matches:
    """A sharp face found at 0.9 and a blurred one at 0.6, a mistake at 0.7; then a sharp face
    missed and a mistake at 0.3."""
    return match_detections(
        [found([FACE_A, NOWHERE, FACE_B], [0.9, 0.7, 0.6]), found([NOWHERE], [0.3])],
        [with_attribute(faces_at(FACE_A, FACE_B), "blur", [0, 2]), faces_at(FACE_A)],
    )


def test_curve_by_hand(two_images: Matches) -> None:
    curve = precision_recall(two_images)
    np.testing.assert_allclose(curve.scores, [0.9, 0.7, 0.6, 0.3], rtol=1e-6)
    np.testing.assert_array_equal(curve.found, [1, 1, 2, 2])
    np.testing.assert_array_equal(curve.mistakes, [0, 1, 1, 2])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 2 / 4])
    np.testing.assert_allclose(curve.recall, [1 / 3, 1 / 3, 2 / 3, 2 / 3])


@pytest.mark.parametrize("seed", range(5))
def test_the_area_under_the_curve_is_the_average_precision(seed: int) -> None:
    detections, faces = random_case(8, seed=seed)
    curve = precision_recall(match_detections(detections, faces))
    envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
    area = np.sum(np.diff(curve.recall, prepend=0) * envelope)
    assert area == pytest.approx(evaluate_detections(detections, faces, resamples=1).ap)


def test_operating_points_by_hand(two_images: Matches) -> None:
    few, many, at_score, best = operating_points(two_images)
    assert (few.score, few.recall) == pytest.approx((0.9, 1 / 3)), "0.2 mistakes are allowed"
    assert (many.score, many.recall, many.false_per_image) == pytest.approx((0.3, 2 / 3, 1))
    assert (at_score.score, at_score.precision) == pytest.approx((SCORE, 2 / 3))
    assert (best.score, best.precision, best.recall) == pytest.approx((0.6, 2 / 3, 2 / 3))


def test_where_the_surest_detection_is_a_mistake_too_many_nothing_is_shown() -> None:
    matches = match_detections([found([NOWHERE, FACE_A], [0.9, 0.8])], [faces_at(FACE_A)])
    few = point(matches, "0.1 false an image")
    assert (few.precision, few.recall, few.false_per_image) == (None, 0, 0)
    assert few.score > float(np.float32(0.9))


def test_of_equal_scores_all_are_shown_or_none() -> None:
    matches = match_detections([found([FACE_A, NOWHERE], [0.5, 0.5])], [faces_at(FACE_A)])
    assert point(matches, "0.1 false an image").recall == 0
    assert point(matches, "1 false an image").recall == 1


def test_no_detections_have_points_and_groups_all_the_same() -> None:
    matches = match_detections([NONE], [faces_at(FACE_A)])
    points = operating_points(matches)
    assert [(one.precision, one.recall) for one in points] == [(None, 0)] * 4
    small = breakdown(matches, points)["size"]["small"]
    assert (small.ap, small.faces) == (0, 1)
    (worst,) = worst_images(matches, score=point(matches, BEST_F1).score, count=5)
    assert (worst.errors, len(worst.missed_xyxy)) == (1, 1)


def test_groups_by_hand(two_images: Matches) -> None:
    points = operating_points(two_images)
    groups = breakdown(two_images, points, events=["a", "b"])
    assert list(groups) == ["size", "blur", "event"], "what is the same for all faces is left out"
    clear, heavy = groups["blur"]["clear"], groups["blur"]["heavy"]
    assert (clear.faces, heavy.faces) == (2, 1)
    # The blurred face comes after a mistake, the other's detection does not count.
    assert (clear.ap, heavy.ap) == pytest.approx((1 / 2, 1 / 2))
    assert (clear.recall[BEST_F1], heavy.recall[BEST_F1]) == (0.5, 1)
    assert (clear.recall["0.1 false an image"], heavy.recall["0.1 false an image"]) == (0.5, 0)
    assert (groups["event"]["a"].faces, groups["event"]["b"].faces) == (2, 1)


def test_mistakes_count_in_their_own_event_only() -> None:
    matches = match_detections(
        [found([NOWHERE], [0.9]), found([FACE_A], [0.8])], [faces_at(FACE_B), faces_at(FACE_A)]
    )
    groups = breakdown(matches, operating_points(matches), events=["a", "b"])["event"]
    assert (groups["a"].ap, groups["b"].ap) == (0, 1)


@pytest.mark.parametrize("seed", range(5))
def test_sizes_are_the_strata_of_the_average_precision(seed: int) -> None:
    detections, faces = random_case(8, seed=seed)
    matches = match_detections(detections, faces)
    strata = evaluate_detections(detections, faces, resamples=1).strata
    sizes = breakdown(matches, operating_points(matches))["size"]
    assert {name: (one.ap, one.faces) for name, one in sizes.items()} == {
        name: (one.ap, one.faces) for name, one in strata.items()
    }


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_a_kind_add_up_to_all_faces(seed: int) -> None:
    detections, faces = random_case(8, seed=seed)
    rng = np.random.default_rng(seed)
    faces = [
        with_attribute(one, "occlusion", rng.integers(0, 4, len(one)).tolist()) for one in faces
    ]
    matches = match_detections(detections, faces)
    points = operating_points(matches)
    groups = breakdown(matches, points, events=[str(image % 3) for image in range(8)])
    assert {"value 3", "heavy"} <= set(groups["occlusion"])
    for kind in groups.values():
        assert sum(one.faces for one in kind.values()) == len(matches.face_boxes_xyxy)
        for one in points:
            share = np.average(
                [group.recall[one.name] for group in kind.values()],
                weights=[group.faces for group in kind.values()],
            )
            assert share == pytest.approx(one.recall)


def test_an_event_alone_is_as_if_the_others_were_not_there() -> None:
    detections, faces = random_case(6, seed=1)
    matches = match_detections(detections, faces)
    groups = breakdown(matches, operating_points(matches), events=["a"] * 4 + ["b"] * 2)
    alone = evaluate_detections(detections[:4], faces[:4], resamples=1)
    assert groups["event"]["a"].ap == pytest.approx(alone.ap)


def test_ignored_faces_are_in_no_group_and_no_error() -> None:
    matches = match_detections(
        [found([FACE_A, FACE_B], [0.9, 0.8])], [faces_at(FACE_A, FACE_B, ignored=(1,))]
    )
    assert len(matches.face_boxes_xyxy) == 1
    assert worst_images(matches, score=0.1, count=3) == []


def test_worst_images_hold_their_boxes(two_images: Matches) -> None:
    first, second = worst_images(two_images, score=0.3, count=9)
    assert (first.index, first.errors, second.index, second.errors) == (1, 2, 0, 1)
    np.testing.assert_array_equal(first.missed_xyxy, [FACE_A])
    np.testing.assert_array_equal(first.mistaken_xyxy, [NOWHERE])
    np.testing.assert_array_equal(second.found_xyxy, [FACE_A, FACE_B])
    assert [one.index for one in worst_images(two_images, score=0.3, count=1)] == [1]


def test_a_face_found_under_the_score_is_missed(two_images: Matches) -> None:
    outcome = worst_images(two_images, score=0.8, count=1)[0]
    assert (outcome.index, len(outcome.missed_xyxy), len(outcome.mistaken_xyxy)) == (0, 1, 0)


@pytest.mark.parametrize("seed", range(5))
def test_the_errors_of_all_images_are_those_of_the_operating_point(seed: int) -> None:
    matches = match_detections(*random_case(8, seed=seed))
    best = point(matches, BEST_F1)
    outcomes = worst_images(matches, score=best.score, count=8)
    missed = sum(len(one.missed_xyxy) for one in outcomes)
    assert missed == pytest.approx((1 - best.recall) * len(matches.face_boxes_xyxy))
    mistaken = sum(len(one.mistaken_xyxy) for one in outcomes)
    assert mistaken == pytest.approx(best.false_per_image * 8)


def test_wrong_arguments_are_refused(two_images: Matches) -> None:
    with pytest.raises(ValueError, match="must hold a face"):
        match_detections([NONE], [faces_at()])
    with pytest.raises(ValueError, match="one per image, got 1 for 2"):
        breakdown(two_images, (), events=["a"])
