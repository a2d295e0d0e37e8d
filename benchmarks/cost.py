"""How many architectures a second the cost formula does, and how often memory needs a search.

Prints JSON. Run from the repository's root:
python -m benchmarks.cost [--count 20000] [--seed 0] [--image-size 640]
"""

import argparse
import json
import time

import numpy as np

from nas.records import record_header
from objectives.cost import architecture_cost
from objectives.limits import Limits
from objectives.memory import layout_peak, needs_search
from objectives.operators import lay_out
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE


def measure(count: int, seed: int, image_size: int) -> dict[str, float | int]:
    """Times of one process over random architectures. `cold` begins with nothing remembered."""
    generator = np.random.default_rng(seed)
    architectures = [SPACE.decode(SPACE.random_genotype(generator)) for _ in range(count)]
    rates = []
    for _ in range(2):
        start = time.perf_counter()
        costs = [architecture_cost(a, image_size=image_size) for a in architectures]
        rates.append(round(count / (time.perf_counter() - start)))
    limits = Limits(image_size=image_size)
    feasible = [
        architecture
        for architecture, cost in zip(architectures, costs, strict=True)
        if limits.allow(cost)
    ]
    seconds = _search_seconds(architectures, image_size)
    return {
        "architectures": count,
        "image_size": image_size,
        "cold_architectures_per_second": rates[0],
        "warm_architectures_per_second": rates[1],
        "feasible_share": len(feasible) / count,
        "searched_share": len(seconds) / count,
        "searched_share_of_feasible": len(_search_seconds(feasible, image_size))
        / max(1, len(feasible)),
        "longest_search_ms": 1000 * max(seconds, default=0.0),
        "mean_search_ms": 1000 * sum(seconds) / max(1, len(seconds)),
    }


def _search_seconds(architectures: list[Architecture], image_size: int) -> list[float]:
    seconds = []
    for architecture in architectures:
        layout = lay_out(architecture, image_size=image_size)
        if needs_search(layout):
            start = time.perf_counter()
            layout_peak(layout)
            seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image-size", type=int, default=640, help="pixels, multiple of 32")
    options = parser.parse_args()
    header = record_header(seed=options.seed, data_hash=None)
    measured = measure(options.count, options.seed, options.image_size)
    print(json.dumps({**header, **measured}, indent=2))


if __name__ == "__main__":
    main()
