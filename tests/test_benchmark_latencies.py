import json
from pathlib import Path

import pytest

from benchmarks.latencies import THREADS, against, names_on_record, time_networks
from search_spaces.space import SPACE


def test_a_ratio_is_taken_round_by_round() -> None:
    """The second round's machine is half as fast, for both."""
    times = {"ours": {1: [6.0, 13.0, 5.0]}, "theirs": {1: [10.0, 20.0, 10.0]}}
    ours, theirs = against(times, "theirs")
    assert (ours["architecture"], theirs["architecture"]) == ("ours", "theirs")
    assert (ours["p50_ms"], theirs["p50_ms"]) == (6.0, 10.0)
    assert ours["ratio"] == pytest.approx(0.6)
    assert ours["ratio_interval"] == pytest.approx([0.5, 0.65])  # ends of a quarter of the draws
    assert (theirs["ratio"], theirs["ratio_interval"]) == (1.0, [1.0, 1.0])


def test_rows_come_by_threads_and_time() -> None:
    times = {"a": {1: [3.0], 2: [2.0]}, "b": {1: [4.0], 2: [1.0]}}
    order = [(row["threads"], row["architecture"]) for row in against(times, "a")]
    assert order == [(1, "a"), (1, "b"), (2, "b"), (2, "a")]


def test_without_names_those_on_record_are_timed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"architecture": name}))
    assert names_on_record(tmp_path) == ["one", "two"]
    assert "yunet-n" in names_on_record()


@pytest.mark.slow
def test_every_round_times_every_network_once() -> None:
    names = [SPACE.corner(largest=False).key, "yunet-s"]
    heard: list[tuple[str, int, int]] = []
    times = time_networks(
        names, rounds=2, image_size=64, runs=1, progress=lambda *step: heard.append(step)
    )
    assert list(times) == names
    for by_threads in times.values():
        assert set(by_threads) == set(THREADS)
        assert all(len(known) == 2 and min(known) > 0 for known in by_threads.values())
    assert heard[-1] == ("timed", 4, 4)
