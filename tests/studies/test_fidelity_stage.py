"""Rank fidelity of a study: what is fitted, what is written, and when it cannot be measured."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from nas.fidelity import StandAloneJob
from nas.proxy import ProxyJob, ProxySettings
from nas.stop_rule import StopRule
from nas.weights import save_weights
from objectives.zero_cost import ZERO_COST_SCORES
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from search_spaces.supernet import Supernet
from studies.executors import InProcess, Workers
from studies.fidelity_stage import (
    CANDIDATE_COLUMNS,
    PROXY_COLUMNS,
    FidelityRequest,
    candidate_cells,
    proxy_cells,
    study_fidelity,
)
from studies.front import read_front
from studies.schedule import schedule_for
from studies.search import run_search
from studies.settings import JSON, StudySettings
from studies.storage import completed_trials, load_study, open_study
from studies.workspace import Workspace
from tests.studies.toy import toy_cost, toy_scores, toy_search, toy_settings
from tests.tiny_training import FIT, tiny_shards

SUPERNET = "tiny"
TRIALS = 8
Scores = Mapping[str, Any]


def stage_settings(data_hash: str) -> StudySettings:
    schedule = replace(
        schedule_for(10, cuda=False),
        proxy=ProxySettings(fit=replace(FIT, steps=1), recalibration_images=4, held_out_images=6),
        alone=replace(FIT, steps=1),
        fidelity_candidates=5,
    )
    stages: dict[str, JSON] = {"schedule": schedule.to_json(), "supernet": SUPERNET}
    return replace(toy_settings(), data=data_hash, stages=stages)


def search_toys(workspace: Workspace, settings: StudySettings, *, budget: int) -> None:
    search = toy_search(workspace.folder, settings, name=workspace.study)
    run_search(search, Workers(InProcess, half_of_them_good), budget=budget)


def half_of_them_good(architecture: Architecture, trial: int, _rule: StopRule) -> Scores:
    """Fits to the end, every second of which stays under the front."""
    ap = toy_cost(architecture).params / 1e5 / (1 + trial % 2)
    return {**toy_scores(architecture, trial), "ap": ap}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with shards, an untrained supernet and the study "toy"; "short" has three trials."""
    runs = tmp_path_factory.mktemp("runs")
    workspace = Workspace(runs, "toy")
    shards, _ = tiny_shards(workspace.shards)
    facts = {"space": SPACE.fingerprint}
    save_weights(workspace.supernet(SUPERNET), Supernet(SPACE).state_dict(), facts)
    settings = stage_settings(shards.hash)
    search_toys(workspace, settings, budget=TRIALS)
    search_toys(Workspace(runs, "short"), settings, budget=3)
    empty = Workspace(runs, "empty")
    open_study(empty.study, empty.storage_url, settings)
    return runs


@pytest.fixture
def request_of(searched: Path, tmp_path: Path) -> Callable[[str], FidelityRequest]:
    """A request for a study, in a copy of the runs."""
    shutil.copytree(searched, tmp_path / "runs")

    def make(study: str) -> FidelityRequest:
        workspace = Workspace(tmp_path / "runs", study)
        return FidelityRequest(workspace=workspace, device="cpu", workers=1)

    return make


@pytest.fixture
def request_(request_of: Callable[[str], FidelityRequest]) -> FidelityRequest:
    return request_of("toy")


def fit_by_rule(monkeypatch: pytest.MonkeyPatch, ap_of: Callable[[int], float]) -> list[int]:
    """Let fits alone take no time and score by the trial's number; the trials that were fitted."""
    fitted: list[int] = []

    def make(_job: StandAloneJob) -> Callable[[Architecture, int, StopRule], Scores]:
        def evaluate(_architecture: Architecture, trial: int, _rule: StopRule) -> Scores:
            fitted.append(trial)
            ap = ap_of(trial)
            return {"ap": ap, "ap_interval": [ap, ap], "zen": -ap}

        return evaluate

    monkeypatch.setattr("studies.fidelity_stage.StandAloneEvaluator", make)
    return fitted


def refit_by_rule(monkeypatch: pytest.MonkeyPatch, ap_of: Callable[[int], float]) -> list[ProxyJob]:
    """The same for the longer proxy fits; the jobs they were given."""
    jobs: list[ProxyJob] = []

    def make(job: ProxyJob) -> Callable[[Architecture, int, StopRule], Scores]:
        jobs.append(job)
        return lambda _architecture, trial, _rule: {"ap": ap_of(trial), "ap_interval": [0.0, 1.0]}

    monkeypatch.setattr("studies.fidelity_stage.ProxyEvaluator", make)
    return jobs


def search_scores(request: FidelityRequest) -> dict[int, float]:
    study = load_study(request.workspace.study, request.workspace.storage_url)
    return {row.trial: row.ap for row in completed_trials(study)}


def front_of(request: FidelityRequest) -> list[int]:
    return [row["trial"] for row in read_front(request.workspace, None)]


def test_real_fits_end_in_a_file_with_every_network_and_every_proxy(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.fidelity_stage.TRUSTED_TAU", 2.0)  # the longer fit as well
    seen: list[tuple[str, int, int]] = []
    record = study_fidelity(request_, progress=lambda *step: seen.append(step))
    assert json.loads(request_.target.read_text()) == record
    assert {"ap", "macs", "params", *ZERO_COST_SCORES} <= record["proxies"].keys()
    assert all(
        -1 <= value["tau_interval"][0] <= value["tau_interval"][1] <= 1
        for value in record["proxies"].values()
    )
    assert len(record["architectures"]) == 5
    assert (record["trials"], record["alone"]["steps"]) == (TRIALS, 1)
    assert sorted(record["reranked"]) == sorted(row["trial"] for row in record["architectures"])
    assert {row["trial"] for row in record["refit"]} == set(front_of(request_))
    assert ("fit alone", 5, 5) in seen
    assert ("fit again", len(record["refit"]), len(record["refit"])) in seen


def test_a_proxy_in_the_order_of_the_fits_alone_is_trusted(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = search_scores(request_)
    fitted = fit_by_rule(monkeypatch, lambda trial: 2 * scores[trial])
    said: list[str] = []
    record = study_fidelity(request_, say=said.append)
    assert record["tau"] == pytest.approx(1)
    assert record["proxies"]["zen"]["tau"] == pytest.approx(-1)
    assert record["reranked"] == sorted(fitted, key=lambda trial: -scores[trial])
    assert not record.keys() & {"refit", "refit_tau"}
    assert any("Kendall's tau 1.00" in line and "5 networks" in line for line in said)
    assert not any("trusted" in line for line in said)


def test_a_front_that_is_not_to_be_trusted_is_fitted_again_for_longer(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, front = search_scores(request_), front_of(request_)
    fit_by_rule(monkeypatch, lambda trial: 1 - scores[trial])
    jobs = refit_by_rule(monkeypatch, lambda trial: 1 - scores[trial])
    said: list[str] = []
    record = study_fidelity(request_, say=said.append)
    assert record["tau"] == pytest.approx(-1)
    assert [job.settings.fit.steps for job in jobs] == [3]
    assert record["refit_steps"] == 3
    worst_first = sorted(front, key=lambda trial: scores[trial])
    assert [row["trial"] for row in record["refit"]] == worst_first
    assert all(row["ap"] == pytest.approx(1 - row["refit_ap"]) for row in record["refit"])
    assert any("tau is under 0.4" in line and "for 3 steps" in line for line in said)
    assert any("--proxy-steps 3" in line for line in said)


def test_the_longer_fit_has_a_tau_of_its_own_where_enough_networks_have_both(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, front = search_scores(request_), front_of(request_)
    fit_by_rule(monkeypatch, lambda trial: 1 - scores[trial])
    refit_by_rule(monkeypatch, lambda trial: 1 - scores[trial])
    everything = study_fidelity(replace(request_, candidates=TRIALS))
    assert len(front) >= 4
    assert everything["refit_tau"] == pytest.approx(1)
    assert "refit_tau" not in study_fidelity(replace(request_, candidates=4))


def test_only_so_many_networks_of_a_front_are_fitted_again(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.fidelity_stage.MOST_REFITS", 2)
    scores, front = search_scores(request_), front_of(request_)
    fit_by_rule(monkeypatch, lambda trial: 1 - scores[trial])
    refit_by_rule(monkeypatch, lambda _trial: 0.5)
    refit = study_fidelity(request_)["refit"]
    assert {row["trial"] for row in refit} == {front[0], front[-1]}


def test_fits_that_diverge_are_left_out_and_said(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, front = search_scores(request_), front_of(request_)
    fit_by_rule(monkeypatch, lambda n: math.nan if n == front[0] else 1 - scores[n])
    refit_by_rule(monkeypatch, lambda n: math.nan if n == front[0] else scores[n])
    said: list[str] = []
    record = study_fidelity(request_, say=said.append)
    assert len(record["architectures"]) == 4
    assert any(f"without trials {front[0]}, whose loss" in line for line in said)
    worst = record["refit"][-1]
    assert (worst["trial"], worst["refit_ap"]) == (front[0], None)
    fit_by_rule(monkeypatch, lambda _trial: math.nan)
    with pytest.raises(UserError, match="at least 4 candidates, got 0"):
        study_fidelity(request_)


def test_what_is_asked_for_goes_before_the_schedule_and_the_seed_draws(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = fit_by_rule(monkeypatch, lambda trial: trial / 10)
    refit_by_rule(monkeypatch, lambda _trial: 0.5)
    record = study_fidelity(replace(request_, candidates=4, steps=7, seed=3))
    assert (len(fitted), record["alone"]["steps"], record["seed"]) == (4, 7, 3)
    draws = set()
    for seed in range(6):
        fitted.clear()
        study_fidelity(replace(request_, candidates=4, seed=seed))
        draws.add(tuple(fitted))
    assert len(draws) > 1


def test_the_tables_name_every_proxy_and_every_candidate(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = search_scores(request_)
    fit_by_rule(monkeypatch, lambda trial: scores[trial])
    record = study_fidelity(request_)
    proxies, candidates = proxy_cells(record), candidate_cells(record)
    assert proxies[0][:2] == ("ap", "1.00")
    assert {row[0] for row in proxies} == record["proxies"].keys()
    assert [int(row[0]) for row in candidates] == record["reranked"]
    assert {len(row) for row in proxies} == {len(PROXY_COLUMNS)}
    assert {len(row) for row in candidates} == {len(CANDIDATE_COLUMNS)}


@pytest.mark.parametrize(
    ("study", "change", "message"),
    [
        ("toy", {"candidates": 3}, "at least 4 candidates, got 3; raise --candidates"),
        ("toy", {"candidates": 0}, "at least 4 candidates, got 0"),
        ("short", {}, "at least 4 completed trials, got 3; raise --budget"),
        ("empty", {}, "study 'empty' has no completed trial yet"),
        ("other", {}, "no study 'other'"),
        ("toy", {"device": "cudda"}, "unknown device 'cudda'"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    request_of: Callable[[str], FidelityRequest], study: str, change: dict[str, Any], message: str
) -> None:
    request = replace(request_of(study), **change)
    with pytest.raises(UserError, match=message):
        study_fidelity(request)
    assert not request.target.exists()


def test_shards_and_supernets_that_are_gone_are_named(request_: FidelityRequest) -> None:
    workspace = request_.workspace
    shard = next(workspace.shards.rglob("*.npz"))
    shard.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"shards of study 'toy' are gone.*is damaged.*search com"):
        study_fidelity(request_)
    shutil.rmtree(workspace.shards)
    with pytest.raises(UserError, match=r"shards of study 'toy' are gone: none in .*search com"):
        study_fidelity(request_)
    tiny_shards(workspace.shards)
    workspace.supernet(SUPERNET).unlink()
    with pytest.raises(UserError, match=r"the supernet .* of study 'toy' is gone; run the study's"):
        study_fidelity(request_)
