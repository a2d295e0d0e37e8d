"""Converting between the formats: what stays, what is lost and told, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, permutations, product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.annotations import TOLERANCE_PX, AnnotatedImage
from data.errors import UserError
from data.formats import FORMATS, convert
from data.progress import silent
from data.sample import Faces
from data.wider import WiderSource
from tests.data.formats.annotated import (
    INVALID,
    SIZES,
    assert_same_images,
    some_images,
    write_annotation,
    write_images,
)

PAIRS = list(product(FORMATS, FORMATS))
LOST_BY_YOLO = "the attributes blur, expression, illumination, invalid, occlusion, pose of 24 faces"

IGNORED_IN_WIDER = "why 3 faces are ignored: they are invalid now"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_written_is_read(form: str, images: Path, tmp_path: Path) -> None:
    annotation = write_annotation(form, tmp_path / "annotation")
    listing = FORMATS[form].read(annotation, images, silent)
    assert_same_images(listing.images, some_images(), attributes=form != "yolo", px=TOLERANCE_PX)
    assert listing.lost == ()


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_every_format_goes_through_every_other_and_back(
    first: str, second: str, images: Path, tmp_path: Path
) -> None:
    start = write_annotation(first, tmp_path / "start")
    there = convert(
        start,
        tmp_path / "there",
        source_format=first,
        target_format=second,
        images=images,
    )
    back = convert(
        tmp_path / "there",
        tmp_path / "back",
        source_format=second,
        target_format=first,
        images=images,
    )
    kept = "yolo" not in (first, second)
    assert (there.images, there.faces, there.ignored) == (4, 24, 6)
    assert (back.images, back.faces, back.ignored) == (4, 24, 6)
    listing = FORMATS[first].read(tmp_path / "back", images, silent)
    assert_same_images(listing.images, some_images(), attributes=kept, px=TOLERANCE_PX)
    if first == "yolo":  # nothing to lose, but that wider has no class for ignored faces
        assert there.lost == ((IGNORED_IN_WIDER,) if second == "wider" else ())
    else:
        assert there.lost == ((LOST_BY_YOLO,) if second == "yolo" else ())
        assert back.lost == ((IGNORED_IN_WIDER,) if (first, second) == ("wider", "yolo") else ())


@pytest.mark.parametrize("order", [*permutations(FORMATS)][::5])
def test_boxes_of_a_large_image_stay_within_the_tolerance_and_do_not_wander(
    order: tuple[str, ...], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    low, high = np.sort(rng.uniform(0, 4095, (2, 1000, 2)), axis=0)
    one = AnnotatedImage("large.jpg", 4095, 4095, Faces.of(np.concatenate([low, high], axis=1)))
    Image.new("L", (4095, 4095)).save(tmp_path / "large.jpg")
    got = [one]
    written = np.round(one.faces.boxes_xyxy.astype(float), 3)
    for number, form in enumerate(order * 3):
        annotation = tmp_path / f"{number}" / "annotation"
        FORMATS[form].write(got, annotation, silent)
        got = [*FORMATS[form].read(annotation, tmp_path, silent).images]
        boxes_xyxy = got[0].faces.boxes_xyxy.astype(float)
        assert np.abs(boxes_xyxy - one.faces.boxes_xyxy).max() < TOLERANCE_PX
        np.testing.assert_array_equal(np.round(boxes_xyxy, 3), written)


def test_wider_tells_a_face_is_ignored_by_making_it_invalid(tmp_path: Path) -> None:
    faces = Faces.of(np.array([[1, 2, 9, 9], [3, 3, 3, 7]]), ignore=np.array([True, True]))
    crowd = AnnotatedImage("top.jpg", 50, 50, faces)
    lost = FORMATS["wider"].write([crowd], tmp_path / "wider.txt", silent)
    assert lost == ("why 1 faces are ignored: they are invalid now",)
    images = write_images(tmp_path / "images")
    faces = FORMATS["wider"].read(tmp_path / "wider.txt", images, silent).images[0].faces
    assert faces.ignore.tolist() == [True, True]
    assert faces.attributes[:, INVALID].tolist() == [1, 0]


def test_coco_says_ignored_in_both_ways(tmp_path: Path) -> None:
    entries = json.loads(write_annotation("coco", tmp_path / "coco.json").read_text())[
        "annotations"
    ]
    assert [one["id"] for one in entries] == list(range(1, 25))
    assert sum(one["iscrowd"] for one in entries) == 6
    assert all(one["iscrowd"] == one["ignore"] for one in entries)


def test_only_attributes_that_are_there_are_lost(tmp_path: Path) -> None:
    plain = AnnotatedImage("top.jpg", 50, 50, Faces.of(np.array([[1, 2, 9, 9]])))
    assert FORMATS["yolo"].write([plain], tmp_path / "plain", silent) == ()
    assert (tmp_path / "plain/classes.txt").read_text() == "face\n"
    blurred = replace(
        plain, faces=Faces.of(np.array([[1, 2, 9, 9]]), np.array([[2, 0, 0, 0, 0, 0]]))
    )
    others = [blurred, replace(plain, name="other.jpg")]
    lost = FORMATS["yolo"].write(others, tmp_path / "blurred", silent)
    assert lost == ("the attributes blur of 1 faces",)


def test_progress_and_the_report(images: Path, tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    report = convert(
        write_annotation("voc", tmp_path / "voc"),
        tmp_path / "coco.json",
        source_format="voc",
        target_format="coco",
        images=images,
        progress=lambda *step: heard.append(step),
    )
    assert heard == [(label, done, 4) for label in ("read", "write") for done in range(1, 5)]
    assert report.to_json() == {"images": 4, "faces": 24, "ignored": 6, "lost": []}


def test_an_unknown_format_names_the_known_ones(tmp_path: Path) -> None:
    for source_format, target_format in (("cocoa", "voc"), ("voc", "cocoa")):
        with pytest.raises(UserError, match=r"unknown annotation format 'cocoa'.*mean 'coco'"):
            convert(
                tmp_path,
                tmp_path / "new",
                source_format=source_format,
                target_format=target_format,
            )


@pytest.mark.parametrize(("source_format", "target_format"), PAIRS)
def test_a_target_that_is_there_is_kept(
    source_format: str, target_format: str, images: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    source = write_annotation(source_format, tmp_path / "source")
    with pytest.raises(UserError, match="target is there already; choose another name"):
        convert(
            source,
            target,
            source_format=source_format,
            target_format=target_format,
            images=images,
        )
    assert target.read_text() == "mine"


@pytest.mark.parametrize("form", FORMATS)
def test_a_source_that_is_not_there_is_named(form: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no (file|folder) .*nowhere; give the|a COCO"):
        FORMATS[form].read(tmp_path / "nowhere", images, silent)


@pytest.mark.parametrize("form", ["wider", "yolo"])
def test_formats_without_sizes_need_the_images(form: str, images: Path, tmp_path: Path) -> None:
    source = write_annotation(form, tmp_path / "source")
    with pytest.raises(UserError, match="give the folder of"):
        FORMATS[form].read(source, None, silent)
    if form == "wider":
        (images / "top.jpg").unlink()
        with pytest.raises(UserError, match=r"cannot read the image .*top\.jpg"):
            FORMATS[form].read(source, images, silent)


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_formats_with_sizes_need_no_images(form: str, tmp_path: Path) -> None:
    listing = FORMATS[form].read(write_annotation(form, tmp_path / "source"), None, silent)
    sizes = {one.name: (one.width, one.height) for one in listing.images}
    assert sizes == SIZES


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_images_that_would_share_a_file_are_refused_and_nothing_is_left(
    form: str, tmp_path: Path
) -> None:
    one = some_images()[0]
    with pytest.raises(UserError, match=r"many\.png and 0--Parade/many\.jpg would share 0--Par"):
        FORMATS[form].write([one, replace(one, name="0--Parade/many.png")], tmp_path / "x", silent)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FORMATS)
def test_a_conversion_that_breaks_off_leaves_nothing(form: str, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(_label: str, done: int, _total: int) -> None:
        if done == 3:
            raise StopError

    with pytest.raises(StopError):
        FORMATS[form].write(some_images(), tmp_path / "target", stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FORMATS)
def test_a_target_that_cannot_be_written_is_named(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"cannot write .*target: No space left"):
        FORMATS[form].write(some_images(), tmp_path / "target", silent)
    assert list(tmp_path.iterdir()) == []


def change(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


UNSAFE = ("../top.jpg", "/top.jpg", "a/../../top.jpg", "top.txt", "", "to\x07p.jpg")


@pytest.mark.parametrize("name", UNSAFE)
def test_names_that_lead_out_of_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    source = write_annotation("coco", tmp_path / "coco.json")
    source.write_text(change(source.read_text(), '"top.jpg"', json.dumps(name)))
    with pytest.raises(UserError, match=r"images\[3\], file_name: expected the name of an image"):
        FORMATS["coco"].read(source, None, silent)


@pytest.mark.parametrize(
    ("form", "repeat"),
    [
        ("wider", lambda text: text + "top.jpg\n0\n"),
        ("coco", lambda text: text.replace("0--Parade/none.jpg", "top.jpg")),
    ],
)
def test_an_image_listed_twice_is_refused(
    form: str, repeat: Callable[[str], str], images: Path, tmp_path: Path
) -> None:
    source = write_annotation(form, tmp_path / "source")
    source.write_text(repeat(source.read_text()))
    with pytest.raises(UserError, match=r"source lists top\.jpg 2 times"):
        FORMATS[form].read(source, images, silent)


@pytest.mark.real
def test_the_real_faces_come_through_the_formats(wider_root: Path, tmp_path: Path) -> None:
    images = wider_root / "WIDER_val" / "images"
    chain = ("wider", "coco", "voc", "wider")
    source = wider_root / "wider_face_split" / "wider_face_val_bbx_gt.txt"
    for number, (before, after) in enumerate(pairwise(chain)):
        target = tmp_path / str(number)
        report = convert(source, target, source_format=before, target_format=after, images=images)
        assert report.lost == ()
        source = target
    first = WiderSource.open(wider_root, "val")
    last = {one.name: one for one in FORMATS["wider"].read(source, images, silent).images}
    assert len(last) == len(first)
    for index in range(len(first)):
        faces = last[first.name(index)].faces
        np.testing.assert_array_equal(faces.boxes_xyxy, first.faces(index).boxes_xyxy)
        np.testing.assert_array_equal(faces.ignore, first.faces(index).ignore)
        np.testing.assert_array_equal(faces.attributes, first.faces(index).attributes)
