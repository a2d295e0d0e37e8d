"""With the tiny detector, whose answers can be worked out: bright cells are faces."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from data.sample import Faces, Sample
from data.synthetic import SyntheticSource
from nas.evaluate import evaluate_model
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
