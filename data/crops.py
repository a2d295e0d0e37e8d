"""Square crops that keep faces as large as the detector will see them.

A deployed detector looks at an image scaled to a long side of 640 px. Scaling the whole image to
256 px instead would shrink the median WIDER face to 5 px, so a crop is a window of that scaled
image and is not scaled again, except for a mild random zoom.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data.boxes import box_areas, box_heights, flip_boxes, move_boxes
from data.sample import Faces, Sample

PADDING_BGR = (104, 117, 124)
"""What lies outside an image: about the mean colour of photographs."""

SMALLEST_FACE_PX = 4.0
"""Faces lower than this are marked ignore."""

ROOM_AROUND_FACE = 1.2
"""A window around a face is at least this many times as wide as the face's longer side."""


@dataclass(frozen=True, slots=True)
class Window:
    """A square of an image's pixels; it may reach beyond the image. Unit: pixels."""

    x: int
    y: int
    side: int

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"side must be at least 1 pixel, got {self.side}")


@dataclass(frozen=True, slots=True)
class View:
    """How a square picture shows an image: x -> scale * x + shift, cut to `size`, then mirrored.

    Coordinates are continuous: pixel i covers i to i + 1.
    """

    scale: float
    shift: tuple[float, float]
    size: int
    mirrored: bool = False

    @classmethod
    def of(cls, window: Window, *, size: int) -> "View":
        """The view that shows exactly the window, `size` pixels wide."""
        scale = size / window.side
        return cls(scale, (-window.x * scale, -window.y * scale), size)

    def matrix(self) -> NDArray[np.float64]:
        """The (2, 3) matrix for cv2.warpAffine, which counts from the centres of pixels."""
        x, y = (shift + (self.scale - 1) / 2 for shift in self.shift)
        if self.mirrored:
            return np.array([[-self.scale, 0, self.size - 1 - x], [0, self.scale, y]])
        return np.array([[self.scale, 0, x], [0, self.scale, y]])


def faces_in_view(faces: Faces, view: View) -> Faces:
    """The faces that are visible, moved and cut at the view's border as `cut_faces` does."""
    moved = move_boxes(faces.boxes_xyxy, scale=view.scale, shift=view.shift)
    if view.mirrored:
        moved = flip_boxes(moved, width=view.size)
    place = np.array([0, 0, view.size, view.size], dtype=np.float32)
    return cut_faces(faces, moved, place_xyxy=place)


def cut_faces(
    faces: Faces, moved_xyxy: NDArray[np.float32], *, place_xyxy: NDArray[np.float32]
) -> Faces:
    """The faces that are visible in a place (4,) of a picture, cut at its border.

    moved_xyxy: (N, 4), where the faces are in that picture. A face whose centre is out of the
    place, or that shows less than 4 px of height, is marked ignore.
    """
    low, high = place_xyxy[:2], place_xyxy[2:]
    centres = (moved_xyxy[:, :2] + moved_xyxy[:, 2:]) / 2
    boxes = np.clip(moved_xyxy, np.tile(low, 2), np.tile(high, 2))
    is_cut_away = ((centres < low) | (centres >= high)).any(-1)
    is_small = box_heights(boxes) < SMALLEST_FACE_PX
    visible = box_areas(boxes) > 0
    return Faces(
        boxes[visible],
        faces.attributes[visible],
        (faces.ignore | is_cut_away | is_small)[visible],
    )


def cut(sample: Sample, window: Window, *, size: int) -> Sample:
    """The window of a sample as a picture of `size` x `size` pixels, padded beyond the image.

    Raises:
        ValueError: the window does not touch the image.
    """
    height, width = sample.image.shape[:2]
    x1, y1 = max(window.x, 0), max(window.y, 0)
    x2, y2 = min(window.x + window.side, width), min(window.y + window.side, height)
    if x1 >= x2 or y1 >= y2:
        raise ValueError(f"window must touch the image of {width} x {height} pixels, got {window}")
    picture = cv2.copyMakeBorder(
        sample.image[y1:y2, x1:x2],
        y1 - window.y,
        window.y + window.side - y2,
        x1 - window.x,
        window.x + window.side - x2,
        cv2.BORDER_CONSTANT | cv2.BORDER_ISOLATED,
        value=PADDING_BGR,
    )
    interpolation = cv2.INTER_AREA if window.side > size else cv2.INTER_LINEAR
    resized = cv2.resize(picture, (size, size), interpolation=interpolation)
    return Sample(
        np.asarray(resized, dtype=np.uint8),
        faces_in_view(sample.faces, View.of(window, size=size)),
        sample.source,
    )


def deployment_scale(image: NDArray[np.uint8], *, full_size: int) -> float:
    """What a detector scales an image by so that its long side is at most `full_size` pixels."""
    height, width = image.shape[:2]
    return min(1.0, full_size / int(max(height, width)))


def draw_window(
    sample: Sample, *, side: float, background_share: float, rng: np.random.Generator
) -> Window:
    """A random window, mostly around a random face that is to be found, else anywhere.

    The window lies inside the image, or the image inside the window, along each axis. Around a
    face it shows the whole face, for which it is made larger than `side` where need be.
    """
    boxes = sample.faces.boxes_xyxy[~sample.faces.ignore].astype(np.float64)
    face = None if len(boxes) == 0 or rng.random() < background_share else rng.choice(boxes)
    whole_side = max(1, round(side))
    if face is not None:
        whole_side = max(whole_side, math.ceil(ROOM_AROUND_FACE * (face[2:] - face[:2]).max()))
    room = np.array(sample.image.shape[1::-1]) - whole_side
    low, high = np.minimum(room, 0), np.maximum(room, 0)
    if face is None:
        corner = rng.uniform(low, high)
    else:
        corner = np.clip(rng.uniform(face[2:] - whole_side, face[:2]), low, high)
    x, y = np.round(corner).astype(int)
    return Window(int(x), int(y), whole_side)


def windows_for_equal_faces(
    faces: Faces, *, side: float, crops_per_image: int, rng: np.random.Generator
) -> int:
    """How many windows show every face of an image about `crops_per_image` times.

    One window shows all faces of a portrait but few of a crowd's; with as many windows for
    either, large faces would be too frequent. Windows are counted by the mean share of an image's
    faces within half a side of one of them, and the fraction left over is drawn.
    """
    boxes = faces.boxes_xyxy[~faces.ignore]
    if len(boxes) == 0:
        return crops_per_image
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    together = (np.abs(centres[:, None] - centres[None]) < side / 2).all(-1).mean()
    return int(np.floor(crops_per_image / together + rng.random()))
