"""Whether scores of untrained networks order trained ones, and better than size alone.

Run from the repository's root:
python -m benchmarks.zero_cost FIDELITY SHARDS [--draws 3] [--write docs/results/zero_cost.json]
FIDELITY is a study's fidelity.json, whose networks were fitted alone; SHARDS a folder that
`prepare` or a search wrote. Nothing is trained. For every score, and for parameters and MACs as
controls: Kendall's tau with the fits alone, the same among pairs of networks within 25 % in
MACs, tau with the MACs, and how well two draws of the first weights agree.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from data.files import write_json
from data.shards import open_shards
from nas.fidelity import ZERO_COST_IMAGES, kendall_tau, tau_b
from nas.fitting import images_to_tensor, seeded
from nas.records import record_header
from objectives.cost import architecture_cost
from objectives.limits import Limits
from objectives.zero_cost import ZERO_COST_SCORES, zero_cost_scores
from search_spaces.architecture import Architecture
from search_spaces.network import build

CONTROLS = ("params", "macs")
CLOSE = 1.25
"""Most that the MACs of two networks of one size may differ, as a factor."""


def score_networks(
    keys: Sequence[str], shards: Path, *, draws: int
) -> list[list[dict[str, float]]]:
    """Scores and seconds of each network for each draw of its first weights."""
    images = images_to_tensor(
        open_shards(shards).take(ZERO_COST_IMAGES, seed=0).images, torch.device("cpu")
    )
    scored: list[list[dict[str, float]]] = []
    for key in keys:
        architecture = Architecture.from_key(key)
        cost = architecture_cost(architecture, image_size=Limits().image_size)
        size: dict[str, float] = {"params": cost.params, "macs": cost.macs}
        scored.append([])
        for seed in range(draws):
            with seeded(seed):
                network = build(architecture)
            start = perf_counter()
            scores = zero_cost_scores(network, images, seed=seed)
            scored[-1].append({**size, **scores, "seconds": perf_counter() - start})
    return scored


def close_pairs_tau(scores: Sequence[float], truth: Sequence[float], macs: Sequence[float]) -> Any:
    """Agreeing less disagreeing pairs among those close in MACs, and how many such pairs."""
    x, y, size = (np.asarray(values, dtype=np.float64) for values in (scores, truth, macs))
    first, second = np.triu_indices(len(x), 1)
    close = np.maximum(size[first] / size[second], size[second] / size[first]) <= CLOSE
    first, second = first[close], second[close]
    agree = np.sign(x[first] - x[second]) * np.sign(y[first] - y[second])
    return {"tau": float(agree.mean()) if len(agree) else None, "pairs": len(agree)}


def compare(scored: Sequence[list[dict[str, float]]], truth: Sequence[float]) -> dict[str, Any]:
    """What each score says of the fits alone."""
    macs = [draws[0]["macs"] for draws in scored]
    result = {}
    for name in (*CONTROLS, *ZERO_COST_SCORES):
        mean = [float(np.mean([one[name] for one in draws])) for draws in scored]
        first = [draws[0][name] for draws in scored]
        last = [draws[-1][name] for draws in scored]
        tau, interval = kendall_tau(mean, truth, seed=0)
        result[name] = {
            "tau": tau,
            "tau_interval": list(interval),
            "close_in_macs": close_pairs_tau(mean, truth, macs),
            "tau_with_macs": tau_b(mean, macs),
            "tau_of_two_draws": tau_b(first, last),
        }
    return result


def main() -> None:
    """Measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("fidelity", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    measured = json.loads(options.fidelity.read_text())
    rows = measured["architectures"]
    truth = [row["alone_ap"] for row in rows]
    scored = score_networks([row["key"] for row in rows], options.shards, draws=options.draws)
    seconds = [one["seconds"] for draws in scored for one in draws]
    record = {
        **record_header(seed=0, data_hash=measured["data_hash"]),
        "networks": len(rows),
        "alone_steps": measured["alone"]["steps"],
        "draws": options.draws,
        "median_seconds": float(np.median(seconds)),
        "scores": compare(scored, truth),
        "architectures": [
            {"key": row["key"], "alone_ap": row["alone_ap"], **draws[0]}
            for row, draws in zip(rows, scored, strict=True)
        ],
    }
    print(json.dumps({name: record[name] for name in ("median_seconds", "scores")}, indent=2))
    if options.write is not None:
        write_json(options.write, record)


if __name__ == "__main__":
    main()
