import json
import time
from pathlib import Path

import pytest

from studies.stopwatch import Stopwatch


def test_seconds_add_up_over_runs(tmp_path: Path) -> None:
    path = tmp_path / "study" / "timings.json"
    for _ in range(2):
        stages = Stopwatch(path)
        assert stages.this_run == {}
        for stage in ("a", "b", "a"):
            with stages.time(stage):
                time.sleep(0.01)
    assert list(stages.this_run) == ["a", "b"]
    assert stages.this_run["a"] >= 0.02
    assert stages.all_runs["a"] >= 0.04
    assert stages.all_runs["b"] >= stages.this_run["b"] + 0.01
    assert json.loads(path.read_text()) == stages.all_runs


def cut(stages: Stopwatch, error: BaseException) -> None:
    with stages.time("a"):
        time.sleep(0.01)
        raise error


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt()])
def test_a_stage_that_is_cut_counts_and_is_written(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        cut(Stopwatch(tmp_path / "timings.json"), error)
    assert Stopwatch(tmp_path / "timings.json").all_runs["a"] >= 0.01


def test_nothing_is_written_before_a_stage_ends(tmp_path: Path) -> None:
    Stopwatch(tmp_path / "timings.json")
    assert list(tmp_path.iterdir()) == []
