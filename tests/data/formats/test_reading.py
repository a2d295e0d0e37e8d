"""What each format's reader makes of other people's files, and of wrong ones."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.annotations import Listing
from data.errors import UserError
from data.formats import FORMATS
from data.progress import silent
from data.sample import ATTRIBUTES
from tests.data.formats.annotated import write_annotation, write_images


def read(form: str, source: Path, images: Path | None = None) -> Listing:
    return FORMATS[form].read(source, images, silent)


# COCO JSON


def coco(tmp_path: Path, **changes: Any) -> Path:
    """A small file of two categories, in which the first face has no more than it must have."""
    content: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "a/b.jpg", "width": 40, "height": 30}],
        "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "Face"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3.5, 4]},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 30, 30]},
            {"image_id": 7, "category_id": 3, "bbox": [9, 9, 5, 5], "iscrowd": 1},
        ],
    } | changes
    path = tmp_path / "faces.json"
    path.write_text(json.dumps(content))
    return path


def annotation(**changes: Any) -> list[dict[str, Any]]:
    return [{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]} | changes]


def test_coco_takes_the_face_category_and_tells_of_others(tmp_path: Path) -> None:
    listing = read("coco", coco(tmp_path))
    (one,) = listing.images
    assert (one.name, one.width, one.height) == ("a/b.jpg", 40, 30)
    assert one.faces.boxes_xyxy.tolist() == [[1, 2, 4.5, 6], [9, 9, 14, 14]]
    assert one.faces.ignore.tolist() == [False, True]
    assert not one.faces.attributes.any()
    assert listing.lost == (
        "1 objects of other classes: person",
        "the class name 'Face', read as face",
    )


def test_coco_tells_of_fields_that_are_not_read(tmp_path: Path) -> None:
    source = coco(
        tmp_path,
        images=[{"id": 7, "file_name": "b.jpg", "width": 4, "height": 3, "license": 2}],
        categories=[{"id": 3, "name": "face"}],
        annotations=annotation(
            keypoints=[1, 2, 2], segmentation=[], attributes={"blur": 2, "glasses": True}
        ),
    )
    listing = read("coco", source)
    assert listing.lost == (
        "image fields license",
        "annotation fields keypoints",
        "attributes glasses",
    )
    assert listing.images[0].faces.attributes.tolist() == [[2, 0, 0, 0, 0, 0]]


def test_coco_sizes_come_from_the_images_where_the_file_has_none(tmp_path: Path) -> None:
    source = coco(tmp_path, images=[{"id": 7, "file_name": "top.jpg"}])
    images = write_images(tmp_path / "images")
    one = read("coco", source, images).images[0]
    assert (one.width, one.height) == (50, 50)
    with pytest.raises(
        UserError, match=r"images\[0\] does not say how large top\.jpg is; give the"
    ):
        read("coco", source)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"images": 3}, r"images: expected a list, got 3"),
        ({"images": [], "annotations": []}, r"lists no image"),
        ({"images": ["x"]}, r"images\[0\]: expected an object, got 'x'"),
        ({"images": [{"file_name": "b.jpg"}]}, r"images\[0\], id: expected a number, got None"),
        ({"images": [{"id": 7, "file_name": 3}]}, r"images\[0\], file_name: expected the name"),
        (
            {"images": [{"id": 7, "file_name": "b.jpg", "width": 0, "height": 3}]},
            r"images\[0\], width and height: expected positive",
        ),
        (
            {"images": [{"id": 7, "file_name": "b.jpg", "width": "4", "height": 3}]},
            r"images\[0\], width: expected pixels, got '4'",
        ),
        (
            {"categories": [{"id": 3, "name": "face"}]},
            r"annotations\[1\], category_id: expected the id of a category, got 1",
        ),
        (
            {"annotations": annotation(image_id=8)},
            r"annotations\[0\], image_id: expected the id of",
        ),
        ({"annotations": annotation(category_id=8)}, r"annotations\[0\], category_id: expected"),
        ({"annotations": annotation(bbox=[1, 2, 3])}, r"annotations\[0\], bbox: expected \[left"),
        ({"annotations": annotation(bbox=[1, 2, 3, "4"])}, r"annotations\[0\], bbox: expected"),
        ({"annotations": annotation(bbox=[1, 2, 3, float("nan")])}, r"\[0\], bbox: expected"),
        ({"annotations": annotation(bbox=[1, 2, 3, 10**400])}, r"annotations\[0\], bbox: expected"),
        ({"annotations": annotation(bbox=None)}, r"annotations\[0\], bbox: expected"),
        ({"annotations": annotation(iscrowd=2)}, r"annotations\[0\], iscrowd: expected 0 or 1"),
        ({"annotations": annotation(attributes=[])}, r"annotations\[0\], attributes: expected an"),
        (
            {"annotations": annotation(attributes={"blur": 0.5})},
            r"annotations\[0\], attributes\.blur: expected a whole number of 0 to 255, got 0\.5",
        ),
    ],
)
def test_a_wrong_coco_entry_is_named(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError, match=rf"faces\.json.*{expected}"):
        read("coco", coco(tmp_path, **changes))


def test_classes_without_a_face_among_them_are_refused(tmp_path: Path) -> None:
    names = [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}]
    with pytest.raises(UserError, match=r"has the classes cat, dog, none of them called face"):
        read("coco", coco(tmp_path, categories=names))


def test_two_images_of_one_id_are_refused(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": f"{name}.jpg", "width": 4, "height": 3} for name in "ab"]
    with pytest.raises(UserError, match=r"images\[1\], id: expected one that no other image has"):
        read("coco", coco(tmp_path, images=images))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"images": [\n{"id": 1,}]}', r"faces\.json, line 2: no sound JSON"),
        (b"", r"faces\.json, line 1: no sound JSON"),
        (b"\xff\xfe\x00", r"faces\.json is no sound COCO JSON"),
        (b"[" * 100_000, r"faces\.json is no sound COCO JSON"),
        (b'{"images": ' + b"1" * 5000 + b"}", r"faces\.json is no sound COCO JSON"),
        (b"[]", r"faces\.json: expected an object with images, annotations and categories"),
    ],
)
def test_damaged_json_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "faces.json").write_bytes(content)
    with pytest.raises(UserError, match=expected):
        read("coco", tmp_path / "faces.json")


# YOLO text


@pytest.fixture
def yolo(tmp_path: Path) -> tuple[Path, Path]:
    """Labels and images; the labels as write makes them."""
    return write_annotation("yolo", tmp_path / "labels"), write_images(tmp_path / "images")


def one_yolo_label(tmp_path: Path, text: str, classes: str | None = None) -> Listing:
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "top.txt").write_text(text)
    if classes is not None:
        (labels / "classes.txt").write_text(classes)
    return read("yolo", labels, write_images(tmp_path / "images"))


def top_faces(listing: Listing) -> list[list[float]]:
    boxes: list[list[float]] = listing.images[-1].faces.boxes_xyxy.tolist()
    return boxes


def test_yolo_without_class_names_has_faces_only(tmp_path: Path) -> None:
    listing = one_yolo_label(tmp_path, "3 0.5 0.5 0.2 0.4\n\n")
    assert top_faces(listing) == [[20, 15, 30, 35]]
    assert [len(one.faces) for one in listing.images] == [0, 0, 0, 1]
    assert listing.lost == ()


def test_yolo_class_names_say_which_is_the_face(tmp_path: Path) -> None:
    listing = one_yolo_label(
        tmp_path, "0 0.5 0.5 1 1\n1 0.5 0.5 0.2 0.4\n2 0.5 0.5 0.4 0.2\n", "person\nface\nignore\n"
    )
    assert top_faces(listing) == [[20, 15, 30, 35], [15, 20, 35, 30]]
    assert listing.images[-1].faces.ignore.tolist() == [False, True]
    assert listing.lost == ("1 objects of other classes: person",)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 0.5 0.5 0.2", "class x y width height, the four as shares"),
        ("0 0.5 0.5 0.2 0.4 0.9", "class x y width height"),
        ("face 0.5 0.5 0.2 0.4", "class x y width height"),
        ("-1 0.5 0.5 0.2 0.4", "class x y width height"),
        ("0 0.5 0.5 0.2 nan", "class x y width height"),
        ("0 0.5 x 0.2 0.4", "class x y width height"),
        ("0 320 240 64 64", "class x y width height"),
        ("2 0.5 0.5 0.2 0.4", "a class of 0 to 1, as classes.txt says, got 2"),
    ],
)
def test_a_wrong_yolo_line_is_named(yolo: tuple[Path, Path], line: str, expected: str) -> None:
    labels, images = yolo
    (labels / "top.txt").write_text(f"0 0.5 0.5 0.2 0.4\n{line}\n")
    with pytest.raises(UserError, match=rf"top\.txt, line 2: expected {expected}"):
        read("yolo", labels, images)


def test_several_yolo_classes_want_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"classes 0, 1 without names; write a classes\.txt there"):
        one_yolo_label(tmp_path, "0 0.5 0.5 1 1\n1 0.5 0.5 0.2 0.4\n")


def test_yolo_labels_and_images_must_fit_together(yolo: tuple[Path, Path]) -> None:
    labels, images = yolo
    (images / "top.png").write_bytes((images / "top.jpg").read_bytes())
    with pytest.raises(UserError, match=r"two images in .* share .*top\.txt"):
        read("yolo", labels, images)
    (images / "top.png").unlink()
    (images / "top.jpg").unlink()
    with pytest.raises(UserError, match=r"top\.txt has no image in .*images; put it there"):
        read("yolo", labels, images)


def test_a_yolo_folder_without_images_is_refused(tmp_path: Path) -> None:
    for folder in ("labels", "images"):
        (tmp_path / folder).mkdir()
    with pytest.raises(UserError, match="labels lists no image"):
        read("yolo", tmp_path / "labels", tmp_path / "images")


# Pascal VOC XML

OBJECT = """<object><name>face</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>30</ymax></bndbox></object>"""
SIZE = "<size><width>40</width><height>30</height></size>"


def voc(tmp_path: Path, objects: str = OBJECT, size: str = SIZE, head: str = "") -> Path:
    """A file of one object that fills the image, as VOC counts pixels."""
    folder = tmp_path / "Annotations"
    (folder / "a").mkdir(parents=True)
    name = "<folder>VOC2007</folder><filename>top.jpg</filename>"
    (folder / "a" / "top.xml").write_text(f"{head}<annotation>{name}{size}\n{objects}</annotation>")
    return folder


def test_voc_counts_pixels_from_one_and_the_last_one_in(tmp_path: Path) -> None:
    (one,) = read("voc", voc(tmp_path)).images
    assert (one.name, one.width, one.height) == ("a/top.jpg", 40, 30)
    assert one.faces.boxes_xyxy.tolist() == [[0, 0, 40, 30]]
    assert not one.faces.ignore.any()


def test_voc_reads_what_other_tools_leave_out_and_tells_of_what_they_add(tmp_path: Path) -> None:
    bare = OBJECT.replace(
        "<difficult>0</difficult>", "<pose>Frontal</pose><truncated>0</truncated>"
    )
    other = OBJECT.replace(">face<", ">head<").replace("<difficult>0", "<difficult>1")
    listing = read("voc", voc(tmp_path, bare + other))
    assert len(listing.images[0].faces) == 1
    assert listing.lost == ("object elements pose", "1 objects of other classes: head")


def test_voc_attributes_and_difficult_faces_are_read(tmp_path: Path) -> None:
    attributes = "<attributes><blur>2</blur><age>7</age></attributes></object>"
    thing = OBJECT.replace("</object>", attributes).replace("<difficult>0", "<difficult>1")
    listing = read("voc", voc(tmp_path, thing))
    faces = listing.images[0].faces
    assert faces.attributes[0, ATTRIBUTES.index("blur")] == 2
    assert faces.ignore.tolist() == [True]
    assert listing.lost == ("object elements attributes/age",)


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_voc_sizes_come_from_the_images_where_the_file_has_none(tmp_path: Path, size: str) -> None:
    folder = voc(tmp_path, size=size)
    write_images(tmp_path / "images" / "a")
    one = read("voc", folder, tmp_path / "images").images[0]
    assert (one.width, one.height) == (50, 50)
    with pytest.raises(UserError, match=r"top\.xml does not say how large a/top\.jpg is"):
        read("voc", folder)


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        (OBJECT + OBJECT.replace(">40<", ">forty<"), "object 2/bndbox: expected pixels xmin"),
        (OBJECT.replace(">40<", ">inf<"), "object 1/bndbox: expected pixels xmin ymin xmax ymax"),
        (OBJECT.replace("bndbox", "polygon"), "object 1: expected an element bndbox"),
        (OBJECT.replace("xmin", "left"), "object 1/bndbox: expected an element xmin"),
        (OBJECT.replace("name>", "label>"), "object 1: expected an element name"),
        (OBJECT.replace("<difficult>0", "<difficult>yes"), "object 1, difficult: expected 0 or 1"),
        (
            OBJECT.replace("</object>", "<attributes><pose>left</pose></attributes></object>"),
            "object 1, attributes/pose: expected a whole number of 0 to 255, got 'left'",
        ),
    ],
)
def test_a_wrong_voc_element_is_named(tmp_path: Path, objects: str, expected: str) -> None:
    with pytest.raises(UserError, match=rf"top\.xml, {expected}"):
        read("voc", voc(tmp_path, objects))


def test_a_wrong_voc_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"top\.xml, size: expected width and height"):
        read("voc", voc(tmp_path, size=SIZE.replace("40", "-4")))


LAUGHS = """<?xml version="1.0"?>
<!DOCTYPE lol [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>
"""


def test_documents_that_declare_entities_are_refused(tmp_path: Path) -> None:
    folder = voc(tmp_path, OBJECT.replace("face", "&b;"), head=LAUGHS)
    with pytest.raises(UserError, match=r"top\.xml has a DOCTYPE.*remove that line"):
        read("voc", folder)
    text = (folder / "a/top.xml").read_text()
    (folder / "a/top.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(UserError, match=r"top\.xml has a DOCTYPE"):
        read("voc", folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", r"top\.xml, line 1: no sound XML"),
        (b"<annotation>\n<size>", r"top\.xml, line 2: no sound XML"),
        (b"<annotation>\n&b;</annotation>", r"top\.xml, line 2: no sound XML"),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', r"top\.xml.*encoding"),
        (b'<?xml version="1.0" encoding="big5"?><a/>', r"top\.xml.*encoding"),
        (b"<annotation/>", r"top\.xml: expected an element filename"),
    ],
)
def test_damaged_xml_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    folder = voc(tmp_path)
    (folder / "a/top.xml").write_bytes(content)
    with pytest.raises(UserError, match=expected):
        read("voc", folder)


def test_a_voc_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lists no image"):
        read("voc", tmp_path)


# WIDER FACE text: its lines are the business of tests/data/test_wider.py


def test_a_wrong_wider_line_is_named(tmp_path: Path) -> None:
    source = tmp_path / "faces.txt"
    source.write_text("top.jpg\n1\n1 2 3\n")
    with pytest.raises(UserError, match=r"faces\.txt, line 3: expected face 1 of 1"):
        read("wider", source, write_images(tmp_path / "images"))


def test_wider_lists_only_its_own_kinds_of_images(tmp_path: Path) -> None:
    one = read("voc", voc(tmp_path)).images[0]
    with pytest.raises(UserError, match=r"lists only \.jpg, \.jpeg, \.png, not b\.webp"):
        FORMATS["wider"].write([replace(one, name="b.webp")], tmp_path / "new.txt", silent)
