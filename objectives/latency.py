"""How long a network takes: wall-clock time of ONNX Runtime on this machine's CPU."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.quantities import SIZE_MULTIPLE
from objectives.session import INPUT_NAME, open_session


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one forward pass over one square image, decoded boxes included.

    Not included: reading and scaling the image, and non-maximum suppression.
    p50_ms, p90_ms: median and 90th percentile over `runs`, in milliseconds.
    """

    p50_ms: float
    p90_ms: float
    image_size: int
    threads: int
    runs: int
    provider: str

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def measure_latency(
    onnx: Path, *, image_size: int, threads: int = 1, runs: int = 50, warmup: int = 5
) -> Latency:
    """Time an exported network on one random image of image_size x image_size.

    The `warmup` runs before the measured ones let caches and memory pools fill.

    Raises:
        ValueError: image_size is not a positive multiple of 32, or threads, runs or warmup is
            out of range.
        UserError: the file is not an exported network.
    """
    if image_size <= 0 or image_size % SIZE_MULTIPLE:
        raise ValueError(
            f"image_size must be a positive multiple of {SIZE_MULTIPLE}, got {image_size}"
        )
    if threads < 1 or runs < 1 or warmup < 0:
        raise ValueError(
            "threads and runs must be 1 or more and warmup 0 or more, "
            f"got {threads}, {runs} and {warmup}"
        )
    session = open_session(onnx, threads=threads)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, image_size, image_size))
    feed = {INPUT_NAME: pixels.astype(np.float32)}
    times_ms = []
    for _ in range(warmup + runs):
        start = time.perf_counter()
        session.run(None, feed)
        times_ms.append(1000 * (time.perf_counter() - start))
    p50_ms, p90_ms = np.percentile(times_ms[warmup:], [50, 90])
    return Latency(
        p50_ms=float(p50_ms),
        p90_ms=float(p90_ms),
        image_size=image_size,
        threads=threads,
        runs=runs,
        provider=session.get_providers()[0],
    )
