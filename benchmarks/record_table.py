"""A table of architectures fitted alone on real shards, on which samplers are compared in seconds.

Run from the repository's root:
python -m benchmarks.record_table SHARDS [--architectures 100] [--steps 450] [--seed 0]
    [--write benchmarks/search_table.json]
SHARDS is a folder that `prepare` or a search wrote. Half of the architectures are drawn at random
among those that keep the usual limits, half evenly over the logarithm of their MACs. Each is
fitted from scratch and judged on held-out crops, on the way too, where a search's early stopping
would: `benchmarks.early_stopping` replays that. What is measured once is kept in --folder, so a
run that was cut goes on. `run_search.py compare-samplers` reads the table.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks.kept_rows import kept_rows
from data.files import write_json
from data.progress import Progress, silent
from data.shards import ShardSet, open_shards
from nas.device import keep_freed_memory
from nas.fitting import NotFiniteError
from nas.proxy import CandidateFitter, ProxySettings
from nas.records import record_header
from objectives.average_precision import PrecisionReport
from objectives.cost import Cost, architecture_cost
from objectives.limits import Limits
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from studies.console import shown_progress
from studies.schedule import FULL_BUDGET, schedule_for

POOL = 20
"""Feasible architectures drawn for each one that is chosen."""

LIMITS = Limits()
TRIAL = schedule_for(FULL_BUDGET, cuda=False, real=True).proxy
"""How a search on real images judges its trials; here they have no supernet and no teacher, and
so need more steps to say as much."""

STEPS = 450


@dataclass(frozen=True, slots=True)
class Recording:
    """How each architecture is fitted and judged."""

    shards: Path
    steps: int
    seed: int


def draw(count: int, *, seed: int) -> list[Architecture]:
    """Different feasible architectures: half as they come, then half spread over log MACs."""
    generator = np.random.default_rng(seed)
    found: dict[Architecture, Cost] = {}
    while len(found) < POOL * count:
        architecture = SPACE.decode(SPACE.random_genotype(generator))
        cost = architecture_cost(architecture, image_size=LIMITS.image_size)
        if LIMITS.allow(cost):
            found[architecture] = cost
    chosen = list(found)[: count // 2]
    sizes = {a: math.log(cost.macs) for a, cost in found.items() if a not in set(chosen)}
    for size in np.linspace(min(sizes.values()), max(sizes.values()), count - len(chosen)):
        nearest = min(sizes, key=lambda a: abs(sizes[a] - size))
        chosen.append(nearest)
        del sizes[nearest]
    return chosen


def _settings(recording: Recording, image_size: int) -> ProxySettings:
    """As a search fits and judges its trials, for so many steps."""
    return replace(TRIAL, fit=replace(TRIAL.fit, steps=recording.steps, image_size=image_size))


def _recipe(recording: Recording, shards: ShardSet) -> dict[str, Any]:
    settings = _settings(recording, shards.image_size)
    return {"fit": asdict(settings.fit), "loss": asdict(settings.loss)}


def fingerprint(recording: Recording, shards: ShardSet) -> str:
    """Name of the folder of measured rows; another one where a row would be another."""
    facts = [shards.hash, recording.seed, _recipe(recording, shards)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@cache
def _fitter(recording: Recording) -> CandidateFitter:
    """Opened once in each process."""
    torch.set_num_threads(1)
    keep_freed_memory()
    shards = open_shards(recording.shards)
    settings = _settings(recording, shards.image_size)
    return CandidateFitter(shards, settings, seed=recording.seed, device=torch.device("cpu"))


def measure(recording: Recording, key: str) -> dict[str, Any]:
    """A row of the table; `ap` is None where the loss was not finite.

    `rungs`: smooth AP and its interval's upper end at each rung.
    """
    fitter, architecture = _fitter(recording), Architecture.from_key(key)
    cost = architecture_cost(architecture, image_size=LIMITS.image_size)
    settings = fitter.settings
    row: dict[str, Any] = {"key": key, **asdict(cost), "ap": None}
    rungs: list[dict[str, float]] = []
    stops = (*settings.rungs, settings.fit.steps)
    start = perf_counter()
    try:
        for steps, network in zip(
            stops,
            fitter.fit_through(fitter.start(architecture), settings.fit, stops=stops),
            strict=True,
        ):
            is_end = steps == settings.fit.steps
            report = fitter.judge(network, images=None if is_end else settings.rung_images)
            if not is_end:
                rungs.append(_rung(steps, report))
    except NotFiniteError:
        return row
    return row | {
        "rungs": rungs,
        "ap": round(report.ap, 6),
        "ap_interval": [round(end, 6) for end in report.interval],
        "smooth_ap": round(report.smooth_ap, 6),
        "seconds": round(perf_counter() - start, 1),
    }


def _rung(steps: int, report: PrecisionReport) -> dict[str, float]:
    score, ceiling = report.smooth_ap, report.smooth_interval[1]
    return {"steps": steps, "score": round(score, 6), "ceiling": round(ceiling, 6)}


def record(
    recording: Recording,
    architectures: Sequence[Architecture],
    folder: Path,
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The table as plain values. folder: where rows are kept until all are known."""
    shards = open_shards(recording.shards)
    home = folder / fingerprint(recording, shards)
    measurements = {
        home / f"{a.key}.json": partial(measure, recording, a.key) for a in architectures
    }
    rows = kept_rows(measurements, unit="networks", progress=progress)
    return {
        **record_header(seed=recording.seed, data_hash=shards.hash),
        "data": shards.manifest["source"],
        "space": SPACE.fingerprint,
        "limits": asdict(LIMITS),
        **_recipe(recording, shards),
        "not_finite": [row["key"] for row in rows if row["ap"] is None],
        "rows": [row for row in rows if row["ap"] is not None],
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--architectures", type=int, default=100, help="(100)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each fit (450)")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--folder", type=Path, default=Path("runs/search_table"))
    parser.add_argument("--write", type=Path, default=Path("benchmarks/search_table.json"))
    return parser.parse_args()


def main() -> None:
    """Record and write."""
    options = parse()
    recording = Recording(options.shards, options.steps, options.seed)
    with shown_progress() as progress:
        architectures = draw(options.architectures, seed=options.seed)
        table = record(recording, architectures, options.folder, progress=progress)
    write_json(options.write, table)
    print(f"{options.write}: {len(table['rows'])} architectures")
    print(f"next: python run_search.py compare-samplers --table {options.write}")


if __name__ == "__main__":
    main()
