"""Average precision as COCO defines it, through faster-coco-eval, for data sets beside WIDER FACE.

Lin et al., Microsoft COCO, ECCV 2014. Where it differs from objectives.average_precision: the
curve is read at 101 recalls instead of its whole area being taken; equal scores are ordered by
image instead of making one step; a detection counts neither way when an ignored face covers the
IoU threshold's share of it; and of an image only the surest detections are looked at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from data.boxes import box_areas, box_xyxy_to_xywh
from data.errors import UserError
from data.sample import Faces
from objectives.average_precision import Detections

AREAS = ("all", "small", "medium", "large")
"""COCO's bands of face area: all, up to 32², up to 96², and larger, in square pixels."""

_FACE = 1  # the one category


@dataclass(frozen=True, slots=True)
class CocoReport:
    """How well faces are found, by COCO's rules. All shares are 0 to 1.

    ap50_95: mean AP over IoU 0.50, 0.55, ... 0.95; ap_small, ap_medium, ap_large: the same for
    faces of a band of areas, None where it has no face. recall: mean share of faces found over
    those thresholds. cut_images: images of which detections beyond `max_detections` were left out.
    """

    ap50: float
    ap75: float
    ap50_95: float
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    recall: float
    images: int
    faces: int
    max_detections: int
    cut_images: int

    def to_json(self) -> dict[str, Any]:
        """The same as plain numbers."""
        return asdict(self)


def coco_is_installed() -> bool:
    """Whether faster-coco-eval, an extra, is there."""
    return find_spec("faster_coco_eval") is not None


def coco_precision(
    detections: Sequence[Detections], faces: Sequence[Faces], *, max_detections: int = 100
) -> CocoReport:
    """AP by COCO's rules, one entry of detections and of faces per image.

    Ignored faces are COCO's crowds. max_detections: of an image, surest first; 100 is COCO's own.

    Raises:
        ValueError: the two lengths differ, no face is wanted, or max_detections is not positive.
        UserError: faster-coco-eval is not installed.
    """
    if len(detections) != len(faces):
        raise ValueError(
            f"detections must be one entry per image, got {len(detections)} for {len(faces)} images"
        )
    if max_detections < 1:
        raise ValueError(f"max_detections must be positive, got {max_detections}")
    wanted = sum(int((~one.ignore).sum()) for one in faces)
    if not wanted:
        raise ValueError(f"faces must hold a face to be found, got none in {len(faces)} images")
    result = _evaluate(detections, faces, max_detections)
    thresholds = np.asarray(result.params.iouThrs)
    precision = np.asarray(result.eval["precision"])[:, :, 0, :, -1]  # IoU, recall, band of areas
    by_band = {name: _mean(precision[..., index]) for index, name in enumerate(AREAS)}
    ap50, ap75 = (
        _mean(precision[np.isclose(thresholds, threshold)][..., 0]) for threshold in (0.5, 0.75)
    )
    return CocoReport(
        ap50=ap50 or 0.0,
        ap75=ap75 or 0.0,
        ap50_95=by_band["all"] or 0.0,
        ap_small=by_band["small"],
        ap_medium=by_band["medium"],
        ap_large=by_band["large"],
        recall=_mean(np.asarray(result.eval["recall"])[:, 0, 0, -1]) or 0.0,
        images=len(faces),
        faces=wanted,
        max_detections=max_detections,
        cut_images=sum(len(one.scores) > max_detections for one in detections),
    )


def _mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    """The mean; None where COCO's -1 says that there is no face."""
    return None if (values < 0).any() else float(values.mean())


def _evaluate(detections: Sequence[Detections], faces: Sequence[Faces], max_detections: int) -> Any:
    """The library's evaluation, done. It logs what it does below the level that is shown."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise UserError(
            "COCO's average precision needs the package faster-coco-eval; "
            "install it with: pip install -e '.[coco]'"
        ) from error
    truth = COCO(
        {
            "images": [{"id": image} for image in range(len(faces))],
            "categories": [{"id": _FACE, "name": "face"}],
            "annotations": list(_annotations(faces)),
        }
    )
    evaluation = COCOeval_faster(truth, truth.loadRes(list(_results(detections))), iouType="bbox")
    evaluation.params.maxDets = [max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _annotations(faces: Sequence[Faces]) -> Iterator[dict[str, Any]]:
    """Faces as COCO lists them, numbered from 1."""
    number = 0
    for image, one in enumerate(faces):
        boxes_xyxy = one.boxes_xyxy.astype(np.float64)
        columns = (box_xyxy_to_xywh(boxes_xyxy), box_areas(boxes_xyxy), one.ignore)
        for box, area, ignore in zip(*(column.tolist() for column in columns), strict=True):
            number += 1
            yield {
                "id": number,
                "image_id": image,
                "category_id": _FACE,
                "bbox": box,
                "area": area,
                "iscrowd": int(ignore),
            }


def _results(detections: Sequence[Detections]) -> Iterator[dict[str, Any]]:
    """Detections as COCO lists them."""
    for image, one in enumerate(detections):
        boxes_xywh = box_xyxy_to_xywh(one.boxes_xyxy.astype(np.float64)).tolist()
        for box, score in zip(boxes_xywh, one.scores.tolist(), strict=True):
            yield {"image_id": image, "category_id": _FACE, "bbox": box, "score": score}
