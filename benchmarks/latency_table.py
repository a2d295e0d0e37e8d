"""How far sums of a latency table are from whole networks measured on this machine; prints JSON.

    python -m benchmarks.latency_table --table runs/latency.json > docs/results/latency_table.json

The table is measured first, or completed, if its file lacks a layer; that takes minutes. The
networks are random, fit the usual limits, and are measured as `benchmark` measures one. The target
is Spearman's correlation of at least 0.95 over 50. Run it on a machine that does nothing else.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.progress import Progress, silent
from nas.latency_table import compare_networks, empty_table, measure_table, table_error
from nas.records import record_header
from nas.supernet_training import feasible_pool
from objectives.latency_table import LatencyTable, space_layers
from objectives.limits import Limits
from search_spaces.space import SPACE
from studies.console import shown_progress


def measure(
    path: Path, empty: LatencyTable, *, networks: int, seed: int, progress: Progress = silent
) -> dict[str, Any]:
    """The error of the table of a file, with every network that it was found from."""
    start = time.perf_counter()
    layers = space_layers(SPACE, image_size=empty.image_size)
    table = measure_table(path, empty, layers, progress=progress)
    measured = time.perf_counter()
    limits = Limits(image_size=table.image_size)
    pool = feasible_pool(SPACE, limits, size=networks, seed=seed)
    compared = compare_networks(table, pool, progress=progress)
    error = table_error(compared)
    rows = sorted(compared, key=lambda network: network.measured_us)
    return {
        "device": table.device,
        "threads": table.threads,
        "image_size": table.image_size,
        "runtime": table.runtime,
        "entries": len(table.entries),
        "seconds_for_the_table": measured - start,
        "seconds_for_the_networks": time.perf_counter() - measured,
        **asdict(error),
        "networks": [network._asdict() for network in rows],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--table", type=Path, default=Path("runs/latency_table.json"))
    parser.add_argument("--networks", type=int, default=50)
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    empty = empty_table(image_size=chosen.image_size, threads=chosen.threads)
    with shown_progress() as progress:
        result = measure(
            chosen.table, empty, networks=chosen.networks, seed=chosen.seed, progress=progress
        )
    print(json.dumps(record_header(seed=chosen.seed, data_hash=None) | result, indent=2))


if __name__ == "__main__":
    main()
