"""Train networks of the field, and ours, by one recipe; then measure them in one setting.

Usage: python -m benchmarks.references train --data WIDER [--architecture NAME ...]
       python -m benchmarks.references measure --data WIDER [--architecture NAME ...]

`train` runs two processes of one thread each and goes on where it was stopped. `measure` is for
a machine that does nothing else: one network after another is exported, evaluated with the WIDER
FACE protocol and timed. Each network gets a JSON file in docs/results/references.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

from data.sources import open_source
from search_spaces.catalogue import REFERENCES
from studies.chosen import RetrainOptions, plan_retrain, retrain_network
from studies.workspace import Choice

RUNS = Path("runs")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("action", choices=("train", "measure"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--architecture", action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    names = asked.architecture or list(REFERENCES)
    with ProcessPoolExecutor(asked.processes, mp_context=get_context("spawn")) as pool:
        trainings = [pool.submit(train, asked.data, name, asked.seed) for name in names]
        for training in as_completed(trainings):
            print(training.result(), flush=True)


if __name__ == "__main__":
    main()
