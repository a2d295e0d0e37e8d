"""What an image with faces is. Shape letters: N faces, B images, F most faces of an image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from data.boxes import box_areas

if TYPE_CHECKING:
    from torch import Tensor

ATTRIBUTES = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")
"""The columns of `Faces.attributes`: WIDER FACE's six, with its values (0 is the easy one)."""


@dataclass(frozen=True, slots=True)
class Faces:
    """The faces of one image.

    boxes_xyxy: (N, 4) float32, pixels. attributes: (N, 6) uint8, columns as ATTRIBUTES.
    ignore: (N,) bool, true for a face that is neither to be found nor a mistake when found.

    Raises:
        ValueError: shapes or types differ from these, or a face to be found has no area.
    """

    boxes_xyxy: NDArray[np.float32]
    attributes: NDArray[np.uint8]
    ignore: NDArray[np.bool_]

    def __post_init__(self) -> None:
        count = len(self.boxes_xyxy)
        expected = (
            ("boxes_xyxy", self.boxes_xyxy, (count, 4), np.float32),
            ("attributes", self.attributes, (count, len(ATTRIBUTES)), np.uint8),
            ("ignore", self.ignore, (count,), np.bool_),
        )
        for name, array, shape, dtype in expected:
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"{name} must be {shape} {np.dtype(dtype)}, got {array.shape} {array.dtype}"
                )
        if not (box_areas(self.boxes_xyxy)[~self.ignore] > 0).all():
            raise ValueError("a face that is not ignored must have a box with an area")

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    @classmethod
    def of(
        cls,
        boxes_xyxy: NDArray[np.floating],
        attributes: NDArray[np.integer] | None = None,
        ignore: NDArray[np.bool_] | None = None,
    ) -> "Faces":
        """Faces from arrays of any number type; attributes and ignore default to zeros."""
        boxes = np.asarray(boxes_xyxy, dtype=np.float32).reshape(-1, 4)
        none = np.zeros((len(boxes), len(ATTRIBUTES)), dtype=np.uint8)
        return cls(
            boxes,
            none if attributes is None else np.asarray(attributes, dtype=np.uint8),
            np.zeros(len(boxes), dtype=bool) if ignore is None else np.asarray(ignore, dtype=bool),
        )

    def select(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> "Faces":
        """The faces at a mask or at indices."""
        return Faces(self.boxes_xyxy[which], self.attributes[which], self.ignore[which])


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its faces. image: (H, W, 3) uint8 in OpenCV's BGR order."""

    image: NDArray[np.uint8]
    faces: Faces
    source: str

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(
                f"image must be (H, W, 3) uint8, got {self.image.shape} {self.image.dtype}"
            )


class ImageSource(Protocol):
    """A numbered collection of images with faces, whatever it is made from."""

    @property
    def description(self) -> str:
        """One line for people, such as 'WIDER FACE train, 2278 of 2278 listed images'."""

    def fingerprint(self) -> str:
        """Hexadecimal hash that changes whenever any sample would."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Sample:
        """The sample at an index; the same one every time."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a loader gives: images of one size with padded faces.

    images: (B, S, S, 3) uint8, BGR; a tensor where the pictures lie on a device already.
    boxes_xyxy: (B, F, 4) float32, zeros where padded. wanted: (B, F) bool, faces to
    be found. ignore: (B, F) bool, regions without a verdict. Padding is neither wanted nor ignore.
    F is at least 1.
    """

    images: "NDArray[np.uint8] | Tensor"
    boxes_xyxy: NDArray[np.float32]
    wanted: NDArray[np.bool_]
    ignore: NDArray[np.bool_]


def pad_faces(
    faces: list[Faces],
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Faces of B images as (boxes_xyxy, wanted, ignore), padded to the largest count."""
    most = max(1, *(len(f) for f in faces)) if faces else 1
    boxes = np.zeros((len(faces), most, 4), dtype=np.float32)
    wanted, ignore = (np.zeros((len(faces), most), dtype=bool) for _ in range(2))
    for row, one in enumerate(faces):
        boxes[row, : len(one)] = one.boxes_xyxy
        wanted[row, : len(one)] = ~one.ignore
        ignore[row, : len(one)] = one.ignore
    return boxes, wanted, ignore
