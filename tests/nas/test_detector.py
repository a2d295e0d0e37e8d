"""From an image of any size to boxes in its own pixels."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data.errors import UserError
from nas.detector import FaceDetector, prepare_image
from nas.records import CHECKOUT
from tests.tiny_onnx import write_tiny_onnx


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_onnx(tmp_path_factory.mktemp("tiny") / "model.onnx")


def scene(height: int, width: int, *cells: tuple[int, int]) -> NDArray[np.uint8]:
    """A black image with 8x8 cells, given by row and column, white."""
    image = np.zeros((height, width, 3), np.uint8)
    for row, column in cells:
        image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 255
    return image


def test_boxes_are_in_the_images_own_pixels(tiny: Path) -> None:
    boxes, scores = FaceDetector(tiny)(scene(50, 90, (2, 5)))
    np.testing.assert_allclose(boxes, [[38, 14, 50, 26]])
    np.testing.assert_allclose(scores, [1.0])
    assert {boxes.dtype, scores.dtype} == {np.dtype(np.float32)}


def test_boxes_end_at_the_border_and_padding_is_no_face(tiny: Path) -> None:
    boxes, _ = FaceDetector(tiny)(scene(33, 40, (0, 0), (3, 4)))
    np.testing.assert_allclose(sorted(boxes.tolist()), [[0, 0, 10, 10], [30, 22, 40, 33]])


def test_boxes_come_back_from_a_scaled_image(tiny: Path) -> None:
    image = np.kron(scene(48, 64, (2, 5)), np.ones((3, 3, 1), np.uint8))
    boxes, _ = FaceDetector(tiny, long_side=64)(image)
    np.testing.assert_allclose(boxes, [[3 * 38, 3 * 14, 3 * 50, 3 * 26]], atol=1e-4)


@pytest.mark.parametrize(
    ("height", "width", "long_side"), [(1, 1, None), (31, 33, None), (7, 900, 640), (5, 3, 64)]
)
def test_any_size_is_padded_to_multiples_of_32(
    height: int, width: int, long_side: int | None
) -> None:
    image = np.full((height, width, 3), 9, np.uint8)
    network_input, scale_xy = prepare_image(image, long_side=long_side)
    rows, columns = round(height * scale_xy[1]), round(width * scale_xy[0])
    assert network_input.dtype == np.float32
    assert all(
        0 <= side - used < 32 and side % 32 == 0
        for side, used in zip(network_input.shape[2:], (rows, columns), strict=True)
    )
    assert (network_input[..., :rows, :columns] == 9).all()
    assert (network_input == 9).sum() == 3 * rows * columns


def test_the_network_sees_the_channels_as_opencv_gives_them(tiny: Path) -> None:
    image = scene(32, 32)
    image[:8, :8, 0] = 255
    assert len(FaceDetector(tiny)(image)[0]) == 1, "blue comes first"
    assert len(FaceDetector(tiny)(image[..., ::-1])[0]) == 0


def test_the_threshold_and_the_most_boxes_are_kept_and_the_best_come_first(tiny: Path) -> None:
    image = scene(64, 64)
    for column, grey in enumerate((60, 250, 120, 180)):
        image[:8, 16 * column : 16 * column + 8] = grey
    _, scores = FaceDetector(tiny, score_threshold=0.4)(image)
    np.testing.assert_allclose(scores, np.array([250, 180, 120]) / 255, rtol=1e-6)
    _, scores = FaceDetector(tiny, score_threshold=0.4, max_boxes=1)(image)
    assert len(scores) == 1


def test_overlapping_boxes_are_one_face(tiny: Path) -> None:
    neighbours = scene(32, 32, (1, 1), (1, 2))  # 12 px boxes, 8 px apart: IoU 48 / 240
    assert len(FaceDetector(tiny, iou_threshold=0.4)(neighbours)[0]) == 2
    assert len(FaceDetector(tiny, iou_threshold=0.1)(neighbours)[0]) == 1


def test_an_image_without_faces_gives_empty_arrays(tiny: Path) -> None:
    boxes, scores = FaceDetector(tiny)(scene(40, 40))
    assert (boxes.shape, scores.shape) == ((0, 4), (0,))


def test_the_files_notes_can_be_read(tiny: Path) -> None:
    assert FaceDetector(str(tiny)).metadata == {"architecture": "tiny"}


@pytest.mark.parametrize(
    "image",
    [
        None,
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_what_is_not_an_image_is_refused(tiny: Path, image: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="image_bgr must"):
        FaceDetector(tiny)(image)


def test_settings_out_of_range_are_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="score_threshold must be in"):
        FaceDetector(tiny, score_threshold=1.5)
    with pytest.raises(ValueError, match="iou_threshold must be in"):
        FaceDetector(tiny, iou_threshold=-0.1)
    with pytest.raises(ValueError, match="max_boxes must be 1"):
        FaceDetector(tiny, max_boxes=0)
    with pytest.raises(ValueError, match="long_side must be 1"):
        FaceDetector(tiny, long_side=0)
    with pytest.raises(ValueError, match="threads must be 0"):
        FaceDetector(tiny, threads=-1)


def test_files_that_are_no_detector_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        FaceDetector(tmp_path / "none.onnx")
    for content in (b"", b"not a network at all"):
        (tmp_path / "text.onnx").write_bytes(content)
        with pytest.raises(UserError, match=r"text\.onnx is not"):
            FaceDetector(tmp_path / "text.onnx")
    other = write_tiny_onnx(tmp_path / "other.onnx", outputs=("a", "b"))
    with pytest.raises(UserError, match="found input images and outputs a, b"):
        FaceDetector(other)


def test_detecting_never_imports_torch_or_optuna(tiny: Path) -> None:
    code = f"""
import sys, numpy
from nas.detector import FaceDetector
from nas.drawing import draw
image = numpy.full((40, 50, 3), 255, numpy.uint8)
draw(image, *FaceDetector({str(tiny)!r})(image))
loaded = {{"torch", "optuna", "onnx", "pandas", "scipy", "plotly"}} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=True)
