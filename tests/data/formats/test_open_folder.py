"""Data sets in any format's layout, opened as sources of images to train and evaluate on."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.annotations import AnnotatedSource
from data.errors import UserError
from data.formats import FORMATS, open_folder
from data.sample import ImageSource
from data.wider import Repairs, WiderSource
from tests.data.formats.annotated import SIZES, some_images, write_annotation, write_images

LAYOUTS = {
    "wider": ("wider", "wider_face_split/wider_face_train_bbx_gt.txt", "WIDER_train/images"),
    "coco": ("coco", "annotations/instances_train.json", "images/train"),
    "coco, as published": ("coco", "annotations/instances_train2017.json", "train2017"),
    "coco, flat": ("coco", "train.json", "images"),
    "coco, in one folder": ("coco", "train/_annotations.coco.json", "train"),
    "yolo": ("yolo", "labels/train", "images/train"),
    "yolo, split first": ("yolo", "train/labels", "train/images"),
    "voc": ("voc", "Annotations", "JPEGImages"),
    "voc, split folders": ("voc", "Annotations/train", "JPEGImages/train"),
    "voc, in one folder": ("voc", "train", "train"),
}


def lay_out(root: Path, layout: str) -> Path:
    form, annotation, images = LAYOUTS[layout]
    write_annotation(form, root / annotation)
    write_images(root / images)
    if layout == "voc":
        names = root / "ImageSets" / "Main" / "train.txt"
        names.parent.mkdir(parents=True)
        names.write_text("".join(f"{name.rsplit('.', 1)[0]}\n" for name in SIZES))
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_samples(layout: str, tmp_path: Path) -> None:
    source: ImageSource = open_folder(lay_out(tmp_path, layout), "train")
    assert "train" in source.description
    assert "4 of 4 listed images" in source.description
    assert isinstance(source, WiderSource) == (layout == "wider")
    samples = {sample.source: sample for sample in map(source.load, range(len(source)))}
    assert {*samples} == {*SIZES}
    for one in some_images():
        sample = samples[one.name]
        assert sample.image.shape == (one.height, one.width, 3)
        assert len(sample.faces) == len(one.faces)
        boxes_xyxy = one.faces.boxes_xyxy.clip(0, [one.width, one.height] * 2)
        np.testing.assert_allclose(sample.faces.boxes_xyxy, boxes_xyxy, rtol=0, atol=0.001)
        assert (sample.faces.ignore >= one.faces.ignore).all()


@pytest.fixture
def source(tmp_path: Path) -> AnnotatedSource:
    opened = open_folder(lay_out(tmp_path, "coco"), "train")
    assert isinstance(opened, AnnotatedSource)
    return opened


def test_a_source_tells_of_its_images(source: AnnotatedSource, tmp_path: Path) -> None:
    expected = "COCO JSON train (instances_train.json), 4 of 4 listed images"
    assert source.description == expected
    assert source.name(0) == "0--Parade/many.jpg"
    assert len(source.faces(0)) == 8
    assert source.repairs().zero_size == 3
    assert source.repairs() != Repairs(zero_size=3)  # some are over the border
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert copy.fingerprint() == source.fingerprint()
    (tmp_path / "images/train/top.jpg").unlink()
    part = open_folder(tmp_path, "train")
    assert part.description.endswith("3 of 4 listed images")
    assert len(part) == 3


def test_what_is_not_read_is_in_the_description(tmp_path: Path) -> None:
    root = lay_out(tmp_path, "yolo")
    (root / "labels/train/classes.txt").write_text("visage\nignore\n")
    description = open_folder(root, "train").description
    assert description.endswith("not read: the class name 'visage', read as face")


def test_the_fingerprint_follows_the_samples(source: AnnotatedSource, tmp_path: Path) -> None:
    before = source.fingerprint()
    annotation = tmp_path / "annotations/instances_train.json"
    text = annotation.read_text()
    annotation.write_text(text.replace('"blur": 2', '"blur": 1', 1))
    other_attribute = open_folder(tmp_path, "train").fingerprint()
    annotation.write_text(text)
    with (tmp_path / "images/train/top.jpg").open("ab") as stream:
        stream.write(b"\0")
    assert len({before, other_attribute, source.fingerprint()}) == 3


def test_an_image_of_another_size_is_refused(source: AnnotatedSource, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "images/train/top.jpg"), np.zeros((25, 25, 3), np.uint8))
    with pytest.raises(UserError, match=r"top\.jpg is 25 x 25 px, but COCO JSON .* says 50 x 50"):
        source.load(3)


def test_validation_images_go_by_several_names(tmp_path: Path) -> None:
    write_annotation("yolo", tmp_path / "valid/labels")
    write_images(tmp_path / "valid/images")
    assert len(open_folder(tmp_path, "val")) == 4
    with pytest.raises(UserError, match="no WIDER FACE train split"):
        open_folder(tmp_path, "train")


def test_voc_lists_say_which_images_are_of_a_split(tmp_path: Path) -> None:
    root = lay_out(tmp_path, "voc")
    (root / "ImageSets/Main/val.txt").write_text("top\n0--Parade/none\n")
    source = open_folder(root, "val")
    assert [source.load(index).source for index in range(2)] == ["top.jpg", "0--Parade/none.jpg"]
    (root / "ImageSets/Main/val.txt").write_text("top\nbottom\n")
    with pytest.raises(UserError, match=r"val\.txt lists bottom, which has no annotation"):
        open_folder(root, "val")


def test_a_folder_of_no_layout_is_told_all_of_them(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_folder(tmp_path, "train")
    assert all(
        form.layout in str(caught.value) for name, form in FORMATS.items() if name != "wider"
    )
    assert "WIDER_train/images" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(UserError, match=r"unknown split 'vol'.*Did you mean 'val'"):
        open_folder(tmp_path, "vol")


def test_without_any_image_the_folders_are_named(tmp_path: Path) -> None:
    write_annotation("coco", tmp_path / "train.json")
    with pytest.raises(
        UserError, match=r"none of the 4 images of COCO JSON train .*images/train or"
    ):
        open_folder(tmp_path, "train")
