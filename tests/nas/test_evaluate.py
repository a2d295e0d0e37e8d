"""With the tiny detector, whose answers can be worked out: bright cells are faces."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import UserError
from data.predictions import read_predictions
from data.sample import Faces, Sample
from data.synthetic import SyntheticSource
from data.wider import WiderSource
from data.wider_ground_truth import SUBSETS
from nas.evaluate import (
    EvaluationRequest,
    evaluate_in_full,
    evaluate_model,
    evaluate_predictions,
)
from nas.multi_pass import Passes
from objectives.breakdown import BEST_F1
from tests.nas.tiny_wider import ABSENT, CELLS, write_tiny_truth, write_tiny_wider
from tests.tiny_onnx import CELL, write_tiny_onnx


@dataclass(frozen=True, slots=True)
class BrightCells:
    """Images of 128 px with three bright squares of `side` px, each a face `margin` px wider."""

    side: int = CELL
    margin: int = 2
    value: int = 255

    @property
    def description(self) -> str:
        return "bright cells"

    def fingerprint(self) -> str:
        return f"{self.side} {self.margin} {self.value}"

    def __len__(self) -> int:
        return 3

    def load(self, index: int) -> Sample:
        image = np.zeros((128, 128, 3), dtype=np.uint8)
        boxes = []
        for column in range(3):
            x, y = 16 + 32 * column, 32 + 16 * index
            image[y : y + self.side, x : x + self.side, 0] = self.value
            low, high = -self.margin, self.side + self.margin
            boxes.append((x + low, y + low, x + high, y + high))
        return Sample(image, Faces.of(np.array(boxes, dtype=np.float32)), f"cells/{index}")


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    return write_tiny_onnx(tmp_path / "tiny.onnx")


def test_a_detector_that_finds_every_face_has_full_precision(onnx: Path) -> None:
    result = evaluate_model(onnx, BrightCells(), long_side=None, seed=0)
    assert (result["ap"], result["recall"]) == (1, 1)
    assert (result["images"], result["faces"]) == (3, 9)
    assert result["interval"] == pytest.approx([1, 1])
    assert result["data"] == "bright cells"
    assert result["image_size"] == "original"


def test_a_detector_that_finds_none_has_no_precision(onnx: Path) -> None:
    result = evaluate_model(onnx, BrightCells(value=0), long_side=None, seed=0)
    assert (result["ap"], result["recall"]) == (0, 0)


def test_boxes_are_compared_in_pixels_of_the_original(onnx: Path) -> None:
    twice = BrightCells(side=2 * CELL, margin=4)
    half = evaluate_model(onnx, twice, long_side=64, seed=0)
    assert half["ap"] == 1
    assert half["image_size"] == "long side 64"
    assert evaluate_model(onnx, twice, long_side=None, seed=0)["ap"] < 0.5


def test_the_result_is_plain_json_and_repeatable(onnx: Path) -> None:
    source = SyntheticSource(count=2, image_size=128)
    heard: list[tuple[str, int, int]] = []
    result = evaluate_model(
        onnx, source, long_side=128, seed=0, progress=lambda *step: heard.append(step)
    )
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert evaluate_model(onnx, source, long_side=128, seed=0) == result
    assert heard == [("evaluate", 1, 2), ("evaluate", 2, 2)]
    assert "NMS" in result["setting"]


def test_the_looks_are_named_and_made(onnx: Path) -> None:
    twice, passes = BrightCells(side=2 * CELL, margin=4), Passes((0.5, 1), flip=True)
    result = evaluate_model(onnx, twice, long_side=None, seed=0, passes=passes)
    assert result["setting"].startswith("scales 0.5, 1, flip, ")
    assert (result["scales"], result["flip"], result["split"]) == ([0.5, 1], True, None)
    once = evaluate_model(onnx, twice, long_side=None, seed=0)
    assert once["setting"].startswith("single scale, no flip, ")
    assert once["recall"] < result["recall"] == 1


# A full evaluation of a WIDER FACE folder

FULL_SIZE = EvaluationRequest(None)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_onnx(tmp_path_factory.mktemp("network") / "tiny.onnx")


@pytest.fixture(scope="module")
def wider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_tiny_wider(tmp_path_factory.mktemp("wider"))
    write_tiny_truth(root / "ground_truth")
    return root


@pytest.fixture(scope="module")
def full(
    network: Path, wider: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder of an evaluation and its result."""
    folder = tmp_path_factory.mktemp("evaluation")
    source = WiderSource.open(wider, "val")
    return folder, evaluate_in_full(network, source, folder, request=FULL_SIZE)


def test_the_files_say_what_was_returned(full: tuple[Path, dict[str, Any]]) -> None:
    folder, result = full
    assert json.loads((folder / "evaluation.json").read_text()) == result
    assert {path.name for path in folder.iterdir()} == {
        "curves.json",
        "evaluation.html",
        "evaluation.json",
        "predictions",
        "worst",
    }
    curves = json.loads((folder / "curves.json").read_text())
    assert set(curves["wider"]) == set(SUBSETS)
    assert curves["all"]["recall"][-1] == pytest.approx(5 / 6, abs=1e-5)


def test_every_output_names_split_size_images_and_looks(full: tuple[Path, dict[str, Any]]) -> None:
    folder, result = full
    setting = json.loads((folder / "predictions" / "setting.json").read_text())
    for named in (result, setting):
        assert (named["split"], named["image_size"], named["images"]) == ("val", "original", 3)
        assert (named["scales"], named["flip"]) == ([1], False)
    page = (folder / "evaluation.html").read_text()
    assert "WIDER FACE val, 3 of 3 listed images" in page
    assert "image size: original · single scale, no flip" in page


def test_the_protocol_is_scored_on_the_images_that_are_there(
    full: tuple[Path, dict[str, Any]],
) -> None:
    wider = full[1]["wider"]
    assert full[1]["wider_note"] == "3 images of val's 4, on the faces they hold"
    assert (wider["images"], wider["images_of_val"]) == (3, 4)
    assert [wider[subset]["faces"] for subset in SUBSETS] == [3, 3, 6]
    # Five of six faces are found and one mistake is made; the least sure of them is a face.
    assert wider["hard"]["ap"] == pytest.approx(5 / 6 * 5 / 6)
    low, high = wider["hard"]["interval"]
    assert low <= wider["hard"]["ap"] <= high


def test_the_predictions_written_give_the_same_result(
    full: tuple[Path, dict[str, Any]], wider: Path
) -> None:
    folder, result = full
    assert set(read_predictions(folder / "predictions")) == set(CELLS)
    again = evaluate_predictions(folder / "predictions", wider / "ground_truth", partial=True)
    assert {name: again[name] for name in result["wider"]} == result["wider"]


def test_faces_are_told_apart_by_their_attributes(full: tuple[Path, dict[str, Any]]) -> None:
    groups = full[1]["groups"]
    assert set(groups) == {"size", "blur", "occlusion", "event"}
    assert {name: one["recall"][BEST_F1] for name, one in groups["blur"].items()} == {
        "clear": 1,
        "heavy": 0.5,
    }
    assert set(groups["event"]) == {"0--Parade", "1--Handshaking"}
    assert groups["event"]["0--Parade"]["ap"] == 1


def test_the_worst_images_are_drawn(full: tuple[Path, dict[str, Any]]) -> None:
    folder, result = full
    (row,) = result["worst"]
    assert row == {
        "image": "1--Handshaking/c.jpg",
        "file": "01-c.jpg",
        "found": 1,
        "missed": 1,
        "mistaken": 1,
    }
    assert [path.name for path in (folder / "worst").iterdir()] == ["01-c.jpg"]


def test_a_second_evaluation_takes_the_place_of_the_first(
    full: tuple[Path, dict[str, Any]], network: Path, wider: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(full[0], folder)
    source, request = WiderSource.open(wider, "val"), EvaluationRequest(64, worst=0)
    result = evaluate_in_full(network, source, folder, request=request)
    assert result["ap"] < full[1]["ap"]
    assert result["worst"] == list((folder / "worst").iterdir()) == []
    assert json.loads((folder / "evaluation.json").read_text()) == result


def test_without_ground_truth_the_plain_result_is_left_and_it_says_why(
    network: Path, tmp_path: Path
) -> None:
    source = WiderSource.open(write_tiny_wider(tmp_path / "wider"), "val")
    result = evaluate_in_full(network, source, tmp_path / "out", request=FULL_SIZE)
    assert result["wider"] is None
    assert "no ground truth" in result["wider_note"]
    assert "--ground-truth" in result["wider_note"]
    assert 0 < result["ap"] < 1
    assert "Not scored" in (tmp_path / "out" / "evaluation.html").read_text()


@pytest.mark.parametrize("place", ["wider_face_split", "elsewhere"])
def test_ground_truth_is_found_beside_the_annotation_or_where_it_is_said_to_be(
    network: Path, tmp_path: Path, place: str
) -> None:
    root = write_tiny_wider(tmp_path / "wider")
    for file in write_tiny_truth(tmp_path / "truth").iterdir():
        (root / place).mkdir(exist_ok=True)
        file.rename(root / place / file.name)
    request = EvaluationRequest(None, ground_truth=root / place if place == "elsewhere" else None)
    source = WiderSource.open(root, "val")
    result = evaluate_in_full(network, source, tmp_path / "out", request=request)
    assert result["wider"]["hard"]["faces"] == 6


def test_other_images_have_no_protocol_predictions_or_events(network: Path, tmp_path: Path) -> None:
    result = evaluate_in_full(network, BrightCells(), tmp_path, request=FULL_SIZE)
    assert (result["wider"], list(result["groups"])) == (None, ["size"])
    assert "val split" in result["wider_note"]
    assert not (tmp_path / "predictions").exists()


def never(*_: object) -> None:
    raise AssertionError("what is wrong must be found before the long part")


@pytest.fixture
def no_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.evaluate.MultiPassDetector", never)


@pytest.mark.usefixtures("no_detection")
def test_ground_truth_that_does_not_belong_is_refused(
    network: Path, wider: Path, tmp_path: Path
) -> None:
    request = EvaluationRequest(None, ground_truth=wider / "ground_truth")
    with pytest.raises(UserError, match="bright cells; leave it out"):
        evaluate_in_full(network, BrightCells(), tmp_path, request=request)
    source = WiderSource.open(wider, "val")
    request = EvaluationRequest(None, ground_truth=tmp_path)
    with pytest.raises(UserError, match="no ground truth in"):
        evaluate_in_full(network, source, tmp_path, request=request)
    listing = wider / "wider_face_split" / "wider_face_val_bbx_gt.txt"
    other = write_tiny_wider(tmp_path / "other")
    moved = other / "WIDER_val" / "images" / "0--Parade"
    (moved / "b.jpg").rename(moved / "z.jpg")
    text = listing.read_text().replace("0--Parade/b.jpg", "0--Parade/z.jpg")
    (other / "wider_face_split" / listing.name).write_text(text)
    request = EvaluationRequest(None, ground_truth=wider / "ground_truth")
    with pytest.raises(UserError, match=r"1 images .* such as 0--Parade/z\.jpg"):
        evaluate_in_full(network, WiderSource.open(other, "val"), tmp_path, request=request)


@pytest.mark.usefixtures("no_detection")
def test_predictions_of_other_images_are_not_mixed_in(
    network: Path, wider: Path, tmp_path: Path
) -> None:
    strange = tmp_path / "predictions" / "0--Parade" / "z.txt"
    strange.parent.mkdir(parents=True)
    strange.write_text("z\n0\n")
    with pytest.raises(UserError, match=r"other images, such as z\.txt; give another folder"):
        evaluate_in_full(network, WiderSource.open(wider, "val"), tmp_path, request=FULL_SIZE)
    assert strange.is_file()


# Predictions from elsewhere


def test_a_part_of_val_is_scored_only_when_that_is_asked_for(
    full: tuple[Path, dict[str, Any]], wider: Path
) -> None:
    folder = full[0] / "predictions"
    with pytest.raises(UserError, match=f"1 of 4 images have no predictions, such as {ABSENT}"):
        evaluate_predictions(folder, wider / "ground_truth", partial=False)
    assert evaluate_predictions(folder, wider / "ground_truth", partial=True)["images"] == 3


def test_all_of_val_is_called_so(
    full: tuple[Path, dict[str, Any]], wider: Path, tmp_path: Path
) -> None:
    shutil.copytree(full[0] / "predictions", tmp_path / "all")
    absent = (tmp_path / "all" / ABSENT).with_suffix(".txt")
    absent.parent.mkdir()
    absent.write_text("d\n0\n")
    heard: list[tuple[int, int]] = []
    result = evaluate_predictions(
        tmp_path / "all",
        wider / "ground_truth",
        partial=False,
        progress=lambda _label, done, total: heard.append((done, total)),
    )
    assert (result["scored"], result["hard"]["faces"]) == ("all 4 images of val", 7)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert heard[-1] == (4, 4)


@pytest.mark.parametrize("partial", [False, True])
def test_predictions_of_unknown_images_are_named(
    full: tuple[Path, dict[str, Any]], wider: Path, tmp_path: Path, *, partial: bool
) -> None:
    shutil.copytree(full[0] / "predictions", tmp_path / "some")
    (tmp_path / "some" / "0--Parade" / "stranger.txt").write_text("stranger\n0\n")
    with pytest.raises(
        UserError, match=r"not in the ground truth, such as 0--Parade/stranger\.jpg"
    ):
        evaluate_predictions(tmp_path / "some", wider / "ground_truth", partial=partial)


@pytest.mark.real
def test_published_predictions_are_scored_from_their_archive(wider_root: Path) -> None:
    result = evaluate_predictions(
        wider_root / "predictions" / "retinaface_mnet025_val.tar.xz",
        wider_root / "ground_truth",
        partial=False,
    )
    assert [round(result[subset]["ap"], 4) for subset in SUBSETS] == [0.9070, 0.8816, 0.7383]
    for subset in SUBSETS:
        low, high = result[subset]["interval"]
        assert low < result[subset]["ap"] < high
        assert high - low < 0.05
    assert result["scored"] == "all 3,226 images of val"
