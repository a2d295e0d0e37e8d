"""What early stopping saves and loses, replayed on a recorded table.

Run from the repository's root:
python -m benchmarks.early_stopping [--table docs/results/trials_wider_full.json] [--orders 200]
    [--by smooth_ap] [--ninths 1 2] [--rung-exponents 2 1] [--dominators 2] [--sure 0.85]
    [--one-by-one] [--end-exponent 0.25] [--write docs/results/early_stopping.json]
The table's architectures come as trials in a random order, once for each of --orders, and the
rule of `nas.stop_rule` says of each rung whether the trial ends there, as in a search; only that
the fits of the table of `benchmarks.record_table` start from weights of their own. That of
`benchmarks.record_trials` has the trials of a search, which come in their own order too; it can
have rungs by the promise (--by), at other ninths of the steps, with other numbers of trials that
must be better, and in other shares of the draws of the images. Where a table has no scores draw by
draw, or with --one-by-one, a trial is surely better than another whose noise ends below its score.
Measured are the share of steps that are not made and the hypervolume, log MACs
against the outlook of the promise (of AP, where a table has no other), that is lost with the trials
that were stopped. What scores are multiplied by for the size of a network is a power of its MACs
(`nas.outlook`), one at each rung and one at the end; with 0 the scores are compared as they are.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UserError
from data.files import write_json
from nas.outlook import END_EXPONENT, RUNG_EXPONENTS, handicap
from nas.pareto import hypervolume
from nas.records import record_header
from nas.stop_rule import DOMINATORS, EXEMPT_SHARE, SURE, Peer, StopRule, peer_of
from studies.main_job import LOOKAHEAD
from studies.settings import AVERAGE_PRECISION, PROMISE

SMOOTH_AP = "smooth_ap"


def judged_rows(
    table: Mapping[str, Any],
    *,
    by: str = SMOOTH_AP,
    rungs: Mapping[int, float] = RUNG_EXPONENTS,
    paired: bool = True,
    end_exponent: float = END_EXPONENT,
) -> list[dict[str, Any]]:
    """The rows of a table with the `macs`, the `score` that trials raise, and of each rung the
    `steps`, its `own` scores draw by draw, and `shown`, those that others are compared with.

    rungs: ninths of the steps, and the exponent of the MACs in outlooks there; end_exponent: the
    same at the end. paired: both scores draw by draw, where the table has them; else own is the
    upper end of the noise and shown the score itself.

    Raises:
        UserError: the table has no such rungs.
    """
    exponents = {table["fit"]["steps"] * n // 9: power for n, power in rungs.items()}
    raised = PROMISE if "raised" in table else AVERAGE_PRECISION
    rows = []
    for row in table["rows"]:
        known = {rung["steps"]: rung for rung in row["rungs"]}
        if not exponents.keys() <= known.keys():
            raise UserError(
                f"the table has rungs at {[*known]} steps, not at all of {[*exponents]}"
            )
        judged = [
            _judged(known[steps], by, handicap(row["macs"], power), paired=paired)
            for steps, power in exponents.items()
        ]
        score = handicap(row["macs"], end_exponent) * row[raised]
        rows.append({"macs": row["macs"], "score": score, "rungs": judged})
    return rows


def _judged(rung: Mapping[str, Any], by: str, size: float, *, paired: bool) -> dict[str, Any]:
    """size: what its scores are multiplied by."""
    if by not in rung and by != SMOOTH_AP:
        raise UserError(f"the table has no {by} at its rungs")
    found = rung.get(by, rung)  # the only one that a table of architectures has
    if paired and "replicates" in found:
        own = shown = found["replicates"]
    else:
        own, shown = [found["ceiling"]], [found["score"]]
    own, shown = ([size * score for score in scores] for scores in (own, shown))
    return {"steps": rung["steps"], "own": own, "shown": shown}


def replay(
    rows: Sequence[dict[str, Any]],
    order: Sequence[int],
    seed: int,
    *,
    steps: int,
    dominators: int = DOMINATORS,
    sure: float = SURE,
) -> dict[str, float]:
    """One order of the trials: shares of the steps saved, of trials stopped, of hypervolume lost.

    rows: `judged_rows`. seed: of the trials that go on in any case. steps: of a whole fit.
    """
    generator = np.random.default_rng([seed, 1])
    peers: list[Peer] = []
    done: list[int] = []
    kept: list[dict[str, Any]] = []
    for number, index in enumerate(order):
        row = rows[index]
        rule = StopRule(
            cost=row["macs"],
            peers=tuple(peers[: max(0, number - LOOKAHEAD + 1)]),
            is_exempt=bool(generator.random() < EXEMPT_SHARE),
            dominators=dominators,
            sure=sure,
        )
        reached = _reached(row, rule)
        peers.append(peer_of(row["macs"], [rung["shown"] for rung in row["rungs"][:reached]]))
        is_whole = reached > len(row["rungs"])
        done.append(steps if is_whole else row["rungs"][reached - 1]["steps"])
        if is_whole:
            kept.append(row)
    return {
        "saved": 1 - sum(done) / (steps * len(rows)),
        "stopped": 1 - len(kept) / len(rows),
        "hypervolume_lost": 1 - _area(kept, rows) / _area(rows, rows),
    }


def drawn_order(trials: int, seed: int) -> list[int]:
    """A random order of so many trials."""
    order: list[int] = np.random.default_rng(seed).permutation(trials).tolist()
    return order


def _reached(row: dict[str, Any], rule: StopRule) -> int:
    """How many rungs a trial has been judged at when it ends; one more for a whole fit."""
    for rung, judged in enumerate(row["rungs"]):
        if rule.is_beaten(rung, judged["own"]) and not rule.is_exempt:
            return rung + 1
    return len(row["rungs"]) + 1


def _area(rows: Sequence[dict[str, Any]], every: Sequence[dict[str, Any]]) -> float:
    highest = math.log(max(row["macs"] for row in every))
    return hypervolume(
        [(math.log(row["macs"]), row["score"]) for row in rows], reference=(highest, 0)
    )


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
    parser.add_argument(
        "--table",
        type=Path,
        default=Path("docs/results/trials_wider_full.json"),
        help="(%(default)s)",
    )
    parser.add_argument("--orders", type=int, default=200, help="(200)")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--by", choices=(SMOOTH_AP, PROMISE), default=SMOOTH_AP)
    parser.add_argument("--ninths", type=int, nargs="+", default=[*RUNG_EXPONENTS], help="(1 2)")
    parser.add_argument(
        "--rung-exponents",
        type=float,
        nargs="+",
        default=[*RUNG_EXPONENTS.values()],
        help="one for each of the ninths (2 1)",
    )
    parser.add_argument("--dominators", type=int, default=DOMINATORS, help=f"({DOMINATORS})")
    parser.add_argument("--sure", type=float, default=SURE, help=f"share of the draws ({SURE})")
    parser.add_argument("--end-exponent", type=float, default=END_EXPONENT, help="(0.25)")
    parser.add_argument("--one-by-one", action="store_true", help="not draw by draw")
    parser.add_argument("--write", type=Path, help="a JSON file, beside printing it")
    options = parser.parse_args()
    if len(options.rung_exponents) != len(options.ninths):
        parser.error("--rung-exponents must be as many as --ninths")
    table = json.loads(options.table.read_text(encoding="utf-8"))
    rows = judged_rows(
        table,
        by=options.by,
        rungs=dict(zip(options.ninths, options.rung_exponents, strict=True)),
        paired=not options.one_by_one,
        end_exponent=options.end_exponent,
    )
    rule = {
        "steps": table["fit"]["steps"],
        "dominators": options.dominators,
        "sure": options.sure,
    }
    seeds = range(options.seed, options.seed + options.orders)
    orders: dict[str, list[Sequence[int]]] = {
        "random_order": [drawn_order(len(rows), seed) for seed in seeds],
        "own_order": [range(len(rows)) for _ in seeds],
    }
    found = {
        name: [replay(rows, *one, **rule) for one in zip(of, seeds, strict=True)]
        for name, of in orders.items()
    }
    result = {
        **record_header(seed=options.seed, data_hash=table["data_hash"]),
        "table": {name: table[name] for name in ("commit", "date", "data", "fit")},
        "by": options.by,
        "ninths": list(options.ninths),
        "dominators": options.dominators,
        "sure": options.sure,
        "rung_exponents": options.rung_exponents,
        "end_exponent": options.end_exponent,
        "draw_by_draw": len(rows[0]["rungs"][0]["own"]) > 1,
        "trials": len(rows),
        "orders": options.orders,
        **{name: summarise(of) for name, of in found.items()},
    }
    print(json.dumps({name: result[name] for name in found}, indent=2))
    if options.write is not None:
        write_json(options.write, result)


if __name__ == "__main__":
    main()
