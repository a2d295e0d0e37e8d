"""Images with drawn-up annotations for the tests of formats."""

from pathlib import Path

import cv2
import numpy as np

from data.annotations import AnnotatedImage
from data.formats import FORMATS
from data.progress import silent
from data.sample import ATTRIBUTES, Faces

INVALID = ATTRIBUTES.index("invalid")
SIZES = {
    "0--Parade/many.jpg": (64, 48),
    "0--Parade/none.jpg": (30, 40),
    "1--Händler/a b.png": (401, 307),
    "top.jpg": (50, 50),
}


def some_faces(width: int, height: int, *, seed: int) -> Faces:
    """Faces of whole and broken pixels, some over the border, some invalid, one without a width."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-5, 1, (8, 2)) + rng.uniform(0, 1, (8, 2)) * (width, height)
    boxes = np.concatenate([corner, corner + rng.uniform(0.5, 30, (8, 2))], axis=1)
    boxes[::2] = np.concatenate([np.floor(boxes[::2, :2]), np.floor(boxes[::2, 2:]) + 1], axis=1)
    boxes[7, 2] = boxes[7, 0]
    attributes = rng.integers(0, 3, (8, len(ATTRIBUTES)))
    invalid = np.arange(8) == 5
    attributes[:, INVALID] = invalid
    return Faces.of(boxes, attributes, invalid | (np.arange(8) == 7))


def some_images() -> list[AnnotatedImage]:
    """Every image of SIZES, in the order of names; the second one without faces."""
    return [
        AnnotatedImage(
            name,
            width,
            height,
            Faces.of(np.empty((0, 4)))
            if "none" in name
            else some_faces(width, height, seed=number),
        )
        for number, (name, (width, height)) in enumerate(SIZES.items())
    ]


def write_images(folder: Path) -> Path:
    """The images themselves, under their names in a folder."""
    for number, (name, (width, height)) in enumerate(SIZES.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return folder


def write_annotation(form: str, target: Path) -> Path:
    """The annotation of some_images in a format."""
    FORMATS[form].write(some_images(), target, silent)
    return target


def assert_same_images(
    got: tuple[AnnotatedImage, ...], expected: list[AnnotatedImage], *, attributes: bool, px: float
) -> None:
    """Equal, with corners at most px apart and attributes as they were, or all but invalid 0."""
    by_name = {one.name: one for one in got}
    assert len(got) == len(expected) == len(by_name)
    for one in expected:
        other = by_name[one.name]
        assert (other.width, other.height) == (one.width, one.height)
        np.testing.assert_allclose(
            other.faces.boxes_xyxy, one.faces.boxes_xyxy, rtol=0, atol=px, err_msg=one.name
        )
        np.testing.assert_array_equal(other.faces.ignore, one.faces.ignore)
        if attributes:
            np.testing.assert_array_equal(other.faces.attributes, one.faces.attributes)
        else:
            assert not np.delete(other.faces.attributes, INVALID, axis=1).any()
