"""A searched network against a reference by the same recipe: difference over seeds, and costs.

Run from the repository's root:
python -m benchmarks.winner KEY REFERENCE [--subset hard] [--image-size 640]
    [--write docs/results/winner.json]
It reads what `benchmarks.references measure` wrote: docs/results/references for seed 0 and its
folders seed-1, seed-2, ... for the others; every seed that has both networks counts.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from benchmarks.references import RESULTS
from data.errors import UserError
from data.files import write_json
from nas.records import record_header

COSTS = ("params", "macs", "peak_bytes")
FEWEST_SEEDS = 2
CONFIDENCE = 0.9
SIZE = 640


def measured(architecture: str, folder: Path = RESULTS) -> dict[int, dict[str, Any]]:
    """What is on record of a network, by the seed of its training."""
    found = {}
    for path in sorted([*folder.glob("*.json"), *folder.glob("seed-*/*.json")]):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["architecture"] == architecture:
            found[int(record["training"]["seed"])] = record
    return found


def compare(
    ours: dict[int, dict[str, Any]],
    theirs: dict[int, dict[str, Any]],
    *,
    subset: str,
    image_size: str,
) -> dict[str, Any]:
    """AP of both by seed, and the difference's mean with its 90 % interval (Student's t).

    Raises:
        UserError: fewer than two seeds have both networks.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if len(seeds) < FEWEST_SEEDS:
        raise UserError(
            f"a comparison needs {FEWEST_SEEDS} seeds with both networks, got {seeds}; "
            "train, score and measure them with another --seed"
        )
    rows = [[_ap(one[seed], subset, image_size) for one in (ours, theirs)] for seed in seeds]
    differences = [first - second for first, second in rows]
    factor = float(student_t.ppf((1 + CONFIDENCE) / 2, len(seeds) - 1)) / math.sqrt(len(seeds))
    mean, half = float(np.mean(differences)), factor * float(np.std(differences, ddof=1))
    return {
        "subset": subset,
        "image_size": image_size,
        "seeds": seeds,
        "ap": {"ours": [row[0] for row in rows], "theirs": [row[1] for row in rows]},
        "difference": mean,
        "difference_interval": [mean - half, mean + half],
        "ours": _costs([ours[seed] for seed in seeds]),
        "theirs": _costs([theirs[seed] for seed in seeds]),
    }


def _ap(record: dict[str, Any], subset: str, image_size: str) -> float:
    return float(record["scores"][image_size]["wider"][subset]["ap"])


def _costs(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Costs, and the median latency at SIZE px of each seed by number of threads, in ms."""
    latencies: dict[str, list[float]] = {}
    for record in records:
        for one in record["latencies"]:
            if one["image_size"] == SIZE:
                latencies.setdefault(f"{one['threads']} threads", []).append(one["p50_ms"])
    return {**{name: records[0][name] for name in COSTS}, "p50_ms": latencies}


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("key", help="of the searched network")
    parser.add_argument("reference", help="a name that `zoo` lists")
    parser.add_argument("--subset", default="hard", help="easy, medium or hard (hard)")
    parser.add_argument("--image-size", default="640", help="640 or original (640)")
    parser.add_argument("--write", type=Path, help="a JSON file, beside printing it")
    options = parser.parse_args()
    found = compare(
        measured(options.key),
        measured(options.reference),
        subset=options.subset,
        image_size=options.image_size,
    )
    result = {
        **record_header(seed=None, data_hash=None),
        "key": options.key,
        "reference": options.reference,
        **found,
    }
    print(json.dumps(found, indent=2))
    if options.write is not None:
        write_json(options.write, result)


if __name__ == "__main__":
    main()
