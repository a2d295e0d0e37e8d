"""How fast synthetic scenes are drawn: python -m benchmarks.synthetic --workers 2."""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor

import cv2
import numpy as np

from data.boxes import box_heights
from data.synthetic import DRAWING_VERSION, SyntheticSource


def _face_heights(source: SyntheticSource, index: int) -> list[float]:
    cv2.setNumThreads(1)
    faces = source.load(index).faces
    heights: list[float] = box_heights(faces.boxes_xyxy[~faces.ignore]).tolist()
    return heights


def measure(source: SyntheticSource, workers: int) -> dict[str, object]:
    """Images a second over the whole source, and the face heights that were drawn."""
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(_face_heights, [source] * workers, range(workers)))  # starts the processes
        start = time.perf_counter()
        sources = [source] * len(source)
        heights = list(pool.map(_face_heights, sources, range(len(source)), chunksize=8))
        seconds = time.perf_counter() - start
    drawn = np.concatenate([np.array(h) for h in heights])
    return {
        "drawing_version": DRAWING_VERSION,
        "images": len(source),
        "image_size": source.image_size,
        "seed": source.seed,
        "workers": workers,
        "seconds": round(seconds, 2),
        "images_per_second": round(len(source) / seconds, 2),
        "faces_per_image": round(len(drawn) / len(source), 2),
        "share_without_faces": sum(not h for h in heights) / len(source),
        "face_height_px_5_25_50_75_95": np.percentile(drawn, (5, 25, 50, 75, 95)).round(1).tolist(),
    }


def main() -> None:
    """Print the measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200, help="scenes to draw (200)")
    parser.add_argument("--image-size", type=int, default=640, help="pixels (640)")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    source = SyntheticSource(options.images, options.image_size, options.seed)
    print(json.dumps(measure(source, options.workers), indent=2))


if __name__ == "__main__":
    main()
