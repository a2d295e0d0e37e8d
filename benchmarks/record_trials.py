"""The trials of a study fitted to their end, also those that it stopped, and judged on the way.

Run from the repository's root:
python -m benchmarks.record_trials STUDY --write docs/results/trials.json [--runs runs]
    [--trials 200]
Every trial is fitted as its study fits it, from the same weights, with the same teacher and images,
and judged after NINTHS of its steps, as at a rung, and at the end: what early stopping lost in that
search, and what another rule would have done, `benchmarks.early_stopping` finds from that. What is
measured once is kept in --folder, so a run that was cut goes on.
"""

import argparse
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import optuna
import torch

from benchmarks.study_trials import StudyTrials
from data.files import write_json
from data.progress import Progress, silent
from data.shards import open_shards
from nas.device import keep_freed_memory
from nas.fitting import NotFiniteError
from nas.outlook import OUTLOOK, usual_macs
from nas.proxy import ProxyEvaluator, ProxyJob, short_numbers, trial_scores
from nas.records import record_header
from objectives.average_precision import PrecisionReport
from objectives.cost import architecture_cost
from search_spaces.architecture import Architecture
from studies.console import shown_progress
from studies.front import cost_name, score_name
from studies.workspace import Workspace

NINTHS = (1, 2, 3)
"""Of a fit's steps: where it is judged, the rungs of `nas.stop_rule` among them."""


@cache
def _evaluator(job: ProxyJob) -> ProxyEvaluator:
    """Opened once in each process."""
    torch.set_num_threads(1)
    keep_freed_memory()
    return ProxyEvaluator(job)


def measure(job: ProxyJob, key: str, image_size: int) -> dict[str, Any]:
    """What a trial comes to; `ap` is None where the loss was not finite.

    image_size: that its cost is counted at. Scores at rungs are not its outlooks there.
    """
    evaluator, architecture = _evaluator(job), Architecture.from_key(key)
    fitter, end = evaluator.fitter, job.settings.fit.steps
    cost = asdict(architecture_cost(architecture, image_size=image_size))
    stops = [end * ninths // 9 for ninths in NINTHS]
    rungs = []
    shown = evaluator.fit_through(architecture, stops=(*stops, end))
    try:
        for steps in stops:
            report = fitter.judge(next(shown), images=job.settings.rung_images)
            rungs.append({"steps": steps, **_scores(report)})
        last = fitter.judge(next(shown))
    except NotFiniteError:
        return {"key": key, **cost, "ap": None, "promise": None, OUTLOOK: None, "rungs": rungs}
    scores = trial_scores(last, usual_macs(architecture))
    raised = {name: scores[name] for name in ("ap", "promise", OUTLOOK)}
    return {"key": key, **cost, **raised, "rungs": rungs}


def _scores(report: PrecisionReport) -> dict[str, dict[str, Any]]:
    """What a rung may compare, with the upper end of its noise, and draw by draw."""
    return {
        "smooth_ap": {
            "score": report.smooth_ap,
            "ceiling": report.smooth_interval[1],
            "replicates": short_numbers(report.smooth_replicates),
        },
        "promise": {"score": report.promise, "ceiling": report.promise_interval[1]},
    }


def record(
    workspace: Workspace, *, folder: Path, trials: int | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """The result as plain values. folder: where rows are kept, by what they depend on.
    trials: the first so many.

    Raises:
        UserError: there is no such study, or its shards or supernet are gone.
    """
    found = StudyTrials.of(workspace)
    job, study = found.job, found.study
    shards, size = open_shards(job.shards), found.settings["limits"]["image_size"]
    rows = found.measured(
        partial(measure, image_size=size),
        folder=folder,
        facts=NINTHS,
        trials=trials,
        unit="trials",
        progress=progress,
    )
    return {
        **record_header(seed=job.seed, data_hash=shards.hash),
        "study": workspace.study,
        "data": shards.manifest["source"],
        "fit": asdict(job.settings.fit),
        "lowered": cost_name(study),
        "raised": score_name(study),
        "rows": [row for row in rows if row["ap"] is not None],
        "not_finite": [row["key"] for row in rows if row["ap"] is None],
    }


def main() -> None:
    """Record and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--trials", type=int, help="the first so many (all)")
    parser.add_argument("--folder", type=Path, default=Path("runs/trials"))
    parser.add_argument("--write", type=Path, required=True)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with shown_progress() as progress:
        result = record(
            Workspace(options.runs, options.study),
            folder=options.folder,
            trials=options.trials,
            progress=progress,
        )
    write_json(options.write, result, indent=None)
    print(f"{options.write}: {len(result['rows'])} trials")
    print(f"next: python -m benchmarks.early_stopping --table {options.write}")


if __name__ == "__main__":
    main()
