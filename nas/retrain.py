"""Training the chosen architecture at full size."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from data.errors import UserError
from data.files import write_text
from data.loader import BatchSource, prefetched
from data.progress import Progress, silent
from nas.fitting import FitSettings, NotFiniteError, Trainer
from nas.weights import save_detector, save_state
from search_spaces.network import Detector

CHECKPOINT_STEPS = 100
LOG_STEPS = 10


@dataclass(frozen=True, slots=True)
class RetrainReport:
    """How a retraining went. seconds and images_per_second are of this call alone."""

    steps: int
    resumed_at: int
    last_loss: float
    seconds: float
    images_per_second: float


def retrain(
    network: Detector,
    batches: BatchSource,
    settings: FitSettings,
    *,
    folder: Path,
    facts: dict[str, Any],
    progress: Progress = silent,
) -> RetrainReport:
    """Train to the last step and write `weights.safetensors` to the folder.

    Beside it: `training.jsonl`, a row every LOG_STEPS steps, and while it is not finished
    `checkpoint.pt`, from which the same call goes on to the same result.

    facts: JSON values stored with the weights.

    Raises:
        UserError: the checkpoint is of another architecture or other settings, or the loss is
            not finite any more; the last checkpoint is kept.
    """
    trainer = Trainer(network, settings)
    identity = {"architecture": network.architecture.key, "settings": asdict(settings)}
    checkpoint = folder / "checkpoint.pt"
    rows = _resume(trainer, checkpoint, identity)
    resumed_at, start, loss = trainer.step_count, time.perf_counter(), 0.0
    steps = range(resumed_at, settings.steps)
    for batch in prefetched(batches, steps, workers=2):
        try:
            report = trainer.step(batch)
        except NotFiniteError as error:
            raise UserError(
                f"{error}; the last good state is {checkpoint}: try a lower learning rate"
            ) from error
        loss = report.loss
        progress("retrain", report.step, settings.steps)
        if report.step % LOG_STEPS == 0:
            rows.append(asdict(report))
        if report.step % CHECKPOINT_STEPS == 0 and report.step < settings.steps:
            _save(checkpoint, trainer, identity, rows)
    seconds = time.perf_counter() - start
    write_text(folder / "training.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    save_detector(
        folder / "weights.safetensors", trainer.result, {**facts, "settings": asdict(settings)}
    )
    checkpoint.unlink(missing_ok=True)
    images = len(steps) * settings.batch_size
    return RetrainReport(settings.steps, resumed_at, loss, seconds, images / max(seconds, 1e-9))


def _save(
    path: Path, trainer: Trainer[Detector], identity: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    save_state(path, {"identity": identity, "rows": rows, **trainer.state_dict()})


def _resume(
    trainer: Trainer[Detector], path: Path, identity: dict[str, Any]
) -> list[dict[str, Any]]:
    """Put the trainer where a checkpoint left off, if there is one; the rows logged so far."""
    if not path.is_file():
        return []
    state = torch.load(path, weights_only=True, map_location=trainer.device)
    if state["identity"] != identity:
        raise UserError(
            f"{path} belongs to another retraining (architecture or settings differ); "
            "delete it to start anew, or repeat the command that made it"
        )
    rows: list[dict[str, Any]] = state["rows"]
    trainer.load_state_dict(state)
    return rows
