"""Pascal VOC XML: a folder with one file an image.

Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010. Corners are pixels
counted from 1 and the last one belongs to the box, so ours are (xmin - 1, ymin - 1, xmax, ymax);
written ones have decimals where needed. An ignored face is `difficult`. The six attributes are in
an element `attributes` of an object, which other readers pass over.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from data.annotations import FACE_CLASS, AnnotatedImage, ListedObject, Listing, stored_size
from data.errors import UserError
from data.formats.form import Format, Found, write_labels
from data.formats.parsing import (
    SPLIT_NAMES,
    ListedImage,
    attribute_value,
    first_folder,
    flag,
    image_name,
    listing,
    need_folder,
    numbers,
    shown,
    unknown_parts,
    written_boxes,
    wrong,
)
from data.progress import Progress
from data.sample import ATTRIBUTES

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_PARTS = ("name", "difficult", "bndbox", "attributes")
_EMPTY = ("", "0", "Unspecified", "unspecified")


@dataclass(frozen=True, slots=True)
class _Element:
    """An XML element, with its place for messages: the file and the path of elements."""

    element: Element
    where: str

    def text(self, name: str, default: str | None = None) -> str:
        """The text of a child; UserError where there is none and no default."""
        text = self.element.findtext(name, default)
        if text is None:
            raise wrong(self.where, f"an element {name}", [child.tag for child in self.element])
        return text.strip()

    def child(self, name: str) -> "_Element":
        """A child; UserError where it is not there."""
        child = self.element.find(name)
        if child is None:
            raise wrong(self.where, f"an element {name}", [one.tag for one in self.element])
        return _Element(child, f"{self.where}/{name}")


class _RefuseDoctype(ElementTree.TreeBuilder):
    """Builds elements, but no document that declares entities: those can grow without end."""

    def doctype(self, *_: str | None) -> NoReturn:
        raise _HasDoctypeError


class _HasDoctypeError(Exception):
    pass


def read(annotation: Path, images: Path | None, progress: Progress) -> Listing:
    """Read a folder of XML files. Images are needed only where a file does not say their size.

    Raises:
        UserError: no such folder or no file in it, no sound XML, a document type declaration, or
            a wrong element.
    """
    need_folder(annotation, "the folder of VOC's .xml files, such as Annotations")
    paths = sorted(annotation.rglob("*.xml"))
    listed, lost = [], set[str]()
    for done, path in enumerate(paths, start=1):
        root = _Element(_parse(path), str(path))
        things = [
            _Element(element, f"{path}, object {number}")
            for number, element in enumerate(root.element.iter("object"), start=1)
        ]
        lost |= {name for one in things for name in _unread(one.element)}
        name = _name(root, path.relative_to(annotation))
        width, height = _size(root, name, images)
        listed.append(ListedImage(name, width, height, tuple(_object(one) for one in things)))
        progress("read", done, len(paths))
    return listing(listed, where=annotation, lost=unknown_parts("object elements", lost, _PARTS))


def _parse(path: Path) -> Element:
    try:
        parser = ElementTree.XMLParser(target=_RefuseDoctype())
        return ElementTree.parse(path, parser).getroot()
    except _HasDoctypeError as error:
        raise UserError(
            f"{path} has a DOCTYPE, which an annotation does not need; remove that line"
        ) from error
    except ElementTree.ParseError as error:
        raise UserError(
            f"{path}, line {error.position[0]}: no sound XML ({error}); copy it anew"
        ) from error
    except (LookupError, ValueError) as error:
        raise UserError(f"{path}: its encoding is not known ({error}); save it as UTF-8") from error


def _name(root: _Element, path: Path) -> str:
    """The file's name, in the same folder under the images as the XML is under its own."""
    where = f"{root.where}, filename"
    name = PurePosixPath(image_name(root.text("filename"), where)).name
    return image_name((PurePosixPath(path.parent.as_posix()) / name).as_posix(), where)


def _size(root: _Element, name: str, images: Path | None) -> tuple[int, int]:
    """What the file says, unless it says nothing or 0, as some labelling tools do."""
    sides = [root.text(f"size/{side}", "0") for side in ("width", "height")]
    width, height = numbers(sides, f"{root.where}, size", expected := "width and height in pixels")
    if width == 0 or height == 0:
        return stored_size(name, images, where=root.where)
    if min(width, height) < 0 or width % 1 or height % 1:
        raise wrong(f"{root.where}, size", expected, sides)
    return int(width), int(height)


def _object(one: _Element) -> ListedObject:
    box = one.child("bndbox")
    corners = [box.text(name) for name in _CORNERS]
    x1, y1, x2, y2 = numbers(corners, box.where, f"pixels {' '.join(_CORNERS)}")
    attributes = tuple(
        attribute_value(one.text(f"attributes/{name}", "0"), f"{one.where}, attributes/{name}")
        for name in ATTRIBUTES
    )
    ignore = flag(one.text("difficult", "0"), f"{one.where}, difficult")
    return ListedObject(one.text("name"), (x1 - 1, y1 - 1, x2, y2), attributes, ignore)


def _unread(thing: Element) -> Iterator[str]:
    """Elements of an object that say something and are not read, such as parts."""
    for child in thing:
        if len(child) or (child.text or "").strip() not in _EMPTY:
            yield child.tag
    for child in thing.findall("attributes/*"):
        if child.tag not in ATTRIBUTES:
            yield f"attributes/{child.tag}"


def write(images: Sequence[AnnotatedImage], target: Path, progress: Progress) -> tuple[str, ...]:
    """Write a folder of XML files. Nothing is lost.

    Raises:
        UserError: two images would share a file.
    """
    write_labels(target, images, suffix=".xml", text=_text, others={}, progress=progress)
    return ()


def _text(image: AnnotatedImage) -> str:
    path = PurePosixPath(image.name)
    root = Element("annotation")
    _add(root, "folder", path.parent.name)
    _add(root, "filename", path.name)
    size = SubElement(root, "size")
    for name, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        _add(size, name, str(value))
    faces = image.faces
    columns = (written_boxes(faces), faces.attributes, faces.ignore)
    for box, attributes, ignore in zip(*(one.tolist() for one in columns), strict=True):
        thing = SubElement(root, "object")
        for name, text in (("name", FACE_CLASS), ("pose", "Unspecified"), ("truncated", "0")):
            _add(thing, name, text)
        _add(thing, "difficult", str(int(ignore)))
        corners = SubElement(thing, "bndbox")
        for name, number, first in zip(_CORNERS, box, (1, 1, 0, 0), strict=True):
            _add(corners, name, shown(number + first))
        extension = SubElement(thing, "attributes")
        for name, value in zip(ATTRIBUTES, attributes, strict=True):
            _add(extension, name, str(value))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: Element, name: str, text: str) -> None:
    SubElement(parent, name).text = text


def find(root: Path, split: str) -> Found | None:
    """Annotations with ImageSets/Main/train.txt, or a folder of XML files for the split."""
    annotations = root / "Annotations"
    for name in SPLIT_NAMES[split]:
        names = root / "ImageSets" / "Main" / f"{name}.txt"
        if annotations.is_dir() and names.is_file():
            return Found(annotations, (root / "JPEGImages", root / "images"), names)
        folder = first_folder((annotations / name, root / name))
        if folder is not None and any(folder.rglob("*.xml")):
            images = [root / "JPEGImages" / name, root / "images" / name, folder]
            return Found(folder, tuple(images))
    return None


VOC = Format(
    title="Pascal VOC XML",
    layout="Annotations with ImageSets/Main/train.txt and JPEGImages",
    read=read,
    write=write,
    find=find,
)
