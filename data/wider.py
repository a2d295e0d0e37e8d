"""WIDER FACE as it is distributed: folders of images and one annotation file a split.

Yang et al., WIDER FACE: A Face Detection Benchmark, CVPR 2016. Boxes are (left, top, width,
height) in pixels in both forms of the annotation, the text file and the .mat file.
Shape letters: N faces of an image; a row is a box and its six attributes, 10 numbers.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.boxes import box_areas, box_xywh_to_xyxy, clip_boxes
from data.errors import UserError, unknown_name
from data.files import sha256_of
from data.mat_files import mat_tables
from data.sample import ATTRIBUTES, Faces, Sample

SPLITS = ("train", "val")

_ROW = 4 + len(ATTRIBUTES)
_LARGEST = 1e6  # pixels: no image is that wide; refuses nan and infinity too
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class Repairs:
    """How many faces were listed with an impossible box; a face counts once.

    zero_size: no width or height, marked ignore. outside: nowhere in the image, marked ignore.
    clipped: cut at the image's border, still to be found.
    """

    zero_size: int = 0
    outside: int = 0
    clipped: int = 0

    def __add__(self, other: "Repairs") -> "Repairs":
        return Repairs(
            self.zero_size + other.zero_size,
            self.outside + other.outside,
            self.clipped + other.clipped,
        )


@dataclass(frozen=True, slots=True, eq=False)
class ListedImage:
    """An image as annotated. name: 'event/file.jpg'. rows: (N, 10) float32."""

    name: str
    rows: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class WiderSource:
    """The images of one WIDER FACE split that are there; an ImageSource. Made by `open`.

    No face is dropped: one that WIDER FACE calls invalid, or whose box has no area inside the
    image, is marked ignore. Boxes are cut at the image's border.
    """

    split: str
    annotation: Path
    folder: Path
    images: tuple[ListedImage, ...]
    listed: int
    missing_attributes: tuple[str, ...]

    @classmethod
    def open(cls, root: Path, split: str) -> "WiderSource":
        """Read the annotation of a split, "train" or "val", and see which images are there.

        The text file is read where both forms are there. An attribute that a .mat file does not
        have is 0 for every face, and the description says so.

        Raises:
            UserError: unknown split, another layout, a damaged annotation, or not one image.
        """
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        annotation, folder = _annotation(root, split), _image_folder(root, split)
        if annotation is None or not folder.is_dir():
            raise _wrong_layout(root, split)
        missing: tuple[str, ...] = ()
        if annotation.suffix == ".mat":
            listed, missing = _read_mat(annotation)
        else:
            listed = tuple(read_text_listing(annotation))
        _refuse_repeated(listed, annotation)
        present = tuple(one for one in listed if (folder / one.name).is_file())
        if not present:
            raise UserError(
                f"none of the {len(listed)} images listed in {annotation} is in {folder}; "
                f"put them there as <event>/<file>.jpg"
            )
        return cls(split, annotation, folder, present, len(listed), missing)

    @property
    def present(self) -> int:
        """How many of the listed images are there: the length of this source."""
        return len(self.images)

    @property
    def description(self) -> str:
        """One line for people: the split, how much of it is there and which file was read."""
        without = ", ".join(self.missing_attributes)
        return (
            f"WIDER FACE {self.split}, {self.present} of {self.listed} listed images, "
            f"annotation from {self.annotation.name}"
            + (f" (without {without}: taken as 0)" if without else "")
        )

    def fingerprint(self) -> str:
        """Hexadecimal hash of the annotation's bytes and of the names and sizes of the images.

        No image is read, so a change that keeps a file's size goes unseen.
        """
        digest = hashlib.sha256(sha256_of(self.annotation).encode())
        for one in self.images:
            size_bytes = (self.folder / one.name).stat().st_size
            digest.update(f"\n{one.name}\t{size_bytes}".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The image's name in the annotation: 'event/file.jpg'."""
        return self.images[index].name

    def faces(self, index: int) -> Faces:
        """The faces as listed, not cut at the image's border. Ignored: invalid or zero-size."""
        rows = self.images[index].rows
        boxes_xyxy = box_xywh_to_xyxy(rows[:, :4])
        attributes = rows[:, 4:].astype(np.uint8)
        invalid = attributes[:, ATTRIBUTES.index("invalid")] > 0
        return Faces.of(boxes_xyxy, attributes, invalid | (box_areas(boxes_xyxy) <= 0))

    def load(self, index: int) -> Sample:
        """The image, as stored (a rotation in its EXIF data is not applied), and its faces.

        Raises:
            UserError: the image cannot be read to its end.
        """
        path = self.folder / self.name(index)
        image = read_image(path)
        height, width = image.shape[:2]
        faces, _ = repair_faces(self.faces(index), width=width, height=height)
        return Sample(image, faces, self.name(index))

    def repairs(self) -> Repairs:
        """Faces with an impossible box, in the images that are there. Reads image headers only.

        Raises:
            UserError: an image's header cannot be read.
        """
        total = Repairs()
        for index in range(len(self)):
            width, height = image_size(self.folder / self.name(index))
            total += repair_faces(self.faces(index), width=width, height=height)[1]
        return total


def repair_faces(faces: Faces, *, width: int, height: int) -> tuple[Faces, Repairs]:
    """Faces cut at the image's border, ignored where nothing is left, and what was done."""
    boxes_xyxy = clip_boxes(faces.boxes_xyxy, width=width, height=height)
    zero_size = box_areas(faces.boxes_xyxy) <= 0
    empty = box_areas(boxes_xyxy) <= 0
    cut = ~empty & (boxes_xyxy != faces.boxes_xyxy).any(axis=1)
    repairs = Repairs(int(zero_size.sum()), int((empty & ~zero_size).sum()), int(cut.sum()))
    return Faces(boxes_xyxy, faces.attributes, faces.ignore | empty), repairs


def _unreadable(path: Path) -> UserError:
    return UserError(f"cannot read the image {path}; copy it anew or remove it")


def read_image(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) BGR. From memory, because OpenCV fills up a file cut short with grey instead."""
    try:
        encoded = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise _unreadable(path) from error
    as_stored = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(encoded, as_stored) if encoded.size else None
    if image is None:
        raise _unreadable(path)
    return np.asarray(image, dtype=np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the file's header."""
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise _unreadable(path) from error


# The layout of the folders


def _image_folder(root: Path, split: str) -> Path:
    return root / f"WIDER_{split}" / "images"


def _annotation(root: Path, split: str) -> Path | None:
    """The annotation file of a split, the text form first; None where there is neither."""
    folder = root / "wider_face_split"
    forms = (f"wider_face_{split}_bbx_gt.txt", f"wider_face_{split}.mat")
    return next((folder / form for form in forms if (folder / form).is_file()), None)


def _is_root(root: Path, split: str) -> bool:
    return _annotation(root, split) is not None and _image_folder(root, split).is_dir()


def _wrong_layout(root: Path, split: str) -> UserError:
    """Says what is missing, what was found, and which folder nearby would be right."""
    both = f"the folder that holds WIDER_{split} and wider_face_split"
    if not root.is_dir():
        return UserError(f"there is no folder {root}; give {both}")
    missing = []
    if not _image_folder(root, split).is_dir():
        missing.append(f"WIDER_{split}/images/<event>/*.jpg")
    if _annotation(root, split) is None:
        name = f"wider_face_{split}"
        missing.append(f"wider_face_split/{name}_bbx_gt.txt (or {name}.mat)")
    inside = sorted(path.name for path in root.iterdir())
    found = ", ".join(inside[:8]) + (f" and {len(inside) - 8} more" if len(inside) > 8 else "")
    nearby = (*root.absolute().parents[:3], *(root / name for name in inside))
    right = next((str(folder) for folder in nearby if _is_root(folder, split)), both)
    return UserError(
        f"no WIDER FACE {split} split in {root}: expected {' and '.join(missing)}, "
        f"found only {found or 'an empty folder'}; give {right}"
    )


def _refuse_repeated(images: Iterable[ListedImage], path: Path) -> None:
    names = Counter(one.name for one in images)
    for name, times in names.most_common(1):
        if times > 1:
            raise UserError(f"{path} lists {name} {times} times; put all its faces in one place")


# The text form


class _Lines:
    """The lines of a text file with a mark at the next one, to say where something is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = path.read_text(encoding="utf-8-sig", errors="replace").rstrip().splitlines()
        self.done = 0

    def left(self) -> bool:
        return self.done < len(self.lines)

    def peek(self) -> str:
        return self.lines[self.done].strip() if self.left() else ""

    def take(self, parse: Callable[[str], Parsed], expected: str) -> Parsed:
        """The next line, parsed; UserError naming it where parse raises ValueError."""
        try:
            parsed = parse(self.peek())
        except ValueError as error:
            got = repr(self.peek()[:80]) if self.left() else "the end of the file"
            raise UserError(
                f"{self.path}, line {self.done + 1}: expected {expected}, got {got}; "
                f"correct the line or copy the file anew"
            ) from error
        self.done += 1
        return parsed


def read_text_listing(path: Path) -> Iterator[ListedImage]:
    """Blocks of an image's name, its number of faces, and a line a face.

    A block of 0 faces has one line of zeros; files without that line are read too.
    """
    lines = _Lines(path)
    while lines.left():
        name = lines.take(_parse_name, "an image such as 0--Parade/0_Parade_1.jpg")
        count = lines.take(_parse_count, f"the number of faces in {name}")
        rows = [
            lines.take(
                _parse_row,
                f"face {number} of {count} in {name}, {_ROW} numbers: "
                f"x y width height {' '.join(ATTRIBUTES)}",
            )
            for number in range(1, count + 1)
        ]
        if count == 0 and set(lines.peek().split()) == {"0"}:
            lines.take(str, "a line of zeros")
        yield ListedImage(name, np.array(rows, dtype=np.float32).reshape(-1, _ROW))


def _parse_name(line: str) -> str:
    if not line.lower().endswith(_IMAGE_SUFFIXES):
        raise ValueError("not an image")
    return line


def _parse_count(line: str) -> int:
    count = int(line)
    if count < 0:
        raise ValueError("fewer than none")
    return count


def _parse_row(line: str) -> list[float]:
    row = [float(field) for field in line.split()]
    if not _is_row(row):
        raise ValueError("not a face")
    return row


def _is_row(row: list[float]) -> bool:
    """Whether these are a box in pixels and six attributes, whole numbers of 0 to 255."""
    return (
        len(row) == _ROW
        and all(math.fabs(number) < _LARGEST for number in row)
        and all(number in range(256) for number in row[4:])
    )


# The .mat form


def _read_mat(path: Path) -> tuple[tuple[ListedImage, ...], tuple[str, ...]]:
    """The images of a .mat file, and the attributes that it does not have.

    It holds cells of events, in them cells of images, in them arrays: names without suffix,
    boxes (N, 4), and an (N, 1) array an attribute. An image without faces may have one row of
    zeros; like any zero-size box it stays, marked ignore.
    """
    with mat_tables(path, "WIDER FACE annotation") as tables:
        missing = tuple(name for name in ATTRIBUTES if f"{name}_label_list" not in tables)
        return tuple(_mat_images(tables)), missing


def _mat_images(tables: dict[str, Any]) -> Iterator[ListedImage]:
    events = [_mat_text(cell) for cell in tables["event_list"].ravel()]
    files = [
        f"{event}/{_mat_text(cell)}.jpg"
        for event, cells in zip(events, tables["file_list"].ravel(), strict=True)
        for cell in cells.ravel()
    ]
    boxes = _mat_cells(tables["face_bbx_list"])
    columns = [
        _mat_cells(tables[f"{name}_label_list"]) if f"{name}_label_list" in tables else None
        for name in ATTRIBUTES
    ]
    for index, (name, box) in enumerate(zip(files, boxes, strict=True)):
        zeros = np.zeros(len(box))
        attributes = [zeros if cells is None else cells[index].ravel() for cells in columns]
        rows = np.column_stack([box.reshape(-1, 4), *attributes]).astype(np.float32)
        if not all(_is_row(row) for row in rows.tolist()):
            raise ValueError(f"a face of {name} is not a box and attributes")
        yield ListedImage(name, rows)


def _mat_text(cell: Any) -> str:
    return str(np.ravel(cell)[0])


def _mat_cells(table: Any) -> list[Any]:
    """The arrays of all images, event by event."""
    return [cell for event in table.ravel() for cell in event.ravel()]
