"""Draw what an exported network finds in synthetic images that it was not trained on.

Usage: python -m benchmarks.pictures MODEL.onnx OUTPUT.jpg [--images 6] [--score 0.5]
Found faces are green with their score, faces that are there are thin and white.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data.sources import open_source
from nas.detector import FaceDetector
from nas.drawing import draw, write_image

COLUMNS = 3


def sheet(detector: FaceDetector, *, images: int, seed: int) -> NDArray[np.uint8]:
    """Drawn validation images side by side, three in a row, with true and found faces."""
    source = open_source(None, "val", synthetic_images=5 * images, seed=seed)
    tiles = []
    for index in range(images):
        sample = source.load(index)
        tile = sample.image.copy()
        for x1, y1, x2, y2 in sample.faces.boxes_xyxy[~sample.faces.ignore].tolist():
            cv2.rectangle(tile, (round(x1), round(y1)), (round(x2), round(y2)), (255,) * 3, 1)
        found = draw(np.asarray(tile, np.uint8), *detector(sample.image))
        side = max(found.shape[:2])
        square = np.zeros((side, side, 3), np.uint8)
        square[: found.shape[0], : found.shape[1]] = found
        tiles.append(np.asarray(cv2.resize(square, (640, 640)), np.uint8))
    rows = [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, images, COLUMNS)]
    return np.vstack(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--images", type=int, default=6, choices=(3, 6, 9, 12))
    parser.add_argument("--score", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    detector = FaceDetector(asked.model, score_threshold=asked.score)
    write_image(asked.output, sheet(detector, images=asked.images, seed=asked.seed))
