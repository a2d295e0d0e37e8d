"""The comparison over seeds, on made-up records."""

from typing import Any

import pytest

from benchmarks.winner import compare, measured
from data.errors import UserError
from data.files import write_json


def record(name: str, seed: int, ap: float) -> dict[str, Any]:
    return {
        "architecture": name,
        "training": {"seed": seed},
        "scores": {"640": {"wider": {"hard": {"ap": ap}}}},
        "params": 10,
        "macs": 20,
        "peak_bytes": 30,
        "latencies": [
            {"image_size": size, "threads": 1, "p50_ms": size / 100} for size in (256, 640)
        ],
    }


def records(name: str, *aps: float) -> dict[int, dict[str, Any]]:
    return {seed: record(name, seed, ap) for seed, ap in enumerate(aps)}


def test_the_difference_is_taken_seed_by_seed() -> None:
    found = compare(
        records("a", 0.5, 0.6, 0.7), records("b", 0.4, 0.5, 0.6), subset="hard", image_size="640"
    )
    assert found["seeds"] == [0, 1, 2]
    assert found["difference"] == pytest.approx(0.1)
    assert found["difference_interval"] == pytest.approx([0.1, 0.1])
    assert found["ours"]["p50_ms"] == {"1 threads": [6.4, 6.4, 6.4]}


def test_the_interval_is_student_s() -> None:
    found = compare(records("a", 0.5, 0.7), records("b", 0.4, 0.4), subset="hard", image_size="640")
    low, high = found["difference_interval"]
    assert found["difference"] == pytest.approx(0.2)
    assert high - low == pytest.approx(2 * 6.3138 * 0.1, rel=1e-3)  # t(0.95, 1), error 0.1


def test_only_seeds_of_both_count_and_one_is_too_few() -> None:
    with pytest.raises(UserError, match=r"needs 2 seeds with both networks, got \[0\]"):
        compare(records("a", 0.5), records("b", 0.4, 0.5), subset="hard", image_size="640")


def test_records_are_found_by_the_seed_they_name(tmp_path: Any) -> None:
    for folder, seed, name in (("", 0, "a"), ("seed-1", 1, "a"), ("seed-2", 2, "b")):
        (tmp_path / folder).mkdir(exist_ok=True)
        write_json(tmp_path / folder / "x.json", record(name, seed, 0.1))
    assert measured("a", tmp_path).keys() == {0, 1}
