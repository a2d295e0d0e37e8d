"""Measuring how far a study's proxy can be believed: at the end of a search, or when asked to."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files import write_json
from data.progress import Progress, silent
from data.quantities import show_quantity
from data.shards import MANIFEST, open_shards
from nas.device import choose_device
from nas.fidelity import (
    FEWEST_CANDIDATES,
    LONGER,
    TRUSTED_TAU,
    StandAloneEvaluator,
    StandAloneJob,
    choose_candidates,
    kendall_tau,
    rank_fidelity,
    spread,
)
from nas.fitting import FitSettings
from nas.proxy import ProxyEvaluator, ProxyJob
from nas.records import record_header, usable_cores
from nas.supernet_training import load_supernet
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from studies.executors import MakeEvaluate, local_workers
from studies.front import cost_name, front_trials
from studies.say import Say, unsaid
from studies.schedule import schedule_from_json
from studies.storage import SETTINGS, TrialRow, completed_trials, load_study
from studies.workspace import Workspace

FIDELITY = "fidelity.json"

MOST_REFITS = 12
"""Networks of a front that are fitted again where the proxy is not to be trusted."""

LISTED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityPlan:
    """What is to be measured.

    cost: name of the value that the study lowers. data_hash: of its shards. proxy: how its trials
    were judged. alone: the longer fit from scratch. candidates: how many get it. seed: of the
    draw of candidates, of their first weights and of the split they are fitted and judged on.
    """

    workspace: Workspace
    cost: str
    data_hash: str
    proxy: ProxyJob
    alone: FitSettings
    candidates: int
    seed: int
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityRequest:
    """What a person asks of a study that has been searched. None: as the study's schedule has it,
    for workers one for each core.

    steps: of a fit alone.
    """

    workspace: Workspace
    storage_url: str | None = None
    candidates: int | None = None
    steps: int | None = None
    seed: int = 0
    device: str = "auto"
    workers: int | None = None

    @property
    def target(self) -> Path:
        """What is written."""
        return self.workspace.file(FIDELITY)


def study_fidelity(
    request: FidelityRequest, *, say: Say = unsaid, progress: Progress = silent
) -> dict[str, Any]:
    """Measure the fidelity of a study from what its database and the cache have of it.

    Raises:
        UserError: there is no such study, fewer than four of its trials have completed, fewer
            candidates are asked for, or its shards or its supernet are gone.
    """
    workspace = request.workspace
    study = load_study(workspace.study, request.storage_url or workspace.storage_url)
    rows = completed_trials(study)
    if not rows:
        raise UserError(f"study {workspace.study!r} has no completed trial yet; let it search on")
    settings = study.user_attrs[SETTINGS]
    schedule = schedule_from_json(settings["stages"]["schedule"])
    alone, candidates = schedule.alone, schedule.fidelity_candidates
    device, reason = choose_device(request.device)
    say(reason)
    plan = FidelityPlan(
        workspace=workspace,
        cost=cost_name(study),
        data_hash=settings["data"],
        proxy=ProxyJob(
            shards=_find_shards(workspace, settings["data"]),
            supernet=_check_supernet(workspace, settings["stages"]["supernet"]),
            settings=schedule.proxy,
            seed=settings["seed"],
            device=str(device),
        ),
        alone=alone if request.steps is None else replace(alone, steps=request.steps),
        candidates=candidates if request.candidates is None else request.candidates,
        seed=request.seed,
        workers=request.workers or (1 if device.type == "cuda" else usable_cores()),
    )
    return measure_fidelity(plan, rows, say=say, progress=progress)


def _find_shards(workspace: Workspace, data_hash: str) -> Path:
    """The folder of the cache with exactly this content.

    Raises:
        UserError: there is none; names the damaged ones, of which one may have been it.
    """
    damaged = []
    for manifest in sorted(workspace.shards.glob(f"*/{MANIFEST}")):
        try:
            if open_shards(manifest.parent).hash == data_hash:
                return manifest.parent
        except UserError:
            damaged.append(str(manifest.parent))
    raise UserError(
        f"the shards of study {workspace.study!r} are gone: none in {workspace.shards} has its "
        f"data hash {data_hash[:12]}"
        + (f" ({', '.join(damaged)} is damaged)" if damaged else "")
        + "; run the study's search command again, which makes them anew"
    )


def _check_supernet(workspace: Workspace, name: str | None) -> Path | None:
    advice = "run the study's search command again, which trains it anew"
    path = workspace.find_supernet(name, advice=advice)
    if path is not None:
        load_supernet(path, SPACE)  # now, not after an hour of fits
    return path


def measure_fidelity(
    plan: FidelityPlan,
    rows: Sequence[TrialRow],
    *,
    say: Say = unsaid,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Fit candidates alone for longer, compare every proxy's order with theirs and write
    `fidelity.json`. Where the search's own score is not to be trusted, also fit its front again,
    for longer.

    rows: the study's completed trials.

    Raises:
        UserError: there are too few candidates.
    """
    front = front_trials(rows, plan.cost)
    chosen, alone = _fit_alone(plan, _candidates(plan, rows, front), say, progress)
    result = rank_fidelity([_proxy_row(row) for row in chosen], alone, seed=plan.seed)
    _tell_tau(plan, result, say)
    if result["tau"] < TRUSTED_TAU:
        result |= _refit(plan, front, result["architectures"], say, progress)
    record = {
        **record_header(seed=plan.seed, data_hash=plan.data_hash),
        "study": plan.workspace.study,
        "trials": len(rows),
        "alone": asdict(plan.alone),
        **result,
    }
    write_json(plan.workspace.file(FIDELITY), record)
    return record


def _candidates(
    plan: FidelityPlan, rows: Sequence[TrialRow], front: Sequence[TrialRow]
) -> list[TrialRow]:
    by_number = {row.trial: row for row in rows}
    on_front = [row.trial for row in front]
    others = sorted(by_number.keys() - set(on_front))
    chosen = choose_candidates(on_front, others, count=plan.candidates, seed=plan.seed)
    return [by_number[number] for number in chosen]


def _proxy_row(row: TrialRow) -> dict[str, Any]:
    facts = {name: getattr(row, name) for name in ("trial", "key", "macs", "params")}
    return {**facts, **row.scores}


def _fit_alone(
    plan: FidelityPlan, candidates: Sequence[TrialRow], say: Say, progress: Progress
) -> tuple[list[TrialRow], list[dict[str, Any]]]:
    """The candidates that could be fitted, and what their fits gave."""
    proxy = plan.proxy
    job = StandAloneJob(
        shards=proxy.shards,
        proxy=proxy.settings,
        fit=plan.alone,
        seed=plan.seed,
        device=proxy.device,
    )
    make = partial(StandAloneEvaluator, job)
    scores = _evaluate(make, candidates, workers=plan.workers, label="fit alone", progress=progress)
    fitted = [i for i, one in enumerate(scores) if math.isfinite(one["ap"])]
    if len(fitted) < len(candidates):
        lost = ", ".join(str(row.trial) for i, row in enumerate(candidates) if i not in fitted)
        say(f"rank fidelity: without trials {lost}, whose loss was not finite when fitted alone")
    return [candidates[i] for i in fitted], [scores[i] for i in fitted]


def _evaluate(
    make: MakeEvaluate, rows: Sequence[TrialRow], *, workers: int, label: str, progress: Progress
) -> list[dict[str, Any]]:
    """The scores of every trial's architecture, in order."""
    with local_workers(make, processes=min(workers, len(rows))) as pool:
        for row in rows:
            pool.submit(Architecture.from_key(row.key), row.trial)
        scores = []
        for row in rows:
            scores.append(dict(pool.result(row.trial)))
            progress(label, len(scores), len(rows))
    return scores


def _tell_tau(plan: FidelityPlan, result: dict[str, Any], say: Say) -> None:
    low, high = result["tau_interval"]
    say(
        f"rank fidelity: Kendall's tau {result['tau']:.2f} (90 % interval {low:.2f} to "
        f"{high:.2f}) between the proxy and {len(result['architectures'])} networks fitted alone "
        f"for {plan.alone.steps} steps"
    )


def _refit(
    plan: FidelityPlan,
    front: Sequence[TrialRow],
    alone: Sequence[dict[str, Any]],
    say: Say,
    progress: Progress,
) -> dict[str, Any]:
    """Judge networks of the front anew, by a longer proxy fit.

    `refit`: their rows, best first; `refit_ap` is None where the loss was not finite. `refit_tau`
    and its interval: of the new AP with that of the fits alone, where enough networks have both.
    """
    settings = plan.proxy.settings
    steps = LONGER * settings.fit.steps
    rows = [front[i] for i in spread(range(len(front)), MOST_REFITS)]
    say(
        f"tau is under {TRUSTED_TAU}: the order of this front is not to be trusted; {len(rows)} "
        f"of its {len(front)} networks are fitted again, for {steps} steps"
    )
    longer = replace(settings, fit=replace(settings.fit, steps=steps), early_stopping=False)
    make = partial(ProxyEvaluator, replace(plan.proxy, settings=longer, latency_table=None))
    scores = _evaluate(make, rows, workers=plan.workers, label="fit again", progress=progress)
    refit = [
        {
            **{name: getattr(row, name) for name in ("trial", "key", "ap")},
            "refit_ap": one["ap"] if math.isfinite(one["ap"]) else None,
            "refit_ap_interval": one.get("ap_interval"),
        }
        for row, one in zip(rows, scores, strict=True)
    ]
    refit.sort(key=lambda row: -1.0 if row["refit_ap"] is None else row["refit_ap"], reverse=True)
    best = ", ".join(str(row["trial"]) for row in refit[:LISTED])
    say(
        f"by the longer fit the best trials of the front are {best}; front.json stays as it is. "
        f"For a better front, search with --proxy-steps {steps} and another --study name"
    )
    return {"refit_steps": steps, "refit": refit, **_refit_tau(refit, alone, seed=plan.seed)}


def _refit_tau(
    refit: Sequence[dict[str, Any]], alone: Sequence[dict[str, Any]], *, seed: int
) -> dict[str, Any]:
    alone_ap = {row["trial"]: row["alone_ap"] for row in alone}
    both = [
        (row["refit_ap"], alone_ap[row["trial"]])
        for row in refit
        if row["trial"] in alone_ap and row["refit_ap"] is not None
    ]
    if len(both) < FEWEST_CANDIDATES:
        return {}
    tau, interval = kendall_tau(*zip(*both, strict=True), seed=seed)
    return {"refit_tau": tau, "refit_tau_interval": list(interval)}


PROXY_COLUMNS = ("proxy", "tau", "90 % interval")
CANDIDATE_COLUMNS = ("trial", "alone", "90 % interval", "proxy", "params", "MACs")


def proxy_cells(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """A table of PROXY_COLUMNS: the search's own score, then the others, the best first."""
    own, *others = record["proxies"].items()
    others.sort(key=lambda item: -item[1]["tau"])
    return [
        (name, f"{value['tau']:.2f}", _interval(value["tau_interval"]))
        for name, value in (own, *others)
    ]


def candidate_cells(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """A table of CANDIDATE_COLUMNS, the best network first."""
    rows = {row["trial"]: row for row in record["architectures"]}
    return [
        (
            str(row["trial"]),
            f"{row['alone_ap']:.3f}",
            _interval(row["alone_ap_interval"]),
            f"{row['ap']:.3f}",
            show_quantity(row["params"]),
            show_quantity(row["macs"]),
        )
        for row in map(rows.__getitem__, record["reranked"])
    ]


def _interval(ends: Sequence[float]) -> str:
    low, high = ends
    return f"{low:.2f} to {high:.2f}"
