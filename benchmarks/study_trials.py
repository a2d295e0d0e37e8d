"""The trials of a study, measured anew one by one and kept."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optuna.study import Study

from benchmarks.kept_rows import Row, kept_rows
from data.progress import Progress
from nas.proxy import ProxyJob
from studies.fidelity_stage import job_of_trials
from studies.storage import SETTINGS, load_study
from studies.workspace import Workspace


@dataclass(frozen=True, slots=True)
class StudyTrials:
    """A study, its settings, how it fits and judges, and the key of each trial, in their order."""

    study: Study
    settings: dict[str, Any]
    job: ProxyJob
    keys: list[str]

    @staticmethod
    def of(workspace: Workspace) -> "StudyTrials":
        """The trials of this study.

        Raises:
            UserError: there is no such study, or its shards or supernet are gone.
        """
        study = load_study(workspace.study, workspace.storage_url)
        settings = study.user_attrs[SETTINGS]
        job = job_of_trials(workspace, settings, device="cpu")
        keys = [trial.user_attrs["key"] for trial in study.trials if "key" in trial.user_attrs]
        return StudyTrials(study, settings, job, keys)

    def measured(
        self,
        measure: Callable[[ProxyJob, str], Row],
        *,
        folder: Path,
        facts: Any,
        trials: int | None,
        unit: str,
        progress: Progress,
    ) -> list[Row]:
        """The row of each of the first `trials`, or of all; see `kept_rows`.

        folder: where rows are kept, by the study's settings and `facts`, what else they depend on,
        of JSON's types.
        """
        name = json.dumps([self.settings, facts], sort_keys=True)
        home = folder / hashlib.sha256(name.encode()).hexdigest()[:16]
        rows = {home / f"{key}.json": partial(measure, self.job, key) for key in self.keys[:trials]}
        return kept_rows(rows, unit=unit, progress=progress)
