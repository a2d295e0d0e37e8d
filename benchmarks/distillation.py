"""Whether a teacher helps: one student trained with it and without it, on real images; JSON.

Run from the repository's root:
python -m benchmarks.distillation DATA TEACHER [--student yunet-s] [--seeds 0 1 2]
    [--set steps=4000] [--write docs/results/distillation.json]
DATA is a folder as WIDER FACE's. Students of one seed start from the same weights and see the same
batches of its train split; all are judged on its val split. The number of steps is equal, the
time is not: both are in the JSON. A run that was cut goes on from its checkpoint in --folder, and
one that is finished is not repeated.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.files import write_json
from data.loader import FullSizeLoader
from data.progress import Progress
from data.sample import Faces, ImageSource
from data.sources import SubsetSource
from data.wider import WiderSource
from nas.device import choose_device
from nas.distillation import Distillation, DistillationSettings
from nas.fitting import FitSettings, images_to_tensor, seeded
from nas.inference import detect_images, select_detections
from nas.recipe import Recipe, override, recipe_to_json
from nas.records import record_header
from nas.retrain import Company, retrain
from nas.teachers import Teacher, open_teacher
from nas.validation import Validation
from nas.weights import load_detector
from objectives.average_precision import Detections, evaluate_detections
from objectives.cost import count_parameters
from search_spaces.catalogue import build_network
from studies.console import shown_progress

Floats = NDArray[np.float64]

RECIPE = Recipe(
    fit=FitSettings(
        steps=2000, batch_size=8, image_size=320, learning_rate=2e-3, average_decay=0.98
    )
)
ALONE = "alone"
ARMS = {
    ALONE: None,
    "output": DistillationSettings(output_weight=1.0, feature_weight=0.0),
    "feature": DistillationSettings(output_weight=0.0, feature_weight=1.0),
    "both": DistillationSettings(output_weight=1.0, feature_weight=1.0),
}
MAX_BOXES = 300
BATCH_SIZE = 4


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is trained, by whom it is taught and on what."""

    student: str
    teacher: str
    recipe: Recipe
    source: ImageSource
    folder: Path
    device: torch.device

    def run_folder(self, arm: str, seed: int) -> Path:
        """Of one training."""
        return self.folder / f"{arm}-{seed}"


def train(experiment: Experiment, arm: str, seed: int, *, progress: Progress) -> dict[str, Any]:
    """One training, unless it is done already: how it went. Leaves `weights.safetensors`."""
    recipe, source, device = experiment.recipe, experiment.source, experiment.device
    with seeded(seed):
        network = build_network(experiment.student).to(device)
    settings, company = ARMS[arm], Company(progress=progress)
    distillation: Distillation | None = None
    if settings is not None:
        teacher = open_teacher(experiment.teacher, device=device)
        distillation = Distillation(network, teacher, settings, seed=seed)
        company = Company(
            progress=progress, extra_loss=distillation, extra_name=distillation.extra_name
        )
    request = {
        "student": experiment.student,
        "extra_loss": company.extra_name,
        "recipe": recipe_to_json(recipe),
        "data_hash": source.fingerprint(),
        "seed": seed,
    }
    folder = experiment.run_folder(arm, seed)
    done = folder / "run.json"
    if done.is_file():
        row: dict[str, Any] = json.loads(done.read_text())
        if row["request"] == request:
            return row
    batches = FullSizeLoader(
        source,
        batch_size=recipe.fit.batch_size,
        image_size=recipe.fit.image_size,
        seed=seed,
        augment=recipe.augment,
        views=recipe.views,
    )
    report = retrain(network, batches, recipe, folder=folder, facts=request, company=company)
    row = {
        "request": request,
        "seconds": report.seconds,
        "resumed_at": report.resumed_at,
        "last_loss": report.last_loss,
        "teacher_cost": None if distillation is None else distillation.teacher.cost.to_json(),
    }
    write_json(done, row)
    return row


def detect_with(teacher: Teacher, images: NDArray[np.uint8]) -> list[Detections]:
    """What a teacher finds, as `detect_images` does it."""
    found = []
    for start in range(0, len(images), BATCH_SIZE):
        batch = images_to_tensor(images[start : start + BATCH_SIZE], teacher.device)
        targets = teacher.ask(batch)
        boxes, scores = targets.boxes_xyxy.cpu().numpy(), targets.scores.cpu().numpy()
        found += [
            select_detections(b, s, max_boxes=MAX_BOXES) for b, s in zip(boxes, scores, strict=True)
        ]
    return found


def resampled_aps(
    found: Sequence[Detections], faces: Sequence[Faces], drawn: NDArray[np.int64]
) -> Floats:
    """AP of the images as they are, then of each drawing of images (R, I). Shape (1 + R,)."""
    rows = [np.arange(len(faces)), *drawn]
    reports = [
        evaluate_detections([found[i] for i in row], [faces[i] for i in row], resamples=1)
        for row in rows
    ]
    return np.array([report.ap for report in reports])


def difference(alone: Floats, taught: Floats, *, seed: int) -> dict[str, Any]:
    """How much AP the teacher adds, mean over S seeds, from two (S, 1 + R) of `resampled_aps`.

    interval: 5th and 95th percentile when images and seeds are drawn again, pairs kept together.
    """
    gains = taught - alone
    seeds, resamples = gains.shape[0], gains.shape[1] - 1
    picked = np.random.default_rng(seed).integers(seeds, size=(seeds, resamples))
    drawn = np.take_along_axis(gains[:, 1:], picked, axis=0).mean(0)
    low, high = np.percentile(drawn, [5, 95])
    return {
        "ap": float(gains[:, 0].mean()),
        "interval": [float(low), float(high)],
        "ap_by_seed": gains[:, 0].tolist(),
    }


def interval(aps: Floats) -> list[float]:
    """5th and 95th percentile of the drawings in a row of `resampled_aps`."""
    return [float(value) for value in np.percentile(aps[1:], [5, 95])]


def compare(
    experiment: Experiment,
    held_out: ImageSource,
    options: argparse.Namespace,
    *,
    progress: Progress,
) -> dict[str, Any]:
    """Train every arm with every seed, judge all on the same images."""
    arms = [ALONE, *options.arms]
    runs = {
        arm: [train(experiment, arm, seed, progress=progress) for seed in options.seeds]
        for arm in arms
    }
    device = experiment.device
    squares = Validation(held_out, image_size=options.judged_size, device=device, seed=0)
    drawn = np.random.default_rng(0).integers(
        len(held_out), size=(options.resamples, len(held_out))
    )

    def aps_of(arm: str, seed: int) -> Floats:
        network, _ = load_detector(experiment.run_folder(arm, seed) / "weights.safetensors")
        found = detect_images(
            network.to(device),
            squares.images,
            device=device,
            batch_size=BATCH_SIZE,
            max_boxes=MAX_BOXES,
        )
        return resampled_aps(found, squares.faces, drawn)

    aps: dict[str, Floats] = {}
    for done, arm in enumerate(arms):
        aps[arm] = np.stack([aps_of(arm, seed) for seed in options.seeds])
        progress("judge", done + 1, len(arms))
    teacher = open_teacher(experiment.teacher, device=device)
    teacher_aps = resampled_aps(detect_with(teacher, squares.images), squares.faces, drawn)
    return {
        "judged_on": f"{held_out.description}, in squares of {options.judged_size} px",
        "images": len(held_out),
        "faces": int(sum((~faces.ignore).sum() for faces in squares.faces)),
        "resamples": options.resamples,
        "teacher": {
            **teacher.facts(),
            "params": count_parameters(build_network(teacher.key)),
            "ap": float(teacher_aps[0]),
            "ap_interval": interval(teacher_aps),
        },
        "arms": {arm: summary(arm, runs[arm], aps, options.seeds) for arm in arms},
    }


def summary(
    arm: str, runs: Sequence[dict[str, Any]], aps: dict[str, Floats], seeds: Sequence[int]
) -> dict[str, Any]:
    """One arm: its runs, and what the teacher adds."""
    settings = ARMS[arm]
    return {
        "distillation": None if settings is None else asdict(settings),
        "ap": float(aps[arm][:, 0].mean()),
        "difference": None if arm == ALONE else difference(aps[ALONE], aps[arm], seed=0),
        "seconds": statistics.mean(run["seconds"] for run in runs),
        "runs": [
            {
                "seed": seed,
                "ap": float(row[0]),
                "ap_interval": interval(row),
                **{name: value for name, value in run.items() if name != "request"},
            }
            for seed, row, run in zip(seeds, aps[arm], runs, strict=True)
        ],
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("teacher", help="an .onnx or weights file, or a folder with weights")
    parser.add_argument("--student", default="yunet-s", help="a reference or an architecture's key")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(0)")
    taught = [arm for arm in ARMS if arm != ALONE]
    parser.add_argument("--arms", nargs="+", choices=taught, default=["output", "both"])
    parser.add_argument("--set", action="append", default=[], help="name=value of the recipe")
    parser.add_argument("--judged-size", type=int, default=640, help="pixels (640)")
    parser.add_argument("--images", type=int, help="judge on so many images, evenly spread")
    parser.add_argument("--resamples", type=int, default=200, help="(200)")
    parser.add_argument("--folder", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--write", type=Path, help="a JSON file, beside printing it")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    device, reason = choose_device(options.device)
    recipe = override(RECIPE, options.set)
    source = WiderSource.open(options.data, "train")
    held_out: ImageSource = WiderSource.open(options.data, "val")
    if options.images is not None:
        places = np.linspace(0, len(held_out) - 1, options.images).round().astype(int)
        indices = tuple(sorted(set(places.tolist())))
        held_out = SubsetSource(held_out, indices, "evenly spread")
    experiment = Experiment(
        options.student, options.teacher, recipe, source, options.folder, device
    )
    with shown_progress() as progress:
        compared = compare(experiment, held_out, options, progress=progress)
    result = {
        **record_header(seed=options.seeds[0], data_hash=source.fingerprint()),
        "seeds": options.seeds,
        "student": options.student,
        "student_params": count_parameters(build_network(options.student)),
        "trained_on": source.description,
        "device": reason,
        "recipe": recipe_to_json(recipe),
        **compared,
    }
    print(json.dumps(result, indent=2))
    if options.write is not None:
        write_json(options.write, result)


if __name__ == "__main__":
    main()
