"""Train networks of the field, and ours, by one recipe; then measure them in one setting.

Usage: python -m benchmarks.references train --data WIDER [--architecture NAME ...]
       python -m benchmarks.references measure --data WIDER [--architecture NAME ...]

`train` runs two processes of one thread each and goes on where it was stopped. `measure` is for
a machine that does nothing else: one network after another is exported, evaluated with the WIDER
FACE protocol and timed. Each network gets a JSON file in docs/results/references.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

from data.files import write_json
from data.sources import open_source
from nas.benchmark import benchmark
from nas.evaluate import EvaluationRequest, evaluate_in_full
from nas.records import record_header
from search_spaces.catalogue import REFERENCES
from studies.chosen import RetrainOptions, export_network, plan_retrain, retrain_network
from studies.workspace import Choice

RUNS = Path("runs")
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "references"
LONG_SIDES = {"640": 640, "original": None}
"""The sizes at which networks are evaluated: of the images' longer side, pixels."""

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


def measure(data: Path, architecture: str, seed: int) -> Path:
    """Export, evaluate and time one trained network; writes its row to docs/results."""
    subject = Choice(RUNS, architecture=architecture).subject
    trained = json.loads((subject.folder / "retrain.json").read_text())
    exported = export_network(subject)
    source = open_source(data, "val", synthetic_images=0, seed=seed)
    scores = {}
    for name, long_side in LONG_SIDES.items():
        request = EvaluationRequest(long_side, worst=0, seed=seed)
        folder = subject.folder / f"evaluation-{name}"
        found = evaluate_in_full(subject.onnx, source, folder, request=request)
        scores[name] = {key: found[key] for key in ("data", "setting", "ap", "interval", "wider")}
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
            "training": {
                name: trained[name]
                for name in ("commit", "data", "seed", "start", "steps", "recipe", "wall_seconds")
            },
            "scores": scores,
            "latencies": [latency.to_json() for latency in timing.latencies],
        },
    )
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("action", choices=("train", "measure"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--architecture", action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    names = asked.architecture or list(REFERENCES)
    if asked.action == "measure":
        for name in names:
            print(measure(asked.data, name, asked.seed), flush=True)
        return
    with ProcessPoolExecutor(asked.processes, mp_context=get_context("spawn")) as pool:
        trainings = [pool.submit(train, asked.data, name, asked.seed) for name in names]
        for training in as_completed(trainings):
            print(training.result(), flush=True)


if __name__ == "__main__":
    main()
