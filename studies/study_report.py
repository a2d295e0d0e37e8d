"""The report of a study, gathered from its database and its folder."""

import json
from pathlib import Path
from typing import Any

from data.progress import Progress, silent
from nas.report import MEASURED, RETRAINED_AP, ReportData, write_report
from objectives.latency_table import load_latency_table
from studies.early_stopping import stopping_report
from studies.front import (
    cost_name,
    finals_of,
    front_rows,
    score_name,
    show_steps,
    trials_have_a_say,
)
from studies.hypervolume_curves import comparison_line, write_hypervolume
from studies.say import Say, unsaid
from studies.settings import name_of_score
from studies.storage import SETTINGS, completed_trials, load_study
from studies.workspace import Workspace


def write_study_report(
    workspace: Workspace,
    storage_url: str,
    *,
    say: Say = unsaid,
    progress: Progress = silent,
) -> Path:
    """Write `report.html` and `hypervolume.json` to the study's folder; returns the page's path.

    Raises:
        UserError: there is no such study.
    """
    study = load_study(workspace.study, storage_url)
    settings, cost = study.user_attrs[SETTINGS], cost_name(study)
    rows = completed_trials(study)
    front = front_rows(workspace, rows, cost)
    target = workspace.file("report.html")
    retrained = [_retrained(workspace, row) for row in front if "onnx" in row]
    front_record = _json(workspace.file("front.json"))
    audit = _json(workspace.file("audit.json"))
    hypervolume = write_hypervolume(workspace, study, progress=progress)
    if hypervolume:
        say(comparison_line(hypervolume))
    stopping = stopping_report(study)
    data = ReportData(
        study=workspace.study,
        trials=[
            {
                "trial": row.trial,
                "key": row.key,
                "params": row.params,
                "macs": row.macs,
                "peak_bytes": row.peak_bytes,
                **row.scores,
                "ap": row.ap,
            }
            for row in rows
        ],
        front=front,
        finals=_finals_line(finals_of(workspace, rows)),
        cost=cost,
        raised=score_name(study),
        hypervolume=hypervolume,
        retrained=retrained,
        benchmark=[
            {"trial": row["trial"], **latency}
            for row in retrained
            for latency in _json(workspace.trial(row["trial"]) / "benchmark.json").get(
                "latencies", []
            )
        ],
        stages=list(_json(workspace.file("timings.json")).items()),
        fidelity=_fidelity(_json(workspace.file("fidelity.json"))),
        early_stopping=None if stopping is None else stopping.line,
        settings={**settings, "starts": len(settings.get("starts", ()))},
        audit={
            name: audit[name] for name in ("samples", "share", "broken", "shrink") if name in audit
        },
        latency_table=_latency_table(workspace.latency_table),
        record={name: front_record.get(name) for name in ("commit", "date", "seed", "machine")},
    )
    write_report(target, data)
    return target


def _json(path: Path) -> dict[str, Any]:
    """A file's JSON; empty where the stage that writes it has not run yet."""
    value: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return value


def _retrained(workspace: Workspace, row: dict[str, Any]) -> dict[str, Any]:
    known = _json(workspace.trial(row["trial"]) / "retrain.json")
    columns = ("trial", "role", "ap", *RETRAINED_AP, "params", "macs", *MEASURED)
    return {
        **{name: row[name] for name in columns if name in row},
        **{name: known[name] for name in ("steps", "data", "start") if name in known},
    }


def _latency_table(path: Path) -> dict[str, Any]:
    """What the report says of the table that latencies were summed from; nothing without one."""
    if not path.is_file():
        return {}
    table = load_latency_table(path)
    return {
        "device": table.device,
        "threads": table.threads,
        "image_size": table.image_size,
        "runtime": table.runtime,
        "layers": len(table.entries),
        "error": table.error.text if table.error else "not known: no network was measured whole",
    }


def _finals_line(finals: dict[str, Any] | None) -> str | None:
    """What the AP of the front is."""
    if finals is None:
        return None
    networks, fits = finals["networks"], finals.get("fits", 1)
    shown = "the AP that this and their trials make likely; other trials have that"
    if not trials_have_a_say(networks):
        shown = "their AP; other trials have that"
    return (
        f"the front is that of {len(networks)} networks fitted alone for "
        f"{show_steps(finals['steps'], fits)}, and shows {shown} of their short fits"
    )


def _fidelity(result: dict[str, Any]) -> dict[str, Any]:
    if not result:
        return {}
    return {
        "tau": result["tau"],
        "interval": result["tau_interval"],
        "networks fitted alone": len(result["architectures"]),
        "fits alone": show_steps(result["alone"]["steps"], result.get("fits", 1)),
        **{
            f"tau of {name}": round(value["tau"], 2)
            for name, value in result["proxies"].items()
            if name != name_of_score(result.get("score"))
        },
    }
