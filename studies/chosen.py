"""From an architecture to a detector in a file: retrain, export, evaluate, benchmark."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from data.errors import UserError, unknown_name
from data.files import write_json
from data.loader import FullSizeLoader
from data.progress import Progress, silent
from data.quantities import parse_image_size
from data.sample import ImageSource
from data.sources import hold_out, ready_to_train
from nas.batch_size import automatic_batch_size
from nas.benchmark import benchmark
from nas.distillation import Distillation
from nas.evaluate import evaluate_model
from nas.example_pictures import WatchedValidation
from nas.export import export_onnx
from nas.fitting import seeded
from nas.recipe import USUAL, Recipe, override, recipe_to_json
from nas.records import record_header, usable_cores
from nas.retrain import Company, retrain
from nas.supernet_training import load_supernet
from nas.teachers import open_teacher
from nas.team import Team
from nas.tracking import TRACKERS, USUAL_TRACKERS, PageSettings, make_trackers
from nas.validation import Validation
from nas.weights import load_detector
from objectives.cost import second_opinions
from objectives.limits import Limits
from objectives.traced_cost import network_cost
from search_spaces.architecture import Architecture
from search_spaces.catalogue import build_network
from search_spaces.face_network import FaceNetwork
from search_spaces.space import SPACE
from studies.say import Say, unsaid
from studies.schedule import retrain_settings, schedule_from_json
from studies.storage import SETTINGS, find_trial, load_study
from studies.workspace import Choice, Subject, Workspace, architecture_subject

DEPLOYED_IMAGE_SIZE = Limits().image_size
STARTS = ("supernet", "scratch")

HELD_OUT_SHARE = 0.05
MOST_HELD_OUT = 200
"""Of the training images, for the validation during training; the val split is for the end."""

EXAMPLES = 8
"""Held-out images whose detections are pictured."""

MADE_FROM_WEIGHTS = ("model.onnx", "export.json", "evaluation.json", "benchmark.json")
"""Files of a subject that new weights make untrue."""


@dataclass(frozen=True, slots=True)
class RetrainOptions:
    """What a person asks of a retraining; None stands for the usual recipe's.

    start: "supernet" or "scratch"; None is the supernet's weights where there are some.
    changes: "name=value" texts, see `nas.recipe.override`; they count after the other fields.
    batch_size: 0 asks for the largest that fits on the CUDA device. teacher: a trained network to
    learn from, see `find_teacher`. trackers: names of `nas.tracking`.
    """

    start: str | None = None
    steps: int | None = None
    image_size: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    changes: tuple[str, ...] = ()
    teacher: str | None = None
    trackers: tuple[str, ...] = USUAL_TRACKERS

    def __post_init__(self) -> None:
        if self.start is not None and self.start not in STARTS:
            raise unknown_name("start", self.start, STARTS)
        for name in self.trackers:
            if name not in TRACKERS:
                raise unknown_name("tracker", name, tuple(TRACKERS))

    def recipe(self, usual: Recipe) -> Recipe:
        """The usual recipe with what is asked.

        Raises:
            UserError: a setting is unknown or out of range.
        """
        asked = [
            f"{name}={value}"
            for name in ("steps", "image_size", "learning_rate")
            if (value := getattr(self, name)) is not None
        ]
        if self.batch_size:
            asked.append(f"batch_size={self.batch_size}")
        recipe = override(usual, [*asked, *self.changes])
        parse_image_size(recipe.fit.image_size)
        return recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainRequest:
    """What to train, and how.

    supernet: weights to start from; None draws them from the seed. teacher: weights or ONNX file
    of a network to learn from. fits_batch: find the largest batch that fits on CUDA.
    """

    subject: Subject
    key: str
    recipe: Recipe
    seed: int
    supernet: Path | None = None
    teacher: Path | None = None
    trackers: tuple[str, ...] = ()
    fits_batch: bool = False


def plan_retrain(
    choice: Choice,
    options: RetrainOptions,
    *,
    storage_url: str | None,
    seed: int,
    cuda: bool,
) -> RetrainRequest:
    """The training of a network: a trial as its study has it, any other from scratch.

    Raises:
        UserError: there is no such study, trial or architecture, the supernet is gone, or a
            setting is wrong.
    """
    supernet, fit = None, retrain_settings(1.0, cuda=False)
    workspace = choice.workspace
    if workspace is not None and choice.trial is not None:
        study = load_study(workspace.study, storage_url or workspace.storage_url)
        key = find_trial(study, choice.trial).key
        stages = study.user_attrs[SETTINGS]["stages"]
        fit = schedule_from_json(stages["schedule"]).retrain
        if options.start != "scratch":
            supernet = _supernet(workspace, stages["supernet"], required=options.start)
    else:
        key = _known_architecture(str(choice.architecture))
        if options.start == "supernet":
            raise UserError("only trials of a study start from a supernet; leave out --start")
    return RetrainRequest(
        subject=choice.subject,
        key=key,
        recipe=options.recipe(USUAL if cuda else Recipe(fit=fit)),
        seed=seed,
        supernet=supernet,
        teacher=None if options.teacher is None else find_teacher(choice, options.teacher),
        trackers=options.trackers,
        fits_batch=options.batch_size == 0,
    )


def _supernet(workspace: Workspace, name: str | None, *, required: str | None) -> Path | None:
    """The file of a study's supernet; None where it has none and none is required."""
    if name is None and required is not None:
        raise UserError(
            f"study {workspace.study!r} was searched without a supernet; leave out --start"
        )
    advice = "run the search again to train it, or use --start scratch"
    return workspace.find_supernet(name, advice=advice)


def _known_architecture(key: str) -> str:
    with torch.device("meta"):
        return build_network(key).key


def find_teacher(choice: Choice, teacher: str) -> Path:
    """The file of a teacher: a path, a trial of the same study, or a trained architecture.

    Raises:
        UserError: there is no such file, or the network has not been trained.
    """
    if Path(teacher).exists():
        return Path(teacher)
    workspace = choice.workspace
    if teacher.isdecimal() and workspace is not None:
        subject = workspace.subject(int(teacher))
    elif teacher.endswith((".onnx", ".safetensors")):
        raise UserError(f"there is no teacher {teacher}; give a file, a trial or an architecture")
    else:
        subject = architecture_subject(choice.runs, _known_architecture(teacher))
    if not subject.weights.is_file():
        raise UserError(
            f"the teacher, {subject.name}, has not been trained; run: "
            f"python run_search.py retrain {subject.options}"
        )
    return subject.weights


def retrain_network(
    request: RetrainRequest,
    source: ImageSource,
    *,
    device: torch.device,
    team: Team | None = None,
    say: Say = unsaid,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train a network at full size; writes `weights.safetensors` and `retrain.json`.

    A training that was cut goes on from its checkpoint. When it is done, what was made from the
    weights before is deleted. team: with it every member calls this, and rank 0 writes.
    """
    team = team or Team()
    network = _initial(request).to(device)
    recipe = _fitting_recipe(request, network, say) if team.size == 1 else request.recipe
    images = ready_to_train(source, workers=usable_cores(), progress=progress)
    validation: Validation | None = None
    if recipe.validate_every:
        images, held_out = hold_out(images, HELD_OUT_SHARE, most=MOST_HELD_OUT, seed=request.seed)
        validation = Validation(
            held_out, image_size=recipe.fit.image_size, device=device, seed=request.seed
        )
    batches = FullSizeLoader(
        images,
        batch_size=recipe.fit.batch_size,
        image_size=recipe.fit.image_size,
        seed=request.seed,
        augment=recipe.augment,
        views=recipe.views,
    )
    start = time.perf_counter()
    report = retrain(
        network,
        batches,
        recipe,
        folder=request.subject.folder,
        facts={"name": request.subject.name, "data": source.description, "seed": request.seed},
        company=_company(request, network, validation, team, progress),
    )
    result = {
        **record_header(seed=request.seed, data_hash=source.fingerprint()),
        "name": request.subject.name,
        "key": request.key,
        "data": source.description,
        "start": "scratch" if request.supernet is None else "supernet",
        "teacher": None if request.teacher is None else str(request.teacher),
        "device": str(device),
        "processes": team.size,
        "recipe": recipe_to_json(recipe),
        **report.to_json(),
        "wall_seconds": time.perf_counter() - start,
    }
    if team.rank == 0:
        for name in MADE_FROM_WEIGHTS:
            (request.subject.folder / name).unlink(missing_ok=True)
        write_json(request.subject.folder / "retrain.json", result)
    return result


def _fitting_recipe(request: RetrainRequest, network: FaceNetwork, say: Say) -> Recipe:
    """The recipe, with the largest batch that fits where that is asked for."""
    if not request.fits_batch:
        return request.recipe
    size, reason = automatic_batch_size(network, request.recipe)
    say(reason)
    return override(request.recipe, [f"batch_size={size}"])


def _company(
    request: RetrainRequest,
    network: FaceNetwork,
    validation: Validation | None,
    team: Team,
    progress: Progress,
) -> Company:
    """Who takes part beside the network: validation, trackers and a teacher."""
    watched = None
    if validation is not None:
        examples = slice(0, EXAMPLES)
        watched = WatchedValidation(
            validation, validation.images[examples], validation.faces[examples]
        )
    page = PageSettings(
        title=request.subject.name,
        steps=request.recipe.fit.steps,
        examples=None if watched is None else watched.picture,
    )
    lesson = _lesson(request, network)
    return Company(
        progress=progress,
        validate=watched,
        trackers=make_trackers(request.trackers, request.subject.folder, page),
        extra_loss=lesson,
        extra_name="" if lesson is None else lesson.extra_name,
        team=team,
    )


def _lesson(request: RetrainRequest, network: FaceNetwork) -> Distillation | None:
    """What the teacher adds to the loss."""
    if request.teacher is None:
        return None
    teacher = open_teacher(str(request.teacher), device=next(network.parameters()).device)
    return Distillation(network, teacher, request.recipe.distillation, seed=request.seed)


def _initial(request: RetrainRequest) -> FaceNetwork:
    if request.supernet is not None:
        architecture = Architecture.from_key(request.key)
        return load_supernet(request.supernet, SPACE).extract(architecture)
    with seeded(request.seed):
        return build_network(request.key)


def export_network(subject: Subject, *, image_size: int = DEPLOYED_IMAGE_SIZE) -> dict[str, Any]:
    """Export a trained network to `model.onnx`, checked against torch.

    `export.json` also says what the network costs at image_size, and what fvcore and thop think.

    Raises:
        UserError: the network has not been trained.
    """
    if not subject.weights.is_file():
        raise UserError(
            f"{subject.name} has not been retrained; run: "
            f"python run_search.py retrain {subject.options}"
        )
    network, facts = load_detector(subject.weights)
    report = export_onnx(
        network,
        subject.onnx,
        metadata={"name": subject.name, "trained_on": str(facts.get("data", ""))},
    )
    opinions = second_opinions(network, image_size)
    result = {
        **record_header(seed=None, data_hash=None),
        **report.to_json(),
        "name": subject.name,
        "key": network.key,
        "image_size": image_size,
        "cost": asdict(network_cost(network, image_size=image_size)),
        "second_opinions": {name: asdict(opinion) for name, opinion in opinions.items()},
    }
    write_json(subject.folder / "export.json", result)
    return result


def measure_network(
    subject: Subject,
    source: ImageSource,
    *,
    image_size: int,
    seed: int,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Precision on a source's images and latency of an exported network; writes both files.

    image_size: pixels of the images' longer side, and of the square that is timed.
    """
    precision = evaluate_model(
        subject.onnx, source, long_side=image_size, seed=seed, progress=progress
    )
    record = record_header(seed=seed, data_hash=source.fingerprint())
    write_json(subject.folder / "evaluation.json", {**record, **precision})
    timing = benchmark(
        subject.onnx, image_sizes=sorted({256, image_size}), threads=(1, 2), progress=progress
    )
    timing.write(subject.folder / "benchmark.json")
    return {"precision": precision, "benchmark": timing.to_json()}
