"""YOLO text: a folder with one file an image, in it a line an object: class, centre and size.

The four numbers are shares of the image's width and height. An image without faces has an empty
file or none. There is no place for attributes, so they are lost, and the report says so. Ignored
faces get a class of their own, `ignore`; classes.txt names the classes, a line each.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.annotations import (
    FACE_CLASS,
    IGNORE_CLASS,
    AnnotatedImage,
    ListedObject,
    Listing,
    stored_size,
)
from data.boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from data.errors import UserError
from data.formats.form import Format, Found, label_path, write_labels
from data.formats.parsing import (
    IMAGE_SUFFIXES,
    SPLIT_NAMES,
    ListedImage,
    listing,
    need_folder,
    numbers,
    written_boxes,
    wrong,
)
from data.progress import Progress
from data.sample import ATTRIBUTES

_CLASSES = "classes.txt"
_MOST = 100  # pixels, not shares, are over it; a box may reach over the image's border
_LINE = "class x y width height, the four as shares of the image's sides"


def read(annotation: Path, images: Path | None, progress: Progress) -> Listing:
    """Read a folder of labels. The folder of images says which images there are and their sizes.

    Classes are named by a classes.txt in the folder or beside it; without one there must be only
    one class.

    Raises:
        UserError: no such folder, labels without an image, or a wrong line.
    """
    need_folder(annotation, "the folder of YOLO's .txt files, such as labels/train")
    if images is None:
        raise UserError(f"{annotation} says no image's size; give the folder of the images")
    need_folder(images, "the folder of the images, such as images/train")
    names = sorted(
        path.relative_to(images).as_posix()
        for path in images.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
    )
    _refuse_strays(annotation, images, names)
    classes = _class_names(annotation)
    listed = []
    for done, name in enumerate(names, start=1):
        width, height = stored_size(name, images, where=str(annotation))
        objects = _objects(annotation / label_path(name, ".txt"), (width, height), classes)
        listed.append(ListedImage(name, width, height, objects))
        progress("read", done, len(names))
    if not classes:
        listed = _one_class(listed, annotation)
    return listing(listed, where=annotation, classes=classes)


def _refuse_strays(labels: Path, images: Path, names: Sequence[str]) -> None:
    """UserError for a label without an image, or one that two images would share."""
    owned = Counter(label_path(name, ".txt") for name in names)
    shared = next((path for path, owners in owned.items() if owners > 1), None)
    if shared is not None:
        raise UserError(f"two images in {images} share {labels / shared}; rename one with its own")
    there = {path.relative_to(labels).as_posix() for path in labels.rglob("*.txt")}
    for path in sorted(there - {*owned, _CLASSES})[:1]:
        raise UserError(f"{labels / path} has no image in {images}; put it there or remove it")


def _class_names(labels: Path) -> tuple[str, ...]:
    """The lines of classes.txt; nothing without one."""
    for path in (labels / _CLASSES, labels.parent / _CLASSES):
        if path.is_file():
            text = path.read_text(encoding="utf-8-sig", errors="replace")
            return tuple(line.strip() for line in text.rstrip().splitlines())
    return ()


def _objects(path: Path, size: tuple[int, int], classes: Sequence[str]) -> tuple[ListedObject, ...]:
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return tuple(
        _object(line, f"{path}, line {number}", size, classes)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )


def _object(line: str, where: str, size: tuple[int, int], classes: Sequence[str]) -> ListedObject:
    fields = line.split()
    if len(fields) != 5 or not fields[0].isdecimal():
        raise wrong(where, _LINE, line)
    shares = np.array(numbers(fields[1:], where, _LINE))
    if (np.abs(shares) > _MOST).any():
        raise wrong(where, _LINE, line)
    x1, y1, x2, y2 = (box_cxcywh_to_xyxy(shares) * (*size, *size)).tolist()
    return ListedObject(_class_name(int(fields[0]), where, classes), (x1, y1, x2, y2))


def _class_name(number: int, where: str, classes: Sequence[str]) -> str:
    """What classes.txt says of a class; its number without one."""
    if classes and number >= len(classes):
        raise wrong(where, f"a class of 0 to {len(classes) - 1}, as {_CLASSES} says", number)
    return classes[number] if classes else str(number)


def _one_class(images: Sequence[ListedImage], labels: Path) -> list[ListedImage]:
    """Images whose only class is the face's; UserError where there are several."""
    used = sorted({thing.class_name for one in images for thing in one.objects})
    if len(used) > 1:
        raise UserError(
            f"{labels} has the classes {', '.join(used)} without names; "
            f"write a {_CLASSES} there that names them, a line each from class 0"
        )
    return [
        replace(one, objects=tuple(replace(thing, class_name=FACE_CLASS) for thing in one.objects))
        for one in images
    ]


def write(images: Sequence[AnnotatedImage], target: Path, progress: Progress) -> tuple[str, ...]:
    """Write a folder of labels. Attributes are lost; ignored faces are class 1, others class 0.

    Raises:
        UserError: two images would share a file.
    """
    ignored = sum(int(one.faces.ignore.sum()) for one in images)
    classes = [FACE_CLASS, IGNORE_CLASS] if ignored else [FACE_CLASS]
    others = {_CLASSES: "".join(f"{name}\n" for name in classes)}
    write_labels(target, images, suffix=".txt", text=_text, others=others, progress=progress)
    return _losses(images)


def _text(image: AnnotatedImage) -> str:
    faces = image.faces
    sides = (image.width, image.height)
    shares = box_xyxy_to_cxcywh(written_boxes(faces)) / (*sides, *sides)
    rows = zip(faces.ignore.tolist(), shares.tolist(), strict=True)
    return "".join(
        f"{int(ignore)} {' '.join(f'{share:.9f}' for share in box)}\n" for ignore, box in rows
    )


def _losses(images: Sequence[AnnotatedImage]) -> tuple[str, ...]:
    """The attributes that any face has, and of how many faces."""
    rows = np.concatenate([one.faces.attributes for one in images])
    names = [name for name, column in zip(ATTRIBUTES, rows.T, strict=True) if column.any()]
    if not names:
        return ()
    return (f"the attributes {', '.join(names)} of {int(rows.any(axis=1).sum())} faces",)


def find(root: Path, split: str) -> Found | None:
    """labels/train with images/train, or train/labels with train/images."""
    for name in SPLIT_NAMES[split]:
        for labels, images in (
            (root / "labels" / name, root / "images" / name),
            (root / name / "labels", root / name / "images"),
        ):
            if labels.is_dir() and images.is_dir():
                return Found(labels, (images,))
    return None


YOLO = Format(
    title="YOLO text", layout="labels/train with images/train", read=read, write=write, find=find
)
