"""Formats of face annotations: read, written, and converted into each other."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from data.annotations import AnnotatedSource, Listing
from data.errors import UserError, unknown_name
from data.formats.coco import COCO
from data.formats.form import Format, Found
from data.formats.parsing import SPLIT_NAMES, first_folder
from data.formats.voc import VOC
from data.formats.wider_text import WIDER_TEXT
from data.formats.yolo import YOLO
from data.progress import Progress, silent
from data.sample import ImageSource
from data.wider import WiderSource

FORMATS: dict[str, Format] = {"wider": WIDER_TEXT, "coco": COCO, "yolo": YOLO, "voc": VOC}


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What was converted. faces: the ignored ones included. lost: what was not, in words."""

    images: int
    faces: int
    ignored: int
    lost: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain lists, dicts and numbers."""
        return asdict(self) | {"lost": list(self.lost)}


def convert(
    source: Path,
    target: Path,
    *,
    source_format: str,
    target_format: str,
    images: Path | None = None,
    progress: Progress = silent,
) -> ConversionReport:
    """Write the annotation `source` anew as `target` in another format, whole or not at all.

    Both are what the format keeps one split in: a file for wider and coco, a folder for yolo and
    voc. images: the folder that the images' names start from, which wider and yolo need because
    they say no sizes. Images are not copied. No corner of a box moves by more than TOLERANCE_PX;
    images without faces, ignored faces and attributes stay, but yolo cannot hold attributes, and
    wider can tell an ignored face only by making it invalid: `lost` says what was there and is
    not any more. yolo and voc keep no order of images.

    Raises:
        UserError: an unknown format, a wrong source, or a target that is there already.
    """
    reader, writer = _format(source_format), _format(target_format)
    if target.exists():
        raise UserError(f"{target} is there already; choose another name or remove it")
    listing = reader.read(source, images, progress)
    lost = writer.write(listing.images, target, progress)
    return ConversionReport(
        images=len(listing.images),
        faces=listing.faces,
        ignored=sum(int(one.faces.ignore.sum()) for one in listing.images),
        lost=(*listing.lost, *lost),
    )


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise unknown_name("annotation format", name, tuple(FORMATS))
    return FORMATS[name]


def open_folder(root: Path, split: str, *, progress: Progress = silent) -> ImageSource:
    """The images of a split of a data set in any of the formats' usual layouts.

    A folder of WIDER FACE is a WiderSource, which reads its .mat form too and needs no sizes.

    Raises:
        UserError: unknown split, no known layout, a damaged annotation, or not one image.
    """
    if split not in SPLIT_NAMES:
        raise unknown_name("split", split, tuple(SPLIT_NAMES))
    for form in FORMATS.values():
        found = form.find(root, split)
        if found is not None and form is not WIDER_TEXT:
            return _open(form, found, split, progress)
        if found is not None:
            return WiderSource.open(root, split)
    try:
        return WiderSource.open(root, split)  # with its .mat form only, or not at all
    except UserError as error:
        others = [form for form in FORMATS.values() if form is not WIDER_TEXT]
        layouts = ", ".join(f"{form.title} ({form.layout})" for form in others)
        raise UserError(f"{error}; other layouts that are read: {layouts}") from error


def _open(form: Format, found: Found, split: str, progress: Progress) -> AnnotatedSource:
    listing = form.read(found.annotation, first_folder(found.image_folders), progress)
    if found.names is not None:
        listing = _only(listing, found.names)
    title = f"{form.title} {split} ({found.annotation.name})"
    return AnnotatedSource.open(title, listing, folders=found.image_folders)


def _only(listing: Listing, names: Path) -> Listing:
    """The images that a file lists, a line each, without suffix."""
    lines = names.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    images = {PurePosixPath(one.name).with_suffix("").as_posix(): one for one in listing.images}
    wanted = [line.strip() for line in lines if line.strip()]
    missing = next((name for name in wanted if name not in images), None)
    if missing is not None:
        raise UserError(
            f"{names} lists {missing}, which has no annotation; add its file or remove the line"
        )
    return replace(listing, images=tuple(images[name] for name in dict.fromkeys(wanted)))
