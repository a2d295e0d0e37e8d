import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data.crops import (
    PADDING_BGR,
    View,
    Window,
    cut,
    cut_faces,
    deployment_scale,
    draw_window,
    faces_in_view,
    windows_for_equal_faces,
)
from data.sample import Faces
from tests.data.drawn_faces import FACE_BGR, drawn


def faces_of(*boxes: tuple[float, float, float, float]) -> Faces:
    return Faces.of(np.array(boxes, dtype=np.float32))


def box_of_colour(image: NDArray[np.uint8]) -> list[int]:
    """Where the image is nearer to a face's colour than to anything else's."""
    rows, columns = np.nonzero(image[..., 2] > 170)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_window_at_the_images_own_scale_shows_its_very_pixels() -> None:
    sample = drawn([(40, 50, 70, 90)], width=200, height=150)
    crop = cut(sample, Window(32, 33, 64), size=64)
    assert np.array_equal(crop.image, sample.image[33:97, 32:96])
    assert crop.faces.boxes_xyxy.tolist() == [[8, 17, 38, 57]]
    assert crop.source == sample.source


@pytest.mark.parametrize("window", [Window(10, 0, 100), Window(-30, -40, 300), Window(35, 45, 48)])
def test_boxes_stay_on_their_faces(window: Window) -> None:
    sample = drawn([(40, 50, 70, 90)], width=200, height=150)
    crop = cut(sample, window, size=128)
    assert crop.image.shape == (128, 128, 3)
    assert np.abs(crop.faces.boxes_xyxy[0] - box_of_colour(crop.image)).max() <= 1


def test_beyond_the_image_is_padding() -> None:
    crop = cut(drawn([], width=64, height=64), Window(-64, 0, 128), size=128)
    assert (crop.image[:, :64] == PADDING_BGR).all()
    assert (crop.image[64:] == PADDING_BGR).all()
    assert not (crop.image[:64, 64:] == PADDING_BGR).any()


def test_a_window_that_misses_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="touch the image of 64 x 64"):
        cut(drawn([], width=64, height=64), Window(64, 0, 32), size=32)


def test_cut_faces_count_only_with_their_centre_in_view() -> None:
    faces = faces_of((-10, 10, 20, 40), (-20, 10, 10, 40), (-40, 10, -5, 40), (70, 70, 90, 95))
    seen = faces_in_view(faces, View(1.0, (0.0, 0.0), 100))
    assert seen.boxes_xyxy.tolist() == [[0, 10, 20, 40], [0, 10, 10, 40], [70, 70, 90, 95]]
    assert seen.ignore.tolist() == [False, True, False]


def test_small_faces_are_ignored_and_never_dropped() -> None:
    faces = faces_of((10, 10, 17, 17.5), (10, 10, 18, 18))
    seen = faces_in_view(faces, View(0.5, (0.0, 0.0), 100))
    assert seen.ignore.tolist() == [True, False]


def test_ignored_faces_stay_ignored_and_attributes_stay_with_their_face() -> None:
    faces = Faces.of(
        np.array([[200, 0, 220, 20], [10, 10, 40, 40]]),
        np.array([[1] * 6, [2] * 6]),
        np.array([False, True]),
    )
    seen = faces_in_view(faces, View(1.0, (0.0, 0.0), 100))
    assert seen.attributes.tolist() == [[2] * 6]
    assert seen.ignore.tolist() == [True]


@pytest.mark.parametrize("shift", [(0, 0), (30, -7)])
def test_faces_are_cut_the_same_wherever_their_place_is(shift: tuple[int, int]) -> None:
    corners = np.random.default_rng(0).uniform(-40, 110, (200, 2))
    sides = np.random.default_rng(1).uniform(1, 40, (200, 2))
    faces = Faces.of(np.hstack([corners, corners + sides]))
    seen = faces_in_view(faces, View(1.0, (0.0, 0.0), 100))
    assert 0 < seen.ignore.sum() < len(seen) < len(faces)
    by = np.array(shift * 2, dtype=np.float32)
    place = np.array([0, 0, 100, 100], dtype=np.float32) + by
    cut_there = cut_faces(faces, faces.boxes_xyxy + by, place_xyxy=place)
    np.testing.assert_allclose(cut_there.boxes_xyxy - by, seen.boxes_xyxy, atol=1e-4)
    assert cut_there.ignore.tolist() == seen.ignore.tolist()


def test_a_place_need_not_be_square() -> None:
    boxes = np.array([[10, 10, 30, 30], [25, 10, 45, 30], [10, 35, 30, 55]], dtype=np.float32)
    place = np.array([20, 5, 60, 40], dtype=np.float32)
    seen = cut_faces(Faces.of(boxes), boxes, place_xyxy=place)
    assert seen.boxes_xyxy.tolist() == [[20, 10, 30, 30], [25, 10, 45, 30], [20, 35, 30, 40]]
    assert seen.ignore.tolist() == [False, False, True]


def test_mirroring_twice_changes_nothing() -> None:
    faces = faces_of((10, 20, 40, 60), (90, 0, 99, 30))
    mirror = View(1.0, (0.0, 0.0), 100, mirrored=True)
    once = faces_in_view(faces, mirror)
    assert np.allclose(faces_in_view(once, mirror).boxes_xyxy, faces.boxes_xyxy)
    assert not np.allclose(once.boxes_xyxy, faces.boxes_xyxy)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_matrix_and_the_boxes_of_a_view_agree(mirrored: bool) -> None:  # noqa: FBT001
    sample = drawn([(40, 50, 70, 90)], width=128, height=128)
    view = View(1.3, (-20.0, -11.0), 128, mirrored)
    image = cv2.warpAffine(sample.image, view.matrix(), (128, 128))
    box = faces_in_view(sample.faces, view).boxes_xyxy[0]
    assert np.abs(box - box_of_colour(np.asarray(image, dtype=np.uint8))).max() <= 1


def test_images_are_scaled_down_to_the_full_size_and_never_up() -> None:
    assert deployment_scale(np.zeros((500, 1280, 3), np.uint8), full_size=640) == 0.5
    assert deployment_scale(np.zeros((300, 200, 3), np.uint8), full_size=640) == 1


@pytest.mark.parametrize("side", [20, 100, 400])
def test_a_window_around_a_face_shows_the_whole_face(side: int) -> None:
    sample = drawn([(0, 100, 60, 190)], width=320, height=240)
    for seed in range(50):
        window = draw_window(sample, side=side, background_share=0, rng=np.random.default_rng(seed))
        assert window.x <= 0
        assert window.x + window.side >= 60
        assert window.y <= 100
        assert window.y + window.side >= 190


@pytest.mark.parametrize("background_share", [0, 1])
def test_windows_reach_beyond_the_image_only_when_larger(background_share: float) -> None:
    sample = drawn([(200, 100, 230, 140)], width=320, height=240)
    rng = np.random.default_rng(0)
    for _ in range(100):
        window = draw_window(
            sample, side=rng.uniform(50, 500), background_share=background_share, rng=rng
        )
        for low, length in ((window.x, 320), (window.y, 240)):
            room = length - window.side
            assert min(room, 0) <= low <= max(room, 0)


def test_crowds_take_more_windows_than_portraits() -> None:
    rng = np.random.default_rng(0)
    portrait = faces_of((10, 10, 100, 100))
    crowd = faces_of(*((x, y, x + 9, y + 9) for x in range(0, 600, 30) for y in range(0, 400, 30)))

    def windows(faces: Faces) -> float:
        draws = [
            windows_for_equal_faces(faces, side=256, crops_per_image=2, rng=rng) for _ in range(100)
        ]
        return float(np.mean(draws))

    assert windows(portrait) == 2
    assert windows(faces_of()) == 2
    assert 4 < windows(crowd) < 14  # a crowd fills the image: at most 2 windows for each 256 x 256


def test_a_window_has_a_side() -> None:
    with pytest.raises(ValueError, match="side must be at least 1"):
        Window(0, 0, 0)


def test_a_face_has_its_colour_in_the_middle() -> None:
    crop = cut(drawn([(40, 50, 70, 90)], width=200, height=150), Window(20, 20, 128), size=64)
    x1, y1, x2, y2 = crop.faces.boxes_xyxy[0]
    assert crop.image[int(y1 + y2) // 2, int(x1 + x2) // 2].tolist() == list(FACE_BGR)
