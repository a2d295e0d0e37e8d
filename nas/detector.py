"""Finds faces with an exported network, on ONNX Runtime, numpy and OpenCV alone."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data.boxes import clip_boxes, nms
from data.quantities import SIZE_MULTIPLE
from objectives.session import INPUT_NAME, OUTPUT_NAMES, open_session

PADDING = 127
"""Grey level of the border: the network subtracts 127.5, so to it the border is nearly zero."""


class FaceDetector:
    """A face detector from an exported network: give it an image, get boxes and scores.

    score_threshold: least score of a box, 0..1. iou_threshold: two boxes that overlap more than
    this are one face. max_boxes: most boxes of an image. threads: 0 for all cores.
    long_side: pixels the image's longer side is scaled to before the network sees it; None keeps
    the image's own size. Smaller is faster and finds fewer small faces.

    Raises:
        ValueError: a setting is out of range.
        UserError: the file is missing or is not an exported network.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        score_threshold: float = 0.5,
        iou_threshold: float = 0.4,
        max_boxes: int = 750,
        threads: int = 0,
        long_side: int | None = None,
    ) -> None:
        for name, share in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in 0..1, got {share}")
        for name, count in (("max_boxes", max_boxes), ("long_side", long_side)):
            if count is not None and count < 1:
                raise ValueError(f"{name} must be 1 or more, got {count}")
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.max_boxes = max_boxes
        self.long_side = long_side
        self._session = open_session(Path(path), threads=threads)

    @property
    def metadata(self) -> dict[str, str]:
        """What the exporter noted in the file, such as the architecture's key."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(
        self, image_bgr: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes and scores of the faces found, best first: (N, 4) and (N,) float32.

        image_bgr: (H, W, 3) uint8 of any size. Boxes are corners in pixels of this image and end
        at its border.

        Raises:
            ValueError: the image has another shape or type, or no pixels.
        """
        check_image(image_bgr)
        height, width = image_bgr.shape[:2]
        network_input, scale_xy = prepare_image(image_bgr, long_side=self.long_side)
        boxes, scores = (
            output[0] for output in self._session.run(OUTPUT_NAMES, {INPUT_NAME: network_input})
        )
        likely = scores >= self.score_threshold
        boxes = clip_boxes(boxes[likely] / np.tile(scale_xy, 2), width=width, height=height)
        scores = scores[likely]
        kept = nms(boxes, scores, iou_threshold=self.iou_threshold, max_boxes=self.max_boxes)
        return boxes[kept], scores[kept]


def check_image(image_bgr: NDArray[np.uint8]) -> None:
    """Refuse anything but an (H, W, 3) uint8 array with pixels, with ValueError."""
    if not isinstance(image_bgr, np.ndarray):
        raise ValueError(
            f"image_bgr must be a numpy array, got {type(image_bgr).__name__} "
            "(cv2.imread gives None when it cannot read a file)"
        )
    if image_bgr.ndim != 3 or image_bgr.shape[2] != 3 or image_bgr.dtype != np.uint8:
        raise ValueError(
            f"image_bgr must be (H, W, 3) uint8, got {image_bgr.shape} {image_bgr.dtype}"
        )
    if image_bgr.size == 0:
        raise ValueError(f"image_bgr must have pixels, got {image_bgr.shape}")


def prepare_image(
    image_bgr: NDArray[np.uint8], *, long_side: int | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The network's input (1, 3, H, W) and how far the image was scaled, (2,) for x and y.

    The scale is that of the sizes rounded to whole pixels, so boxes come back without drift.
    Right and bottom are padded to multiples of 32.
    """
    height, width = image_bgr.shape[:2]
    scaled: NDArray[np.uint8] = image_bgr
    if long_side is not None and long_side != max(height, width):
        scale = long_side / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        filter_kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        scaled = np.asarray(cv2.resize(image_bgr, size, interpolation=filter_kind), np.uint8)
    rows, columns = scaled.shape[:2]
    padded_shape = (1, 3, _rounded_up(rows), _rounded_up(columns))
    network_input = np.full(padded_shape, PADDING, dtype=np.float32)
    network_input[0, :, :rows, :columns] = scaled.transpose(2, 0, 1)
    return network_input, np.array([columns / width, rows / height], dtype=np.float32)


def _rounded_up(pixels: int) -> int:
    return -(-pixels // SIZE_MULTIPLE) * SIZE_MULTIPLE
