"""Pictures put together from four: more faces, smaller ones, and other surroundings at once.

Source: Bochkovskiy et al., YOLOv4, arXiv:2004.10934, section 3.4.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from data.boxes import box_areas, box_heights
from data.crops import SMALLEST_FACE_PX
from data.sample import Faces, Sample

TILES = 4

MEETING = (0.3, 0.7)
"""The four tiles meet at a point this far into the picture, along either axis."""


def mosaic(square: Callable[[int, int], Sample], *, size: int, rng: np.random.Generator) -> Sample:
    """A picture of `size` x `size` pixels: four tiles around a random point.

    square: (tile, side) -> the sample for tile 0 to 3, `side` x `side` pixels; tiles are asked
    for in order. Each is as wide as its place is long, laid with a corner at the meeting point,
    and cut where the picture ends.
    """
    across, down = (int(place) for place in np.round(size * rng.uniform(*MEETING, 2)))
    picture = np.empty((size, size, 3), dtype=np.uint8)
    parts, sources = [], []
    for tile in range(TILES):
        x1, x2 = (0, across) if tile % 2 == 0 else (across, size)
        y1, y2 = (0, down) if tile < 2 else (down, size)
        side = max(x2 - x1, y2 - y1)
        sample = square(tile, side)
        left = x2 - side if tile % 2 == 0 else x1
        top = y2 - side if tile < 2 else y1
        picture[y1:y2, x1:x2] = sample.image[y1 - top : y2 - top, x1 - left : x2 - left]
        place = np.array([x1, y1, x2, y2], dtype=np.float32)
        parts.append(_placed(sample.faces, np.array([left, top, left, top]), place))
        sources.append(sample.source)
    return Sample(picture, _together(parts), " + ".join(sources))


def _placed(faces: Faces, shift: NDArray[np.int64], place_xyxy: NDArray[np.float32]) -> Faces:
    """Faces moved, and cut at their tile's place.

    Those whose centre is cut away, or that show less than 4 px of height, are ignored.
    """
    low, high = place_xyxy[:2], place_xyxy[2:]
    moved = faces.boxes_xyxy + shift.astype(np.float32)
    centres = (moved[:, :2] + moved[:, 2:]) / 2
    boxes = np.clip(moved, np.tile(low, 2), np.tile(high, 2))
    is_cut_away = ((centres < low) | (centres >= high)).any(-1)
    is_small = box_heights(boxes) < SMALLEST_FACE_PX
    visible = box_areas(boxes) > 0
    return Faces(
        boxes[visible],
        faces.attributes[visible],
        (faces.ignore | is_cut_away | is_small)[visible],
    )


def _together(parts: list[Faces]) -> Faces:
    return Faces(
        np.concatenate([part.boxes_xyxy for part in parts]),
        np.concatenate([part.attributes for part in parts]),
        np.concatenate([part.ignore for part in parts]),
    )
