import numpy as np
import pytest
from numpy.typing import NDArray

from data.mosaic import MEETING, TILES, mosaic
from data.sample import Faces, Sample

SIZE = 100


def tile(number: int, side: int) -> Sample:
    """A tile in a grey of its own, with one face over all of it and one in its middle."""
    image = np.full((side, side, 3), 50 * (number + 1), dtype=np.uint8)
    third = side / 3
    boxes = np.array([[0, 0, side, side], [third, third, 2 * third, 2 * third]])
    return Sample(image, Faces.of(boxes), f"tile {number}")


def places(picture: NDArray[np.uint8]) -> list[tuple[int, int, int, int]]:
    """Where each tile's grey is, as (x1, y1, x2, y2)."""
    found = []
    for number in range(TILES):
        y, x = np.nonzero(picture[..., 0] == 50 * (number + 1))
        assert len(x) == (x.max() - x.min() + 1) * (y.max() - y.min() + 1)  # one rectangle
        found.append((int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_four_tiles_fill_the_picture_around_a_point(seed: int) -> None:
    picture = mosaic(tile, size=SIZE, rng=np.random.default_rng(seed))
    first, second, third, fourth = places(picture.image)
    x, y = first[2:]
    assert first == (0, 0, x, y)
    assert second == (x, 0, SIZE, y)
    assert third == (0, y, x, SIZE)
    assert fourth == (x, y, SIZE, SIZE)
    assert MEETING[0] * SIZE - 1 <= min(x, y) <= max(x, y) <= MEETING[1] * SIZE + 1
    assert picture.source == "tile 0 + tile 1 + tile 2 + tile 3"


@pytest.mark.parametrize("seed", range(5))
def test_faces_are_cut_where_their_tile_is(seed: int) -> None:
    picture = mosaic(tile, size=SIZE, rng=np.random.default_rng(seed))
    boxes = picture.faces.boxes_xyxy
    for number, place in enumerate(places(picture.image)):
        assert boxes[2 * number].tolist() == list(place)  # the one over all of it
        whole = boxes[2 * number + 1]
        assert (whole[:2] >= place[:2]).all()
        assert (whole[2:] <= place[2:]).all()


def test_a_face_whose_centre_is_cut_away_is_ignored() -> None:
    def corner(_number: int, side: int) -> Sample:
        image = np.zeros((side, side, 3), dtype=np.uint8)
        boxes = np.array([[0, 0, 12, 12], [side - 12, side - 12, side, side]])
        return Sample(image, Faces.of(boxes), "corner")

    def faces_of(seed: int) -> Faces:
        return mosaic(corner, size=SIZE, rng=np.random.default_rng(seed)).faces

    every = [faces_of(seed) for seed in range(20)]
    for faces in every:
        sides = faces.boxes_xyxy[:, 2:] - faces.boxes_xyxy[:, :2]
        is_whole = np.isclose(sides, 12).all(-1)
        assert not faces.ignore[is_whole].any()
        assert faces.ignore[(sides < 5.9).any(-1)].all()
    assert sum(int(faces.ignore.sum()) for faces in every) > 0


def test_tiles_are_asked_for_in_order_and_the_point_follows_from_the_seed() -> None:
    asked: list[int] = []

    def noted(number: int, side: int) -> Sample:
        asked.append(number)
        return tile(number, side)

    one, same = (mosaic(noted, size=SIZE, rng=np.random.default_rng(3)) for _ in range(2))
    assert asked == [0, 1, 2, 3] * 2
    assert np.array_equal(one.image, same.image)
    other = mosaic(tile, size=SIZE, rng=np.random.default_rng(4))
    assert not np.array_equal(one.image, other.image)
