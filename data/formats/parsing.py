"""What the readers of all formats share: checks that say where something is wrong."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.annotations import (
    FACE_CLASS,
    IGNORE_CLASS,
    AnnotatedImage,
    ListedObject,
    Listing,
    faces_of,
)
from data.errors import UserError
from data.sample import Faces

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")

SPLIT_NAMES = {"train": ("train", "train2017"), "val": ("val", "valid", "val2017")}
"""What folders and files of a split are called, by the name it has here."""

_LARGEST = 1e6  # pixels: no image is that wide; refuses nan and infinity too


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image as a file lists it, with its objects of every class."""

    name: str
    width: int
    height: int
    objects: tuple[ListedObject, ...]


def wrong(where: str, expected: str, got: object) -> UserError:
    """The error for one wrong line or element. where: the file and the line or element."""
    shown = repr(got)
    shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
    return UserError(f"{where}: expected {expected}, got {shown}; correct it or copy the file anew")


def need_file(path: Path, what: str) -> None:
    """UserError unless there is such a file."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; give {what}")


def need_folder(path: Path, what: str) -> None:
    """UserError unless there is such a folder."""
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; give {what}")


def first_folder(candidates: Iterable[Path]) -> Path | None:
    """The first of the folders that is there."""
    return next((folder for folder in candidates if folder.is_dir()), None)


def image_name(text: object, where: str) -> str:
    """An image's path in its folder, checked: of a known suffix, and not outside the folder."""
    expected = f"the name of an image ({', '.join(IMAGE_SUFFIXES)}) inside the folder of images"
    if not isinstance(text, str) or not text.isprintable():
        raise wrong(where, expected, text)
    path = PurePosixPath(text.strip())
    if path.is_absolute() or ".." in path.parts or path.suffix.lower() not in IMAGE_SUFFIXES:
        raise wrong(where, expected, text)
    return path.as_posix()


def numbers(values: Sequence[Any], where: str, expected: str) -> list[float]:
    """Finite numbers of a possible size, from numbers or their text."""
    return [_number(value, where, expected) for value in values]


def _number(value: Any, where: str, expected: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise wrong(where, expected, value) from error
    if not math.fabs(number) < _LARGEST:
        raise wrong(where, expected, value)
    return number


def attribute_value(value: object, where: str) -> int:
    """One attribute of a face, from a number or its text: 0 to 255."""
    number = _number(value, where, expected := "a whole number of 0 to 255")
    if number not in range(256):
        raise wrong(where, expected, value)
    return int(number)


def flag(value: object, where: str) -> bool:
    """A truth value, from 0, 1 or their text."""
    number = _number(value, where, "0 or 1")
    if number not in (0, 1):
        raise wrong(where, "0 or 1", value)
    return number == 1


def face_class(names: Collection[str], where: str) -> str:
    """Which class means a face: the one called so in any case, or the only one there is.

    Raises:
        UserError: several classes, none of them called face.
    """
    known = sorted({*names} - {IGNORE_CLASS})
    called = [name for name in known if name.lower() == FACE_CLASS]
    if not called and len(known) > 1:
        raise UserError(
            f"{where} has the classes {', '.join(known)}, none of them called {FACE_CLASS}; "
            f"rename the one that means a face"
        )
    return (called or known or [FACE_CLASS])[0]


def listing(
    images: Sequence[ListedImage],
    *,
    where: Path,
    classes: Collection[str] = (),
    lost: Iterable[str] = (),
) -> Listing:
    """The faces of listed images. classes: those that the file declares, used or not.

    Objects of other classes than the face's are left out, and `lost` says how many.

    Raises:
        UserError: no image, an image listed twice, or no class that means a face.
    """
    if not images:
        raise UserError(f"{where} lists no image; give an annotation that does")
    name, times = Counter(one.name for one in images).most_common(1)[0]
    if times > 1:
        raise UserError(f"{where} lists {name} {times} times; put all its faces in one place")
    used = Counter(thing.class_name for one in images for thing in one.objects)
    chosen = face_class([*classes, *used], str(where))
    annotated = tuple(_annotated(one, {chosen, IGNORE_CLASS}) for one in images)
    return Listing(annotated, (*lost, *_class_losses(used, chosen)))


def _annotated(image: ListedImage, classes: Collection[str]) -> AnnotatedImage:
    kept = [thing for thing in image.objects if thing.class_name in classes]
    return AnnotatedImage(image.name, image.width, image.height, faces_of(kept))


def _class_losses(used: Counter[str], chosen: str) -> Iterator[str]:
    others = sorted({*used} - {chosen, IGNORE_CLASS})
    if others:
        yield f"{sum(used[name] for name in others)} objects of other classes: {', '.join(others)}"
    if chosen != FACE_CLASS:
        yield f"the class name {chosen!r}, read as {FACE_CLASS}"


def unknown_parts(what: str, found: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """For `lost`: the parts of a file that are not read, as "annotation fields keypoints"."""
    names = sorted({*found} - {*known})
    return (f"{what} {', '.join(names)}",) if names else ()


def written_boxes(faces: Faces) -> NDArray[np.float64]:
    """The boxes as every format writes them, with three decimals. Shape (N, 4), corners.

    Corners are rounded before they become widths or shares, and float32 keeps three decimals
    apart, so a second conversion finds the same decimals again: boxes do not wander.
    """
    rounded = np.round(faces.boxes_xyxy.astype(np.float64), 3)
    return np.where(rounded == 0, 0.0, rounded)  # no minus zero


def shown(number: float) -> str:
    """A number of pixels as text: three decimals, without zeros at the end."""
    return f"{number:.3f}".rstrip("0").rstrip(".")
