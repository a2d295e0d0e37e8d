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
from nas.proxy import ProxySettings
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
from studies.storage import SETTINGS, completed_trials, load_study, open_study
from studies.study_report import write_study_report
from studies.workspace import Workspace
from tests.studies.toy import toy_cost, toy_scores, toy_search, toy_settings
from tests.tiny_training import FIT, tiny_shards

SUPERNET = "tiny"
TRIALS = 8
Scores = Mapping[str, Any]
Fitted = tuple[int, int]
"""Trial and steps."""


def stage_settings(data_hash: str) -> StudySettings:
    schedule = replace(
        schedule_for(10, cuda=False),
        proxy=ProxySettings(fit=replace(FIT, steps=1), recalibration_images=4, held_out_images=6),
        alone=replace(FIT, steps=1),
        fidelity_candidates=5,
        finalists=4,
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


def fit_by_rule(monkeypatch: pytest.MonkeyPatch, ap_of: Callable[[int], float]) -> list[Fitted]:
    """Let fits alone take no time and score by the trial's number; what was fitted."""
    fitted: list[Fitted] = []

    def make(job: StandAloneJob) -> Callable[[Architecture, int, StopRule], Scores]:
        def evaluate(_architecture: Architecture, trial: int, _rule: StopRule) -> Scores:
            fitted.append((trial, job.fit.steps))
            ap = ap_of(trial)
            return {"ap": ap, "ap_interval": [0.0, 1.0], "zen": 0.0 if math.isnan(ap) else -ap}

        return evaluate

    monkeypatch.setattr("studies.alone_fits.StandAloneEvaluator", make)
    return fitted


def search_scores(request: FidelityRequest) -> dict[int, float]:
    study = load_study(request.workspace.study, request.workspace.storage_url)
    return {row.trial: row.ap for row in completed_trials(study)}


def networks_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    networks: list[dict[str, Any]] = record["finals"]["networks"]
    return networks


def request_settings(request: FidelityRequest) -> StudySettings:
    """Those that the study of a request was made with."""
    study = load_study(request.workspace.study, request.workspace.storage_url)
    return stage_settings(study.user_attrs[SETTINGS]["data"])


def front_of(request: FidelityRequest) -> list[int]:
    return [row["trial"] for row in read_front(request.workspace, None)]


def test_real_fits_end_in_a_file_with_every_network_and_every_proxy(
    request_: FidelityRequest,
) -> None:
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
    assert all({"ap", "ap_interval", "trial_ap"} <= one.keys() for one in networks_of(record))
    assert ("fit alone", 5, 5) in seen
    assert ("finals", len(networks_of(record)), len(networks_of(record))) in seen


def test_a_proxy_in_the_order_of_the_fits_alone_is_trusted(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = search_scores(request_)
    fit_by_rule(monkeypatch, lambda trial: 2 * scores[trial])
    said: list[str] = []
    record = study_fidelity(request_, say=said.append)
    assert record["tau"] == pytest.approx(1)
    assert record["proxies"]["zen"]["tau"] == pytest.approx(-1)
    candidates = [row["trial"] for row in record["architectures"]]
    assert record["reranked"] == sorted(candidates, key=lambda trial: -scores[trial])
    assert record["finals"]["steps"] == 1
    assert any("Kendall's tau 1.00" in line and "5 networks" in line for line in said)
    assert any(line.startswith("finals: 4 networks") and "for 1 steps" in line for line in said)
    assert any(line.endswith("that makes the front") for line in said), "4 are few to learn from"
    assert not any("trusted" in line for line in said)


def test_finals_make_the_front_until_trials_come_after_them(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, before = search_scores(request_), front_of(request_)
    fit_by_rule(monkeypatch, lambda trial: 2 * scores[trial] if trial != before[1] else 0.0)
    study_fidelity(replace(request_, finalists=len(before)))
    rows = read_front(request_.workspace, None)
    assert [row["trial"] for row in rows] == [n for n in before if n != before[1]]
    assert [row["ap"] for row in rows] == [2 * scores[row["trial"]] for row in rows]
    assert [row["trial_ap"] for row in rows] == [scores[row["trial"]] for row in rows]
    assert all(row["alone_ap_interval"] == [0.0, 1.0] for row in rows)
    search_toys(request_.workspace, request_settings(request_), budget=TRIALS + 1)
    assert set(before) & set(front_of(request_))
    assert all("trial_ap" not in row for row in read_front(request_.workspace, None))


def test_trials_that_are_trusted_have_a_say_in_the_finals(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = search_scores(request_)
    lucky = max(scores, key=lambda trial: scores[trial])
    fit_by_rule(monkeypatch, lambda trial: scores[trial] * (0.9 if trial == lucky else 0.5))
    said: list[str] = []
    record = study_fidelity(replace(request_, finalists=TRIALS), say=said.append)
    assert any("that and their trials make the front" in line for line in said)
    networks = {one["trial"]: one for one in networks_of(record)}
    assert networks[lucky]["expected_ap"] < networks[lucky]["ap"]
    for row in read_front(request_.workspace, None):
        final = networks[row["trial"]]
        assert (row["ap"], row["alone_ap"]) == (final["expected_ap"], final["ap"])
        assert row["alone_ap_interval"] == final["ap_interval"]
        assert "ap_interval" not in row
    fit_by_rule(monkeypatch, lambda trial: 1 - scores[trial])
    record = study_fidelity(replace(request_, finalists=TRIALS, steps=9))
    assert all(one["expected_ap"] == one["ap"] for one in networks_of(record))


def test_where_trials_are_not_to_be_trusted_the_finals_are_longer_and_fewer(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = search_scores(request_)
    fitted = fit_by_rule(monkeypatch, lambda trial: 1 - scores[trial])
    said: list[str] = []
    record = study_fidelity(request_, say=said.append)
    assert record["tau"] == pytest.approx(-1)
    assert record["finals"]["steps"] == 2
    finals = [one["trial"] for one in networks_of(record)]
    assert len(finals) == 2
    assert sorted(fitted[-2:]) == sorted((trial, 2) for trial in finals)
    assert any("tau is under 0.4" in line and "--proxy-steps 2" in line for line in said)


def test_steps_that_a_person_gives_are_the_finals_too(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = search_scores(request_)
    fit_by_rule(monkeypatch, lambda trial: 1 - scores[trial])
    said: list[str] = []
    record = study_fidelity(replace(request_, steps=3), say=said.append)
    assert (record["alone"]["steps"], record["finals"]["steps"]) == (3, 3)
    assert len(networks_of(record)) == 4
    assert any("tau is under 0.4" in line for line in said)
    assert not any("times as long" in line for line in said)


def test_without_finalists_the_front_stays_that_of_the_trials(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_by_rule(monkeypatch, lambda trial: trial / 10)
    before = read_front(request_.workspace, None)
    record = study_fidelity(replace(request_, finalists=0))
    assert record["finals"] is None
    assert read_front(request_.workspace, None) == before


def test_what_is_fitted_alone_is_kept_and_none_is_fitted_twice(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = search_scores(request_)

    def stopped_at_the_third(trial: int) -> float:
        if len(fitted) == 3:
            raise KeyboardInterrupt
        return scores[trial]

    fitted = fit_by_rule(monkeypatch, stopped_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        study_fidelity(replace(request_, finalists=TRIALS))
    again = fit_by_rule(monkeypatch, lambda trial: scores[trial])
    study_fidelity(replace(request_, finalists=TRIALS))
    assert len(fitted) == 3
    assert sorted([*fitted[:2], *again]) == [(trial, 1) for trial in range(TRIALS)]
    study_fidelity(replace(request_, steps=7, finalists=0))
    assert {steps for _, steps in again[TRIALS - 2 :]} == {7}


def test_fits_that_diverge_are_left_out_and_said(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, front = search_scores(request_), front_of(request_)
    fit_by_rule(monkeypatch, lambda n: math.nan if n == front[0] else scores[n])
    said: list[str] = []
    record = study_fidelity(replace(request_, finalists=TRIALS), say=said.append)
    assert len(record["architectures"]) == 4
    assert [one["trial"] for one in networks_of(record)] == sorted({*scores} - {front[0]})
    for what in ("rank fidelity", "finals"):
        assert any(line.startswith(f"{what}: without trials {front[0]}, whose") for line in said)
    fit_by_rule(monkeypatch, lambda _trial: math.nan)
    with pytest.raises(UserError, match="at least 4 candidates, got 0"):
        study_fidelity(replace(request_, seed=1))


def test_what_is_asked_for_goes_before_the_schedule_and_the_seed_draws(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = fit_by_rule(monkeypatch, lambda trial: trial / 10)
    record = study_fidelity(replace(request_, candidates=4, finalists=0, steps=7, seed=3))
    assert (len(fitted), record["alone"]["steps"], record["seed"]) == (4, 7, 3)
    draws = set()
    for seed in range(6):
        record = study_fidelity(replace(request_, candidates=4, finalists=0, seed=seed))
        draws.add(tuple(row["trial"] for row in record["architectures"]))
    assert len(draws) > 1


def test_networks_are_fitted_as_often_as_is_asked_each_time_with_other_seeds(
    request_: FidelityRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    luck = {2: 0.0, 3: 0.2}

    def make(job: StandAloneJob) -> Callable[[Architecture, int, StopRule], Scores]:
        def evaluate(_architecture: Architecture, trial: int, _rule: StopRule) -> Scores:
            assert job.fit_seed == job.seed + 1  # trials have seed 0
            return {"ap": trial / 10 + luck[job.seed], "ap_interval": [0.0, 1.0]}

        return evaluate

    monkeypatch.setattr("studies.alone_fits.StandAloneEvaluator", make)
    said: list[str] = []
    record = study_fidelity(replace(request_, fits=2, seed=2, finalists=TRIALS), say=said.append)
    assert record["fits"] == record["finals"]["fits"] == 2
    for row in networks_of(record):
        assert row["aps"] == pytest.approx([row["trial"] / 10, row["trial"] / 10 + 0.2])
        assert row["ap"] == pytest.approx(row["trial"] / 10 + 0.1)
    assert all("1 steps, 2 times each" in line for line in said if "fitted alone" in line)
    write_study_report(request_.workspace, request_.workspace.storage_url)
    assert "1 steps, 2 times each" in request_.workspace.file("report.html").read_text()


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


def test_a_candidate_stands_with_the_score_that_the_search_raised() -> None:
    row = {"trial": 3, "ap": 0.1, "promise": 0.2, "alone_ap": 0.3, "params": 1000, "macs": 2000}
    record = {"architectures": [{**row, "alone_ap_interval": [0.2, 0.4]}], "reranked": [3]}
    proxy = CANDIDATE_COLUMNS.index("proxy")
    assert candidate_cells({**record, "score": "promise"})[0][proxy] == "0.200"
    assert candidate_cells(record)[0][proxy] == "0.100"


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
