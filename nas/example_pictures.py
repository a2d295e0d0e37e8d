"""What a network finds in a few held-out images while it is trained, as one picture."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data.boxes import move_boxes
from data.sample import Faces
from nas.drawing import draw
from nas.inference import detect_images
from objectives.average_precision import Detections
from search_spaces.face_network import FaceNetwork

Picture = NDArray[np.uint8]
"""(H, W, 3), BGR."""

TRUTH_BGR = (255, 170, 60)
TILE_PX = 320
GAP_PX = 6
LEAST_SCORE_SHOWN = 0.5


def example_pictures(
    network: FaceNetwork,
    images: Picture,
    faces: Sequence[Faces],
    *,
    least_score: float = LEAST_SCORE_SHOWN,
) -> Picture:
    """The images side by side, the boxes found in green over those that are there in blue.

    images: (N, H, W, 3) uint8, BGR, H and W multiples of 32; shown at most TILE_PX large. The
    network is left in eval mode.
    """
    device = next(network.parameters()).device
    found = detect_images(network, images, device=device)
    tiles = [
        _tile(image, one, true, least_score)
        for image, one, true in zip(images, found, faces, strict=True)
    ]
    columns = math.ceil(math.sqrt(len(tiles) * 2))
    return _grid(tiles, min(columns, len(tiles)))


def _tile(image: Picture, found: Detections, faces: Faces, least_score: float) -> Picture:
    """One image made small, with boxes of one line's width."""
    scale = min(1.0, TILE_PX / max(image.shape[:2]))
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    true = move_boxes(faces.boxes_xyxy[~faces.ignore], scale=scale, shift=(0.0, 0.0))
    for x1, y1, x2, y2 in true.round().astype(int).tolist():
        cv2.rectangle(small, (x1, y1), (x2, y2), TRUTH_BGR)
    shown = found.scores >= least_score
    boxes = move_boxes(found.boxes_xyxy[shown], scale=scale, shift=(0.0, 0.0))
    return draw(small, boxes, found.scores[shown])


def _grid(tiles: Sequence[Picture], columns: int) -> Picture:
    """Tiles of one size in rows, with white gaps."""
    rows = math.ceil(len(tiles) / columns)
    height, width = (pixels + GAP_PX for pixels in tiles[0].shape[:2])
    picture = np.full((rows * height - GAP_PX, columns * width - GAP_PX, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        y, x = place // columns * height, place % columns * width
        picture[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return picture


class WatchedValidation:
    """A validation that also pictures what the network it was given finds."""

    def __init__(
        self,
        validate: Callable[[FaceNetwork], Mapping[str, Any]],
        images: Picture,
        faces: Sequence[Faces],
    ) -> None:
        self._validate = validate
        self._images = images
        self._faces = faces
        self._picture: Picture | None = None

    def __call__(self, network: FaceNetwork) -> Mapping[str, Any]:
        """What the validation gives."""
        self._picture = example_pictures(network, self._images, self._faces)
        return self._validate(network)

    def picture(self) -> Picture | None:
        """Of the last validation; None before the first."""
        return self._picture
