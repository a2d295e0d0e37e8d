"""Networks of a study that were fitted alone, each kept in its folder as soon as it is done."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data.files import write_json
from data.progress import Progress
from nas.fidelity import StandAloneEvaluator, StandAloneJob
from search_spaces.architecture import Architecture
from studies.executors import local_workers
from studies.storage import TrialRow
from studies.workspace import Workspace


@dataclass(frozen=True, slots=True)
class AloneFits:
    """Fits of one kind, and where they are kept. data_hash: of the job's shards."""

    workspace: Workspace
    job: StandAloneJob
    data_hash: str
    workers: int

    def scores(
        self, rows: Sequence[TrialRow], *, label: str, progress: Progress
    ) -> list[dict[str, Any]]:
        """What the fit of every trial's network gave; networks not kept yet are fitted first.

        `ap` is NaN where the loss was not finite. label: what progress counts.
        """
        missing = [row for row in rows if not self._path(row).is_file()]
        done = len(rows) - len(missing)
        if missing:
            make = partial(StandAloneEvaluator, self.job)
            with local_workers(make, processes=min(self.workers, len(missing))) as pool:
                for row in missing:
                    pool.submit(Architecture.from_key(row.key), row.trial)
                for row in missing:
                    scores: dict[str, Any] = dict(pool.result(row.trial))
                    ap = scores["ap"] if math.isfinite(scores["ap"]) else None
                    write_json(self._path(row), {"key": row.key, **scores, "ap": ap})
                    done += 1
                    progress(label, done, len(rows))
        return [_read(self._path(row)) for row in rows]

    def _path(self, row: TrialRow) -> Path:
        """Another file where anything that the scores depend on differs."""
        job = self.job
        seeds = (job.seed, job.fit_seed)
        facts = [self.data_hash, asdict(job.proxy), asdict(job.fit), seeds, row.key]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
        return self.workspace.file("alone") / f"trial-{row.trial}-{digest}.json"


def _read(path: Path) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads(path.read_text())
    del scores["key"]
    return scores if scores["ap"] is not None else {**scores, "ap": math.nan}
