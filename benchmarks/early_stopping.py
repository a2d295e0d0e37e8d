"""What early stopping saves and loses, replayed on a recorded table.

Run from the repository's root:
python -m benchmarks.early_stopping [--table benchmarks/search_table.json] [--orders 200]
    [--write docs/results/early_stopping.json]
The table's architectures come as trials in a random order, once for each of --orders, and the
rule of `nas.stop_rule` says of each rung whether the trial ends there, as in a search; only that
the table's fits start from weights of their own. Measured are the share of steps that are not made
and the hypervolume, log MACs against AP, that is lost with the trials that were stopped.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.files import write_json
from nas.pareto import hypervolume
from nas.records import record_header
from nas.stop_rule import EXEMPT_SHARE, Peer, StopRule
from studies.main_job import LOOKAHEAD


def replay(rows: Sequence[dict[str, Any]], *, steps: int, seed: int) -> dict[str, float]:
    """One order of the trials: shares of the steps saved, of trials stopped, of hypervolume lost.

    rows: of the table. steps: of a whole fit.
    """
    generator = np.random.default_rng(seed)
    peers: list[Peer] = []
    done: list[int] = []
    kept: list[dict[str, Any]] = []
    for number, index in enumerate(generator.permutation(len(rows))):
        row = rows[index]
        rule = StopRule(
            cost=row["macs"],
            peers=tuple(peers[: max(0, number - LOOKAHEAD + 1)]),
            is_exempt=bool(generator.random() < EXEMPT_SHARE),
        )
        reached = _reached(row, rule)
        peers.append(Peer(row["macs"], tuple(rung["score"] for rung in row["rungs"][:reached])))
        is_whole = reached > len(row["rungs"])
        done.append(steps if is_whole else row["rungs"][reached - 1]["steps"])
        if is_whole:
            kept.append(row)
    return {
        "saved": 1 - sum(done) / (steps * len(rows)),
        "stopped": 1 - len(kept) / len(rows),
        "hypervolume_lost": 1 - _area(kept, rows) / _area(rows, rows),
    }


def _reached(row: dict[str, Any], rule: StopRule) -> int:
    """How many rungs a trial has been judged at when it ends; one more for a whole fit."""
    for rung, judged in enumerate(row["rungs"]):
        if rule.is_beaten(rung, judged["ceiling"]) and not rule.is_exempt:
            return rung + 1
    return len(row["rungs"]) + 1


def _area(rows: Sequence[dict[str, Any]], every: Sequence[dict[str, Any]]) -> float:
    highest = math.log(max(row["macs"] for row in every))
    return hypervolume([(math.log(row["macs"]), row["ap"]) for row in rows], reference=(highest, 0))


def summarise(found: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Mean of each share over the orders, and its 5th and 95th percentile."""
    return {
        name: {
            "mean": float(np.mean([one[name] for one in found])),
            "interval": np.quantile([one[name] for one in found], (0.05, 0.95)).tolist(),
        }
        for name in found[0]
    }


def main() -> None:
    """Replay, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", type=Path, default=Path("benchmarks/search_table.json"))
    parser.add_argument("--orders", type=int, default=200, help="(200)")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--write", type=Path, help="a JSON file, beside printing it")
    options = parser.parse_args()
    table = json.loads(options.table.read_text(encoding="utf-8"))
    rows, steps = table["rows"], table["fit"]["steps"]
    found = [replay(rows, steps=steps, seed=options.seed + i) for i in range(options.orders)]
    result = {
        **record_header(seed=options.seed, data_hash=table["data_hash"]),
        "table": {name: table[name] for name in ("commit", "date", "data", "fit")},
        "trials": len(rows),
        "orders": options.orders,
        **summarise(found),
    }
    print(json.dumps({name: result[name] for name in found[0]}, indent=2))
    if options.write is not None:
        write_json(options.write, result)


if __name__ == "__main__":
    main()
