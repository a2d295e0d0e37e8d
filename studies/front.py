"""The Pareto front of a study, with what is known of each of its networks.

While a study is searched its front is that of the trials. Once its finals are held, the front is
that of the finalists, by the AP that their fits alone and their trials together make likely.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.study import Study

from data.errors import UserError
from nas.pareto import Point, extremes, knee, pareto_front
from studies.settings import OBJECTIVES, name_of_score
from studies.storage import SETTINGS, TrialRow, completed_trials, load_study
from studies.workspace import Workspace

FIDELITY = "fidelity.json"
"""What `studies.fidelity_stage` writes."""

FINALS = "finals"
FINAL_SCORES = ("ap", "aps", "ap_interval", "smooth_ap")
"""What is kept of a finalist's fit alone; `aps` where it had several."""

FINALISTS_SCORES = ("alone_ap", "alone_ap_interval", "trial_ap")
"""What a finalist has beside the AP that is likely of it."""


def finals_of(workspace: Workspace, rows: Sequence[TrialRow]) -> dict[str, Any] | None:
    """What `fidelity.json` says of the finals; None before them, and when trials came after them.

    rows: the study's completed trials.
    """
    path = workspace.file(FIDELITY)
    record = json.loads(path.read_text()) if path.is_file() else {}
    finals: dict[str, Any] | None = record.get(FINALS)
    return finals if finals and finals["networks"] and record["trials"] == len(rows) else None


def finalists(workspace: Workspace, rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The trials of the finals, with the AP that is likely of them; `alone_ap` is that of their
    fits alone, with its interval, and `trial_ap` their trials'.

    All rows as they are where there were no finals.
    """
    finals = finals_of(workspace, rows)
    if finals is None:
        return list(rows)
    by_number = {row.trial: row for row in rows}
    return [_finalist(by_number[one["trial"]], one) for one in finals["networks"]]


def show_steps(steps: int, fits: int) -> str:
    """How long networks were fitted alone, and how often where it was more than once."""
    return f"{steps} steps" if fits == 1 else f"{steps} steps, {fits} times each"


def trials_have_a_say(networks: Sequence[dict[str, Any]]) -> bool:
    """Whether more than their fits alone made what is expected of finalists: see `expected_aps`."""
    return any(_expected(final) != final["ap"] for final in networks)


def _expected(final: dict[str, Any]) -> float:
    """A record from before there were expectations has none."""
    ap: float = final.get("expected_ap", final["ap"])
    return ap


def _finalist(row: TrialRow, final: dict[str, Any]) -> TrialRow:
    """final: the row's in `fidelity.json`."""
    scores = {name: value for name, value in row.scores.items() if name not in FINAL_SCORES}
    scores |= {"trial_ap": final["trial_ap"], "alone_ap": final["ap"]}
    if "ap_interval" in final:
        scores["alone_ap_interval"] = final["ap_interval"]
    expected = _expected(final)
    return replace(row, ap=expected, score=expected, scores=scores)


def points_of(rows: Sequence[TrialRow], objective: str) -> list[Point]:
    """(cost, score) of each trial. objective: name of the value that is lowered."""
    return [(float(_cost(row, objective)), row.score) for row in rows]


def _cost(row: TrialRow, objective: str) -> float:
    cost = row.macs if objective == "macs" else row.scores[objective]
    if not isinstance(cost, int | float):
        raise TypeError(f"{objective} of trial {row.trial} must be a number, got {cost!r}")
    return float(cost)


def front_trials(rows: Sequence[TrialRow], objective: str) -> list[TrialRow]:
    """The trials of the front, cheapest first."""
    return [rows[i] for i in pareto_front(points_of(rows, objective))]


def final_front(workspace: Workspace, rows: Sequence[TrialRow], objective: str) -> list[TrialRow]:
    """The front that is shown: of the finalists where there were finals, else of the trials."""
    return front_trials(finalists(workspace, rows), objective)


def front_rows(
    workspace: Workspace, rows: Sequence[TrialRow], objective: str
) -> list[dict[str, Any]]:
    """The front as plain rows, cheapest first, with what retraining, export and benchmark gave.

    rows: the study's completed trials. Where there were finals, `ap` is what is likely by the fit
    alone (`alone_ap`) and the trial (`trial_ap`) together; else it is the trial's.
    `retrained_ap`, `onnx` (path) and `latency_ms` (p50, one thread, at the deployment size, on
    the machine of the benchmark) are there once they are known. In a study that lowers latency,
    `latency_ms` is what was lowered, the sum of the study's table, and the benchmark's is
    `measured_latency_ms`. `role` names the knee and the extremes.
    """
    front = final_front(workspace, rows, objective)
    roles = _roles(front, objective)
    return [
        {
            "trial": row.trial,
            "key": row.key,
            "role": roles.get(row.trial),
            "ap": row.ap,
            **{name: row.scores[name] for name in FINALISTS_SCORES if name in row.scores},
            "params": row.params,
            "macs": row.macs,
            "peak_bytes": row.peak_bytes,
            **_measured_beside(workspace.trial(row.trial), objective),
            **{
                name: row.scores[name]
                for name in ("ap_interval", "smooth_ap", "latency_ms")
                if name in row.scores
            },
        }
        for row in front
    ]


def choose_to_retrain(front: Sequence[TrialRow], objective: str, choice: str) -> list[TrialRow]:
    """Which of the front to retrain: "all", "none", "roles" (knee and extremes) or a number.

    A number takes the knee first, then the extremes, then the rest, the most precise first.
    """
    if choice == "none" or not front:
        return []
    if choice == "all":
        return list(front)
    roles = _roles(front, objective)
    by_rank = ("knee", "most precise", "cheapest")
    ranked = sorted(
        front,
        key=lambda row: (
            by_rank.index(roles[row.trial]) if row.trial in roles else len(by_rank),
            -row.score,
        ),
    )
    count = len(roles) if choice == "roles" else int(choice)
    return ranked[:count]


def _roles(front: Sequence[TrialRow], objective: str) -> dict[int, str]:
    """Trial number -> role. A trial that is both knee and an extreme is the knee."""
    if not front:
        return {}
    points = points_of(front, objective)
    cheapest, most_precise = extremes(points)
    roles = {front[cheapest].trial: "cheapest", front[most_precise].trial: "most precise"}
    roles[front[knee(points)].trial] = "knee"
    return roles


def measured(folder: Path) -> dict[str, Any]:
    """What the files of a retrained trial's folder say of it."""
    known: dict[str, Any] = {}
    if (folder / "model.onnx").is_file():
        known["onnx"] = str(folder / "model.onnx")
    if (folder / "evaluation.json").is_file():
        evaluation = json.loads((folder / "evaluation.json").read_text())
        known["retrained_ap"] = evaluation["ap"]
        known["retrained_ap_interval"] = evaluation["interval"]
    if (folder / "benchmark.json").is_file():
        benchmark = json.loads((folder / "benchmark.json").read_text())
        one_thread = [row for row in benchmark["latencies"] if row["threads"] == 1]
        if one_thread:
            known["latency_ms"] = max(one_thread, key=lambda row: row["image_size"])["p50_ms"]
        known["file_bytes"] = benchmark["file_bytes"]
    return known


def _measured_beside(folder: Path, objective: str) -> dict[str, Any]:
    """What the files say, under names that the objective does not use."""
    known = measured(folder)
    if objective in known:
        known[f"measured_{objective}"] = known.pop(objective)
    return known


def read_front(workspace: Workspace, storage_url: str | None) -> list[dict[str, Any]]:
    """The front of a study as its database has it now.

    Raises:
        UserError: there is no such study, or no trial of it has completed.
    """
    study = load_study(workspace.study, storage_url or workspace.storage_url)
    rows = completed_trials(study)
    if not rows:
        raise UserError(f"study {workspace.study!r} has no completed trial yet")
    return front_rows(workspace, rows, cost_name(study))


def cost_name(study: Study) -> str:
    """The name of the value that a study lowers."""
    return OBJECTIVES[study.user_attrs[SETTINGS]["objective"]]


def score_name(study: Study) -> str:
    """The name of the value that a study raises."""
    return name_of_score(study.user_attrs[SETTINGS].get("raised"))
