"""Pictures of detections, and picture files in and out."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data.errors import UserError
from data.files import whole_file

COLOUR_BGR = (80, 220, 60)


def draw(
    image_bgr: NDArray[np.uint8],
    boxes_xyxy: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> NDArray[np.uint8]:
    """A copy of an (H, W, 3) image with its boxes and, where they fit, their scores.

    Lines grow with the image so that they stay visible when it is shown smaller.
    """
    picture = np.ascontiguousarray(image_bgr).copy()
    line_width = max(1, round(max(picture.shape[:2]) / 500))
    for (x1, y1, x2, y2), score in zip(boxes_xyxy.tolist(), scores.tolist(), strict=True):
        first, last = (round(x1), round(y1)), (round(x2), round(y2))
        cv2.rectangle(picture, first, last, COLOUR_BGR, line_width, cv2.LINE_AA)
        if x2 - x1 >= 24 * line_width:
            _write_score(picture, f"{score:.2f}", first, line_width)
    return picture


def _write_score(
    picture: NDArray[np.uint8], text: str, corner: tuple[int, int], line_width: int
) -> None:
    """Dark letters on a filled label above the corner, or below it at the image's top."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.4 * line_width
    (width, height), below = cv2.getTextSize(text, font, size, line_width)
    x, y = corner[0], corner[1] if corner[1] > height + below else corner[1] + height + below
    cv2.rectangle(picture, (x, y - height - below), (x + width, y), COLOUR_BGR, cv2.FILLED)
    cv2.putText(picture, text, (x, y - below // 2), font, size, (0, 0, 0), line_width, cv2.LINE_AA)


def read_image(path: Path) -> NDArray[np.uint8]:
    """The pixels of a picture file, (H, W, 3) uint8, BGR.

    Raises:
        UserError: the file is missing or OpenCV cannot read it.
    """
    if not path.is_file():
        raise UserError(f"there is no picture {path}")
    content = np.fromfile(path, np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    if image is None:
        raise UserError(f"{path} is no picture that OpenCV can read; use a .jpg or .png file")
    return np.asarray(image, np.uint8)


def write_image(path: Path, image_bgr: NDArray[np.uint8]) -> None:
    """Write a picture, whole or not at all; the name's ending says which kind.

    Raises:
        UserError: OpenCV knows no such ending.
    """
    suffix = path.suffix.lower()
    if not cv2.haveImageWriter(f"name{suffix}"):
        raise UserError(f"cannot write a picture called {path.name}; end it in .jpg or .png")
    _, encoded = cv2.imencode(suffix, image_bgr)
    with whole_file(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
