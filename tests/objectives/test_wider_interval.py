"""The interval's weighted protocol is the protocol itself on images drawn again."""

import numpy as np
import pytest

from data.wider_ground_truth import CountedFaces
from objectives.wider_interval import wider_intervals
from objectives.wider_protocol import match_predictions, report_precision, wider_average_precision
from tests.objectives.test_wider_protocol import FACE, NOWHERE, image, random_case, rows


def drawn_again(
    truth: dict[str, CountedFaces], found: dict[str, np.ndarray], counts: np.ndarray
) -> dict[str, float | None]:
    """AP of a set that holds each image as often as counted, under names of their own."""
    names = sorted(truth)
    copies = [(name, i) for name, times in zip(names, counts, strict=True) for i in range(times)]
    report = wider_average_precision(
        {f"{name}{i}": truth[name] for name, i in copies},
        {f"{name}{i}": found[name] for name, i in copies},
    )
    return {subset: result.ap for subset, result in report.subsets.items()}


def with_ends(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every image has a detection of score 0 and one of 1: any drawing is stretched alike."""
    ends = rows((*NOWHERE, 0.0), (*NOWHERE, 1.0))
    return {name: np.concatenate([one, ends]) for name, one in found.items()}


@pytest.mark.parametrize("seed", range(8))
def test_one_drawing_equals_the_protocol_on_it(seed: int) -> None:
    truth, found = random_case(seed, images=8)
    found = with_ends(found)
    counts = np.random.default_rng(seed).multinomial(8, np.full(8, 1 / 8), size=1)[0]
    intervals = wider_intervals(match_predictions(truth, found), seed=seed, resamples=1)
    for subset, ap in drawn_again(truth, found, counts).items():
        interval = intervals[subset]
        assert (ap is None) == (interval is None)
        if interval is not None:
            assert interval == pytest.approx((ap, ap), abs=1e-12)


def test_the_interval_holds_the_result_and_narrows_with_more_images() -> None:
    widths = []
    for images in (10, 160):
        truth, found = random_case(3, images=images)
        matches = match_predictions(truth, found)
        ap, interval = report_precision(matches).hard.ap, wider_intervals(matches)["hard"]
        assert ap is not None
        assert interval is not None
        assert interval[0] < ap < interval[1]
        widths.append(interval[1] - interval[0])
    assert widths[1] < widths[0] / 2


def test_images_that_are_all_alike_have_no_width() -> None:
    truth = {f"e/{i}.jpg": image(FACE, counted=(0,)) for i in range(5)}
    found = {name: rows((*FACE, 0.5), (*NOWHERE, 1.0), (*NOWHERE, 0.0)) for name in truth}
    assert wider_intervals(match_predictions(truth, found))["easy"] == pytest.approx((0.5, 0.5))


def test_a_part_is_drawn_from_itself() -> None:
    truth, found = random_case(4, images=10)
    part = sorted(truth)[::2]
    alone = match_predictions({n: truth[n] for n in part}, {n: found[n] for n in part})
    matches = match_predictions(truth, found, images=part)
    assert wider_intervals(matches) == wider_intervals(alone)


def test_equal_seeds_give_equal_intervals() -> None:
    matches = match_predictions(*random_case(5, images=12))
    assert wider_intervals(matches, seed=1) == wider_intervals(matches, seed=1)
    assert wider_intervals(matches, seed=1) != wider_intervals(matches, seed=2)


def test_a_subset_without_faces_has_no_interval() -> None:
    found = {"e/a.jpg": rows((*FACE, 1.0))}
    matches = match_predictions({"e/a.jpg": image(FACE)}, found)
    assert wider_intervals(matches)["easy"] is None


def test_nothing_found_is_zero() -> None:
    truth = {"e/a.jpg": image(FACE, counted=(0,))}
    assert wider_intervals(match_predictions(truth, {"e/a.jpg": rows()}))["hard"] == (0, 0)


def test_no_drawing_at_all_is_refused() -> None:
    matches = match_predictions({"e/a.jpg": image(FACE, counted=(0,))}, {"e/a.jpg": rows()})
    with pytest.raises(ValueError, match="resamples must be positive"):
        wider_intervals(matches, resamples=0)
