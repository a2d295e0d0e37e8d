"""Pictures in, pictures out."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from data.errors import UserError
from nas.drawing import draw, read_image, write_image


def test_drawing_leaves_the_image_and_marks_the_box() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    boxes = np.array([[20, 20, 50, 50], [-5, -5, 90, 90], [1, 1, 4, 4]], np.float32)
    picture = draw(image, boxes, np.array([0.9, 0.8, 0.7], np.float32))
    assert not image.any()
    assert picture.shape == image.shape
    assert picture[50, 35].any()
    assert not picture[40, 35].any()


def test_drawing_nothing_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (10, 10, 3)).astype(np.uint8)
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    assert (draw(image, *none) == image).all()


def test_a_written_picture_is_read_back(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 17, 3)).astype(np.uint8)
    for name in ("picture.png", "PICTURE.PNG"):
        write_image(tmp_path / name, image)
        np.testing.assert_array_equal(read_image(tmp_path / name), image)


def test_a_grey_picture_is_read_with_three_channels(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((5, 7), 9, np.uint8))
    assert read_image(tmp_path / "grey.png").shape == (5, 7, 3)


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_an_unreadable_picture_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"text\.jpg"):
        read_image(tmp_path / "text.jpg")


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jpg"):
        read_image(tmp_path / "none.jpg")


@pytest.mark.parametrize("name", ["boxes", "boxes.what"])
def test_an_unknown_kind_of_picture_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot write a picture"):
        write_image(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
