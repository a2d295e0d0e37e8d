"""After a search, or when asked to: how far its trials can be believed, and its finals.

In the finals the networks at and next to the front are fitted alone, for longer than trials are;
what that and their trials make likely makes the front that is shown (`studies.front`).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files import write_json
from data.progress import Progress, silent
from data.quantities import show_quantity
from data.shards import MANIFEST, open_shards
from nas.device import choose_device
from nas.fidelity import (
    ALONE_STATISTICS,
    LONGER,
    TRUSTED_TAU,
    StandAloneJob,
    choose_candidates,
    expected_aps,
    mean_of_fits,
    rank_fidelity,
)
from nas.fitting import FitSettings
from nas.pareto import nearest_front
from nas.proxy import ProxyJob
from nas.records import record_header, usable_cores
from nas.supernet_training import load_supernet
from search_spaces.space import SPACE
from studies.alone_fits import AloneFits
from studies.front import (
    FIDELITY,
    FINAL_SCORES,
    FINALS,
    cost_name,
    front_trials,
    points_of,
    score_name,
    show_steps,
    trials_have_a_say,
)
from studies.say import Say, unsaid
from studies.schedule import schedule_from_json
from studies.settings import name_of_score
from studies.storage import SETTINGS, TrialRow, completed_trials, load_study
from studies.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityPlan:
    """What is to be measured.

    cost, score: names of the values that the study lowers and raises. data_hash: of its shards.
    proxy: how its trials were judged. alone: the longer fit from scratch. candidates: how many get
    it to be compared. finalists: how many, nearest the front, get it in the finals; 0 or None for
    no finals. lengthen: whether finals are of fewer networks, fitted longer, where trials are not
    to be trusted. seed: of the draw of candidates and of the split that is fitted and judged on.
    fits: how often each network is fitted, the first time with this seed and then with the next
    ones; the mean counts.
    """

    workspace: Workspace
    cost: str
    score: str
    data_hash: str
    proxy: ProxyJob
    alone: FitSettings
    candidates: int
    finalists: int | None
    seed: int
    workers: int
    lengthen: bool = True
    fits: int = 1

    def scores(
        self, rows: Sequence[TrialRow], settings: FitSettings, *, label: str, progress: Progress
    ) -> list[dict[str, Any]]:
        """What fits alone with these settings gave each trial's network, the mean of so many.

        `ap` is NaN where the loss was not finite. label: what progress counts.
        """
        if self.fits == 1:
            return self._fits(settings, self.seed).scores(rows, label=label, progress=progress)
        times = [
            self._fits(settings, self.seed + i).scores(
                rows, label=f"{label}, {i + 1} of {self.fits}", progress=progress
            )
            for i in range(self.fits)
        ]
        return [mean_of_fits(fits) for fits in zip(*times, strict=True)]

    def _fits(self, settings: FitSettings, seed: int) -> AloneFits:
        """Fits alone from other first weights than the trials had. seed: see the plan's."""
        proxy = self.proxy
        statistics = max(ALONE_STATISTICS, proxy.settings.recalibration_images)
        job = StandAloneJob(
            shards=proxy.shards,
            proxy=replace(proxy.settings, recalibration_images=statistics),
            fit=settings,
            seed=seed,
            fit_seed=seed + proxy.seed + 1,
            device=proxy.device,
        )
        return AloneFits(self.workspace, job, self.data_hash, self.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityRequest:
    """What a person asks of a study that has been searched. None: as the study's schedule has it,
    for workers one for each core.

    steps: of a fit alone, in the finals too, however trials turn out. fits: how often each network
    is fitted.
    """

    workspace: Workspace
    storage_url: str | None = None
    candidates: int | None = None
    finalists: int | None = None
    steps: int | None = None
    fits: int = 1
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
        score=score_name(study),
        data_hash=settings["data"],
        proxy=job_of_trials(workspace, settings, device=str(device)),
        alone=alone if request.steps is None else replace(alone, steps=request.steps),
        candidates=candidates if request.candidates is None else request.candidates,
        finalists=schedule.finalists if request.finalists is None else request.finalists,
        seed=request.seed,
        workers=request.workers or (1 if device.type == "cuda" else usable_cores()),
        lengthen=request.steps is None,
        fits=request.fits,
    )
    return measure_fidelity(plan, rows, say=say, progress=progress)


def job_of_trials(workspace: Workspace, settings: dict[str, Any], *, device: str) -> ProxyJob:
    """How a study fits and judges its trials. settings: the study's.

    Raises:
        UserError: its shards or its supernet are gone.
    """
    stages = settings["stages"]
    teacher = stages.get("teacher")
    return ProxyJob(
        shards=_find_shards(workspace, settings["data"]),
        supernet=_check_supernet(workspace, stages["supernet"]),
        settings=schedule_from_json(stages["schedule"]).proxy,
        seed=settings["seed"],
        device=device,
        teacher=None if teacher is None else workspace.teacher(teacher),
    )


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
    """Fit candidates alone for longer, compare every proxy's order with theirs, hold the finals and
    write `fidelity.json`. Where the search's own score is not to be trusted, the finals are of
    fewer networks, fitted longer still.

    rows: the study's completed trials.

    Raises:
        UserError: there are too few candidates.
    """
    chosen, alone = _fit_candidates(plan, rows, say, progress)
    proxy = [_proxy_row(row) for row in chosen]
    result = rank_fidelity(proxy, alone, score=plan.score, seed=plan.seed)
    _tell_tau(plan, result, say)
    finals = _finals(plan, rows, say, progress, is_trusted=result["tau"] >= TRUSTED_TAU)
    record = {
        **record_header(seed=plan.seed, data_hash=plan.data_hash),
        "study": plan.workspace.study,
        "trials": len(rows),
        "alone": asdict(plan.alone),
        "fits": plan.fits,
        **result,
        FINALS: finals,
    }
    write_json(plan.workspace.file(FIDELITY), record)
    return record


def _fit_candidates(
    plan: FidelityPlan, rows: Sequence[TrialRow], say: Say, progress: Progress
) -> tuple[list[TrialRow], list[dict[str, Any]]]:
    """Candidates that could be fitted, and what their fits gave."""
    by_number = {row.trial: row for row in rows}
    on_front = [row.trial for row in front_trials(rows, plan.cost)]
    others = sorted(by_number.keys() - set(on_front))
    chosen = choose_candidates(on_front, others, count=plan.candidates, seed=plan.seed)
    candidates = [by_number[number] for number in chosen]
    scores = plan.scores(candidates, plan.alone, label="fit alone", progress=progress)
    return _finite(candidates, scores, "rank fidelity", say)


def _finite(
    rows: Sequence[TrialRow], scores: Sequence[dict[str, Any]], what: str, say: Say
) -> tuple[list[TrialRow], list[dict[str, Any]]]:
    """Those whose fits did not diverge; the others are named."""
    fitted = [i for i, one in enumerate(scores) if math.isfinite(one["ap"])]
    if len(fitted) < len(rows):
        lost = ", ".join(str(row.trial) for i, row in enumerate(rows) if i not in fitted)
        say(f"{what}: without trials {lost}, whose loss was not finite when fitted alone")
    return [rows[i] for i in fitted], [scores[i] for i in fitted]


def _proxy_row(row: TrialRow) -> dict[str, Any]:
    facts = {name: getattr(row, name) for name in ("trial", "key", "macs", "params")}
    return {**facts, **row.scores}


def _tell_tau(plan: FidelityPlan, result: dict[str, Any], say: Say) -> None:
    low, high = result["tau_interval"]
    say(
        f"rank fidelity: Kendall's tau {result['tau']:.2f} (90 % interval {low:.2f} to "
        f"{high:.2f}) between the proxy and {len(result['architectures'])} networks fitted alone "
        f"for {show_steps(plan.alone.steps, plan.fits)}"
    )


def _finals(
    plan: FidelityPlan,
    rows: Sequence[TrialRow],
    say: Say,
    progress: Progress,
    *,
    is_trusted: bool,
) -> dict[str, Any] | None:
    """The networks nearest the front, fitted alone: `steps`, `fits`, and `networks` as rows.

    `expected_ap` is what fit and trial together make likely, and `ap` again where trials are not to
    be trusted or too few to learn from.
    """
    if not plan.finalists:
        return None
    settings, count = plan.alone, plan.finalists
    if not is_trusted:
        say(
            f"tau is under {TRUSTED_TAU}: the order of trials is not to be trusted. For better "
            f"trials, search with --proxy-steps {LONGER * plan.proxy.settings.fit.steps} and "
            "another --study name"
        )
    if not is_trusted and plan.lengthen:
        settings = replace(settings, steps=LONGER * settings.steps)
        count = max(1, count // LONGER)
        say(f"the finals have fits {LONGER} times as long, of fewer networks")
    nearest = nearest_front(points_of(rows, plan.cost), count)
    finalists = [rows[i] for i in sorted(nearest)]
    scores = plan.scores(finalists, settings, label="finals", progress=progress)
    finalists, scores = _finite(finalists, scores, FINALS, say)
    expected = aps = [one["ap"] for one in scores]
    if is_trusted:
        points = points_of(finalists, plan.cost)
        costs, trials = zip(*points, strict=True)
        expected = expected_aps(trials, aps, costs, fits=plan.fits)
    networks = [
        {"trial": row.trial, "key": row.key, "trial_ap": row.ap}
        | {name: one[name] for name in FINAL_SCORES if name in one}
        | {"expected_ap": likely}
        for row, one, likely in zip(finalists, scores, expected, strict=True)
    ]
    makers = "that and their trials make" if trials_have_a_say(networks) else "that makes"
    say(
        f"{FINALS}: {len(finalists)} networks at and next to the front fitted alone for "
        f"{show_steps(settings.steps, plan.fits)}; {makers} the front"
    )
    return {"steps": settings.steps, "fits": plan.fits, "networks": networks}


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
    score = name_of_score(record.get("score"))
    return [
        (
            str(row["trial"]),
            f"{row['alone_ap']:.3f}",
            _interval(row["alone_ap_interval"]),
            f"{row[score]:.3f}",
            show_quantity(row["params"]),
            show_quantity(row["macs"]),
        )
        for row in map(rows.__getitem__, record["reranked"])
    ]


def _interval(ends: Sequence[float]) -> str:
    low, high = ends
    return f"{low:.2f} to {high:.2f}"
