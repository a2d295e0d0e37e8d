"""From a trial number to a detector in a file: retrain, export, evaluate, benchmark."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data.augment import AugmentSettings
from data.errors import UserError, unknown_name
from data.files import write_json
from data.loader import FullSizeLoader
from data.progress import Progress, silent
from data.quantities import parse_image_size
from data.sample import ImageSource
from data.sources import ready_to_train
from nas.benchmark import benchmark
from nas.evaluate import evaluate_model
from nas.export import export_onnx
from nas.fitting import FitSettings, seeded
from nas.records import record_header, usable_cores
from nas.retrain import retrain
from nas.supernet_training import load_supernet
from nas.weights import load_detector
from objectives.cost import architecture_cost, second_opinions
from objectives.limits import Limits
from search_spaces.architecture import Architecture
from search_spaces.network import Detector, build
from search_spaces.space import SPACE
from studies.schedule import retrain_settings, schedule_from_json
from studies.storage import SETTINGS, find_trial, load_study
from studies.workspace import Workspace

DEPLOYED_IMAGE_SIZE = Limits().image_size
STARTS = ("supernet", "scratch")

MADE_FROM_WEIGHTS = ("model.onnx", "export.json", "evaluation.json", "benchmark.json")
"""Files of a trial that new weights make untrue."""


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


@dataclass(frozen=True, slots=True)
class RetrainOptions:
    """What a person asks of a retraining; None stands for the study's own schedule.

    start: "supernet" or "scratch".
    """

    start: str = "supernet"
    steps: int | None = None
    image_size: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise unknown_name("start", self.start, STARTS)
        if self.image_size is not None:
            parse_image_size(self.image_size)
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise UserError(f"--learning-rate must be positive, got {self.learning_rate}")


def plan_retrain(
    workspace: Workspace,
    storage_url: str | None,
    trial: int,
    options: RetrainOptions,
    *,
    seed: int,
    cuda: bool,
) -> RetrainRequest:
    """The retraining of a completed trial, as its study and the options have it.

    Raises:
        UserError: there is no such study or trial, or its supernet is gone.
    """
    study = load_study(workspace.study, storage_url or workspace.storage_url)
    row = find_trial(study, trial)
    saved = study.user_attrs[SETTINGS]
    schedule = schedule_from_json(saved["stages"]["schedule"])
    asked = {
        name: value
        for name in ("steps", "image_size", "batch_size", "learning_rate")
        if (value := getattr(options, name)) is not None
    }
    usual = retrain_settings(1.0, cuda=True) if cuda else schedule.retrain
    supernet = None
    if options.start == "supernet":
        supernet = workspace.supernet(saved["stages"]["supernet"])
        if not supernet.is_file():
            raise UserError(
                f"the supernet {supernet} of study {workspace.study!r} is gone; run the search "
                "again to train it, or use --start scratch"
            )
    return RetrainRequest(
        trial=trial, key=row.key, settings=replace(usual, **asked), supernet=supernet, seed=seed
    )


def retrain_trial(
    workspace: Workspace,
    request: RetrainRequest,
    source: ImageSource,
    *,
    device: torch.device,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train the network of a trial at full size; writes `weights.safetensors` and `retrain.json`.

    A retraining that was cut goes on from its checkpoint. When it is done, what was made from
    the weights before is deleted.
    """
    folder = workspace.trial(request.trial)
    batches = FullSizeLoader(
        ready_to_train(source, workers=usable_cores(), progress=progress),
        batch_size=request.settings.batch_size,
        image_size=request.settings.image_size,
        seed=request.seed,
        augment=AugmentSettings(),
    )
    start = time.perf_counter()
    report = retrain(
        _initial(request).to(device),
        batches,
        request.settings,
        folder=folder,
        facts={"trial": request.trial, "data": source.description, "seed": request.seed},
        progress=progress,
    )
    for name in MADE_FROM_WEIGHTS:
        (folder / name).unlink(missing_ok=True)
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


def export_trial(
    workspace: Workspace, trial: int, *, image_size: int = DEPLOYED_IMAGE_SIZE
) -> dict[str, Any]:
    """Export the retrained network of a trial to `model.onnx`, checked against torch.

    `export.json` also says what the network costs at image_size, and what fvcore and thop think.

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
    opinions = second_opinions(network, image_size)
    result = {
        **record_header(seed=None, data_hash=None),
        **report.to_json(),
        "image_size": image_size,
        "cost": asdict(architecture_cost(network.architecture, image_size=image_size)),
        "second_opinions": {name: asdict(opinion) for name, opinion in opinions.items()},
    }
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
    timing = benchmark(
        onnx, image_sizes=sorted({256, image_size}), threads=(1, 2), progress=progress
    )
    timing.write(folder / "benchmark.json")
    return {"precision": precision, "benchmark": timing.to_json()}
