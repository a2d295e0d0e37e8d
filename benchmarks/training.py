"""Compares what the loader delivers with what training takes, in one run; prints JSON.

Run from the repository's root: python -m benchmarks.training
Both are timed in turn, round after round, on drawn crops of 256 px in batches of 8; the ratio is
the median over rounds. The network is the plain depthwise starting point of the search.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from data.augment import AugmentSettings
from data.loader import ShardLoader
from data.shards import ShardSettings, prepare_shards
from data.synthetic import SyntheticSource
from nas.fitting import FitSettings, Trainer, seeded
from nas.records import record_header, usable_cores
from objectives.cost import architecture_cost
from search_spaces.network import build
from search_spaces.space import SPACE
from search_spaces.starting_points import starting_points

IMAGES, ROUNDS, STEPS, SEED = 120, 5, 10, 0


def rate(work: Callable[[int], object], *, first: int, batch_size: int) -> float:
    """Images a second over STEPS steps."""
    start = time.perf_counter()
    for step in range(first, first + STEPS):
        work(step)
    return STEPS * batch_size / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    settings = FitSettings(steps=ROUNDS * STEPS + 1)
    architecture = starting_points(SPACE)[1]
    with tempfile.TemporaryDirectory() as folder, seeded(SEED):
        source = SyntheticSource(count=IMAGES, seed=SEED)
        shards = prepare_shards(source, Path(folder), ShardSettings(), workers=usable_cores())
        trainer = Trainer(build(architecture), settings)
    loader = ShardLoader(
        shards,
        batch_size=settings.batch_size,
        image_size=settings.image_size,
        seed=SEED,
        augment=AugmentSettings(),
    )
    batch = loader.batch(0)
    trainer.step(batch)
    rounds = []
    for turn in range(ROUNDS):
        first = turn * STEPS
        loading = rate(loader.batch, first=first, batch_size=settings.batch_size)
        training = rate(
            lambda _step: trainer.step(batch), first=first, batch_size=settings.batch_size
        )
        rounds.append({"loading": loading, "training": training, "ratio": loading / training})
    result = {
        **record_header(seed=SEED, data_hash=shards.hash),
        "architecture": architecture.key,
        "params": architecture_cost(architecture, image_size=640).params,
        "unit": "images a second",
        "rounds": rounds,
        "ratio": statistics.median(row["ratio"] for row in rounds),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
