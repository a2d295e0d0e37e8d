"""The whole pipeline at its smallest: what it leaves, and that it can be stopped anywhere."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import UserError
from data.files import write_json
from nas.detector import FaceDetector
from nas.supernet_training import load_supernet
from nas.weights import save_weights
from objectives.latency_table import LatencyTable, TimedLayer, load_latency_table
from objectives.limits import Limits
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from search_spaces.starting_points import starting_points
from studies.chosen import RetrainOptions, plan_retrain
from studies.fidelity_stage import FidelityRequest, study_fidelity
from studies.front import read_front
from studies.main_job import JobRequest, run_job
from studies.search import Search
from studies.storage import completed_trials, load_study
from studies.teacher_stage import TEACHER
from studies.workspace import Choice, Workspace
from tests.objectives.made_up_table import made_up_table, made_up_us
from tests.tiny_job import make_jobs_tiny, tiny_request

STAGES = ("audit", "prepare", "supernet", "search", "fidelity", "retrain, export, benchmark")

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_jobs_tiny(monkeypatch)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[JobRequest, Rows, list[str]]:
    """A finished job of four trials: its request, its front and what it said."""
    request, said = tiny_request(tmp_path_factory.mktemp("runs")), list[str]()
    return request, run_job(request, say=said.append), said


@pytest.fixture
def copied(done: tuple[JobRequest, Rows, list[str]], tmp_path: Path) -> JobRequest:
    """The finished job in a folder of the test's own."""
    shutil.copytree(done[0].workspace.runs, tmp_path / "runs")
    return tiny_request(tmp_path / "runs")


def lasting(rows: Rows) -> Rows:
    """Rows of a front without what a second measurement or another folder changes."""
    return [
        {name: value for name, value in row.items() if name not in ("onnx", "latency_ms")}
        for row in rows
    ]


def trials_of(request: JobRequest) -> list[tuple[str, float]]:
    study = load_study(request.workspace.study, request.url)
    return [(row.key, row.ap) for row in completed_trials(study)]


def files_of(folder: Path) -> dict[Path, int]:
    """Every file below a folder but the database, and when it was written."""
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("study.db")
    }


def test_each_stage_leaves_its_file(done: tuple[JobRequest, Rows, list[str]]) -> None:
    request, rows, said = done
    workspace = request.workspace
    record = json.loads(workspace.file("front.json").read_text())
    assert record["front"] == rows
    assert record["trials"] == request.budget
    assert (record["schema_version"], record["seed"]) == (1, 0)
    timings = json.loads(workspace.file("timings.json").read_text())
    assert tuple(timings) == (*STAGES, "report")
    assert all(seconds > 0 for seconds in timings.values())
    assert json.loads(workspace.file("audit.json").read_text())["samples"] == 300
    fidelity = json.loads(workspace.file("fidelity.json").read_text())
    assert -1 <= fidelity["tau"] <= 1
    assert len(fidelity["architectures"]) == 4
    assert record["finals"] == {"steps": fidelity["finals"]["steps"]}
    final = {one["trial"]: one["ap"] for one in fidelity["finals"]["networks"]}
    assert [row["ap"] for row in rows] == [final[row["trial"]] for row in rows]
    assert len(json.loads(workspace.file("hypervolume.json").read_text())["measured"]) == 4
    assert any(line.startswith("hypervolume: ") for line in said)
    report = workspace.file("report.html").read_text()
    assert all(row["key"] in report for row in rows)
    assert any(line.startswith("next: python run_search.py detect") for line in said)


def test_the_front_is_sorted_feasible_and_begins_with_starting_points(
    done: tuple[JobRequest, Rows, list[str]],
) -> None:
    request, rows, _ = done
    macs, precisions = [row["macs"] for row in rows], [row["ap"] for row in rows]
    assert macs == sorted(macs)
    assert precisions == sorted(precisions)
    assert all(row["params"] < request.limits.max_params for row in rows)
    assert trials_of(request)[0][0] == starting_points(SPACE)[0].key


def test_the_knee_becomes_a_detector(done: tuple[JobRequest, Rows, list[str]]) -> None:
    request, rows, _ = done
    (knee,) = [row for row in rows if "onnx" in row]
    assert knee["role"] == "knee"
    assert knee["latency_ms"] > 0
    assert 0 <= knee["retrained_ap"] <= 1
    folder = request.workspace.trial(knee["trial"])
    assert knee["onnx"] == str(folder / "model.onnx")
    detector = FaceDetector(knee["onnx"])
    assert detector.metadata["architecture"] == knee["key"]
    boxes, scores = detector(np.zeros((50, 70, 3), dtype=np.uint8))
    assert boxes.shape == (len(scores), 4)
    assert json.loads((folder / "retrain.json").read_text())["steps"] == 2


def test_a_second_run_redoes_nothing_and_gives_the_same_rows(
    done: tuple[JobRequest, Rows, list[str]], copied: JobRequest
) -> None:
    said: list[str] = []
    trials, before = trials_of(copied), files_of(copied.workspace.runs)
    rows = run_job(copied, say=said.append)
    assert lasting(rows) == lasting(done[1])
    assert trials_of(copied) == trials
    written = {
        path.name
        for path, time in files_of(copied.workspace.runs).items()
        if before.get(path) != time
    }
    again = {"front.json", "timings.json", "report.html", "audit.json", "hypervolume.json"}
    assert written <= again
    assert any(line.startswith("schedule: ") and "the study's own" in line for line in said)
    assert "rank fidelity: measured before" in said


def test_a_study_grows_and_keeps_its_trials(copied: JobRequest) -> None:
    before = trials_of(copied)
    rows = run_job(replace(copied, budget=5))
    after = trials_of(copied)
    assert after[:4] == before
    assert len(after) == 5
    assert json.loads(copied.workspace.file("front.json").read_text())["trials"] == 5
    assert json.loads(copied.workspace.file("fidelity.json").read_text())["trials"] == 5
    assert {row["trial"] for row in rows} <= set(range(5))


@pytest.mark.parametrize(
    "change",
    [
        {"sampler": "random"},
        {"proxy_steps": 2},
        {"limits": Limits(max_params=50_000, image_size=64)},
        {"seed": 1},
    ],
)
def test_other_settings_are_refused_and_harm_nothing(
    copied: JobRequest, change: dict[str, Any]
) -> None:
    trials = trials_of(copied)
    before = files_of(copied.workspace.runs)
    with pytest.raises(UserError, match=r"study 'tiny' was made with other settings: .* was .* is"):
        run_job(replace(copied, **change))
    assert trials_of(copied) == trials
    assert files_of(copied.workspace.runs) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0}, "--budget must be at least 1"),
        ({"objective": "flops"}, "unknown objective 'flops'; known: latency, macs"),
        ({"sampler": "tpee"}, "unknown sampler 'tpee'.*Did you mean 'tpe'"),
        ({"retrain": "most"}, "--retrain must be auto, all, none or a number"),
        ({"latency_table": Path("a.json")}, "--latency-table goes with --objective latency"),
        ({"supernet": Path("a")}, "--supernet gives .* does not go with --supernet-steps"),
        ({"supernet": Path("a"), "inherit": False}, "does not go with --no-inherit"),
        ({"teacher": Path("a"), "teach": False}, "--no-teach leaves out the teacher"),
        ({"teacher_steps": 5, "teach": False}, "--no-teach leaves out the teacher; give no"),
        ({"teacher": Path("a"), "teacher_steps": 5}, "does not go with --teacher-steps"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_done(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        replace(tiny_request(tmp_path / "runs"), **change)


def test_limits_that_nothing_meets_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    request = replace(tiny_request(tmp_path), limits=Limits(max_params=100, image_size=64))
    with pytest.raises(UserError, match=r"random architectures keep the limits: --max-params 100"):
        run_job(request)
    assert {path.name for path in files_of(tmp_path)} <= {"timings.json"}


def test_three_trials_are_too_few_for_rank_fidelity(tmp_path: Path) -> None:
    said: list[str] = []
    request = replace(tiny_request(tmp_path, budget=1), retrain="none")
    rows = run_job(request, say=said.append)
    assert [row["trial"] for row in rows] == [0]
    assert any("fewer than 4 trials" in line for line in said)
    assert f"next: python run_search.py front --study tiny --runs {tmp_path}" in said


def latency_request(folder: Path, table: LatencyTable) -> JobRequest:
    """Two trials that are not retrained, with a table of their own."""
    path = folder / "given.json"
    write_json(path, table.to_json())
    request = tiny_request(folder / "runs", budget=2)
    return replace(request, objective="latency", latency_table=path, retrain="none")


def test_a_latency_study_sums_its_table_and_keeps_it(tmp_path: Path) -> None:
    table, said = made_up_table(), list[str]()
    request = latency_request(tmp_path, table)
    rows = run_job(request, say=said.append)
    for row in rows:
        latency_us = table.latency_us(Architecture.from_key(row["key"]))
        assert row["latency_ms"] == pytest.approx(latency_us / 1000)
    assert any("summed from the table of phone" in line for line in said)
    assert load_latency_table(request.workspace.file("latency_table.json")) == table
    assert request.latency_table is not None
    request.latency_table.unlink()
    assert run_job(replace(request, latency_table=None)) == rows
    other = latency_request(tmp_path, replace(table, device="laptop"))
    with pytest.raises(UserError, match="latency_device was 'phone' and is now 'laptop'"):
        run_job(other)


def test_a_sampler_knows_what_its_study_lowers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Search] = []

    def see(search: Search, *_args: object, **_options: object) -> None:
        seen.append(search)
        raise UserError("seen enough")

    monkeypatch.setattr("studies.main_job.run_search", see)
    table = made_up_table()
    for request in (latency_request(tmp_path, table), tiny_request(tmp_path / "runs", study="b")):
        with pytest.raises(UserError, match="seen enough"):
            run_job(request)
    by_latency, by_macs = seen
    smallest = by_macs.rules.candidate(SPACE.encode(SPACE.corner(largest=False)))
    assert by_macs.lowered(smallest) == smallest.cost.macs
    latency_us = table.latency_us(smallest.architecture)
    assert by_latency.lowered(smallest) == pytest.approx(latency_us / 1000)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (made_up_table(image_size=96), "for images of 96 px, not of 64 px"),
        (replace(made_up_table(), entries={}), r"'phone' has no block 'stem 3-8 at 64' and 18"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_before_anything_is_done(
    tmp_path: Path, table: LatencyTable, message: str
) -> None:
    request = latency_request(tmp_path, table)
    with pytest.raises(UserError, match=message):
        run_job(request)
    assert not request.workspace.runs.exists()


def test_this_machine_is_measured_once_for_all_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def measure(layer: TimedLayer) -> float:
        measured.append(layer.key)
        return made_up_us(layer)

    monkeypatch.setattr("nas.latency_table.LayerTimer", lambda **_: measure)
    monkeypatch.setattr(
        "nas.latency_table.measure_network",
        lambda architecture, table: 2 * table.latency_us(architecture),
    )
    request = replace(tiny_request(tmp_path, budget=1), objective="latency", retrain="none")
    for study in ("one", "two"):
        said: list[str] = []
        workspace = Workspace(tmp_path, study)
        run_job(replace(request, workspace=workspace), say=said.append)
        assert any("Spearman's correlation 1.000" in line for line in said)
        assert load_latency_table(workspace.file("latency_table.json")).error is not None
    assert len(measured) == len(set(measured)) > 0


def test_a_search_from_own_weights_needs_no_supernet(tmp_path: Path) -> None:
    request = replace(tiny_request(tmp_path, budget=4), inherit=False)
    workspace, said = request.workspace, list[str]()
    rows = run_job(request, say=said.append)
    assert any("proxy 1 steps a trial from weights of its own" in line for line in said)
    assert not (workspace.cache / "supernets").exists()
    assert workspace.file("fidelity.json").is_file()
    knee = next(row for row in rows if "onnx" in row)
    trained = json.loads((workspace.trial(knee["trial"]) / "retrain.json").read_text())
    assert trained["start"] == "scratch"
    again = FidelityRequest(workspace=workspace, candidates=4, steps=1, device="cpu", workers=1)
    assert study_fidelity(again)["tau"] is not None
    choice = Choice(workspace.runs, workspace.study, knee["trial"])
    with pytest.raises(UserError, match="'tiny' was searched without a supernet; leave out"):
        plan_retrain(choice, RetrainOptions(start="supernet"), storage_url=None, seed=0, cuda=False)
    before = trials_of(request)
    with pytest.raises(UserError, match="inherit"):
        run_job(replace(request, inherit=True))
    run_job(replace(request, inherit=None, budget=5))
    assert trials_of(request)[:4] == before


def given(request: JobRequest, supernet: Path, study: str) -> JobRequest:
    """The same search under another name, with this supernet."""
    workspace = Workspace(request.workspace.runs, study)
    return replace(request, workspace=workspace, supernet=supernet, supernet_steps=None)


def test_a_given_supernet_takes_the_place_of_a_trained_one(copied: JobRequest) -> None:
    (trained,) = (copied.workspace.cache / "supernets").iterdir()
    supernet = trained.rename(copied.workspace.runs / "from_elsewhere.safetensors")
    request, said = replace(given(copied, supernet, "other"), retrain="none"), list[str]()
    run_job(request, say=said.append)
    assert trials_of(request) == trials_of(copied)
    (kept,) = (copied.workspace.cache / "supernets").iterdir()
    assert kept.read_bytes() == supernet.read_bytes()
    assert any(line == f"supernet {kept.stem}: given, trained for 2 steps" for line in said)
    assert not any("may have seen" in line for line in said)

    later: list[str] = []
    run_job(replace(request, supernet=None), say=later.append)
    assert f"supernet {kept.stem}: trained before" in later

    other_split = replace(given(request, supernet, "another"), seed=1, budget=1)
    run_job(other_split, say=said.append)
    assert any("it may have seen images that trials are judged on" in line for line in said)

    supernet.write_bytes(supernet.read_bytes() + b" ")
    with pytest.raises(UserError, match="damaged"):
        run_job(request)


@pytest.mark.parametrize(
    ("facts", "message"),
    [(None, "no weights at"), ({"space": "strange"}, "is a supernet of the space strange, not")],
)
def test_a_file_that_is_no_supernet_is_refused_before_anything_is_done(
    tmp_path: Path, facts: dict[str, Any] | None, message: str
) -> None:
    path = tmp_path / "supernet.safetensors"
    if facts is not None:
        save_weights(path, {}, facts)
    request = given(tiny_request(tmp_path / "runs"), path, "tiny")
    with pytest.raises(UserError, match=message):
        run_job(request)
    assert not request.workspace.runs.exists()


def test_a_narrower_space_is_searched_and_gone_on_with(tmp_path: Path) -> None:
    request = replace(tiny_request(tmp_path, budget=4), shrink=True, retrain="none")
    said: list[str] = []
    rows = run_job(request, say=said.append)
    study = load_study(request.workspace.study, request.url)
    settings = study.user_attrs["settings"]
    dropped = json.loads(request.workspace.file("audit.json").read_text())["shrink"]["dropped"]
    space = SPACE.narrowed(dropped)
    assert dropped
    assert settings["stages"]["dropped"] == dropped
    assert settings["space"] == space.fingerprint != SPACE.fingerprint
    assert all(Architecture.from_key(key) in space for key, _ in trials_of(request))
    assert any(line.startswith("starting points: ") for line in said)
    assert request.workspace.file("fidelity.json").is_file()
    load_supernet(request.workspace.supernet(settings["stages"]["supernet"]), SPACE)
    before = trials_of(request)
    with pytest.raises(UserError, match="'tiny' searches a narrower space; give --shrink, or"):
        run_job(replace(request, shrink=False))
    run_job(replace(request, budget=5), say=said.append)
    assert trials_of(request)[:4] == before
    assert any(line.startswith("space: the study's own, without ") for line in said)
    assert read_front(request.workspace, None)
    assert rows


def test_a_study_of_the_whole_space_is_not_gone_on_with_in_a_narrower_one(
    copied: JobRequest,
) -> None:
    before = files_of(copied.workspace.runs)
    with pytest.raises(UserError, match="'tiny' searches the whole space; leave --shrink out, or"):
        run_job(replace(copied, shrink=True))
    assert files_of(copied.workspace.runs) == before


@pytest.mark.slow
def test_a_job_that_is_stopped_in_every_stage_ends_with_the_same_front(
    done: tuple[JobRequest, Rows, list[str]], tmp_path: Path
) -> None:
    request = tiny_request(tmp_path)
    for stage in ("prepare", "supernet", "trials", "fit alone", "retrain", "evaluate"):

        def stop(label: str, done: int, _total: int, *, at: str = stage) -> None:
            if label == at and done > 0:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_job(request, progress=stop)
    assert lasting(run_job(request)) == lasting(done[1])
    assert trials_of(request) == trials_of(done[0])


def test_trials_raise_their_outlook(copied: JobRequest) -> None:
    study = load_study(copied.workspace.study, copied.url)
    assert study.metric_names == ["outlook", "macs"]
    for trial in study.trials:
        assert trial.values == [trial.user_attrs["outlook"], trial.user_attrs["macs"]]
    fidelity = json.loads(copied.workspace.file("fidelity.json").read_text())
    assert (fidelity["score"], next(iter(fidelity["proxies"]))) == ("outlook", "outlook")


@pytest.mark.parametrize(("raised", "name"), [(None, "ap"), ("promise", "promise")])
def test_an_older_study_goes_on_by_its_own_score(
    copied: JobRequest, monkeypatch: pytest.MonkeyPatch, raised: str | None, name: str
) -> None:
    request = replace(copied, workspace=Workspace(copied.workspace.runs, "old"), retrain="none")
    with monkeypatch.context() as before:
        before.setattr("studies.main_job.OUTLOOK", raised)
        run_job(request)
    run_job(replace(request, budget=request.budget + 1))
    study = load_study("old", request.url)
    assert len(study.trials) == request.budget + 1
    assert study.metric_names == [name, "macs"]
    assert all(trial.values[0] == trial.user_attrs[name] for trial in study.trials)


def test_a_taught_search_has_a_teacher_and_untaught_fits_alone(
    done: tuple[JobRequest, Rows, list[str]], tmp_path: Path
) -> None:
    request = replace(
        tiny_request(tmp_path / "runs"), teacher_steps=3, retrain="none", inherit=False
    )
    said: list[str] = []
    run_job(request, say=said.append)
    (folder,) = (request.workspace.cache / "teachers").iterdir()
    assert f"teacher {folder.name}: trained; --teacher {folder} gives it to another study" in said
    assert any("teacher 3 steps, proxy 1 steps a trial from weights of its own" in s for s in said)
    timings = json.loads(request.workspace.file("timings.json").read_text())
    assert "teacher" in timings
    saved = load_study(request.workspace.study, request.url).user_attrs["settings"]
    assert saved["stages"]["teacher"] == folder.name
    alone, plain = (
        {one["key"]: one["alone_ap"] for one in json.loads(path.read_text())["architectures"]}
        for path in (r.workspace.file("fidelity.json") for r in (request, done[0]))
    )
    assert all(alone[key] == plain[key] for key in alone.keys() & plain.keys())
    with pytest.raises(UserError, match=r"teaching.* was .* and is now None"):
        run_job(replace(request, teacher_steps=None, teach=False))
    other = replace(request, workspace=Workspace(tmp_path / "runs", "given"), teacher_steps=None)
    run_job(replace(other, teacher=folder, budget=1), say=said.append)
    (line,) = (line for line in said if line.endswith(f"given, {TEACHER}"))
    later: list[str] = []
    run_job(replace(other, teach=True, budget=1), say=later.append)
    assert line.replace(f"given, {TEACHER}", "trained before") in later
