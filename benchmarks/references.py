"""Train networks of the field, and ours, by one recipe; then measure them in one setting.

Usage: python -m benchmarks.references train --data WIDER [--architecture NAME ...]
       python -m benchmarks.references score --data WIDER [--architecture NAME ...]
       python -m benchmarks.references measure --data WIDER [--architecture NAME ...]

`train` and `score` (export, and evaluation with the WIDER FACE protocol) run two processes of one
thread each; `train` goes on where it was stopped. `measure` is for a machine that does nothing
else: it times one network after another and writes a JSON file each to docs/results/references.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from data.files import write_json
from data.sources import open_source
from nas.benchmark import benchmark
from nas.evaluate import EvaluationRequest, evaluate_in_full
from nas.records import record_header
from search_spaces.catalogue import REFERENCES
from studies.chosen import RetrainOptions, export_network, plan_retrain, retrain_network
from studies.workspace import Choice, Subject

RUNS = Path("runs")
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "references"
LONG_SIDES = {"640": 640, "original": None}
"""The sizes at which networks are evaluated: of the images' longer side, pixels."""

TRAINING_FACTS = ("commit", "data", "seed", "start", "steps", "recipe", "wall_seconds")
SCORE_FACTS = ("data", "image_size", "setting", "ap", "interval", "wider")

RECIPE = (
    "steps=2000",
    "batch_size=4",
    "image_size=320",
    "learning_rate=0.003",
    "average_decay=0.995",
    "short_sides=0.3,1.2",
    "brightness=0",
    "contrast=1",
    "colour=1",
)
"""Short, for a CPU: little augmentation and few scales, which short trainings learn faster with."""


def train(data: Path, architecture: str, seed: int) -> str:
    """Train one network from scratch; passed over when it has been."""
    torch.set_num_threads(1)
    choice = Choice(RUNS, architecture=architecture)
    if choice.subject.weights.is_file():
        return f"{architecture}: trained before"
    options = RetrainOptions(changes=RECIPE, trackers=())
    request = plan_retrain(choice, options, storage_url=None, seed=seed, cuda=False)
    source = open_source(data, "train", synthetic_images=0, seed=seed)
    report = retrain_network(request, source, device=torch.device("cpu"))
    return (
        f"{architecture}: loss {report['last_loss']:.3f}, "
        f"{report['images_per_second']:.0f} images a second"
    )


def score(data: Path, architecture: str, seed: int) -> str:
    """Export one trained network and evaluate it on the val split."""
    subject = Choice(RUNS, architecture=architecture).subject
    export_network(subject)
    source = open_source(data, "val", synthetic_images=0, seed=seed)
    for name, long_side in LONG_SIDES.items():
        request = EvaluationRequest(long_side, worst=0, seed=seed)
        evaluate_in_full(subject.onnx, source, _evaluation(subject, name), request=request)
    return f"{architecture}: evaluated"


def _evaluation(subject: Subject, name: str) -> Path:
    return subject.folder / f"evaluation-{name}"


def measure(architecture: str, seed: int) -> str:
    """Time one exported network, and put all that is known of it together in docs/results."""
    subject = Choice(RUNS, architecture=architecture).subject

    def known(name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((subject.folder / name).read_text())
        return content

    trained, exported = known("retrain.json"), known("export.json")
    timing = benchmark(subject.onnx, image_sizes=(256, 640), threads=(1, 2))
    target = RESULTS / f"{subject.folder.name}.json"
    write_json(
        target,
        {
            **record_header(seed=seed, data_hash=trained["data_hash"]),
            "architecture": architecture,
            "source": REFERENCES[architecture].source if architecture in REFERENCES else "searched",
            **exported["cost"],
            "file_bytes": exported["file_bytes"],
            "training": {name: trained[name] for name in TRAINING_FACTS},
            "scores": {
                name: {key: found[key] for key in SCORE_FACTS}
                for name in LONG_SIDES
                for found in (known(f"{_evaluation(subject, name).name}/evaluation.json"),)
            },
            "latencies": [latency.to_json() for latency in timing.latencies],
        },
    )
    return f"{architecture}: {target.relative_to(RESULTS.parents[2])}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("action", choices=("train", "score", "measure"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--architecture", action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    names = asked.architecture or list(REFERENCES)
    if asked.action == "measure":
        for name in names:
            print(measure(name, asked.seed), flush=True)
        return
    work = train if asked.action == "train" else score
    with ProcessPoolExecutor(asked.processes, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(work, asked.data, name, asked.seed) for name in names]
        for job in as_completed(jobs):
            print(job.result(), flush=True)


if __name__ == "__main__":
    main()
