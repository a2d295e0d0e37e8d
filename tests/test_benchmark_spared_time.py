"""What fits alone would have taken beside a search."""

import json
from pathlib import Path

import pytest

from benchmarks import spared_time
from benchmarks.spared_time import STAGES, compare
from data.errors import UserError
from data.files import write_json
from nas.records import usable_cores
from studies.workspace import Workspace
from tests.studies.taught_study import TRIALS, measure_in_this_process, taught_study

TOOK = {"search": 8.0, "supernet": 1.0, "teacher": 1.0, "audit": 5.0}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return taught_study(tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_in_this_process(monkeypatch)
    spared_time._fitter.cache_clear()


def test_fits_alone_are_timed_and_put_beside_the_search(
    workspace: Workspace, tmp_path: Path
) -> None:
    write_json(workspace.file("timings.json"), TOOK)
    result = compare(workspace, alone_steps=1000, folder=tmp_path, trials=TRIALS - 1)
    rows = result["rows"]
    assert (result["trials"], result["timed_trials"]) == (TRIALS, TRIALS - 1) == (3, len(rows))
    each = [1000 * row["step_seconds"] + row["judge_seconds"] for row in rows]
    assert all(row["step_seconds"] > 0 and row["judge_seconds"] > 0 for row in rows)
    alone = sum(each) / len(each) * TRIALS / usable_cores()
    assert result["alone_seconds"] == pytest.approx(alone)
    assert result["times_the_trials"] == pytest.approx(alone / 8)
    assert result["times_all_stages"] == pytest.approx(alone / 10), "the audit is no training"
    assert result["fit"]["steps"] == 1000
    assert json.dumps(result)


def test_a_search_without_a_teacher_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    timings = workspace.file("timings.json")
    write_json(timings, {name: 1.0 for name in STAGES if name != "teacher"})
    with pytest.raises(UserError, match="does not say how long teacher took; run a whole search"):
        compare(workspace, alone_steps=10, folder=tmp_path)
    timings.unlink()
    with pytest.raises(UserError, match="how long search, supernet, teacher took"):
        compare(workspace, alone_steps=10, folder=tmp_path)
