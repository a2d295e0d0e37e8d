"""The WIDER protocol: against the plain loop of the benchmarks, by hand, and on published boxes."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.wider_protocol import plain_average_precision
from data.errors import UserError
from data.predictions import read_predictions
from data.wider_ground_truth import SUBSETS, CountedFaces, read_ground_truth
from objectives.wider_protocol import POINTS, wider_average_precision

Truth = dict[str, CountedFaces]
Rows = dict[str, np.ndarray]
FACE, OTHER, NOWHERE = (10, 10, 19, 19), (100, 100, 49, 49), (500, 500, 9, 9)


def image(*boxes_xywh: Sequence[float], counted: Sequence[int] = ()) -> CountedFaces:
    """Faces of which the same count in every subset."""
    boxes = np.array(boxes_xywh, dtype=float).reshape(-1, 4)
    return CountedFaces(boxes, dict.fromkeys(SUBSETS, np.array(counted, dtype=np.int64)))


def rows(*rows: Sequence[float]) -> np.ndarray:
    return np.array(rows, dtype=float).reshape(-1, 5)


LOW = rows((*NOWHERE, 0.0))  # stretches the scores of a set so that 1 stays 1


def ap(truth: Sequence[CountedFaces], found: Sequence[np.ndarray]) -> float:
    """AP of images named in order."""
    names = [f"e/{number}.jpg" for number in range(len(truth))]
    report = wider_average_precision(
        dict(zip(names, truth, strict=True)), dict(zip(names, found, strict=True))
    )
    assert report.easy == report.medium == report.hard
    assert report.hard.ap is not None
    return report.hard.ap


def random_case(seed: int, images: int = 6) -> tuple[Truth, Rows]:
    """Crowded boxes on whole or half pixels, so that IoUs tie and meet 0.5; nested subsets."""
    rng = np.random.default_rng(seed)
    truth, found = {}, {}
    grid = float(rng.choice([1, 2]))
    decimals = int(rng.choice([1, 2, 6]))
    for number in range(images):
        name = f"{number % 2}--Event/{number}.jpg"
        faces = int(rng.integers(0, 7))
        boxes = rng.integers([0, 0, 3, 3], [30, 30, 12, 12], (faces, 4)) / grid
        order = rng.permutation(faces)
        sizes = np.sort(rng.integers(0, faces + 1, 3))
        truth[name] = CountedFaces(
            boxes, {s: order[:size] for s, size in zip(SUBSETS, sizes, strict=True)}
        )
        more = rng.integers(0, [30, 30, 12, 12], (int(rng.integers(0, 3)), 4)) / grid
        near = boxes[rng.integers(0, faces, int(rng.integers(1, 3) * faces))] if faces else boxes
        near = np.maximum(near + rng.integers(-1, 2, near.shape) / grid, 0)
        detected = np.concatenate([near, more])
        scores = rng.random(len(detected)).round(decimals)
        found[name] = rng.permutation(np.column_stack([detected, scores]))
    return truth, found


@pytest.mark.parametrize("seed", range(60))
def test_equals_the_plain_loop(seed: int) -> None:
    truth, found = random_case(seed)
    report = wider_average_precision(truth, found)
    plain = plain_average_precision(truth, found)
    for subset, result in report.subsets.items():
        assert (result.ap or 0.0) == pytest.approx(plain[subset], abs=1e-12)
        assert result.faces == sum(len(one.counted[subset]) for one in truth.values())


def test_random_cases_are_worth_comparing() -> None:
    aps = [wider_average_precision(*random_case(seed)).hard.ap or 0.0 for seed in range(60)]
    assert len({round(value, 6) for value in aps}) > 40
    assert min(aps) < 0.4 < 0.7 < max(aps)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: {name: one[:0] for name, one in found.items()},
        lambda found: {
            name: one * [1, 1, 1, 1, 0] + [0, 0, 0, 0, 0.5] for name, one in found.items()
        },
        lambda found: {name: one * [1, 1, 1, 1, 0] for name, one in found.items()},
        lambda found: {
            name: one * [1, 1, 1, 1, -8] - [0, 0, 0, 0, 1] for name, one in found.items()
        },
        lambda found: {name: one * [1, 1, 1, 1, 100] for name, one in found.items()},
        lambda found: {name: one - [0, 0, 9, 9, 0] for name, one in found.items()},
    ],
    ids=["nothing found", "equal", "all zero", "negative", "percent", "inside out"],
)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_plain_loop_at_the_edges(change: Callable[[Rows], Rows], seed: int) -> None:
    truth, found = random_case(seed)
    found = change(found)
    plain = plain_average_precision(truth, found)
    for subset, result in wider_average_precision(truth, found).subsets.items():
        assert (result.ap or 0.0) == pytest.approx(plain[subset], abs=1e-12)


def test_all_found_and_nothing_else_is_one() -> None:
    truth = [image(FACE, OTHER, counted=(0, 1)), image(OTHER, counted=(0,))]
    assert ap(truth, [rows((*FACE, 0.9), (*OTHER, 0.3)), rows((*OTHER, 0.4))]) == 1


def test_nothing_found_is_zero() -> None:
    assert ap([image(FACE, counted=(0,))], [rows()]) == 0


def test_a_wrong_detection_above_halves_and_one_below_costs_nothing() -> None:
    face = image(FACE, counted=(0,))
    assert ap([face], [rows((*FACE, 0.5), (*NOWHERE, 1.0), (*NOWHERE, 0.0))]) == 0.5
    assert ap([face], [rows((*FACE, 1.0), (*NOWHERE, 0.5))]) == 1


def test_a_second_detection_of_a_face_is_a_mistake() -> None:
    face = image(FACE, OTHER, counted=(0, 1))
    found = rows((*FACE, 1.0), (*FACE, 0.9), (*OTHER, 0.8), (*NOWHERE, 0.0))
    assert ap([face], [found]) == pytest.approx((1 + 2 / 3) / 2)


def test_detections_of_ignored_faces_count_neither_way() -> None:
    face = image(FACE, OTHER, counted=(1,))
    found = rows((*FACE, 1.0), (*FACE, 0.9), (*OTHER, 0.8), (*NOWHERE, 0.0))
    assert ap([face], [found]) == 1


def test_a_detection_goes_to_the_nearest_face_even_if_ignored() -> None:
    near = (10, 10, 19, 17)
    assert ap([image(FACE, near, counted=(0,))], [rows((*near, 1.0), (*NOWHERE, 0.0))]) == 0
    assert ap([image(FACE, near, counted=(1,))], [rows((*near, 1.0), (*NOWHERE, 0.0))]) == 1


def test_of_equal_faces_the_first_is_taken() -> None:
    found = rows((*FACE, 1.0), (*NOWHERE, 0.0))
    assert ap([image(FACE, FACE, counted=(0,))], [found]) == 1
    assert ap([image(FACE, FACE, counted=(1,))], [found]) == 0


def test_boxes_are_one_pixel_wider_than_written() -> None:
    """20 x 20 pixels against 20 x 10 is an IoU of exactly 0.5; as written 9 / 19 is less."""
    half = rows((10, 10, 19, 9, 1.0), (*NOWHERE, 0.0))
    less = rows((10, 10, 19, 8.99, 1.0), (*NOWHERE, 0.0))
    assert ap([image(FACE, counted=(0,))], [half]) == 1
    assert ap([image(FACE, counted=(0,))], [less]) == 0


def test_images_where_no_face_counts_add_mistakes_unless_not_annotated() -> None:
    right, wrong = rows((*FACE, 0.5), (*NOWHERE, 0.0)), rows((*NOWHERE, 1.0))
    assert ap([image(FACE, counted=(0,)), image(OTHER)], [right, wrong]) == 0.5
    assert ap([image(FACE, counted=(0,)), image()], [right, wrong]) == 1


def test_scores_are_stretched_over_the_whole_set() -> None:
    """Also over an image without annotation, whose detections count no other way."""
    truth = [image(FACE, counted=(0,)), image()]
    close = rows((*FACE, 0.50004), (*NOWHERE, 0.50002))
    assert ap(truth, [close, rows()]) == 1
    assert ap(truth, [close, rows((*NOWHERE, 1.0), (*NOWHERE, 0.0))]) == 0.5


def test_the_unit_of_the_scores_changes_nothing() -> None:
    truth, found = random_case(3)
    doubled = {name: one * [1, 1, 1, 1, 2] for name, one in found.items()}
    one, other = (wider_average_precision(truth, rows) for rows in (found, doubled))
    assert one.subsets == other.subsets


def test_order_of_images_and_detections_changes_nothing() -> None:
    truth, found = random_case(1, images=12)
    mixed = {name: found[name][::-1] for name in reversed(found)}
    assert wider_average_precision(dict(reversed(truth.items())), mixed) == (
        wider_average_precision(truth, found)
    )


def test_many_boxes_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, found = random_case(2)
    whole = wider_average_precision(truth, found)
    monkeypatch.setattr("objectives.wider_protocol._PAIRS", 7)
    assert wider_average_precision(truth, found) == whole


def test_a_part_is_scored_as_if_the_rest_were_not_there() -> None:
    truth, found = random_case(4, images=10)
    part = sorted(truth)[::2]
    report = wider_average_precision(truth, found, images=part)
    alone = wider_average_precision({n: truth[n] for n in part}, {n: found[n] for n in part})
    assert report == alone
    assert report.images == 5
    assert report != wider_average_precision(truth, found)


def test_a_subset_without_faces_has_no_ap() -> None:
    report = wider_average_precision({"e/a.jpg": image(FACE)}, {"e/a.jpg": rows((*FACE, 1.0))})
    assert (report.easy.ap, report.easy.faces) == (None, 0)
    json.dumps(report.to_json(), allow_nan=False)


def test_curves_belong_to_the_ap() -> None:
    report = wider_average_precision(*random_case(7))
    for result in report.subsets.values():
        assert len(result.precision) == len(result.recall) == POINTS
        assert (np.diff(result.recall) >= 0).all()
        assert all(0 <= share <= 1 for share in (*result.precision, *result.recall))
        best_after = np.maximum.accumulate(result.precision[::-1])[::-1]
        area = np.sum(np.diff([0, *result.recall]) * best_after)
        assert result.ap == pytest.approx(area)


def test_report_is_json_and_says_what_was_scored() -> None:
    truth, found = random_case(8)
    report = wider_average_precision(truth, found)
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert value["hard"]["ap"] == report.hard.ap
    assert len(value["easy"]["recall"]) == POINTS
    scores = np.concatenate([one[:, 4] for one in found.values()])
    assert (value["images"], value["detections"]) == (6, len(scores))
    assert (value["lowest_score"], value["highest_score"]) == (scores.min(), scores.max())


def test_progress_goes_from_none_to_all() -> None:
    heard: list[tuple[int, int]] = []
    wider_average_precision(
        *random_case(0), progress=lambda _label, done, total: heard.append((done, total))
    )
    assert heard == [(done, 6) for done in range(7)]


def test_images_that_do_not_fit_are_named() -> None:
    truth = {"e/a.jpg": image(FACE, counted=(0,)), "e/b.jpg": image(FACE, counted=(0,))}
    both = {"e/a.jpg": rows(), "e/b.jpg": rows()}
    with pytest.raises(UserError, match=r"predictions of 1 images that are not .* as e/z\.jpg"):
        wider_average_precision(truth, both | {"e/z.jpg": rows()})
    with pytest.raises(UserError, match=r"1 of 2 images have no predictions, such as e/b\.jpg"):
        wider_average_precision(truth, {"e/a.jpg": rows()})
    assert wider_average_precision(truth, {"e/a.jpg": rows()}, images=["e/a.jpg"]).images == 1
    with pytest.raises(ValueError, match=r"must be in the ground truth, got 'e/z\.jpg'"):
        wider_average_precision(truth, both, images=["e/z.jpg"])
    with pytest.raises(ValueError, match="at least one"):
        wider_average_precision(truth, both, images=[])
    with pytest.raises(ValueError, match=r"finite \(N, 5\), got \(1, 4\) for e/a\.jpg"):
        wider_average_precision(truth, both | {"e/a.jpg": np.zeros((1, 4))})
    with pytest.raises(ValueError, match=r"finite \(N, 5\)"):
        wider_average_precision(truth, both | {"e/a.jpg": rows((*FACE, np.nan))})


@pytest.mark.real
def test_published_predictions_give_the_published_numbers(wider_root: Path) -> None:
    start = time.process_time()
    truth = read_ground_truth(wider_root / "ground_truth")
    found = read_predictions(wider_root / "predictions" / "retinaface_mnet025_val.tar.xz")
    report = wider_average_precision(truth, found)
    seconds = time.process_time() - start
    aps = [round(result.ap or 0.0, 4) for result in report.subsets.values()]
    assert aps == [0.9070, 0.8816, 0.7383]
    assert [result.faces for result in report.subsets.values()] == [7_211, 13_319, 31_958]
    assert (report.images, report.detections) == (3226, 297_333)
    assert seconds < 10
