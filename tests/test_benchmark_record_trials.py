"""The trials of a study, fitted to their end."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import record_trials
from benchmarks.early_stopping import judged_rows
from benchmarks.record_trials import NINTHS, record
from nas.outlook import RUNG_EXPONENTS, handicap
from nas.stop_rule import RUNG_REPLICATES, RUNG_SCORES
from studies.storage import load_study
from studies.workspace import Workspace
from tests.studies.taught_study import TRIALS, measure_in_this_process, taught_study
from tests.tiny_training import diverge


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return taught_study(tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_in_this_process(monkeypatch)
    record_trials._evaluator.cache_clear()


def test_what_a_trial_comes_to_is_what_its_search_says(
    workspace: Workspace, tmp_path: Path
) -> None:
    table = record(workspace, folder=tmp_path)
    trials = load_study(workspace.study, workspace.storage_url).trials
    assert len(table["rows"]) == TRIALS
    at_rungs = [NINTHS.index(ninths) for ninths in RUNG_EXPONENTS]
    for row, trial in zip(table["rows"], trials, strict=True):
        rungs = [row["rungs"][i]["smooth_ap"] for i in at_rungs]
        sizes = np.array([handicap(row["macs"], power) for power in RUNG_EXPONENTS.values()])
        found = sizes * [rung["score"] for rung in rungs]
        reached = trial.user_attrs[RUNG_SCORES]
        assert found[: len(reached)] == pytest.approx(reached)
        draws = sizes[:, None] * [rung["replicates"] for rung in rungs]
        known = np.array(trial.system_attrs[RUNG_REPLICATES])
        assert draws[: len(reached)] == pytest.approx(known, rel=1e-3)
        if trial.values is not None:
            assert (row["outlook"], row["ap"]) == (trial.values[0], trial.user_attrs["ap"])
    assert [rung["steps"] for rung in table["rows"][0]["rungs"]] == list(NINTHS)
    assert (table["raised"], table["lowered"]) == ("outlook", "macs")
    judged = judged_rows(table, by="promise", rungs={1: 0, 2: 0})
    assert [rung["steps"] for rung in judged[0]["rungs"]] == [1, 2]
    promise = table["rows"][0]["rungs"][0]["promise"]
    assert judged[0]["rungs"][0] == {
        "steps": 1,
        "own": [promise["ceiling"]],
        "shown": [promise["score"]],
    }


def test_fits_that_diverge_are_named_and_left_out(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverge(monkeypatch, "nas.fitting")
    table = record(workspace, folder=tmp_path, trials=2)
    trials = load_study(workspace.study, workspace.storage_url).trials
    assert table["rows"] == []
    assert table["not_finite"] == [trial.user_attrs["key"] for trial in trials[:2]]
