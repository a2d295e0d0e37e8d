"""Seconds a trial that the sampler and the SQLite storage take; prints JSON.

    python -m benchmarks.sampler --trials 200

Evaluations return at once: AP is a made-up saturating function of the exact MACs and parameters,
so that TPE and NSGA-II have something to learn. The target is 0.1 s a trial at 200 trials.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nas.records import record_header
from nas.stop_rule import StopRule
from objectives.cost import Cost, architecture_cost
from objectives.limits import Limits
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from studies.executors import InProcess, Workers
from studies.samplers import BASES
from studies.search import Search, run_search
from studies.settings import StudySettings
from studies.storage import Score, completed_trials, load_study, sqlite_url

LAST = 20


def measure(sampler: str, *, trials: int, seed: int) -> dict[str, Any]:
    """Times of one search in a folder of its own."""
    limits = Limits()
    cost = partial(architecture_cost, image_size=limits.image_size)
    spent_on_costs = 0.0

    def timed_cost(architecture: Architecture) -> Cost:
        nonlocal spent_on_costs
        start = time.perf_counter()
        found = cost(architecture)
        spent_on_costs += time.perf_counter() - start
        return found

    def evaluate(architecture: Architecture, _trial: int, _rule: StopRule) -> Mapping[str, Score]:
        found = cost(architecture)
        return {"ap": 1 - 1 / (1 + found.params / 1e5 + found.macs / 1e9)}

    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = StudySettings(
            space=SPACE.fingerprint, data="none", limits=limits, sampler=sampler, seed=seed
        )
        url = sqlite_url(Path(folder) / "study.db")
        search = Search(
            study_name="bench", storage_url=url, settings=settings, space=SPACE, cost=timed_cost
        )
        start = time.perf_counter()
        run_search(
            search,
            Workers(InProcess, evaluate),
            budget=trials,
            progress=lambda _label, _done, _total: ends.append(time.perf_counter()),
        )
        seconds = time.perf_counter() - start
        rows = completed_trials(load_study("bench", url))
    keeping = [limits.allow(cost(Architecture.from_key(row.key))) for row in rows]
    return {
        "sampler": sampler,
        "trials": trials,
        "genes": len(SPACE.genes),
        "seconds_per_trial": seconds / trials,
        "seconds_per_trial_at_the_end": (ends[-1] - ends[-1 - min(LAST, trials)])
        / min(LAST, trials),
        "seconds_per_trial_for_costs": spent_on_costs / trials,
        "feasible_share": sum(keeping) / trials,
        "distinct_share": len({row.key for row in rows}) / trials,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sampler", choices=tuple(BASES), action="append", help="default: all")
    chosen = parser.parse_args()
    results = [
        measure(sampler, trials=chosen.trials, seed=chosen.seed)
        for sampler in chosen.sampler or tuple(BASES)
    ]
    header = record_header(seed=chosen.seed, data_hash="none")
    print(json.dumps(header | {"results": results}, indent=2))


if __name__ == "__main__":
    main()
