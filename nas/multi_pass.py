"""Finds faces by looking at an image more than once: at several scales, and mirrored."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.boxes import aligned_iou, clip_boxes, flip_boxes, nms
from data.errors import UserError
from nas.detector import check_image, prepare_image
from objectives.average_precision import LEAST_SCORE, NMS_IOU
from objectives.session import INPUT_NAME, OUTPUT_NAMES, open_session

MAX_BOXES = 750
"""Most boxes of an image in evaluations, the field's usual setting."""

_FIRST_TRIED = 2000  # boxes before suppression
_SMALLEST_SCALE, _LARGEST_SCALE = 0.05, 8.0

Found = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Passes:
    """The looks at every image.

    scales: of the size the images have without them. flip: each scale is seen mirrored, too.

    Raises:
        UserError: no scale, one twice, or one out of range.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        fits = all(_SMALLEST_SCALE <= scale <= _LARGEST_SCALE for scale in self.scales)
        if not self.scales or not fits or len(set(self.scales)) < len(self.scales):
            raise UserError(
                f"--scales must be numbers from {_SMALLEST_SCALE} to {_LARGEST_SCALE:g}, each "
                f"once, got {' '.join(f'{scale:g}' for scale in self.scales) or 'none'}"
            )

    def __iter__(self) -> Iterator[tuple[float, bool]]:
        """Scale of every look, and whether it is mirrored."""
        for scale in self.scales:
            yield from (
                (scale, mirrored) for mirrored in ((False, True) if self.flip else (False,))
            )

    def __str__(self) -> str:
        scales = ", ".join(f"{scale:g}" for scale in self.scales)
        kind = "single scale" if self.scales == (1.0,) else f"scales {scales}"
        return f"{kind}, {'flip' if self.flip else 'no flip'}"


ONE_PASS = Passes()


def parse_scales(text: str) -> tuple[float, ...]:
    """Numbers with spaces or commas between them, such as "0.5 1 2".

    Raises:
        UserError: something in the text is not a number.
    """
    try:
        return tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError as error:
        raise UserError(f"--scales must be numbers such as 0.5 1 2, got {text!r}") from error


class MultiPassDetector:
    """An exported network that looks at an image several times, with the field's usual settings.

    The boxes of all looks are put together before one non-maximum suppression. After more than
    one look, each box left becomes the mean of those that overlap it, weighted by their scores
    (Gidaris and Komodakis, Object Detection via a Multi-Region and Semantic Segmentation-Aware
    CNN Model, ICCV 2015, section 5): the looks agree on a face better than on its corners. One
    plain look gives what FaceDetector gives.

    long_side: pixels the image's longer side has at scale 1; None keeps the image's own size.

    Raises:
        ValueError: long_side is not positive.
        UserError: the file is missing or is not an exported network.
    """

    def __init__(
        self, path: Path, *, long_side: int | None, passes: Passes, threads: int = 0
    ) -> None:
        if long_side is not None and long_side < 1:
            raise ValueError(f"long_side must be 1 or more, got {long_side}")
        self.long_side = long_side
        self.passes = passes
        self._session = open_session(path, threads=threads)

    def __call__(self, image_bgr: NDArray[np.uint8]) -> Found:
        """Boxes and scores of the faces found, best first: (N, 4) and (N,) float32.

        image_bgr: (H, W, 3) uint8 of any size. Boxes are corners in pixels of this image.
        """
        check_image(image_bgr)
        looks = [self._look(image_bgr, scale, mirrored=mirrored) for scale, mirrored in self.passes]
        boxes = np.concatenate([boxes for boxes, _ in looks])
        scores = np.concatenate([scores for _, scores in looks])
        return suppress(boxes, scores, vote=len(looks) > 1)

    def _look(self, image_bgr: NDArray[np.uint8], scale: float, *, mirrored: bool) -> Found:
        """Every box over the least score, in the image's pixels."""
        height, width = image_bgr.shape[:2]
        long_side = max(1, round(scale * (self.long_side or max(height, width))))
        seen = image_bgr[:, ::-1] if mirrored else image_bgr
        network_input, scale_xy = prepare_image(seen, long_side=long_side)
        boxes, scores = (
            output[0] for output in self._session.run(OUTPUT_NAMES, {INPUT_NAME: network_input})
        )
        likely = scores >= LEAST_SCORE
        boxes = clip_boxes(boxes[likely] / np.tile(scale_xy, 2), width=width, height=height)
        return (flip_boxes(boxes, width=width) if mirrored else boxes), scores[likely]


def suppress(boxes_xyxy: NDArray[np.float32], scores: NDArray[np.float32], *, vote: bool) -> Found:
    """The boxes and scores that non-maximum suppression leaves, best first.

    Whether a box stays depends on better ones alone, so the best are tried first, and more only
    where too few of them stay: a network with low scores everywhere gives twenty thousand boxes.
    vote: boxes left become the mean of those tried that overlap them.
    """
    order = np.argsort(-scores, kind="stable")
    tried = _FIRST_TRIED
    while True:
        boxes, best = boxes_xyxy[order[:tried]], scores[order[:tried]]
        kept = nms(boxes, best, iou_threshold=NMS_IOU, max_boxes=MAX_BOXES)
        if len(kept) == MAX_BOXES or tried >= len(order):
            return (_voted(boxes, best, kept) if vote else boxes[kept]), best[kept]
        tried *= 2


def _voted(
    boxes_xyxy: NDArray[np.float32], scores: NDArray[np.float32], kept: NDArray[np.int64]
) -> NDArray[np.float32]:
    """For each box kept the mean of itself and all that overlap it, weighted by score."""
    voted = boxes_xyxy[kept]
    for row, own in enumerate(kept):
        near = aligned_iou(boxes_xyxy[own], boxes_xyxy) > NMS_IOU
        near[own] = True  # also where it has no area
        voted[row] = np.average(boxes_xyxy[near], axis=0, weights=scores[near])
    return voted
