"""What an exported network costs to run on this machine: latencies and file size."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.files import sha256_of, write_json
from data.progress import Progress, silent
from nas.records import record_header
from objectives.latency import Latency, measure_latency


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """Measurements of one ONNX file, with the record of the machine they were made on."""

    onnx: str
    sha256: str
    file_bytes: int
    latencies: tuple[Latency, ...]
    record: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The record's fields, then the measurements."""
        return self.record | {
            "onnx": self.onnx,
            "sha256": self.sha256,
            "file_bytes": self.file_bytes,
            "latencies": [latency.to_json() for latency in self.latencies],
        }

    def write(self, target: Path) -> None:
        """Write benchmark.json, whole or not at all."""
        write_json(target, self.to_json())


def benchmark(
    onnx: Path,
    *,
    image_sizes: Sequence[int] = (256, 640),
    threads: Sequence[int] = (1, 2),
    runs: int = 50,
    progress: Progress = silent,
) -> BenchmarkReport:
    """Time an exported network at every image size with every number of threads.

    Raises:
        ValueError: a size or a number is out of range.
        UserError: the file is not an exported network.
    """
    plan = [(size, count) for size in image_sizes for count in threads]
    if not plan:
        raise ValueError("image_sizes and threads must not be empty")
    latencies = []
    for done, (size, count) in enumerate(plan):
        progress("benchmark", done, len(plan))
        latencies.append(measure_latency(onnx, image_size=size, threads=count, runs=runs))
    progress("benchmark", len(plan), len(plan))
    return BenchmarkReport(
        onnx=onnx.name,
        sha256=sha256_of(onnx),
        file_bytes=onnx.stat().st_size,
        latencies=tuple(latencies),
        record=record_header(seed=None, data_hash=None),
    )
