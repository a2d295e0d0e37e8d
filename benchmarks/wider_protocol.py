"""How much faster WIDER FACE's protocol is here than as the loop it is described as; prints JSON.

Run from the repository's root:
python -m benchmarks.wider_protocol PREDICTIONS GROUND_TRUTH [--images 3226]
PREDICTIONS is a folder or an archive of text files, GROUND_TRUTH the folder of .mat files. Both
ways run on one core on the same images; it fails where an average precision differs.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.files import sha256_of
from data.predictions import read_predictions
from data.wider_ground_truth import SUBSETS, CountedFaces, read_ground_truth
from nas.records import record_header
from objectives.wider_protocol import wider_average_precision

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

POINTS = 1000
LARGEST_DIFFERENCE = 1e-12


def plain_average_precision(
    ground_truth: Mapping[str, CountedFaces], predictions: Mapping[str, Floats]
) -> dict[str, float]:
    """AP of each subset over the images of the ground truth, step by step as the toolbox works.

    One subset, image, detection and point of the curve after another. 0 where no face counts.
    """
    rows = stretch_scores({name: predictions[name] for name in ground_truth})
    return {subset: _subset_ap(ground_truth, rows, subset) for subset in SUBSETS}


def stretch_scores(predictions: Mapping[str, Floats]) -> dict[str, Floats]:
    """Rows by falling score, with the set's lowest score at 0 and its highest at 1."""
    lowest, highest = float("inf"), float(np.finfo(np.float32).tiny)
    for rows in predictions.values():
        for score in rows[:, 4]:
            lowest, highest = min(lowest, score), max(highest, score)
    stretched = {}
    for name, rows in predictions.items():
        ordered = rows[np.argsort(-rows[:, 4], kind="stable")].copy()
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, which no threshold lets in
            ordered[:, 4] = (ordered[:, 4] - lowest) / (highest - lowest)
        stretched[name] = ordered
    return stretched


def _subset_ap(
    ground_truth: Mapping[str, CountedFaces], predictions: Mapping[str, Floats], subset: str
) -> float:
    proposals, found, faces = np.zeros(POINTS), np.zeros(POINTS), 0
    for name, annotated in ground_truth.items():
        rows, counted = predictions[name], annotated.counted[subset]
        faces += len(counted)
        if not len(rows) or not len(annotated.boxes_xywh):
            continue
        proposed, found_by = _judge(rows, annotated.boxes_xywh, set(counted.tolist()))
        for point in range(POINTS):
            passing = np.flatnonzero(rows[:, 4] >= 1 - (point + 1) / POINTS)
            if len(passing):
                proposals[point] += np.count_nonzero(proposed[: passing[-1] + 1])
                found[point] += found_by[passing[-1]]
    return _area(proposals, found, faces)


def _judge(rows: Floats, faces_xywh: Floats, counted: set[int]) -> tuple[NDArray[np.bool_], Ints]:
    """Which detections are proposals, and how many faces are found with each and those before."""
    proposed = np.ones(len(rows), dtype=np.bool_)
    found_by = np.zeros(len(rows), dtype=np.int64)
    found: set[int] = set()
    for index, row in enumerate(rows):
        overlaps = _overlaps(row, faces_xywh)
        face = int(overlaps.argmax())
        if overlaps[face] >= 0.5:
            if face in counted:
                found.add(face)
            else:
                proposed[index] = False
        found_by[index] = len(found)
    return proposed, found_by


def _overlaps(row: Floats, faces_xywh: Floats) -> Floats:
    """IoU of one detection with every face, both one pixel wider and higher than written."""
    x1, y1, x2, y2 = row[0], row[1], row[0] + row[2], row[1] + row[3]
    left, top = faces_xywh[:, 0], faces_xywh[:, 1]
    right, bottom = left + faces_xywh[:, 2], top + faces_xywh[:, 3]
    widths = np.minimum(x2, right) - np.maximum(x1, left) + 1
    heights = np.minimum(y2, bottom) - np.maximum(y1, top) + 1
    shared = np.where((widths > 0) & (heights > 0), widths * heights, 0.0)
    area = (x2 - x1 + 1) * (y2 - y1 + 1)
    union = area + (right - left + 1) * (bottom - top + 1) - shared
    overlaps: Floats = np.zeros(len(shared))
    np.divide(shared, union, out=overlaps, where=shared > 0)
    return overlaps


def _area(proposals: Floats, found: Floats, faces: int) -> float:
    """The area under the precision envelope, point by point from the last."""
    area, best, recall_after = 0.0, 0.0, None
    for point in reversed(range(POINTS)):
        recall = found[point] / faces if faces else 0.0
        if recall_after is not None:
            area += (recall_after - recall) * best
        if proposals[point] > 0:
            best = max(best, found[point] / proposals[point])
        recall_after = recall
    return float(area + (recall_after or 0.0) * best)


def measure(predictions_path: Path, ground_truth_path: Path, images: int) -> dict[str, object]:
    """Seconds of both ways over the first images by name, and the AP that both give."""
    start = time.perf_counter()
    ground_truth = read_ground_truth(ground_truth_path)
    predictions = read_predictions(predictions_path)
    read = time.perf_counter()
    names = sorted(ground_truth)[:images]
    report = wider_average_precision(ground_truth, predictions, images=names)
    scored = time.perf_counter()
    plain = plain_average_precision({name: ground_truth[name] for name in names}, predictions)
    ended = time.perf_counter()
    aps = {subset: result.ap for subset, result in report.subsets.items()}
    for subset, ap in aps.items():
        if abs((ap or 0.0) - plain[subset]) > LARGEST_DIFFERENCE:
            raise RuntimeError(f"{subset}: {ap} differs from the plain loop's {plain[subset]}")
    return {
        "images": report.images,
        "images_of_the_set": len(ground_truth),
        "detections": report.detections,
        "ap": aps,
        "faces": {subset: result.faces for subset, result in report.subsets.items()},
        "reading_seconds": read - start,
        "scoring_seconds": scored - read,
        "plain_scoring_seconds": ended - scored,
        "ratio": (ended - scored) / (scored - read),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("ground_truth", type=Path)
    parser.add_argument("--images", type=int, default=3226, help="the first by name")
    options = parser.parse_args()
    source = options.predictions
    header = record_header(seed=None, data_hash=sha256_of(source) if source.is_file() else None)
    print(json.dumps({**header, **measure(source, options.ground_truth, options.images)}, indent=2))


if __name__ == "__main__":
    main()
