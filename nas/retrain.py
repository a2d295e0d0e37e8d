"""Training one network by a recipe: checkpoints, validation, early stopping, exact resumption."""

import io
import json
import math
import pickle
import resource
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from data.errors import UserError
from data.files import write_text
from data.loader import BatchSource, prefetched
from data.progress import Progress, silent
from data.sample import Batch
from nas.device import keep_freed_memory
from nas.distributed import OwnRows, equal_start, same_for_all, shared_batch_norms
from nas.fitting import ExtraLoss, NotFiniteError, StepReport, Trainer
from nas.recipe import Recipe, recipe_to_json
from nas.records import usable_cores
from nas.team import Team
from nas.weights import load_weights, save_detector, save_state, save_weights
from search_spaces.face_network import FaceNetwork

CHECKPOINT_STEPS = 100
LOG_STEPS = 10

BEST = "best.safetensors"
EVALUATIONS = "evaluations.jsonl"

DAMAGE = (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, KeyError, TypeError)
"""What reading something else than a checkpoint may raise."""

Row = dict[str, Any]
Validate = Callable[[FaceNetwork], Mapping[str, Any]]
"""network, in eval mode -> JSON values, "ap" among them: higher is better."""


class Tracker(Protocol):
    """Something that follows a training. After a resumption steps it has heard of may come again;
    the later row counts."""

    def step(self, row: Row) -> None:
        """Every LOG_STEPS steps: step, epoch, the losses, learning_rate, gradient_norm, and of the
        time since the last row images_per_second, data_wait_share, peak_memory_bytes."""

    def evaluation(self, row: Row) -> None:
        """After each validation: step, epoch, what it gave, best_ap so far."""

    def close(self) -> None:
        """Training has ended, in whatever way."""


@dataclass(frozen=True, slots=True)
class Company:
    """Who takes part in a training beside the network.

    validate: measures the network (its average where one is kept) every `validate_every` steps.
    extra_loss: added to the detection loss, see `nas.fitting.ExtraLoss`; `extra_name` names it, so
    that a checkpoint with another is refused. team: the processes that train together.
    """

    progress: Progress = silent
    validate: Validate | None = None
    trackers: Sequence[Tracker] = ()
    extra_loss: ExtraLoss | None = None
    extra_name: str = ""
    team: Team = field(default_factory=Team)


ALONE = Company()


@dataclass(frozen=True, slots=True)
class RetrainReport:
    """How a retraining went.

    steps: taken in all; fewer than the recipe's where it stopped early. best_step, best_ap: of
    the weights that were kept, None without validation. seconds, images_per_second and
    data_wait_share, the share of the time spent waiting for batches: of this call alone,
    without validation. peak_memory_bytes: of CUDA, else of this process. notes: what was decided
    on the way.
    """

    steps: int
    resumed_at: int
    last_loss: float
    best_step: int | None
    best_ap: float | None
    seconds: float
    images_per_second: float
    data_wait_share: float
    gradient_norm: float
    peak_memory_bytes: int
    notes: tuple[str, ...]

    def to_json(self) -> Row:
        """The same in JSON's types."""
        return {**asdict(self), "notes": list(self.notes)}


def retrain(
    network: FaceNetwork,
    batches: BatchSource,
    recipe: Recipe,
    *,
    folder: Path,
    facts: dict[str, Any],
    company: Company = ALONE,
) -> RetrainReport:
    """Train by the recipe and write `weights.safetensors` to the folder.

    They are those with the best validation AP, else the last. Beside them: `training.jsonl`, a
    row every LOG_STEPS steps; `evaluations.jsonl` and `best.safetensors` with validation; and
    while it is not finished `last.pt`, from which the same call goes on to the same result, bit
    for bit. With a team every member calls this with the whole batches; rank 0 writes.

    facts: JSON values stored with the weights: what they were trained on, with which seed. A
    checkpoint with others is of another training.

    Raises:
        UserError: the checkpoint is damaged, or of another architecture, recipe or facts, or the
            loss is not finite any more; checkpoints are kept.
        ValueError: batches are not of the recipe's size, or patience has no validation.
    """
    _check(batches, recipe, company)
    if next(network.parameters()).device.type == "cpu":
        keep_freed_memory()
    team = company.team
    if team.rank > 0:
        company = replace(company, progress=silent, trackers=())
    equal_start(network, team)
    with shared_batch_norms(network, team):
        run = _Run(network, recipe, folder, facts, company)
        try:
            run.resume()
            run.train(OwnRows(batches, team), epoch_steps=batches.batches_per_epoch)
        finally:
            for tracker in company.trackers:
                tracker.close()
        return run.finish()


def _check(batches: BatchSource, recipe: Recipe, company: Company) -> None:
    for name in ("batch_size", "image_size"):
        if getattr(batches, name) != getattr(recipe.fit, name):
            raise ValueError(
                f"{name} must be the recipe's {getattr(recipe.fit, name)}, "
                f"got batches of {getattr(batches, name)}"
            )
    if recipe.patience and company.validate is None:
        raise ValueError(f"patience must be 0 without validation, got {recipe.patience}")
    if recipe.fit.batch_size % company.team.size:
        raise UserError(
            f"batch_size must be a multiple of the {company.team.size} processes, "
            f"got {recipe.fit.batch_size}"
        )


@dataclass(slots=True)
class _Best:
    """The best validation so far, and those since without gain."""

    ap: float = -math.inf
    step: int = 0
    without_gain: int = 0


class _Run:
    """One retraining and all that changes in it."""

    def __init__(
        self,
        network: FaceNetwork,
        recipe: Recipe,
        folder: Path,
        facts: dict[str, Any],
        company: Company,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.company = company
        self.trainer = Trainer(
            network,
            recipe.fit,
            loss=recipe.loss,
            extra_loss=company.extra_loss,
            team=company.team,
            compiled=recipe.compile,
        )
        self.identity = {
            "architecture": network.key,
            "recipe": recipe_to_json(recipe),
            "extra_loss": company.extra_name,
            "facts": json.loads(json.dumps(facts)),
        }
        self.facts = {**facts, "recipe": self.identity["recipe"]}
        self.writes = company.team.rank == 0
        self.rows: list[Row] = []
        self.evaluations: list[Row] = []
        self.best = _Best()
        self.resumed_at = 0
        self.last: Row = {}
        self.clock = _Clock()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "last.pt"

    def train(self, batches: BatchSource, *, epoch_steps: int) -> None:
        """Take the steps that are left, or those until validation gains nothing any more."""
        steps, images = self.recipe.fit.steps, self.recipe.fit.batch_size
        left = range(self.trainer.step_count, 0 if self._has_stopped else steps)
        self.clock = _Clock()
        for batch in self.clock.waiting(prefetched(batches, left, workers=usable_cores())):
            report = self._step(batch)
            self.last = asdict(report)
            self.clock.images += images
            self.company.progress("retrain", report.step, steps)
            self._after_step(report.step, epoch=report.step / epoch_steps)
            if self._has_stopped:
                break

    def _after_step(self, step: int, *, epoch: float) -> None:
        """What is due: log, validate, save."""
        if step % LOG_STEPS == 0:
            self._log(epoch)
        validated = self._is_validated(step)
        if validated:
            with self.clock.paused():
                self._evaluate(epoch)
        is_last = step == self.recipe.fit.steps
        if self.writes and (validated or (step % CHECKPOINT_STEPS == 0 and not is_last)):
            self._save()

    @property
    def _has_stopped(self) -> bool:
        return 0 < self.recipe.patience <= self.best.without_gain

    def _step(self, batch: Batch) -> StepReport:
        try:
            return self.trainer.step(batch)
        except NotFiniteError as error:
            kept = (
                f"; the last good state is {self.checkpoint}" if self.checkpoint.is_file() else ""
            )
            raise UserError(f"{error}{kept}: try a lower learning rate") from error

    def _log(self, epoch: float) -> None:
        self.rows.append(self.last)
        memory = peak_memory_bytes(self.trainer.device)
        row = {**self.last, "epoch": epoch, **self.clock.row(), "peak_memory_bytes": memory}
        for tracker in self.company.trackers:
            tracker.step(row)

    def _is_validated(self, step: int) -> bool:
        every = self.recipe.validate_every
        if self.company.validate is None or every == 0:
            return False
        return step % every == 0 or step == self.recipe.fit.steps

    def _evaluate(self, epoch: float) -> None:
        """Validate on rank 0 and let all members know what it gave."""
        step, result = self.trainer.step_count, self.trainer.result
        found: Row = {}
        if self.writes and self.company.validate is not None:
            with torch.no_grad():
                found = json.loads(json.dumps(dict(self.company.validate(result.eval()))))
        ap = same_for_all(float(found.get("ap", 0.0)), self.company.team, self.trainer.device)
        if ap > self.best.ap:
            self.best = _Best(ap, step)
            if self.writes:
                self._save_best(found)
        else:
            self.best.without_gain += 1
        row = {"step": step, "epoch": epoch, **found, "best_ap": self.best.ap}
        self.evaluations.append(row)
        for tracker in self.company.trackers:
            tracker.evaluation(row)

    def _save_best(self, found: Row) -> None:
        facts = {**self.facts, "step": self.best.step, "validation": found}
        save_detector(self.folder / BEST, self.trainer.result, facts)

    def _save(self) -> None:
        state = {
            "identity": self.identity,
            "last": self.last,
            "rows": self.rows,
            "evaluations": self.evaluations,
            "best": asdict(self.best),
            **self.trainer.state_dict(),
        }
        save_state(self.checkpoint, state)

    def resume(self) -> None:
        """Put everything where the checkpoint left off; without one, begin in a clean folder."""
        if self.checkpoint.is_file():
            state = load_checkpoint(self.checkpoint, self.identity, device=self.trainer.device)
            self.last, self.best = state["last"], _Best(**state["best"])
            self.rows, self.evaluations = state["rows"], state["evaluations"]
            self.trainer.load_state_dict(state)
            self.resumed_at = self.trainer.step_count
        elif self.writes:
            for name in (BEST, EVALUATIONS):
                (self.folder / name).unlink(missing_ok=True)

    def finish(self) -> RetrainReport:
        """Write the weights and logs; the report."""
        has_best = self.best.step > 0
        if self.writes:
            self._write(has_best=has_best)
        stopped = (
            f"stopped at step {self.trainer.step_count}: "
            f"{self.best.without_gain} validations without gain"
        )
        return RetrainReport(
            steps=self.trainer.step_count,
            resumed_at=self.resumed_at,
            last_loss=self.last["loss"],
            gradient_norm=self.last["gradient_norm"],
            best_step=self.best.step if has_best else None,
            best_ap=self.best.ap if has_best else None,
            seconds=self.clock.seconds,
            images_per_second=self.clock.images / self.clock.seconds,
            data_wait_share=self.clock.waited / self.clock.seconds,
            peak_memory_bytes=peak_memory_bytes(self.trainer.device),
            notes=(*self.trainer.notes, *([stopped] if self._has_stopped else [])),
        )

    def _write(self, *, has_best: bool) -> None:
        weights = self.folder / "weights.safetensors"
        if has_best:
            save_weights(weights, *load_weights(self.folder / BEST))
        else:
            facts = {**self.facts, "step": self.trainer.step_count}
            save_detector(weights, self.trainer.result, facts)
        _write_rows(self.folder / "training.jsonl", self.rows)
        if self.evaluations:
            _write_rows(self.folder / EVALUATIONS, self.evaluations)
        self.checkpoint.unlink(missing_ok=True)


class _Clock:
    """Time since it was made, pauses left out, and the share of it spent waiting for batches."""

    def __init__(self) -> None:
        self.images = 0
        self.waited = 0.0
        self._start = time.perf_counter()
        self._last = (0, 0.0, 0.0)

    @property
    def seconds(self) -> float:
        return max(1e-9, time.perf_counter() - self._start)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that does not count."""
        before = time.perf_counter()
        yield
        self._start += time.perf_counter() - before

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time until each is there counts as waiting."""
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def row(self) -> Row:
        """Images a second and share of waiting since the last row."""
        now = (self.images, self.seconds, self.waited)
        images, seconds, waited = (new - old for new, old in zip(now, self._last, strict=True))
        self._last = now
        seconds = max(1e-9, seconds)
        return {"images_per_second": images / seconds, "data_wait_share": waited / seconds}


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held so far: tensors on a CUDA device, else all that this process held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def load_checkpoint(path: Path, identity: Row, *, device: torch.device) -> Row:
    """The state in a checkpoint of the training with this identity. No code in it is run.

    Raises:
        UserError: it is damaged, or of another training; says in what they differ.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        damaged = zipfile.ZipFile(content).testzip()
        content.seek(0)
        state: Row = torch.load(content, weights_only=True, map_location=device)
        saved = state["identity"]
    except DAMAGE as error:
        raise UserError(f"{path} is damaged or no checkpoint; delete it to start anew") from error
    if damaged is not None:
        raise UserError(f"{path} is damaged ({damaged}); delete it to start anew")
    differences = list(_differences(saved, identity))
    if differences:
        raise UserError(
            f"{path} belongs to another retraining ({'; '.join(differences[:3])}); "
            "delete it to start anew, or repeat the command that made it"
        )
    return state


def _differences(saved: Any, asked: Any, name: str = "") -> Iterator[str]:
    """In what two nested JSON values differ, leaf by leaf."""
    if isinstance(saved, dict) and isinstance(asked, dict):
        for key in [*saved, *(asked.keys() - saved.keys())]:
            yield from _differences(saved.get(key), asked.get(key), key)
    elif saved != asked:
        yield f"{name} is {saved} there, {asked} here"


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
