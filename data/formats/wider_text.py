"""WIDER FACE's own text: one file a split, for each image its name, a count and a line a face.

A line is left, top, width, height in pixels and the six attributes. There is no flag for ignored
faces but the attribute `invalid`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.annotations import AnnotatedImage, ListedObject, Listing, stored_size
from data.boxes import box_areas, box_xywh_to_xyxy, box_xyxy_to_xywh
from data.errors import UserError
from data.files import write_text
from data.formats.form import Format, Found
from data.formats.parsing import ListedImage, image_name, listing, need_file, shown, written_boxes
from data.progress import Progress
from data.sample import ATTRIBUTES
from data.wider import read_text_listing as read_blocks

_INVALID = ATTRIBUTES.index("invalid")
_SUFFIXES = (".jpg", ".jpeg", ".png")


def read(annotation: Path, images: Path | None, progress: Progress) -> Listing:
    """Read a text file. It holds no sizes, so the folder of images is needed.

    Raises:
        UserError: no such file, a wrong line, or an image that is not there.
    """
    need_file(annotation, "the text file, such as wider_face_train_bbx_gt.txt")
    blocks = list(read_blocks(annotation))
    listed = []
    for done, block in enumerate(blocks, start=1):
        name = image_name(block.name, str(annotation))
        width, height = stored_size(name, images, where=str(annotation))
        rows = block.rows.astype(np.float64)
        boxes_xyxy = box_xywh_to_xyxy(rows[:, :4]).tolist()
        attributes = rows[:, 4:].astype(int).tolist()
        objects = tuple(
            ListedObject("face", tuple(box), tuple(values))
            for box, values in zip(boxes_xyxy, attributes, strict=True)
        )
        listed.append(ListedImage(name, width, height, objects))
        progress("read", done, len(blocks))
    return listing(listed, where=annotation)


def write(images: Sequence[AnnotatedImage], target: Path, progress: Progress) -> tuple[str, ...]:
    """Write a text file. An ignored face that has an area gets invalid = 1.

    Raises:
        UserError: an image of a suffix that WIDER FACE does not have.
    """
    blocks, marked = [], 0
    for done, one in enumerate(images, start=1):
        if not one.name.lower().endswith(_SUFFIXES):
            raise UserError(
                f"WIDER FACE text lists only {', '.join(_SUFFIXES)}, not {one.name}; "
                f"convert that image or choose another format"
            )
        to_mark = _without_a_flag(one)
        marked += int(to_mark.sum())
        blocks.append("\n".join(_block(one, to_mark)))
        progress("write", done, len(images))
    write_text(target, "\n".join(blocks) + "\n")
    return (f"why {marked} faces are ignored: they are invalid now",) if marked else ()


def _without_a_flag(image: AnnotatedImage) -> NDArray[np.bool_]:
    """Ignored faces that a reader of the text would not ignore."""
    faces = image.faces
    valid = faces.attributes[:, _INVALID] == 0
    return np.asarray(faces.ignore & valid & (box_areas(faces.boxes_xyxy) > 0), dtype=bool)


def _block(image: AnnotatedImage, to_mark: NDArray[np.bool_]) -> Iterator[str]:
    yield image.name
    yield str(len(image.faces))
    boxes_xywh = box_xyxy_to_xywh(written_boxes(image.faces))
    attributes = image.faces.attributes.copy()
    attributes[to_mark, _INVALID] = 1
    for box, values in zip(boxes_xywh.tolist(), attributes.tolist(), strict=True):
        yield " ".join([*map(shown, box), *map(str, values)])
    if not len(image.faces):
        yield " ".join("0" * (4 + len(ATTRIBUTES)))


def find(root: Path, split: str) -> Found | None:
    """Where WIDER FACE keeps the text and the images of a split."""
    annotation = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
    folder = root / f"WIDER_{split}" / "images"
    return Found(annotation, (folder,)) if annotation.is_file() and folder.is_dir() else None


WIDER_TEXT = Format(
    title="WIDER FACE text",
    layout="wider_face_split/wider_face_train_bbx_gt.txt with WIDER_train/images",
    read=read,
    write=write,
    find=find,
)
