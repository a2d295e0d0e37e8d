"""Which cheap score orders networks as a long fit does: Kendall's tau of every candidate proxy.

Run from the repository's root:
python -m benchmarks.proxies SHARDS SUPERNET [--networks 16] [--macs 300M] [--alone-steps 1000]
    [--steps 0 33 100 250] [--alone-seeds 1] [--write docs/results/proxies.json]
SHARDS is a folder that `prepare` or a search wrote, SUPERNET a file of runs/.cache/supernets.
The networks are drawn among those that keep the usual limits and differ by at most 25 % in MACs,
so that size alone gives no rank. Each is fitted alone for long, which is the truth, and for each
number of steps from weights of its own and from the supernet's; judged are average precision,
smoother scores and the loss on held-out crops, and scores of no training at all. With several
--alone-seeds the truth is the mean over fits alone from other weights and orders of the images;
how far two such fits of the same networks agree is the most that a proxy can be expected to reach,
and is given as `truth_tau`. What is measured once is kept in --folder, so a run that was cut goes
on.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from data.files import write_json
from data.shards import open_shards
from nas.device import keep_freed_memory
from nas.fidelity import kendall_tau
from nas.fitting import FitSettings, images_to_tensor
from nas.proxy import CandidateFitter, ProxySettings, report_scores
from nas.records import record_header, usable_cores
from nas.supernet_training import load_supernet
from objectives.cost import architecture_cost
from objectives.limits import Limits
from objectives.zero_cost import ZERO_COST_SCORES, zero_cost_scores
from search_spaces.architecture import Architecture
from search_spaces.network import Detector
from search_spaces.space import SPACE
from studies.console import shown_progress

WIDEST = 1.25
"""Largest over smallest MACs of the networks."""

SCORES = ("ap", "smooth_ap", "recall", "negative_loss")
STARTS = ("own", "supernet")
ZERO_COST_IMAGES = 16
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured of each network."""

    shards: Path
    supernet: Path
    steps: tuple[int, ...]
    alone_steps: int
    seed: int


def draw(count: int, macs: int, *, seed: int) -> list[Architecture]:
    """Feasible architectures whose MACs lie within WIDEST of one another, around `macs`."""
    limits, generator = Limits(), np.random.default_rng(seed)
    least, most = macs / WIDEST**0.5, macs * WIDEST**0.5
    found: dict[Architecture, None] = {}
    while len(found) < count:
        architecture = SPACE.decode(SPACE.random_genotype(generator))
        cost = architecture_cost(architecture, image_size=limits.image_size)
        if limits.allow(cost) and least <= cost.macs <= most:
            found[architecture] = None
    return list(found)


def measure(plan: Plan, key: str) -> dict[str, Any]:
    """Every score of one network, and the seconds each took."""
    torch.set_num_threads(1)
    keep_freed_memory()
    architecture = Architecture.from_key(key)
    fitter = CandidateFitter(
        open_shards(plan.shards), ProxySettings(FitSettings(1)), seed=plan.seed, device=CPU
    )
    supernet = load_supernet(plan.supernet, SPACE)
    cost = architecture_cost(architecture, image_size=640)
    proxies: dict[str, dict[str, float]] = {"macs": {"score": cost.macs, "seconds": 0.0}}
    proxies["params"] = {"score": cost.params, "seconds": 0.0}
    images = images_to_tensor(fitter.train.take(ZERO_COST_IMAGES, seed=plan.seed).images, CPU)
    start = perf_counter()
    promise = zero_cost_scores(fitter.start(architecture), images, seed=plan.seed)
    seconds = (perf_counter() - start) / len(promise)
    proxies |= {name: {"score": promise[name], "seconds": seconds} for name in ZERO_COST_SCORES}
    for origin in STARTS:
        for steps in plan.steps:
            if origin == "own" and steps == 0:
                continue
            network = (
                fitter.start(architecture)
                if origin == "own"
                else fitter.inherit(supernet, architecture)
            )
            fitted, seconds = _scores(fitter, network, steps)
            proxies |= {
                f"{name}, {steps} steps from {origin}": {"score": value, "seconds": seconds}
                for name, value in fitted.items()
            }
    truth, seconds = _scores(fitter, fitter.start(architecture), plan.alone_steps)
    return {
        "key": key,
        "macs": cost.macs,
        "params": cost.params,
        "alone_ap": truth["ap"],
        "alone_seconds": seconds,
        "proxies": proxies,
    }


def measure_alone(plan: Plan, key: str, fit_seed: int) -> dict[str, Any]:
    """The truth of one network once more, from other weights and another order of the images."""
    torch.set_num_threads(1)
    keep_freed_memory()
    fitter = CandidateFitter(
        open_shards(plan.shards),
        ProxySettings(FitSettings(1)),
        seed=plan.seed,
        device=CPU,
        fit_seed=fit_seed,
    )
    truth, seconds = _scores(fitter, fitter.start(Architecture.from_key(key)), plan.alone_steps)
    return {"key": key, "fit_seed": fit_seed, "ap": truth["ap"], "seconds": seconds}


def _scores(
    fitter: CandidateFitter, network: Detector, steps: int
) -> tuple[dict[str, float], float]:
    """SCORES after a fit, and the seconds of fit and judgement."""
    start = perf_counter()
    if steps:
        network = fitter.fit(network, FitSettings(steps))
    scores = report_scores(fitter.judge(network))
    scores["negative_loss"] = -fitter.held_out_loss(network)
    return {name: scores[name] for name in SCORES}, perf_counter() - start


def summarise(rows: Sequence[dict[str, Any]], *, seed: int) -> dict[str, Any]:
    """Tau with its 90 % interval, and mean seconds, of every proxy, best first."""
    truth = [float(np.mean(_truths(row))) for row in rows]
    found = {}
    for name in rows[0]["proxies"]:
        cells = [row["proxies"][name] for row in rows]
        tau, interval = kendall_tau([cell["score"] for cell in cells], truth, seed=seed)
        seconds = sum(cell["seconds"] for cell in cells) / len(cells)
        found[name] = {"tau": tau, "tau_interval": list(interval), "seconds": seconds}
    return dict(sorted(found.items(), key=lambda item: -item[1]["tau"]))


def _truths(row: dict[str, Any]) -> list[float]:
    """AP of each fit alone."""
    return [row["alone_ap"], *(again["ap"] for again in row.get("alone_again", ()))]


def truth_tau(rows: Sequence[dict[str, Any]], *, seed: int) -> dict[str, Any] | None:
    """Tau between the first two fits alone, with its 90 % interval; None where there is one."""
    if len(_truths(rows[0])) < 2:
        return None
    first, second = ([_truths(row)[i] for row in rows] for i in range(2))
    tau, interval = kendall_tau(first, second, seed=seed)
    return {"tau": tau, "tau_interval": list(interval)}


def _count(text: str) -> int:
    return int(float(text.removesuffix("M")) * 1e6) if text.endswith("M") else int(text)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("supernet", type=Path)
    parser.add_argument("--networks", type=int, default=16, help="(16)")
    parser.add_argument("--macs", type=_count, default=300_000_000, help="about (300M)")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 33, 100, 250])
    parser.add_argument("--alone-steps", type=int, default=1000, help="(1000)")
    parser.add_argument("--alone-seeds", type=int, default=1, help="fits alone of each (1)")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--folder", type=Path, default=Path("runs/proxies"))
    parser.add_argument("--write", type=Path, help="a JSON file, beside printing it")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    plan = Plan(
        options.shards, options.supernet, tuple(options.steps), options.alone_steps, options.seed
    )
    drawn = draw(options.networks, options.macs, seed=options.seed)
    known = {a.key: options.folder / f"{number}.json" for number, a in enumerate(drawn)}
    again = {
        (key, seed): path.with_name(f"{path.stem}-alone-{seed}.json")
        for key, path in known.items()
        for seed in range(options.seed + 1, options.seed + options.alone_seeds)
    }
    with (
        shown_progress() as progress,
        ProcessPoolExecutor(usable_cores(), mp_context=get_context("spawn")) as pool,
    ):
        jobs = {
            pool.submit(measure, plan, key): path
            for key, path in known.items()
            if not path.is_file()
        }
        jobs |= {
            pool.submit(measure_alone, plan, key, seed): path
            for (key, seed), path in again.items()
            if not path.is_file()
        }
        for done, job in enumerate(as_completed(jobs), start=1):
            write_json(jobs[job], job.result())
            progress("measurements", done, len(jobs))
    rows = [json.loads(path.read_text()) for path in known.values()]
    for row in rows:
        row["alone_again"] = [
            json.loads(path.read_text()) for (key, _), path in again.items() if key == row["key"]
        ]
    shards = open_shards(options.shards)
    result = {
        **record_header(seed=options.seed, data_hash=shards.hash),
        "data": shards.manifest["source"],
        "supernet": options.supernet.stem,
        "alone_steps": options.alone_steps,
        "truth_tau": truth_tau(rows, seed=options.seed),
        "proxies": summarise(rows, seed=options.seed),
        "networks": rows,
    }
    print(json.dumps(result["proxies"], indent=2))
    if options.write is not None:
        write_json(options.write, result)


if __name__ == "__main__":
    main()
