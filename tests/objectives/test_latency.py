"""Times that are times."""

from pathlib import Path

import pytest

from data.errors import UserError
from objectives.latency import measure_latency
from tests.tiny_onnx import write_tiny_onnx


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_onnx(tmp_path_factory.mktemp("tiny") / "model.onnx")


def test_a_latency_says_how_it_was_measured(tiny: Path) -> None:
    latency = measure_latency(tiny, image_size=64, threads=1, runs=10, warmup=1)
    assert 0 < latency.p50_ms <= latency.p90_ms < 1000
    assert latency.provider == "CPUExecutionProvider"
    facts = latency.to_json()
    assert (facts["image_size"], facts["threads"], facts["runs"]) == (64, 1, 10)


def test_the_first_runs_do_not_count(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which runs take 1000, 100, 3, 2 and 4 ms, the first two to warm up."""
    ticks = [0.0, 1.0, 1.0, 1.1, 1.1, 1.103, 1.103, 1.105, 1.105, 1.109]
    monkeypatch.setattr("objectives.latency.time.perf_counter", lambda: ticks.pop(0))
    latency = measure_latency(tiny, image_size=32, runs=3, warmup=2)
    assert latency.p50_ms == pytest.approx(3)
    assert latency.p90_ms == pytest.approx(3.8)  # nine tenths of the way along 2, 3, 4


@pytest.mark.parametrize("size", [0, -32, 100])
def test_sizes_the_network_cannot_take_are_refused(tiny: Path, size: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of 32, got {size}"):
        measure_latency(tiny, image_size=size)


@pytest.mark.parametrize(("threads", "runs", "warmup"), [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_counts_out_of_range_are_refused(tiny: Path, threads: int, runs: int, warmup: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        measure_latency(tiny, image_size=32, threads=threads, runs=runs, warmup=warmup)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*none\.onnx"):
        measure_latency(tmp_path / "none.onnx", image_size=32)
