"""What a benchmark measures once in processes and keeps, so that a run that was cut goes on."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import as_completed
from functools import partial
from pathlib import Path
from typing import Any

from data.files import write_json
from data.processes import ProcessPool
from data.progress import Progress
from nas.records import usable_cores

Row = dict[str, Any]
Measure = Callable[[], Row]


def _as_it_is() -> None:
    """No warm-up."""


def kept_rows(
    measurements: Mapping[Path, Measure],
    *,
    unit: str,
    progress: Progress,
    warm_up: Callable[[], object] = _as_it_is,
) -> list[Row]:
    """The rows of these files, in their order; those that lack theirs are measured first.

    measurements: each runs in one of as many processes as there are cores, so it must be
    picklable, as `functools.partial` of a module's function is. unit: what progress counts.
    warm_up: called once in each process before its first measurement, so that none is timed cold.
    """
    missing = [path for path in measurements if not path.is_file()]
    if missing:
        _measure(measurements, missing, partial(progress, unit), warm_up)
    return [json.loads(path.read_text()) for path in measurements]


def _measure(
    measurements: Mapping[Path, Measure],
    missing: list[Path],
    progress: Callable[[int, int], None],
    warm_up: Callable[[], object],
) -> None:
    kept = len(measurements) - len(missing)
    with ProcessPool(min(usable_cores(), len(missing)), warm_up) as pool:
        try:
            jobs = {pool.submit(measurements[path]): path for path in missing}
            for done, job in enumerate(as_completed(jobs), start=1):
                write_json(jobs[job], job.result())
                progress(kept + done, len(measurements))
        except BaseException:
            pool.abandon()
            raise
