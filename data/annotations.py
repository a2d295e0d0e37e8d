"""Annotated images in one form, whatever file they came from, and a source that loads them.

Boxes are kept as listed, not cut at the image's border. Shape letter: N faces of an image.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.boxes import box_areas
from data.errors import UserError
from data.sample import ATTRIBUTES, Faces, Sample
from data.wider import Repairs, image_size, read_image, repair_faces

TOLERANCE_PX = 0.001
"""No corner of a box moves further when annotations are converted from any format to any other,
however often, in images under 4,096 px; from there on float32 itself is too coarse."""

FACE_CLASS = "face"
IGNORE_CLASS = "ignore"
"""The two classes of objects: in every format an object called so is a face or an ignored one."""

NO_ATTRIBUTES = (0,) * len(ATTRIBUTES)


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedImage:
    """An image as annotated. name: its path in the folder of images, as 'event/file.jpg'.

    width, height: pixels, as the image is stored (a rotation in its EXIF data is not applied).
    """

    name: str
    width: int
    height: int
    faces: Faces

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"size must be positive, got {self.width} x {self.height}")


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object of any class as a file lists it. attributes: columns as ATTRIBUTES."""

    class_name: str
    box_xyxy: tuple[float, float, float, float]
    attributes: tuple[int, ...] = NO_ATTRIBUTES
    ignore: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """All images of an annotation. lost: what was in it and has no place here, in words."""

    images: tuple[AnnotatedImage, ...]
    lost: tuple[str, ...] = ()

    @property
    def faces(self) -> int:
        """How many faces, the ignored ones included."""
        return sum(len(one.faces) for one in self.images)


def faces_of(objects: Sequence[ListedObject]) -> Faces:
    """Faces from objects of any class; ignored also when invalid, or without an area."""
    boxes = np.array([one.box_xyxy for one in objects], dtype=np.float64).reshape(-1, 4)
    boxes_xyxy = boxes.astype(np.float32)
    attributes = np.array([one.attributes for one in objects], dtype=np.uint8)
    attributes = attributes.reshape(-1, len(ATTRIBUTES))
    ignore = np.array([one.ignore or one.class_name == IGNORE_CLASS for one in objects], dtype=bool)
    invalid = attributes[:, ATTRIBUTES.index("invalid")] > 0
    return Faces(boxes_xyxy, attributes, ignore | invalid | (box_areas(boxes_xyxy) <= 0))


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedSource:
    """The images of an annotation that are there; an ImageSource. Made by `open`.

    As in WiderSource no face is dropped: one whose box has no area inside the image is marked
    ignore, and boxes are cut at the image's border.
    """

    title: str
    folder: Path
    images: tuple[AnnotatedImage, ...]
    listed: int
    lost: tuple[str, ...]

    @classmethod
    def open(cls, title: str, listing: Listing, *, folders: Sequence[Path]) -> "AnnotatedSource":
        """The images of a listing, from the first of the folders that holds any of them.

        title: what it is and where, as 'COCO train (instances_train.json)'.

        Raises:
            UserError: no folder holds any of the images.
        """
        for folder in folders:
            present = tuple(one for one in listing.images if (folder / one.name).is_file())
            if present:
                return cls(title, folder, present, len(listing.images), listing.lost)
        raise UserError(
            f"none of the {len(listing.images)} images of {title} is in "
            f"{' or '.join(map(str, folders))}; put them there under the names listed"
        )

    @property
    def description(self) -> str:
        """One line for people: what it is, how much of it is there and what was not read."""
        lost = f", not read: {'; '.join(self.lost)}" if self.lost else ""
        return f"{self.title}, {len(self)} of {self.listed} listed images{lost}"

    def fingerprint(self) -> str:
        """Hexadecimal hash of the faces and of the names and sizes of the images.

        No image is read, so a change that keeps a file's size goes unseen.
        """
        digest = hashlib.sha256()
        for one in self.images:
            size_bytes = (self.folder / one.name).stat().st_size
            faces = one.faces
            digest.update(f"\n{one.name}\t{size_bytes}\t{one.width}x{one.height}\t".encode())
            for array in (faces.boxes_xyxy, faces.attributes, faces.ignore):
                digest.update(array.tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The image's name in the annotation."""
        return self.images[index].name

    def faces(self, index: int) -> Faces:
        """The faces as listed, not cut at the image's border."""
        return self.images[index].faces

    def load(self, index: int) -> Sample:
        """The image, as stored (a rotation in its EXIF data is not applied), and its faces.

        Raises:
            UserError: the image cannot be read to its end, or is not of the size annotated.
        """
        one = self.images[index]
        image = read_image(self.folder / one.name)
        height, width = image.shape[:2]
        if (width, height) != (one.width, one.height):
            raise UserError(
                f"{self.folder / one.name} is {width} x {height} px, but {self.title} says "
                f"{one.width} x {one.height}; use the images that were annotated"
            )
        faces, _ = repair_faces(one.faces, width=width, height=height)
        return Sample(image, faces, one.name)

    def repairs(self) -> Repairs:
        """Faces with an impossible box, in the images that are there."""
        total = Repairs()
        for one in self.images:
            total += repair_faces(one.faces, width=one.width, height=one.height)[1]
        return total


def stored_size(name: str, images: Path | None, *, where: str) -> tuple[int, int]:
    """Width and height of an image from its header, for an annotation that does not say them.

    Raises:
        UserError: no folder of images was given, or the image cannot be read.
    """
    if images is None:
        raise UserError(f"{where} does not say how large {name} is; give the folder of its images")
    return image_size(images / name)
