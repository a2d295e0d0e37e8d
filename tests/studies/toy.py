"""A toy search: real architectures, costs and scores by simple arithmetic."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nas.stop_rule import (
    FIT_STEPS,
    NEVER,
    RUNG_REPLICATES,
    RUNG_SCORES,
    SPARED_AT,
    STOPPED_AT,
    StopRule,
)
from objectives.cost import Cost
from objectives.limits import Limits
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from studies.executors import Evaluate, local_workers
from studies.search import Search, run_search
from studies.settings import DEFAULT_SAMPLER, StudySettings
from studies.storage import Score, sqlite_url

BUDGET = 24
"""Trials of the search that a test kills."""

LIMITS = Limits(max_params=20_000, max_macs=400_000, max_memory_bytes=40_000)


def toy_cost(architecture: Architecture) -> Cost:
    """About a third of random architectures keep `LIMITS`."""
    widths = [stage.width for stage in architecture.stages]
    depths = [stage.depth for stage in architecture.stages]
    params = sum(d * w * w for d, w in zip(depths, widths, strict=True))
    macs = params * 8 + architecture.neck.width**2 * architecture.neck.repeats * 10
    return Cost(params, macs, 1000 * architecture.stem_width + 100 * max(widths))


def toy_scores(
    architecture: Architecture, trial: int, rule: StopRule = NEVER
) -> Mapping[str, Score]:
    """Deterministic scores, with a front worth searching, at two rungs and at the end."""
    cost = toy_cost(architecture)
    bonus = 0.1 * (architecture.neck.kind == "pan") + 0.01 * architecture.head.depth
    ap = 1 - 1 / (1 + cost.params / 5000) + bonus
    scores: dict[str, Score] = {
        "ap": ap,
        "trial_seen": trial,
        RUNG_SCORES: [ap / 4, ap / 2],
        RUNG_REPLICATES: [[ap / 4], [ap / 2]],
    }
    if not rule.is_beaten(0, [ap / 4 + 0.02]):
        return {**scores, FIT_STEPS: 9}
    if rule.is_exempt:
        return {**scores, FIT_STEPS: 9, SPARED_AT: 1}
    return {
        "ap": ap / 4,
        "trial_seen": trial,
        RUNG_SCORES: [ap / 4],
        RUNG_REPLICATES: [[ap / 4]],
        STOPPED_AT: 1,
        FIT_STEPS: 1,
    }


def make_toy() -> Evaluate:
    return toy_scores


def endless_toy() -> Evaluate:
    """Short evaluations, but the last never ends: a test can kill the search, and must."""

    def evaluate(architecture: Architecture, trial: int, rule: StopRule) -> Mapping[str, Score]:
        time.sleep(0.02)
        while trial == BUDGET - 1:
            time.sleep(1)
        return toy_scores(architecture, trial, rule)

    return evaluate


def deadly_toy() -> Evaluate:
    """Trial 2 kills its worker every time."""

    def evaluate(architecture: Architecture, trial: int, rule: StopRule) -> Mapping[str, Score]:
        if trial == 2:
            os._exit(9)
        return toy_scores(architecture, trial, rule)

    return evaluate


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Makes an evaluation that takes a minute and writes to a file all the while."""

    path: Path

    def __call__(self) -> Evaluate:
        def evaluate(architecture: Architecture, trial: int, rule: StopRule) -> Mapping[str, Score]:
            for beat in range(1200):
                self.path.write_text(str(beat))
                time.sleep(0.05)
            return toy_scores(architecture, trial, rule)

        return evaluate


def toy_settings(
    *, sampler: str = DEFAULT_SAMPLER, seed: int = 0, starts: tuple[str, ...] = ()
) -> StudySettings:
    return StudySettings(
        space=SPACE.fingerprint,
        data="none",
        limits=LIMITS,
        sampler=sampler,
        seed=seed,
        starts=starts,
        stages={"proxy": {"steps": 10, "sizes": [160, 256]}},
    )


def toy_search(folder: Path, settings: StudySettings, *, name: str = "toy") -> Search:
    return Search(
        study_name=name,
        storage_url=sqlite_url(folder / "study.db"),
        settings=settings,
        space=SPACE,
        cost=toy_cost,
    )


def main(folder: Path, *, processes: int) -> None:
    """A search that a test must kill: in one process it nearly ends, in several it never begins."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    make = endless_toy if processes == 1 else Heartbeat(folder / "heartbeat")
    with local_workers(make, processes=processes) as workers:
        run_search(toy_search(folder, toy_settings()), workers, budget=BUDGET)


if __name__ == "__main__":
    main(Path(sys.argv[1]), processes=int(sys.argv[2]))
