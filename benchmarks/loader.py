"""Measures how many images a second the loaders deliver; prints JSON.

Run from the repository's root: python -m benchmarks.loader [--data folder of WIDER FACE]
Without --data the images are drawn. Thread counts: of `prefetched`; 0 is no prefetching.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.augment import AugmentSettings
from data.loader import BatchSource, FullSizeLoader, ShardLoader, prefetched
from data.sample import ImageSource, Sample
from data.shards import ShardSettings, prepare_shards
from data.sources import open_source

BATCH_SIZE = 16
IMAGES = 200


@dataclass(frozen=True, slots=True)
class FirstImages:
    """An ImageSource of some images spread evenly over another one."""

    source: ImageSource
    count: int

    @property
    def description(self) -> str:
        return f"{self.count} images of: {self.source.description}"

    def fingerprint(self) -> str:
        return f"{self.count} of {self.source.fingerprint()}"

    def __len__(self) -> int:
        return min(self.count, len(self.source))

    def load(self, index: int) -> Sample:
        return self.source.load(index * len(self.source) // len(self))


def images_per_second(loader: BatchSource, *, threads: int, seconds: float = 2.0) -> float:
    """Mean rate after a warm-up of one batch a thread.

    Threads finish batches in bursts of as many as there are threads, so whole bursts are timed,
    and at least four: the second batch of a burst comes at once and says nothing by itself.
    """
    steps = range(10**6)
    batches = prefetched(loader, steps, workers=threads) if threads else map(loader.batch, steps)
    burst = max(1, threads)
    for _ in range(burst):
        next(batches)
    start, taken = time.perf_counter(), 0
    while taken < 4 * burst or time.perf_counter() - start < seconds:
        for _ in range(burst):
            next(batches)
        taken += burst
    return taken * loader.batch_size / (time.perf_counter() - start)


def measure(source: ImageSource, folder: Path) -> list[dict[str, Any]]:
    """Rows of (loader, image_size, threads, cv2_threads, images_per_second)."""
    shards = prepare_shards(source, folder, ShardSettings(), workers=1)
    settings = AugmentSettings()
    loaders: list[BatchSource] = [
        ShardLoader(shards, batch_size=BATCH_SIZE, image_size=size, seed=0, augment=settings)
        for size in (256, 128)
    ]
    loaders += [
        FullSizeLoader(source, batch_size=BATCH_SIZE, image_size=size, seed=0, augment=settings)
        for size in (256, 640)
    ]
    rows = []
    for cv2_threads, loader, threads in itertools.product((1, 2), loaders, (0, 1, 2)):
        cv2.setNumThreads(cv2_threads)
        row = {
            "loader": type(loader).__name__,
            "image_size": loader.image_size,
            "threads": threads,
            "cv2_threads": cv2_threads,
            "images_per_second": round(images_per_second(loader, threads=threads)),
        }
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=None, help="folder of WIDER FACE")
    source = FirstImages(
        open_source(parser.parse_args().data, "train", synthetic_images=IMAGES, seed=0), IMAGES
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(source, Path(folder))
    about = {
        "source": source.description,
        "batch_size": BATCH_SIZE,
        "cores": os.cpu_count(),
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }
    print(json.dumps({**about, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
