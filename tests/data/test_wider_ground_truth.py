"""The ground truth of WIDER FACE's subsets, written as .mat files here."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from data.errors import UserError
from data.wider_ground_truth import SUBSETS, read_ground_truth
from tests.data.damaged_mat import DAMAGES, compress

BOXES = {
    "0--Parade/a": [[1, 2, 30, 40], [50, 60, 7, 8], [5, 5, 0, 0]],
    "0--Parade/b": [[0, 0, 0, 0]],
    "1--Handshaking/c": [[9, 8, 7, 6]],
}
COUNTED = {
    "easy": {"0--Parade/a": [1]},
    "medium": {"0--Parade/a": [1], "1--Handshaking/c": [1]},
    "hard": {"0--Parade/a": [2, 1], "1--Handshaking/c": [1]},
}
FILES = ("wider_face_val.mat", *(f"wider_{subset}_val.mat" for subset in SUBSETS))


def cells(values: Sequence[object]) -> np.ndarray:
    """A column of MATLAB cells."""
    column = np.empty((len(values), 1), dtype=object)
    for row, value in enumerate(values):
        column[row, 0] = value
    return column


def write_mat(path: Path, name: str, images: dict[str, np.ndarray]) -> None:
    """A table in the official structure: cells of events, in them cells of images."""
    events: dict[str, dict[str, np.ndarray]] = {}
    for image, array in images.items():
        event, file = image.split("/")
        events.setdefault(event, {})[file] = array
    savemat(
        path,
        {
            "event_list": cells(list(events)),
            "file_list": cells([cells(list(files)) for files in events.values()]),
            name: cells([cells(list(files.values())) for files in events.values()]),
        },
    )


def write_subset(folder: Path, subset: str, counted: dict[str, list[int]]) -> None:
    indices = {name: np.array(counted.get(name, [])).reshape(-1, 1) for name in BOXES}
    write_mat(folder / f"wider_{subset}_val.mat", "gt_list", indices)


def write_boxes(folder: Path, boxes: dict[str, list[list[int]]]) -> None:
    arrays = {name: np.array(rows) for name, rows in boxes.items()}
    write_mat(folder / FILES[0], "face_bbx_list", arrays)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_boxes(tmp_path, BOXES)
    for subset in SUBSETS:
        write_subset(tmp_path, subset, COUNTED[subset])
    return tmp_path


def test_boxes_and_indices_come_out_as_listed(folder: Path) -> None:
    truth = read_ground_truth(folder)
    assert list(truth) == [f"{name}.jpg" for name in BOXES]
    for name, boxes in BOXES.items():
        image = truth[f"{name}.jpg"]
        np.testing.assert_array_equal(image.boxes_xywh, boxes)
        assert image.boxes_xywh.dtype == np.float64
        for subset in SUBSETS:
            listed = COUNTED[subset].get(name, [])
            assert image.counted[subset].tolist() == [number - 1 for number in listed]


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(UserError, match=f"{folder}: {file} missing; give the folder"):
        read_ground_truth(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no ground truth in {tmp_path / 'nowhere'}"):
        read_ground_truth(tmp_path / "nowhere")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("content", [b"", b"no MATLAB file, but text", None], ids=str)
def test_a_damaged_file_is_named(folder: Path, file: str, content: bytes | None) -> None:
    path = folder / file
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(UserError, match=f"{path} is no sound WIDER FACE ground truth"):
        read_ground_truth(folder)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_compressed_file_is_named(folder: Path, file: str, damage: str) -> None:
    path = folder / file
    compress(path)
    assert len(read_ground_truth(folder)) == len(BOXES)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(UserError, match=f"{path} is no sound WIDER FACE ground truth"):
        read_ground_truth(folder)


def test_a_table_that_is_missing_is_named(folder: Path) -> None:
    shutil.copy(folder / "wider_face_val.mat", folder / "wider_hard_val.mat")
    with pytest.raises(UserError, match=r"wider_hard_val\.mat .*it has no gt_list"):
        read_ground_truth(folder)


def test_files_of_different_sets_are_refused(folder: Path) -> None:
    write_boxes(folder, {name: BOXES[name] for name in list(BOXES)[:2]})
    with pytest.raises(UserError, match="lists other images than"):
        read_ground_truth(folder)


@pytest.mark.parametrize("numbers", [[4], [0], [1, 1], [1.5]], ids=str)
def test_faces_that_are_not_annotated_are_refused(folder: Path, numbers: list[int]) -> None:
    write_subset(folder, "medium", {"0--Parade/a": numbers})
    with pytest.raises(UserError, match=r"0--Parade/a\.jpg are not among the 3 annotated"):
        read_ground_truth(folder)


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 3, np.nan], [1, 2, 3, 1e9]], ids=str)
def test_boxes_that_are_none_are_refused(folder: Path, box: list[int]) -> None:
    write_boxes(folder, BOXES | {"0--Parade/b": [box]})
    with pytest.raises(UserError, match=r"0--Parade/b\.jpg"):
        read_ground_truth(folder)


@pytest.mark.real
def test_the_real_ground_truth_holds_the_known_number_of_faces(wider_root: Path) -> None:
    truth = read_ground_truth(wider_root / "ground_truth")
    assert len(truth) == 3226
    assert sum(len(image.boxes_xywh) for image in truth.values()) == 39_708
    faces = {s: sum(len(image.counted[s]) for image in truth.values()) for s in SUBSETS}
    assert faces == {"easy": 7_211, "medium": 13_319, "hard": 31_958}
