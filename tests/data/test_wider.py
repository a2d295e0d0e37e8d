"""The WIDER FACE reader, on a tiny copy made here and on the real images where they are."""

import multiprocessing
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from data.errors import UserError
from data.sample import ATTRIBUTES
from data.wider import Repairs, WiderSource
from tests.data.damaged_mat import DAMAGES, compress

WIDTH, HEIGHT = 40, 30

FACES: dict[str, list[list[int]]] = {
    "0--Parade/many.jpg": [
        [5, 6, 10, 12, 0, 1, 0, 0, 2, 1],  # inside
        [30, 20, 20, 20, 2, 0, 1, 0, 0, 0],  # over the corner: clipped to 10 x 10
        [50, 5, 8, 8, 0, 0, 0, 0, 0, 0],  # outside
        [3, 3, 0, 7, 0, 0, 0, 0, 0, 0],  # without a width
        [9, 9, -2, 7, 0, 0, 0, 0, 0, 0],  # with a negative width
        [1, 2, 3, 4, 1, 0, 0, 1, 0, 0],  # invalid
    ],
    "0--Parade/none.jpg": [],
    "1--Handshaking/one.jpg": [[0, 0, 40, 30, 0, 0, 0, 0, 1, 0]],
}
MANY, NONE, ONE = range(3)
TEXT = "wider_face_split/wider_face_train_bbx_gt.txt"
MAT = "wider_face_split/wider_face_train.mat"


def annotation_text() -> str:
    blocks = []
    for name, rows in FACES.items():
        lines = rows or [[0] * 10]
        blocks += [name, str(len(rows)), *(" ".join(map(str, row)) + " " for row in lines)]
    return "\n".join(blocks) + "\n"


def cells(values: Sequence[object]) -> np.ndarray:
    """A column of MATLAB cells."""
    column = np.empty((len(values), 1), dtype=object)
    for row, value in enumerate(values):
        column[row, 0] = value
    return column


def write_mat(path: Path, attributes: Sequence[str] = ATTRIBUTES) -> None:
    """FACES in the official structure: cells of events, in them cells of images."""
    by_event: dict[str, dict[str, np.ndarray]] = {}
    for name, rows in FACES.items():
        event, file = name.split("/")
        by_event.setdefault(event, {})[file.removesuffix(".jpg")] = np.reshape(rows, (-1, 10))

    def column(part: slice) -> np.ndarray:
        return cells([cells([r[:, part] for r in images.values()]) for images in by_event.values()])

    tables = {
        "event_list": cells(list(by_event)),
        "file_list": cells([cells(list(images)) for images in by_event.values()]),
        "face_bbx_list": column(slice(0, 4)),
    }
    for name in attributes:
        first = 4 + ATTRIBUTES.index(name)
        tables[f"{name}_label_list"] = column(slice(first, first + 1))
    savemat(path, tables)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(FACES):
        path = tmp_path / "wider" / "WIDER_train" / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        cv2.imwrite(str(path), rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    text = tmp_path / "wider" / TEXT
    text.parent.mkdir()
    text.write_text(annotation_text())
    return tmp_path / "wider"


@pytest.fixture
def source(root: Path) -> WiderSource:
    return WiderSource.open(root, "train")


def change_line(root: Path, number: int, line: str) -> None:
    lines = (root / TEXT).read_text().splitlines()
    lines[number - 1] = line
    (root / TEXT).write_text("\n".join(lines))


def test_listed_faces_come_out_as_listed(source: WiderSource) -> None:
    assert [source.name(i) for i in range(len(source))] == list(FACES)
    for index, rows in enumerate(FACES.values()):
        faces = source.faces(index)
        expected = np.reshape(rows, (-1, 10))
        np.testing.assert_array_equal(faces.attributes, expected[:, 4:])
        np.testing.assert_array_equal(faces.boxes_xyxy[:, :2], expected[:, :2])
        np.testing.assert_array_equal(
            faces.boxes_xyxy[:, 2:] - faces.boxes_xyxy[:, :2], expected[:, 2:4]
        )
    assert source.faces(MANY).ignore.tolist() == [False, False, False, True, True, True]


def test_loaded_faces_are_repaired_not_dropped(source: WiderSource) -> None:
    sample = source.load(MANY)
    assert sample.image.shape == (HEIGHT, WIDTH, 3)
    assert sample.source == "0--Parade/many.jpg"
    assert sample.faces.ignore.tolist() == [False, False, True, True, True, True]
    assert sample.faces.boxes_xyxy[:2].tolist() == [[5, 6, 15, 18], [30, 20, 40, 30]]
    assert sample.faces.attributes.tolist() == [row[4:] for row in FACES["0--Parade/many.jpg"]]
    assert len(source.load(NONE).faces) == 0
    assert source.repairs() == Repairs(zero_size=2, outside=1, clipped=1)


def test_images_are_bgr_and_not_turned(root: Path) -> None:
    blue = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    blue[..., 0] = 255
    encoded = cv2.imencode(".jpg", blue)[1].tobytes()
    turned = (  # an EXIF block that says: shown turned by 90 degrees
        b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    )
    path = root / "WIDER_train/images/1--Handshaking/one.jpg"
    path.write_bytes(encoded[:2] + turned + encoded[2:])
    image = WiderSource.open(root, "train").load(ONE).image
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image[..., 0].min() > 200
    assert image[..., 2].max() < 50


def test_a_grey_image_has_three_channels(root: Path) -> None:
    path = root / "WIDER_train/images/1--Handshaking/one.jpg"
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH), 90, np.uint8))
    assert WiderSource.open(root, "train").load(ONE).image.shape == (HEIGHT, WIDTH, 3)


def test_both_forms_hold_the_same(root: Path, source: WiderSource) -> None:
    write_mat(root / MAT)
    assert WiderSource.open(root, "train").annotation.name.endswith(".txt")
    (root / TEXT).unlink()
    other = WiderSource.open(root, "train")
    assert other.description.endswith("annotation from wider_face_train.mat")
    assert [other.name(i) for i in range(len(other))] == list(FACES)
    for index in range(len(source)):
        expected, got = source.load(index), other.load(index)
        np.testing.assert_array_equal(got.image, expected.image)
        np.testing.assert_array_equal(got.faces.boxes_xyxy, expected.faces.boxes_xyxy)
        np.testing.assert_array_equal(got.faces.attributes, expected.faces.attributes)
        np.testing.assert_array_equal(got.faces.ignore, expected.faces.ignore)


def test_attributes_missing_from_a_mat_file_are_0_and_said(root: Path) -> None:
    (root / TEXT).unlink()
    write_mat(root / MAT, attributes=[name for name in ATTRIBUTES if name not in ("blur", "pose")])
    source = WiderSource.open(root, "train")
    assert "without blur, pose: taken as 0" in source.description
    attributes = source.faces(MANY).attributes
    assert not attributes[:, [0, 5]].any()
    assert attributes[:, 1:5].tolist() == [row[5:9] for row in FACES["0--Parade/many.jpg"]]


def test_a_damaged_mat_file_is_named(root: Path) -> None:
    (root / TEXT).unlink()
    write_mat(root / MAT)
    whole = (root / MAT).read_bytes()
    for size in (0, 50, 200, len(whole) // 2, len(whole) - 5):
        (root / MAT).write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"wider_face_train\.mat is no sound"):
            WiderSource.open(root, "train")
    savemat(root / MAT, {"something": np.zeros(3)})
    with pytest.raises(UserError, match=r"wider_face_train\.mat is no .*it has no event_list"):
        WiderSource.open(root, "train")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_compressed_mat_file_is_named(root: Path, damage: str) -> None:
    (root / TEXT).unlink()
    path = root / MAT
    write_mat(path)
    compress(path)
    assert len(WiderSource.open(root, "train")) == len(FACES)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(UserError, match=f"{path} is no sound WIDER FACE annotation"):
        WiderSource.open(root, "train")


def test_a_mat_file_whose_tables_disagree_is_named(root: Path) -> None:
    (root / TEXT).unlink()
    one_box, two_labels = cells([np.zeros((1, 4))]), cells([np.zeros((2, 1))])
    names = {"event_list": cells(["0--Parade"]), "file_list": cells([cells(["many"])])}
    wrong: list[dict[str, np.ndarray]] = [
        {"face_bbx_list": cells([one_box]), "blur_label_list": cells([two_labels])},
        {"face_bbx_list": cells([cells([np.zeros((1, 4)), np.zeros((1, 4))])])},
        {"face_bbx_list": cells([cells([np.full((1, 4), np.nan)])])},
        {"face_bbx_list": cells([cells([np.zeros((1, 3))])])},
    ]
    for tables in wrong:
        savemat(root / MAT, names | tables)
        with pytest.raises(UserError, match="no sound WIDER FACE annotation"):
            WiderSource.open(root, "train")


def test_a_partial_copy_says_so(root: Path, source: WiderSource) -> None:
    assert "WIDER FACE train, 3 of 3 listed images" in source.description
    (root / "WIDER_train/images/0--Parade/many.jpg").unlink()
    part = WiderSource.open(root, "train")
    assert (part.present, part.listed, len(part)) == (2, 3, 2)
    assert "2 of 3 listed images" in part.description
    assert part.load(0).source == "0--Parade/none.jpg"
    assert part.repairs() == Repairs()
    shutil.rmtree(root / "WIDER_train/images")
    (root / "WIDER_train/images").mkdir()
    with pytest.raises(UserError, match="none of the 3 images listed"):
        WiderSource.open(root, "train")


def test_the_line_of_zeros_and_the_line_endings_do_not_matter(
    root: Path, source: WiderSource
) -> None:
    text = annotation_text().replace(" ".join("0" * 10) + " \n1--", "1--")
    assert text != annotation_text()
    (root / TEXT).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    other = WiderSource.open(root, "train")
    for index in range(len(source)):
        np.testing.assert_array_equal(other.faces(index).boxes_xyxy, source.faces(index).boxes_xyxy)


@pytest.mark.parametrize(
    ("number", "line", "expected"),
    [
        (4, "30 20 20 20 2 0 1 0 0", r"face 2 of 6 in 0--Parade/many.jpg, 10 numbers: x y width"),
        (4, "30 20 20 20 2 0 1 0 0 0 0", "face 2 of 6"),
        (4, "30 20 nan 20 2 0 1 0 0 0", "face 2 of 6"),
        (4, "30 20 20 20 2 0 -1 0 0 0", "face 2 of 6"),
        (4, "30 20 20 20 2 0 0.5 0 0 0", "face 2 of 6"),
        (4, "", "face 2 of 6"),
        (1, "5 6 10 12 0 1 0 0 2 1", "an image such as"),
        (2, "six", "the number of faces in 0--Parade/many.jpg"),
        (2, "-1", "the number of faces"),
        (14, "", "face 1 of 1 in 1--Handshaking/one.jpg.*got the end of the file"),
    ],
)
def test_a_wrong_line_is_named(root: Path, number: int, line: str, expected: str) -> None:
    change_line(root, number, line)
    with pytest.raises(UserError, match=rf"bbx_gt\.txt, line {number}: expected {expected}"):
        WiderSource.open(root, "train")


def test_a_wrong_count_is_found_at_the_line_where_it_shows(root: Path) -> None:
    change_line(root, 2, "7")
    with pytest.raises(UserError, match=r"line 9: expected face 7 of 7.*got '0--Parade/none.jpg'"):
        WiderSource.open(root, "train")
    change_line(root, 2, "5")
    with pytest.raises(UserError, match=r"line 8: expected an image.*got '1 2 3 4 1"):
        WiderSource.open(root, "train")


def test_an_image_listed_twice_is_refused(root: Path) -> None:
    change_line(root, 9, "0--Parade/many.jpg")
    with pytest.raises(UserError, match=r"lists 0--Parade/many.jpg 2 times"):
        WiderSource.open(root, "train")


@pytest.mark.parametrize("kept_bytes", [0, 30, 700, -2])
def test_an_unreadable_image_is_named(root: Path, kept_bytes: int) -> None:
    path = root / "WIDER_train/images/0--Parade/many.jpg"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    source = WiderSource.open(root, "train")
    with pytest.raises(UserError, match=r"cannot read the image .*many\.jpg"):
        source.load(MANY)
    if kept_bytes in (0, 30):  # the header is gone too
        with pytest.raises(UserError, match=r"cannot read the image .*many\.jpg"):
            source.repairs()


def test_a_wrong_folder_is_told_the_layout_and_the_right_folder(root: Path) -> None:
    layout = r"expected WIDER_train/images/<event>/\*\.jpg and wider_face_split/.*_train_bbx_gt"
    for wrong, found in (
        (root.parent, "wider"),
        (root / "WIDER_train", "images"),
        (root / "WIDER_train/images", "0--Parade, 1--Handshaking"),
        (root / "wider_face_split", "wider_face_train_bbx_gt.txt"),
    ):
        with pytest.raises(UserError, match=rf"{layout}.*found only {found}; give {root}$"):
            WiderSource.open(wrong, "train")
    with pytest.raises(UserError, match="there is no folder"):
        WiderSource.open(root / "nowhere", "train")


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"no WIDER FACE val split .* found only WIDER_train"):
        WiderSource.open(root, "val")
    (root / TEXT).unlink()
    with pytest.raises(UserError, match=r"expected wider_face_split/wider_face_train_bbx_gt\.txt"):
        WiderSource.open(root, "train")
    with pytest.raises(UserError, match=r"unknown split 'vol'.*Did you mean 'val'"):
        WiderSource.open(root, "vol")


def test_the_fingerprint_follows_the_samples(root: Path, source: WiderSource) -> None:
    before = source.fingerprint()
    moved = root.with_name("moved")
    shutil.copytree(root, moved)
    assert WiderSource.open(moved, "train").fingerprint() == before
    change_line(moved, 3, "5 6 10 13 0 1 0 0 2 1")
    other_box = WiderSource.open(moved, "train").fingerprint()
    with (root / "WIDER_train/images/0--Parade/none.jpg").open("ab") as stream:
        stream.write(b"\0")
    other_image = source.fingerprint()
    (root / "WIDER_train/images/0--Parade/none.jpg").unlink()
    fewer = WiderSource.open(root, "train").fingerprint()
    assert len({before, other_box, other_image, fewer}) == 4


def test_another_process_loads_the_same(source: WiderSource) -> None:
    assert pickle.loads(pickle.dumps(source)).fingerprint() == source.fingerprint()  # noqa: S301
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        elsewhere = pool.map(source.load, range(len(source)))
    for index, sample in enumerate(elsewhere):
        np.testing.assert_array_equal(sample.image, source.load(index).image)
        np.testing.assert_array_equal(sample.faces.boxes_xyxy, source.load(index).faces.boxes_xyxy)


@pytest.mark.real
@pytest.mark.parametrize(
    ("split", "images", "faces", "repairs"),
    [
        ("train", 2278, 25_741, Repairs(zero_size=1, outside=0, clipped=2)),
        ("val", 386, 2_174, Repairs(zero_size=1, outside=0, clipped=0)),
    ],
)
def test_the_real_part_is_whole(
    wider_root: Path, split: str, images: int, faces: int, repairs: Repairs
) -> None:
    source = WiderSource.open(wider_root, split)
    assert (source.present, source.listed) == (images, images)
    assert sum(len(source.faces(index)) for index in range(len(source))) == faces
    assert source.repairs() == repairs
    sample = source.load(7)
    assert len(sample.faces) == len(source.faces(7))


@pytest.mark.real
def test_the_official_mat_file_agrees_with_the_text(wider_root: Path, tmp_path: Path) -> None:
    """The val images are originals, so the official file must list the very same faces."""
    (tmp_path / "WIDER_val").symlink_to(wider_root / "WIDER_val")
    (tmp_path / "wider_face_split").mkdir()
    official = wider_root / "ground_truth" / "wider_face_val.mat"
    shutil.copy(official, tmp_path / "wider_face_split")
    from_mat, from_text = WiderSource.open(tmp_path, "val"), WiderSource.open(wider_root, "val")
    assert "386 of 3226 listed images, annotation from wider_face_val.mat" in from_mat.description
    assert "without" not in from_mat.description
    by_name = {from_mat.name(index): from_mat.faces(index) for index in range(len(from_mat))}
    for index in range(len(from_text)):
        expected, got = from_text.faces(index), by_name.pop(from_text.name(index))
        np.testing.assert_array_equal(got.boxes_xyxy, expected.boxes_xyxy)
        np.testing.assert_array_equal(got.attributes, expected.attributes)
    assert not by_name
