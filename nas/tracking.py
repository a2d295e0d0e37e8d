"""Who follows a training: files, a live page, TensorBoard, Weights & Biases.

All of them are `nas.retrain.Tracker`s. They write nothing before they hear of a first row, so
that those of a process that never does leave nothing behind.
"""

import csv
import io
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

from data.errors import UserError, unknown_name
from data.files import write_text
from nas.drawing import write_image
from nas.example_pictures import Picture
from nas.retrain import Row, Tracker
from nas.tracking_page import TrainingState, write_tracking_page

PROGRESS_ROWS = "progress.jsonl"
PROGRESS_TABLE = "progress.csv"
PROGRESS_PAGE = "progress.html"
EXAMPLES = "examples"
SHOWN_EXAMPLES = 4

STEP, EVALUATION = "step", "evaluation"

COLUMNS = (
    "kind",
    "step",
    "epoch",
    "loss",
    "classification",
    "quality",
    "box",
    "positives",
    "learning_rate",
    "gradient_norm",
    "images_per_second",
    "data_wait_share",
    "peak_memory_bytes",
    "ap",
    "best_ap",
    "recall",
    "ap_tiny",
    "ap_small",
    "ap_medium",
    "ap_large",
)
"""Of progress.csv, whatever a row has; AP is also by face height, see `nas.validation`."""

LAST_COUNTS = ("step", "epoch", "learning_rate", "peak_memory_bytes")
"""Of several steps together these are those of the last; other numbers are averaged."""


def flat_numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row, nested ones by joined names; text and lists are left out.

    {"ap": 0.5, "easy": {"ap": 0.9}} gives ap and easy_ap.
    """
    numbers: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            numbers |= {f"{name}_{inner}": one for inner, one in flat_numbers(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers |= {name: value} if math.isfinite(value) else {}
    return numbers


def read_progress(folder: Path) -> list[Row]:
    """The rows that FileTracker has written to a folder, in order; a cut last line is left out.

    Raises:
        UserError: another line is damaged.
    """
    path = folder / PROGRESS_ROWS
    if not path.is_file():
        return []
    whole, _, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    rows = []
    for number, line in enumerate(whole.split("\n") if whole else [], start=1):
        try:
            row = json.loads(line)
            _place(row)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"line {number} of {path} is damaged; delete the file") from error
        rows.append(row)
    return rows


def _place(row: Row) -> tuple[int, bool]:
    """Rows come in the order of their places."""
    return row["step"], row["kind"] == EVALUATION


def _drop_from(rows: list[Row], row: Row) -> None:
    """Forget the rows that a row comes again for, or before: training has gone back to it."""
    while rows and _place(rows[-1]) >= _place(row):
        rows.pop()


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class FileTracker:
    """Appends every row to `progress.jsonl` and to `progress.csv` at once.

    A row's `kind` is step or evaluation; an evaluation also has the means of the steps logged
    since the one before (of LAST_COUNTS the last). The table has the COLUMNS, the JSON lines have
    all; a number that is not finite is null, and empty in the table.

    With the first row after a start, both files are written anew, whole, without a line that a
    kill has cut and without all rows from this one's step on, which come again after a
    resumption and are of another training after a start from step 0.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows = read_progress(folder)
        self._has_begun = False

    def step(self, row: Row) -> None:
        """Append a row of kind step."""
        self._add({"kind": STEP, **row})

    def evaluation(self, row: Row) -> None:
        """Append a row of kind evaluation."""
        self._add({"kind": EVALUATION, **row})

    def close(self) -> None:
        """Nothing is left to write."""

    def _add(self, row: Row) -> None:
        row = _finite(row)
        _drop_from(self._rows, row)
        if row["kind"] == EVALUATION:
            row = {**_together(_steps_since_evaluation(self._rows)), **row}
        self._rows.append(row)
        if self._has_begun:
            _append(self._folder / PROGRESS_ROWS, _json_line(row))
            _append(self._folder / PROGRESS_TABLE, _table_lines([row]))
            return
        write_text(self._folder / PROGRESS_ROWS, "".join(_json_line(one) for one in self._rows))
        header = ",".join(COLUMNS) + "\n"
        write_text(self._folder / PROGRESS_TABLE, header + _table_lines(self._rows))
        self._has_begun = True


def _steps_since_evaluation(rows: Sequence[Row]) -> list[Row]:
    return [*takewhile(lambda row: row["kind"] == STEP, reversed(rows))][::-1]


def _together(steps: Sequence[Row]) -> Row:
    """One row for several: the last one's values, numbers averaged but for LAST_COUNTS."""
    if not steps:
        return {}
    numbers = [flat_numbers(row) for row in steps]
    means = {
        name: sum(values) / len(values)
        for name in numbers[-1].keys() - set(LAST_COUNTS)
        if (values := [row[name] for row in numbers if name in row])
    }
    return {name: means.get(name, value) for name, value in steps[-1].items()}


def _json_line(row: Row) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _table_lines(rows: Sequence[Row]) -> str:
    lines = io.StringIO()
    writer = csv.DictWriter(lines, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writerows({"kind": row["kind"], **flat_numbers(row)} for row in rows)
    return lines.getvalue()


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text)


@dataclass(frozen=True, slots=True)
class PageSettings:
    """What a training's page shows beside its rows.

    steps: of the whole training. examples: called after each validation; gives a picture of what
    the network finds, or None. seconds_between: least time between two writings while it runs;
    also the time after which the page reloads itself.
    """

    title: str = "Training"
    steps: int | None = None
    examples: Callable[[], Picture | None] | None = None
    seconds_between: float = 20.0

    def __post_init__(self) -> None:
        if not self.seconds_between >= 0:
            raise ValueError(f"seconds_between must be at least 0, got {self.seconds_between}")


class PageTracker:
    """Keeps `progress.html` up to date, and `examples/step-000100.jpg` for each validation.

    What was before a resumption is taken from FileTracker's rows, where there are any. A page
    that a kill has left says after some minutes that there are no news.
    """

    def __init__(
        self,
        folder: Path,
        settings: PageSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._settings = settings or PageSettings()
        self._clock = clock
        self._rows = [_numbers(row["kind"], row) for row in read_progress(folder)]
        self._written_at = -math.inf
        self._first_heard: tuple[int, float] | None = None

    def step(self, row: Row) -> None:
        """Add points to the curves."""
        self._add(_numbers(STEP, row))

    def evaluation(self, row: Row) -> None:
        """Add points to the curves, and a picture."""
        picture = self._settings.examples() if self._settings.examples else None
        if picture is not None:
            write_image(self._folder / _example(row), picture)
        self._add(_numbers(EVALUATION, row))

    def close(self) -> None:
        """Write the page a last time; it reloads itself no more."""
        if self._first_heard is not None:
            self._write(is_running=False)

    def _add(self, row: Row) -> None:
        _drop_from(self._rows, row)
        self._rows.append(row)
        now = self._clock()
        if self._first_heard is None:
            self._first_heard = (row["step"], now)
        if now - self._written_at >= self._settings.seconds_between:
            self._write(is_running=True)
            self._written_at = now

    def _write(self, *, is_running: bool) -> None:
        state = TrainingState(
            title=self._settings.title,
            steps=self._of_kind(STEP),
            evaluations=self._of_kind(EVALUATION),
            total_steps=self._settings.steps,
            seconds_left=self._seconds_left() if is_running else None,
        )
        write_tracking_page(
            self._folder / PROGRESS_PAGE,
            state,
            refresh_seconds=max(5, round(self._settings.seconds_between)) if is_running else None,
            examples=self._examples(),
        )

    def _of_kind(self, kind: str) -> list[Row]:
        return [row for row in self._rows if row["kind"] == kind]

    def _seconds_left(self) -> float | None:
        """At the speed since the first row heard of, validations included."""
        if self._settings.steps is None or self._first_heard is None:
            return None
        (first, start), last = self._first_heard, int(self._rows[-1]["step"])
        if last <= first:
            return None
        return (self._clock() - start) / (last - first) * max(0, self._settings.steps - last)

    def _examples(self) -> list[tuple[int, str]]:
        """The newest pictures of this training; there may be others of one before."""
        evaluations = reversed(self._of_kind(EVALUATION))
        pictures = [(row["step"], _example(row)) for row in evaluations]
        there = [one for one in pictures if (self._folder / one[1]).is_file()]
        return there[:SHOWN_EXAMPLES]


def _numbers(kind: str, row: Row) -> Row:
    return {"kind": kind, **flat_numbers(row)}


def _example(row: Row) -> str:
    return f"{EXAMPLES}/step-{row['step']:06d}.jpg"


def _scalars(row: Row, group: str) -> dict[str, float]:
    return {f"{group}/{name}": value for name, value in flat_numbers(row).items() if name != "step"}


def _extra_package(name: str, *, extra: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"the tracker {extra} needs a package that is not installed; "
            f"install it with: pip install -e '.[{extra}]'"
        ) from error


class TensorBoardTracker:
    """Writes events to the folder's `tensorboard`, for `tensorboard --logdir`.

    After a resumption TensorBoard hides what it was told before of steps that come again.

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        package = _extra_package("torch.utils.tensorboard", extra="tensorboard")
        self._make_writer = package.SummaryWriter
        self._folder = folder
        self._writer: Any = None

    def step(self, row: Row) -> None:
        """Scalars of the group training."""
        self._write(row, "training")

    def evaluation(self, row: Row) -> None:
        """Scalars of the group validation."""
        self._write(row, "validation")

    def close(self) -> None:
        """Write what is not written yet."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, row: Row, group: str) -> None:
        if self._writer is None:
            place = str(self._folder / "tensorboard")
            self._writer = self._make_writer(place, purge_step=row["step"])
        for name, value in _scalars(row, group).items():
            self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()


class WandbTracker:
    """Logs to Weights & Biases: the same scalars as TensorBoardTracker.

    Account, server and whether anything leaves the machine are the environment's, such as
    WANDB_MODE=offline; without WANDB_PROJECT the project is feathernas. Its files lie in the
    folder. A resumption is another run of the same group.

    Raises:
        UserError: the package is not installed, or, with the first row, no run can be started.
    """

    def __init__(self, folder: Path, *, name: str) -> None:
        self._wandb = _extra_package("wandb", extra="wandb")
        self._folder = folder
        self._name = name
        self._run: Any = None

    def step(self, row: Row) -> None:
        """Scalars of the group training."""
        self._log(row, "training")

    def evaluation(self, row: Row) -> None:
        """Scalars of the group validation."""
        self._log(row, "validation")

    def close(self) -> None:
        """End the run."""
        if self._run is not None:
            self._run.finish()

    def _log(self, row: Row, group: str) -> None:
        if self._run is None:
            self._run = self._start()
        self._run.log(_scalars(row, group), step=row["step"])

    def _start(self) -> Any:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            return self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", "feathernas"),
                name=self._name,
                group=self._name,
                dir=str(self._folder),
            )
        except self._wandb.Error as error:
            raise UserError(
                f"Weights & Biases did not start: {error}; "
                "run wandb login, or set WANDB_MODE=offline"
            ) from error


TRACKERS: dict[str, Callable[[Path, PageSettings], Tracker]] = {
    "files": lambda folder, _page: FileTracker(folder),
    "page": PageTracker,
    "tensorboard": lambda folder, _page: TensorBoardTracker(folder),
    "wandb": lambda folder, page: WandbTracker(folder, name=page.title),
}
"""Every tracker by its name."""

USUAL_TRACKERS = ("files", "page")


def make_trackers(
    names: Sequence[str], folder: Path, page: PageSettings | None = None
) -> tuple[Tracker, ...]:
    """The trackers of these names, each once, for a training that writes to the folder.

    Raises:
        UserError: a name is unknown, or its package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown_name("tracker", name, tuple(TRACKERS))
    return tuple(TRACKERS[name](folder, page or PageSettings()) for name in dict.fromkeys(names))
