"""Several looks at an image: what each adds, and that one look is the plain detector."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data.boxes import aligned_iou, flip_boxes, nms
from data.errors import UserError
from nas.detector import FaceDetector
from nas.multi_pass import (
    MAX_BOXES,
    ONE_PASS,
    MultiPassDetector,
    Passes,
    parse_scales,
    suppress,
)
from objectives.average_precision import LEAST_SCORE, NMS_IOU
from tests.nas.test_detector import scene
from tests.tiny_onnx import write_tiny_onnx


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_onnx(tmp_path_factory.mktemp("tiny") / "model.onnx")


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("long_side", [None, 96])
def test_one_pass_is_the_plain_detector(tiny: Path, long_side: int | None) -> None:
    image = noise(70, 110)
    plain = FaceDetector(
        tiny,
        score_threshold=LEAST_SCORE,
        iou_threshold=NMS_IOU,
        max_boxes=MAX_BOXES,
        long_side=long_side,
    )
    found = MultiPassDetector(tiny, long_side=long_side, passes=ONE_PASS)(image)
    for one, other in zip(found, plain(image), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_scale_finds_what_is_too_small_without_it(tiny: Path) -> None:
    small = scene(64, 64, (2, 3))[::2, ::2]  # a cell of 4 px, which fills a quarter of one
    once, twice, both = (
        MultiPassDetector(tiny, long_side=None, passes=Passes(scales))(small)
        for scales in ((1.0,), (2.0,), (1.0, 2.0))
    )
    np.testing.assert_allclose(twice[0][0], [11, 7, 17, 13])
    assert once[1].max() == 0.25 < 0.5 < twice[1].max()
    np.testing.assert_allclose(both[0][0], twice[0][0])
    assert once[0].tolist()[0] in both[0].tolist(), "the looser box stays beside it"
    assert (np.diff(both[1]) <= 0).all()


def test_scales_multiply_the_image_size(tiny: Path) -> None:
    image = noise(60, 80)
    half = MultiPassDetector(tiny, long_side=160, passes=Passes((0.5,)))(image)
    plain = MultiPassDetector(tiny, long_side=80, passes=ONE_PASS)(image)
    np.testing.assert_array_equal(half[0], plain[0])


def test_both_looks_of_a_flip_find_a_face_in_one_place(tiny: Path) -> None:
    """The width is a multiple of the cells, so the mirrored image has the same ones."""
    image = scene(64, 96, (2, 3), (5, 9))
    once = MultiPassDetector(tiny, long_side=None, passes=ONE_PASS)(image)
    twice = MultiPassDetector(tiny, long_side=None, passes=Passes(flip=True))(image)
    np.testing.assert_allclose(sorted(twice[0].tolist()), sorted(once[0].tolist()))


def test_a_flip_finds_what_only_the_mirrored_image_shows(tiny: Path) -> None:
    """In 36 px the cells that count from the right are not those that count from the left."""
    image = scene(32, 36)
    image[8:16, 4:12] = 255  # 4 px off a cell from the left, cell 3 from the right
    boxes, scores = MultiPassDetector(tiny, long_side=None, passes=Passes(flip=True))(image)
    # The half-sure boxes from 0 to 10 (cut at the border) and 6 to 18 of the plain look vote, too.
    np.testing.assert_allclose(boxes[0], [(2 + 0 / 2 + 6 / 2) / 2, 6, 14, 18])
    assert scores[0] == 1
    assert MultiPassDetector(tiny, long_side=None, passes=ONE_PASS)(image)[1].max() == 0.5


def test_flipping_the_image_flips_what_is_found(tiny: Path) -> None:
    image = scene(40, 52, (1, 1), (3, 4)) // 2
    image[5:30, 37:49] = 255
    detector = MultiPassDetector(tiny, long_side=None, passes=Passes((1, 2), flip=True))
    (boxes, scores), (mirrored, others) = detector(image), detector(image[:, ::-1])
    np.testing.assert_allclose(scores, others, atol=1e-6)
    best = scores > 0.9
    back = flip_boxes(mirrored[best], width=52)
    np.testing.assert_allclose(sorted(back.tolist()), sorted(boxes[best].tolist()), atol=1e-3)


@pytest.mark.parametrize("count", [0, 1, 60, 500])
def test_suppression_of_the_best_first_is_suppression(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.multi_pass._FIRST_TRIED", 8)
    monkeypatch.setattr("nas.multi_pass.MAX_BOXES", 40)
    rng = np.random.default_rng(count)
    corner = rng.uniform(0, 100, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 30, (count, 2))], 1).astype(np.float32)
    scores = (rng.integers(0, 50, count) / 50).astype(np.float32)
    kept = nms(boxes, scores, iou_threshold=NMS_IOU, max_boxes=40)
    found = suppress(boxes, scores, vote=False)
    np.testing.assert_array_equal(found[0], boxes[kept])
    np.testing.assert_array_equal(found[1], scores[kept])
    voted = suppress(boxes, scores, vote=True)
    np.testing.assert_array_equal(voted[1], scores[kept])
    assert (aligned_iou(voted[0], found[0]) > NMS_IOU).all()


def test_boxes_vote_by_their_scores() -> None:
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [50, 0, 60, 10], [9, 9, 9, 9]], np.float32)
    scores = np.array([0.9, 0.3, 0.8, 0.7], np.float32)
    voted, left = suppress(boxes, scores, vote=True)
    np.testing.assert_allclose(left, [0.9, 0.8, 0.7])
    expected = np.array([[0.5, 0, 10.5, 10], [50, 0, 60, 10], [9, 9, 9, 9]])
    np.testing.assert_allclose(voted, expected, atol=1e-6)
    np.testing.assert_array_equal(suppress(boxes, scores, vote=False)[0], boxes[[0, 2, 3]])


def test_passes_say_what_they_are() -> None:
    assert str(ONE_PASS) == "single scale, no flip"
    assert str(Passes((0.5, 1, 2), flip=True)) == "scales 0.5, 1, 2, flip"
    assert list(Passes((1, 2), flip=True)) == [(1, False), (1, True), (2, False), (2, True)]


@pytest.mark.parametrize("text", ["0.5 1 2", "0.5,1,2", " 0.5, 1 2 "])
def test_scales_are_read_with_spaces_or_commas(text: str) -> None:
    assert parse_scales(text) == (0.5, 1, 2)


@pytest.mark.parametrize("scales", [(), (0.0,), (-1.0,), (1.0, 1.0), (9.0,), (float("nan"),)])
def test_scales_out_of_range_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="--scales must be"):
        Passes(scales)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match=r"got 'big'"):
        parse_scales("big")


def test_an_image_size_that_is_not_positive_is_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="long_side must be 1 or more"):
        MultiPassDetector(tiny, long_side=0, passes=ONE_PASS)
