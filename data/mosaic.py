"""Pictures put together from four: more faces, smaller ones, and other surroundings at once.

Source: Bochkovskiy et al., YOLOv4, arXiv:2004.10934, section 3.4.
"""

from collections.abc import Callable

import numpy as np

from data.boxes import move_boxes
from data.crops import cut_faces
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
        moved = move_boxes(sample.faces.boxes_xyxy, scale=1, shift=(left, top))
        parts.append(cut_faces(sample.faces, moved, place_xyxy=place))
        sources.append(sample.source)
    return Sample(picture, _together(parts), " + ".join(sources))


def _together(parts: list[Faces]) -> Faces:
    return Faces(
        np.concatenate([part.boxes_xyxy for part in parts]),
        np.concatenate([part.attributes for part in parts]),
        np.concatenate([part.ignore for part in parts]),
    )
