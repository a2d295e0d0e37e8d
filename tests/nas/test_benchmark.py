"""One measurement for every size and number of threads, with its record."""

import json
from pathlib import Path

import pytest

from data.errors import UserError
from data.files import sha256_of
from nas.benchmark import benchmark
from tests.tiny_onnx import write_tiny_onnx


def test_a_benchmark_measures_every_combination_and_is_written(tmp_path: Path) -> None:
    onnx = write_tiny_onnx(tmp_path / "model.onnx")
    calls: list[tuple[str, int, int]] = []
    report = benchmark(
        onnx,
        image_sizes=(32, 64),
        threads=(1, 2),
        runs=2,
        progress=lambda *call: calls.append(call),
    )
    report.write(tmp_path / "benchmark.json")
    written = json.loads((tmp_path / "benchmark.json").read_text())
    measured = [(one["image_size"], one["threads"]) for one in written["latencies"]]
    assert measured == [(32, 1), (32, 2), (64, 1), (64, 2)]
    assert written["file_bytes"] == onnx.stat().st_size
    assert written["sha256"] == sha256_of(onnx)
    assert written["machine"]["packages"]["onnxruntime"]
    assert written["schema_version"] >= 1
    assert [(done, total) for _, done, total in calls] == [(n, 4) for n in range(5)]


def test_a_benchmark_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        benchmark(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="must not be empty"):
        benchmark(write_tiny_onnx(tmp_path / "model.onnx"), image_sizes=())
