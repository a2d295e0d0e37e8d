"""How long fits from scratch that say as much as the trials of a search would have taken.

Run from the repository's root, where the search was made and nothing else runs:
python -m benchmarks.spared_time STUDY [--runs runs] [--alone-steps 1200] [--trials 200]
    [--write docs/results/spared_time.json]
`benchmarks.equal_fidelity` finds how long a fit from weights of a network's own, without a teacher,
must be to say as much of the order of networks as a trial does: --alone-steps. Here the first steps
of such a fit, and its judgement, are timed for each network that the study tried, as many at once
as there are cores. What the search itself took, with its supernet and its teacher, is in its
`timings.json`. What is measured once is kept in --folder, so a run that was cut goes on.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import optuna
import torch

from benchmarks.study_trials import StudyTrials
from data.errors import UserError
from data.files import write_json
from data.progress import Progress, silent
from data.shards import open_shards
from nas.device import keep_freed_memory
from nas.fidelity import ALONE_STATISTICS
from nas.proxy import CandidateFitter, ProxyJob
from nas.records import record_header, usable_cores
from search_spaces.architecture import Architecture
from studies.console import shown_progress
from studies.workspace import Workspace

STAGES = ("search", "supernet", "teacher")
"""Of a search's `timings.json`: the trials, and what was trained for them."""

FIRST_STEPS, TIMED_STEPS = 4, 24
"""Steps before the clock runs, and while it does."""


@cache
def _fitter(job: ProxyJob) -> CandidateFitter:
    """Opened once in each process."""
    torch.set_num_threads(1)
    keep_freed_memory()
    settings = replace(job.settings, recalibration_images=ALONE_STATISTICS)
    shards, device = open_shards(job.shards), torch.device(job.device)
    return CandidateFitter(shards, settings, seed=job.seed, device=device)


def measure(job: ProxyJob, key: str, alone_steps: int) -> dict[str, Any]:
    """Seconds of a step of this network's fit alone, and of its judgement.

    Raises:
        NotFiniteError: the fit diverged.
    """
    fitter = _fitter(job)
    fit = replace(job.settings.fit, steps=alone_steps)
    stops = (FIRST_STEPS, FIRST_STEPS + TIMED_STEPS)
    shown = fitter.fit_through(fitter.start(Architecture.from_key(key)), fit, stops=stops)
    next(shown)
    start = time.perf_counter()
    network = next(shown)
    fitted = time.perf_counter()
    fitter.judge(network)
    judged = time.perf_counter()
    return {
        "key": key,
        "step_seconds": (fitted - start) / TIMED_STEPS,
        "judge_seconds": judged - fitted,
    }


def compare(
    workspace: Workspace,
    *,
    alone_steps: int,
    folder: Path,
    trials: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The result as plain values. folder: where rows are kept, by what they depend on.
    trials: the first so many are timed, and stand for all.

    Raises:
        UserError: there is no such study, its shards or its supernet are gone, or its timings lack
            a stage.
    """
    found = StudyTrials.of(workspace)
    job, keys = found.job, found.keys
    took = _stages(workspace.file("timings.json"))
    rows = found.measured(
        partial(measure, alone_steps=alone_steps),
        folder=folder,
        facts=alone_steps,
        trials=trials,
        unit="networks",
        progress=progress,
    )
    each = [alone_steps * row["step_seconds"] + row["judge_seconds"] for row in rows]
    alone = sum(each) / len(each) * len(keys) / usable_cores()
    return {
        **record_header(seed=job.seed, data_hash=found.settings["data"]),
        "study": workspace.study,
        "trials": len(keys),
        "timed_trials": len(rows),
        "fit": asdict(replace(job.settings.fit, steps=alone_steps)),
        "alone_seconds": alone,
        "stage_seconds": took,
        "times_the_trials": alone / took["search"],
        "times_all_stages": alone / sum(took.values()),
        "rows": rows,
    }


def _stages(timings: Path) -> dict[str, float]:
    """Seconds of `STAGES`.

    Raises:
        UserError: the file or a stage is missing.
    """
    found = json.loads(timings.read_text(encoding="utf-8")) if timings.is_file() else {}
    missing = [stage for stage in STAGES if stage not in found]
    if missing:
        raise UserError(
            f"{timings} does not say how long {', '.join(missing)} took; run a whole search, with "
            "a supernet and a teacher"
        )
    return {stage: found[stage] for stage in STAGES}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--alone-steps", type=int, default=1200, help="(1200)")
    parser.add_argument("--trials", type=int, help="time the first so many (all)")
    parser.add_argument("--folder", type=Path, default=Path("runs/spared_time"))
    parser.add_argument("--write", type=Path, help="a JSON file, beside printing it")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with shown_progress() as progress:
        result = compare(
            Workspace(options.runs, options.study),
            alone_steps=options.alone_steps,
            folder=options.folder,
            trials=options.trials,
            progress=progress,
        )
    if options.write:
        write_json(options.write, result)
    print(json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=1))


if __name__ == "__main__":
    main()
