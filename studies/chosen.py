"""From a trial number to a detector in a file: retrain, export, evaluate, benchmark."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from data.errors import UserError
from data.files import write_json
from data.loader import AugmentSettings, FullSizeLoader
from data.progress import Progress, silent
from data.sample import ImageSource
from nas.benchmark import benchmark
from nas.evaluate import evaluate_model
from nas.export import export_onnx
from nas.fitting import FitSettings, seeded
from nas.records import record_header
from nas.retrain import retrain
from nas.supernet_training import load_supernet
from nas.weights import load_detector
from search_spaces.architecture import Architecture
from search_spaces.network import Detector, build
from search_spaces.space import SPACE
from studies.workspace import Workspace


@dataclass(frozen=True, slots=True)
class RetrainRequest:
    """What to train, on what, and for how long.

    supernet: weights to start from; None draws them from the seed.
    """

    trial: int
    key: str
    settings: FitSettings
    supernet: Path | None
    seed: int


def retrain_trial(
    workspace: Workspace,
    request: RetrainRequest,
    source: ImageSource,
    *,
    device: torch.device,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train the network of a trial at full size; writes `weights.safetensors` and `retrain.json`.

    A retraining that was cut goes on from its checkpoint.
    """
    folder = workspace.trial(request.trial)
    batches = FullSizeLoader(
        source,
        batch_size=request.settings.batch_size,
        image_size=request.settings.image_size,
        seed=request.seed,
        augment=AugmentSettings(),
    )
    start = time.perf_counter()
    report = retrain(
        _initial(request),
        batches,
        request.settings,
        folder=folder,
        device=device,
        facts={"trial": request.trial, "data": source.description, "seed": request.seed},
        progress=progress,
    )
    result = {
        **record_header(seed=request.seed, data_hash=source.fingerprint()),
        "trial": request.trial,
        "key": request.key,
        "data": source.description,
        "start": "scratch" if request.supernet is None else "supernet",
        "device": str(device),
        "settings": asdict(request.settings),
        **asdict(report),
        "wall_seconds": time.perf_counter() - start,
    }
    write_json(folder / "retrain.json", result)
    return result


def _initial(request: RetrainRequest) -> Detector:
    architecture = Architecture.from_key(request.key)
    if request.supernet is not None:
        return load_supernet(request.supernet, SPACE).extract(architecture)
    with seeded(request.seed):
        return build(architecture)


def export_trial(workspace: Workspace, trial: int) -> dict[str, Any]:
    """Export the retrained network of a trial to `model.onnx`, checked against torch.

    Raises:
        UserError: the trial has not been retrained.
    """
    folder = workspace.trial(trial)
    weights = folder / "weights.safetensors"
    if not weights.is_file():
        raise UserError(
            f"trial {trial} of study {workspace.study!r} has not been retrained; run: "
            f"python run_search.py retrain --study {workspace.study} --trial {trial}"
        )
    network, facts = load_detector(weights)
    report = export_onnx(
        network,
        folder / "model.onnx",
        metadata={"trial": str(trial), "trained_on": str(facts.get("data", ""))},
    )
    result = {**record_header(seed=None, data_hash=None), **asdict(report)}
    write_json(folder / "export.json", result)
    return result


def measure_trial(
    workspace: Workspace,
    trial: int,
    source: ImageSource,
    *,
    image_size: int,
    seed: int,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Precision on a source's images and latency of an exported trial; writes both files.

    image_size: pixels of the images' longer side, and of the square that is timed.
    """
    folder = workspace.trial(trial)
    onnx = folder / "model.onnx"
    precision = evaluate_model(onnx, source, long_side=image_size, seed=seed, progress=progress)
    record = record_header(seed=seed, data_hash=source.fingerprint())
    write_json(folder / "evaluation.json", {**record, **precision})
    timing = benchmark(onnx, image_sizes=(256, image_size), threads=(1, 2), progress=progress)
    timing.write(folder / "benchmark.json")
    return {"precision": precision, "benchmark": timing.to_json()}
