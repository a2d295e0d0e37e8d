"""COCO JSON: one file with lists of images, annotations and categories.

Lin et al., Microsoft COCO, ECCV 2014. A box is left, top, width, height in pixels. An ignored
face has iscrowd 1, which COCO's evaluation knows, and ignore 1, which some tools look at. The six
attributes are in an annotation's dict `attributes`, as several labelling tools write it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.annotations import FACE_CLASS, AnnotatedImage, ListedObject, Listing, stored_size
from data.boxes import box_areas, box_xyxy_to_xywh
from data.errors import UserError
from data.files import write_text
from data.formats.form import Format, Found
from data.formats.parsing import (
    SPLIT_NAMES,
    ListedImage,
    attribute_value,
    flag,
    image_name,
    listing,
    need_file,
    numbers,
    shown,
    unknown_parts,
    written_boxes,
    wrong,
)
from data.progress import Progress
from data.sample import ATTRIBUTES

_IMAGE_FIELDS = ("id", "file_name", "width", "height")
_FIELDS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "attributes")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of a list, with its place in the file."""

    fields: dict[str, Any]
    where: str

    def take(self, key: str, kinds: tuple[type, ...], expected: str) -> Any:
        """The value of a field; UserError where it is not there or of another kind."""
        value = self.fields.get(key)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise wrong(f"{self.where}, {key}", expected, value)
        return value

    def key(self, name: str) -> int | str:
        """A number or text that refers to another entry, or that others refer to."""
        reference: int | str = self.take(name, (int, str), "a number")
        return reference


def read(annotation: Path, images: Path | None, progress: Progress) -> Listing:
    """Read a JSON file. The folder of images is needed only where it does not say their sizes.

    Raises:
        UserError: no such file, no JSON, or an entry that is wrong or refers to none.
    """
    need_file(annotation, "a COCO JSON file, such as instances_train.json")
    table = _load(annotation)
    categories = {one.key("id"): str(one.fields.get("name")) for one in table["categories"]}
    objects = _objects(table, categories)
    listed = []
    for done, one in enumerate(table["images"], start=1):
        name = image_name(one.fields.get("file_name"), f"{one.where}, file_name")
        width, height = _size(one, name, images)
        listed.append(ListedImage(name, width, height, tuple(objects[one.key("id")])))
        progress("read", done, len(table["images"]))
    return listing(listed, where=annotation, classes=categories.values(), lost=_losses(table))


def _load(annotation: Path) -> dict[str, list[_Entry]]:
    """The entries of the three lists."""
    try:
        content = json.loads(annotation.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{annotation}, line {error.lineno}: no sound JSON ({error.msg}); copy it anew"
        ) from error
    except (ValueError, RecursionError) as error:  # other bytes than text, or far too much of it
        raise UserError(f"{annotation} is no sound COCO JSON ({error}); copy it anew") from error
    if not isinstance(content, dict):
        raise wrong(str(annotation), "an object with images, annotations and categories", content)
    lists = ("images", "annotations", "categories")
    return {key: _entries(content, key, annotation) for key in lists}


def _entries(content: dict[str, Any], key: str, annotation: Path) -> list[_Entry]:
    entries = content.get(key)
    if not isinstance(entries, list):
        raise wrong(f"{annotation}, {key}", "a list", entries)
    listed = []
    for index, fields in enumerate(entries):
        where = f"{annotation}, {key}[{index}]"
        if not isinstance(fields, dict):
            raise wrong(where, "an object", fields)
        listed.append(_Entry(fields, where))
    return listed


def _objects(
    table: dict[str, list[_Entry]], categories: dict[int | str, str]
) -> dict[int | str, list[ListedObject]]:
    """The objects of each image by its id."""
    objects: dict[int | str, list[ListedObject]] = {}
    for one in table["images"]:
        if one.key("id") in objects:
            raise wrong(f"{one.where}, id", "one that no other image has", one.key("id"))
        objects[one.key("id")] = []
    for one in table["annotations"]:
        image, category = one.key("image_id"), one.key("category_id")
        if image not in objects:
            raise wrong(f"{one.where}, image_id", "the id of an image", image)
        if category not in categories:
            raise wrong(f"{one.where}, category_id", "the id of a category", category)
        objects[image].append(_object(one, categories[category]))
    return objects


def _object(one: _Entry, class_name: str) -> ListedObject:
    where, expected = f"{one.where}, bbox", "[left, top, width, height] in pixels"
    box = one.take("bbox", (list,), expected)
    if len(box) != 4 or not all(isinstance(number, int | float) for number in box):
        raise wrong(where, expected, box)
    left, top, width, height = numbers(box, where, expected)
    ignored = [flag(one.fields.get(key, 0), f"{one.where}, {key}") for key in ("iscrowd", "ignore")]
    return ListedObject(
        class_name, (left, top, left + width, top + height), _attributes(one), any(ignored)
    )


def _attributes(one: _Entry) -> tuple[int, ...]:
    """The six attributes, 0 where they are not there."""
    values = one.fields.get("attributes", {})
    if not isinstance(values, dict):
        raise wrong(f"{one.where}, attributes", "an object", values)
    return tuple(
        attribute_value(values.get(name, 0), f"{one.where}, attributes.{name}")
        for name in ATTRIBUTES
    )


def _size(one: _Entry, name: str, images: Path | None) -> tuple[int, int]:
    if "width" not in one.fields or "height" not in one.fields:
        return stored_size(name, images, where=one.where)
    width, height = (one.take(key, (int,), "pixels") for key in ("width", "height"))
    where, expected = f"{one.where}, width and height", "positive pixels"
    if min(numbers((width, height), where, expected)) < 1:
        raise wrong(where, expected, (width, height))
    return width, height


def _losses(table: dict[str, list[_Entry]]) -> tuple[str, ...]:
    """Fields that are not read, such as keypoints."""
    return (
        *unknown_parts("image fields", _held(table["images"]), _IMAGE_FIELDS),
        *unknown_parts("annotation fields", _held(table["annotations"]), _FIELDS),
        *unknown_parts(
            "attributes",
            (name for one in table["annotations"] for name in one.fields.get("attributes", {})),
            ATTRIBUTES,
        ),
    )


def _held(entries: Iterable[_Entry]) -> set[str]:
    """The names of fields that hold something in any entry."""
    empty: tuple[Any, ...] = (None, "", [], {})
    return {key for one in entries for key, value in one.fields.items() if value not in empty}


def write(images: Sequence[AnnotatedImage], target: Path, progress: Progress) -> tuple[str, ...]:
    """Write a JSON file, ids from 1. Nothing is lost."""
    annotations: list[dict[str, Any]] = []
    for done, one in enumerate(images, start=1):
        for fields in _annotations(one):
            annotations.append({"id": len(annotations) + 1, "image_id": done, **fields})
        progress("write", done, len(images))
    content = {
        "info": {"description": "faces"},
        "licenses": [],
        "images": [
            {"id": number, "file_name": one.name, "width": one.width, "height": one.height}
            for number, one in enumerate(images, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": FACE_CLASS, "supercategory": "person"}],
    }
    write_text(target, json.dumps(content, allow_nan=False) + "\n")
    return ()


def _annotations(image: AnnotatedImage) -> Iterator[dict[str, Any]]:
    faces = image.faces
    boxes_xyxy = written_boxes(faces)
    columns = (box_xyxy_to_xywh(boxes_xyxy), box_areas(boxes_xyxy), faces.ignore, faces.attributes)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for box, area, ignore, attributes in rows:
        yield {
            "category_id": 1,
            "bbox": [float(shown(number)) for number in box],
            "area": float(shown(area)),
            "iscrowd": int(ignore),
            "ignore": int(ignore),
            "attributes": dict(zip(ATTRIBUTES, attributes, strict=True)),
        }


def find(root: Path, split: str) -> Found | None:
    """Where a split's file usually lies: annotations/instances_train.json and the like."""
    for name in SPLIT_NAMES[split]:
        for annotation in (
            root / "annotations" / f"instances_{name}.json",
            root / "annotations" / f"{name}.json",
            root / name / "_annotations.coco.json",
            root / f"{name}.json",
        ):
            if annotation.is_file():
                folders = [f"images/{name}", name, "images", "."]
                return Found(annotation, tuple(root / folder for folder in folders))
    return None


COCO = Format(
    title="COCO JSON",
    layout="annotations/instances_train.json with images/train",
    read=read,
    write=write,
    find=find,
)
