"""How well an exported detector finds the faces of a whole collection of images."""

from pathlib import Path
from typing import Any

from data.progress import Progress, silent
from data.sample import ImageSource
from nas.detector import FaceDetector
from objectives.average_precision import LEAST_SCORE, NMS_IOU, Detections, evaluate_detections

MAX_BOXES = 750


def evaluate_model(
    onnx: Path,
    source: ImageSource,
    *,
    long_side: int | None,
    seed: int,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Average precision at IoU 0.5, with the setting it was measured in.

    long_side: images are scaled to it, pixels; None keeps their size. Boxes are compared, and
    face heights counted, in pixels of the original images. One scale, no flip.
    """
    detector = FaceDetector(
        onnx,
        score_threshold=LEAST_SCORE,
        iou_threshold=NMS_IOU,
        max_boxes=MAX_BOXES,
        long_side=long_side,
    )
    found, faces = [], []
    for i in range(len(source)):
        sample = source.load(i)
        found.append(Detections(*detector(sample.image)))
        faces.append(sample.faces)
        progress("evaluate", i + 1, len(source))
    report = evaluate_detections(found, faces, seed=seed)
    return {
        "data": source.description,
        "image_size": "original" if long_side is None else f"long side {long_side}",
        "setting": f"single scale, no flip, score over {LEAST_SCORE}, NMS {NMS_IOU}, "
        f"at most {MAX_BOXES} boxes an image",
        **report.to_json(),
    }
