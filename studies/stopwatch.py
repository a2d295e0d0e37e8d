"""How long the stages of a job took, over all its runs."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.files import write_json


class Stopwatch:
    """Seconds of each stage, kept in a JSON file and added up over the runs of one study."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.this_run: dict[str, float] = {}
        self.all_runs: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Time a stage; one that is cut by an error or by Ctrl-C counts too."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.this_run[stage] = self.this_run.get(stage, 0.0) + seconds
            self.all_runs[stage] = self.all_runs.get(stage, 0.0) + seconds
            write_json(self._path, self.all_runs)
