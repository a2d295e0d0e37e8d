"""Which cheap score orders networks as a long fit does: Kendall's tau of every candidate proxy.

Run from the repository's root:
python -m benchmarks.proxies SHARDS SUPERNET [--networks 16] [--draw-seed 0] [--macs 300M]
    [--steps 0 100 300] [--alone-steps 1200] [--alone-seeds 2] [--repeat-steps 200] [--batch-size 4]
    [--teacher FOLDER] [--starts own supernet] [--known docs/results/proxies.json ...]
    [--write docs/results/proxies.json]
SHARDS is a folder that `prepare` or a search wrote, SUPERNET a file of runs/.cache/supernets.
The networks are drawn among those that keep the usual limits and differ by at most 25 % in MACs, so
that size alone gives no rank. Each is fitted for every number of steps from weights of its own and
from the supernet's; judged are average precision, smoother scores and the loss on held-out crops,
and scores of no training at all. The truth is the mean AP of --alone-seeds fits alone for
--alone-steps, from other weights and orders of the images than the short fits'; how far they agree,
and what each of them says of the others' mean, by itself and together with the longest short fit
(`nas.fidelity.expected_aps`), is given as `alone`: no score can be expected to say much more of the
truth than a fit as long as its own does. Fits of --repeat-steps from own weights are made REPEATS
times, with other seeds: how far they agree, and what their mean AP says of the truth, tells how
much of a short fit's error is chance and how much is that it is short. With --teacher, a folder of
runs/.cache/teachers, short fits are made a second time, learning from it as trials do. --starts
leaves the other kinds of short fits out. What is measured once is kept in --folder, so a run that
was cut goes on; --known takes the fits of earlier records, of the same crops, for measured (their
seconds are of their own days); of two that are alike the last one's.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.kept_rows import kept_rows
from data.errors import UserError
from data.files import write_json
from data.progress import Progress
from data.quantities import parse_quantity
from data.shards import ShardSet, open_shards
from nas.device import keep_freed_memory
from nas.fidelity import ALONE_STATISTICS, ZERO_COST_IMAGES, expected_aps, kendall_tau, tau_b
from nas.fitting import FitSettings, NotFiniteError, images_to_tensor
from nas.outlook import END_EXPONENT, handicap
from nas.proxy import CandidateFitter, ProxySettings, report_scores, teacher_of_trials
from nas.records import record_header
from nas.supernet_training import load_supernet
from nas.teachers import Teacher
from objectives.average_precision import promise_of
from objectives.cost import architecture_cost
from objectives.limits import Limits
from objectives.zero_cost import zero_cost_scores
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from search_spaces.supernet import Supernet
from studies.console import shown_progress
from studies.schedule import TEACHING
from studies.settings import PROMISE

WIDEST = 1.25
"""Largest over smallest MACs of the networks."""

SCORES = (
    "ap",
    "smooth_ap",
    "quality_ap",
    *(f"{name}_{size}" for name in ("ap", "recall") for size in ("small", "medium", "large")),
    "recall",
    PROMISE,
    "negative_loss",
    "ap_and_loss",
)
LOSS_WEIGHT = 0.2
"""Of the loss on held-out crops, subtracted from the root of AP in `ap_and_loss`; most of what that
differs by is the loss's. Chosen on the very networks that it is measured on."""

CPU = torch.device("cpu")
REPEATS = 3
TRIAL_STATISTICS = ProxySettings(FitSettings(1)).recalibration_images

Start = Literal["own", "supernet", "own, taught", "supernet, taught"]
UNTAUGHT: tuple[Start, ...] = ("own", "supernet")
TAUGHT: tuple[Start, ...] = ("own, taught", "supernet, taught")


@dataclass(frozen=True, slots=True)
class Fit:
    """One fit of one network. start: whose weights it begins with, and whether it has a teacher.
    seed: of its own weights and of the order of the images."""

    start: Start
    steps: int
    seed: int

    @property
    def inherits(self) -> bool:
        """Whether it begins with the supernet's weights."""
        return self.start.startswith("supernet")

    @property
    def is_taught(self) -> bool:
        """Whether it has a teacher."""
        return self.start in TAUGHT


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured of each network. seed: of the split and of the short fits; the fits alone
    have the `alone_seeds` seeds after it. repeat_steps: of the fits that are made REPEATS times,
    each of them one of `steps`. teacher: of short fits that are taught; None: there are none.
    starts: kinds of short fits; None: all that there can be."""

    shards: Path
    supernet: Path
    steps: tuple[int, ...]
    alone_steps: int
    alone_seeds: int
    batch_size: int
    seed: int
    repeat_steps: tuple[int, ...] = ()
    teacher: Path | None = None
    starts: tuple[Start, ...] | None = None

    @property
    def short_fits(self) -> list[Fit]:
        """Proxies that need a fit, or at least inherited weights."""
        starts = self.starts
        if starts is None:
            starts = UNTAUGHT if self.teacher is None else UNTAUGHT + TAUGHT
        fits = [Fit(start, steps, self.seed) for start in starts for steps in self.steps]
        return [fit for fit in fits if fit.steps or fit.start == "supernet"]

    @property
    def longest(self) -> Fit:
        """The short fit most like a search's trial: taught and from the supernet if there is a
        teacher, else from own weights if it has steps."""
        return max(self.short_fits, key=lambda fit: (fit.steps, fit.start == "supernet, taught"))

    @property
    def alone_fits(self) -> list[Fit]:
        """The truth."""
        seeds = range(self.seed + 1, self.seed + 1 + self.alone_seeds)
        return [Fit("own", self.alone_steps, seed) for seed in seeds]

    def repeats(self, steps: int) -> list[Fit]:
        """The short fit from own weights and its repetitions, with seeds of their own."""
        first = self.seed + 1 + self.alone_seeds
        seeds = (self.seed, *range(first, first + REPEATS - 1))
        return [Fit("own", steps, seed) for seed in seeds]

    @property
    def every_fit(self) -> list[Fit]:
        """All of them, each once."""
        repeated = [fit for steps in self.repeat_steps for fit in self.repeats(steps)]
        return list(dict.fromkeys([*self.short_fits, *self.alone_fits, *repeated]))


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


@cache
def _shards(folder: Path) -> ShardSet:
    """Opened once in each process, for fits of all seeds."""
    return open_shards(folder)


def _fitter_of(plan: Plan, fit: Fit) -> CandidateFitter:
    teacher = plan.teacher if fit.is_taught else None
    return _fitter(plan, fit.seed, _statistics(plan, fit), teacher)


def _statistics(plan: Plan, fit: Fit) -> int:
    """Crops that batch norms have theirs from: as in a search's trials and fits alone."""
    return ALONE_STATISTICS if fit in plan.alone_fits else TRIAL_STATISTICS


@cache
def _fitter(
    plan: Plan, fit_seed: int, statistics: int = TRIAL_STATISTICS, teacher: Path | None = None
) -> CandidateFitter:
    torch.set_num_threads(1)
    keep_freed_memory()
    settings = ProxySettings(
        FitSettings(1, batch_size=plan.batch_size),
        teaching=TEACHING,
        recalibration_images=statistics,
    )
    return CandidateFitter(
        _shards(plan.shards),
        settings,
        seed=plan.seed,
        device=CPU,
        fit_seed=fit_seed,
        teacher=None if teacher is None else _teacher(teacher),
    )


@cache
def _teacher(path: Path) -> Teacher:
    return teacher_of_trials(path, CPU)


@cache
def _supernet(path: Path) -> Supernet:
    return load_supernet(path, SPACE)


def measure_fit(plan: Plan, key: str, fit: Fit) -> dict[str, Any]:
    """Scores after a fit, None where it diverged, and the seconds of fit and judgement.

    `statistics`: of how many crops batch norms had theirs in that.
    """
    fitter, architecture = _fitter_of(plan, fit), Architecture.from_key(key)
    supernet = _supernet(plan.supernet) if fit.inherits else None
    start = perf_counter()
    network = fitter.start(architecture, supernet)
    statistics = fitter.settings.recalibration_images
    row: dict[str, Any] = {"key": key, **asdict(fit), "statistics": statistics, "scores": None}
    try:
        if fit.steps:
            size = fitter.train.image_size
            settings = FitSettings(fit.steps, batch_size=plan.batch_size, image_size=size)
            network = fitter.fit(network, settings)
    except NotFiniteError:
        return row
    scores = report_scores(fitter.judge(network))
    seconds = perf_counter() - start
    scores["negative_loss"] = -fitter.held_out_loss(network)
    return row | {"scores": scores, "seconds": seconds}


def measure_untrained(plan: Plan, key: str) -> dict[str, Any]:
    """Costs and zero-cost scores of a network, and the seconds that all of them took."""
    fitter, architecture = _fitter(plan, plan.seed), Architecture.from_key(key)
    images = images_to_tensor(fitter.train.take(ZERO_COST_IMAGES, seed=plan.seed).images, CPU)
    cost = architecture_cost(architecture, image_size=Limits().image_size)
    start = perf_counter()
    promise = zero_cost_scores(fitter.start(architecture), images, seed=plan.seed)
    scores = {"macs": cost.macs, "params": cost.params, **promise}
    return {"key": key, "scores": scores, "seconds": perf_counter() - start}


def measure(plan: Plan, key: str, fit: Fit | None) -> dict[str, Any]:
    """A row of one network; fit: None for what needs no training."""
    return measure_untrained(plan, key) if fit is None else measure_fit(plan, key, fit)


@dataclass(frozen=True, slots=True)
class Column:
    """One proxy: its score of every network, None where a fit diverged, and its mean seconds."""

    name: str
    scores: list[float | None]
    seconds: float


def summarise(
    columns: Sequence[Column], truth: Sequence[float], *, seed: int
) -> dict[str, dict[str, Any]]:
    """Tau with its 90 % interval, and seconds, of every proxy, best first.

    A network whose short fit diverged counts as the worst of its proxy.
    """
    found: list[tuple[float, str, dict[str, Any]]] = []
    for column in columns:
        known = [score for score in column.scores if score is not None]
        worst = min(known, default=0.0) - 1
        scores = [worst if score is None else score for score in column.scores]
        tau, interval = kendall_tau(scores, truth, seed=seed)
        row = {"tau": tau, "tau_interval": list(interval), "seconds": column.seconds}
        found.append((tau, column.name, row))
    return {name: row for _, name, row in sorted(found, key=lambda one: -one[0])}


def agreement(aps: Sequence[Sequence[float]]) -> float:
    """Mean Kendall's tau between two of several fits. aps: of every network, for each of them."""
    return float(np.mean([tau_b(a, b) for a, b in combinations(aps, 2)]))


def of_truth(
    alone: Sequence[Sequence[float]], trial: Sequence[float], macs: Sequence[float]
) -> dict[str, Any] | None:
    """How the fits alone agree, mean over pairs; each one's tau with the mean of the others, that
    of a trial, and that of what both together make likely; None where there is one fit alone.

    alone: AP of every network, for each of the fits. trial: score of every network in a search.
    """
    if len(alone) < 2:
        return None
    others = [np.mean([*alone[:i], *alone[i + 1 :]], axis=0) for i in range(len(alone))]

    def taus(scores: Sequence[Sequence[float]]) -> list[float]:
        return [tau_b(one, mean) for one, mean in zip(scores, others, strict=True)]

    return {
        "agreement": agreement(alone),
        "each": taus(alone),
        "trial": taus([trial] * len(alone)),
        "each_with_trial": taus([expected_aps(trial, one, macs) for one in alone]),
    }


def of_repeats(
    aps: Sequence[Sequence[float]], truth: Sequence[float], *, seed: int
) -> dict[str, Any]:
    """How repetitions of a short fit agree, mean over pairs; how each orders the networks, and how
    their mean does, with its 90 % interval.

    aps: of every network, for each repetition.
    """
    tau, interval = kendall_tau(np.mean(aps, axis=0), truth, seed=seed)
    return {
        "agreement": agreement(aps),
        "each": [tau_b(one, truth) for one in aps],
        "mean": {"tau": tau, "tau_interval": list(interval)},
    }


def score_of(row: dict[str, Any], name: str) -> float | None:
    """A score of a row, None where the fit diverged or the row has no such score."""
    scores: dict[str, float] | None = row["scores"]
    if scores is None:
        return None
    if name == "ap_and_loss" and "negative_loss" in scores:
        return math.sqrt(scores["ap"]) + LOSS_WEIGHT * scores["negative_loss"]
    if name == PROMISE and "recall" in scores:  # fits measured before it was one of their scores
        return float(promise_of(scores["ap"], scores["recall"]))
    return scores.get(name)


def outlook_of(row: dict[str, Any], macs: int, exponent: float = END_EXPONENT) -> float | None:
    """The outlook of a row's promise, None where the fit diverged. macs: of its network."""
    promise = score_of(row, PROMISE)
    return None if promise is None else handicap(macs, exponent) * promise


def columns_of(rows: Sequence[dict[str, Any]], label: str, names: Sequence[str]) -> list[Column]:
    """A column for each of these scores of the rows, which are of all networks in their order."""
    seconds = [row["seconds"] for row in rows if "seconds" in row]
    mean = sum(seconds) / max(1, len(seconds))
    return [
        Column(
            f"{name}{label}",
            [score_of(row, name) for row in rows],
            mean,
        )
        for name in names
    ]


def known_rows(plan: Plan, earlier: dict[str, Any]) -> dict[tuple[str, Fit], dict[str, Any]]:
    """The rows of an earlier record that are of this plan's fits, by network and fit.

    Raises:
        UserError: it is of other crops, another split or another batch size.
    """
    data_hash = open_shards(plan.shards).hash
    wanted = (("data_hash", data_hash), ("seed", plan.seed), ("batch_size", plan.batch_size))
    for name, value in wanted:
        if earlier[name] != value:
            raise UserError(f"--known is of {name} {earlier[name]}, not {value}; leave it out")
    rows = [row for one in earlier["networks"] for row in (*one["short"], *one["alone"])]
    fits = {(row["key"], Fit(row["start"], row["steps"], row["seed"])): row for row in rows}
    same_supernet = earlier["supernet"] == plan.supernet.stem
    same_teacher = earlier.get("teacher") == _name(plan.teacher)
    return {
        (key, fit): row
        for (key, fit), row in fits.items()
        if (same_supernet or not fit.inherits) and (same_teacher or not fit.is_taught)
    }


def record(
    plan: Plan,
    keys: Sequence[str],
    folder: Path,
    *,
    known: Mapping[tuple[str, Fit], dict[str, Any]] | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """The result as plain values. folder: where rows are kept. known: rows not to be measured."""
    shards = open_shards(plan.shards)
    paths: dict[tuple[str, Fit | None], Path] = {
        (key, fit): folder / _place(plan, shards.hash, fit) / f"{key}.json"
        for fit in (None, *plan.every_fit)
        for key in keys
    }
    for place, row in (known or {}).items():
        path = paths.get(place)
        if path is not None and not path.is_file():
            write_json(path, row)
    measurements = {path: partial(measure, plan, *place) for place, path in paths.items()}
    kept = kept_rows(measurements, unit="measurements", progress=progress)
    rows = dict(zip(paths, kept, strict=True))
    alone = [[ap_of(rows[key, fit]) for key in keys] for fit in plan.alone_fits]
    truth = np.mean(alone, axis=0).tolist()
    untrained = [rows[key, None] for key in keys]
    columns = columns_of(untrained, "", tuple(untrained[0]["scores"]))
    for fit in plan.short_fits:
        label = f", {fit.steps} steps from {fit.start}"
        columns += columns_of([rows[key, fit] for key in keys], label, SCORES)
    repeated = {
        steps: [[ap_of(rows[key, fit]) for key in keys] for fit in plan.repeats(steps)]
        for steps in plan.repeat_steps
    }
    return {
        **record_header(seed=plan.seed, data_hash=shards.hash),
        "data": shards.manifest["source"],
        "supernet": plan.supernet.stem,
        "teacher": _name(plan.teacher),
        "batch_size": plan.batch_size,
        "alone_steps": plan.alone_steps,
        "alone": of_truth(
            alone,
            [score_of(rows[key, plan.longest], PROMISE) or 0.0 for key in keys],
            [row["scores"]["macs"] for row in untrained],
        ),
        "proxies": summarise(columns, truth, seed=plan.seed),
        "repeats": {
            str(steps): of_repeats(aps, truth, seed=plan.seed) for steps, aps in repeated.items()
        },
        "networks": [
            {
                "key": key,
                "untrained": rows[key, None]["scores"],
                "short": [rows[key, fit] for fit in plan.short_fits],
                "alone": [rows[key, fit] for fit in plan.alone_fits],
                "repeats": {steps: [aps[i] for aps in of] for steps, of in repeated.items()},
            }
            for i, key in enumerate(keys)
        ],
    }


def short_kinds(
    networks: Sequence[dict[str, Any]],
) -> Iterator[tuple[str, int, tuple[dict[str, Any], ...]]]:
    """The kinds of short fits of a record's networks: name, steps and the row of every network."""
    for rows in zip(*(network["short"] for network in networks), strict=True):
        start, steps = rows[0]["start"], rows[0]["steps"]
        yield f"{start}, {steps} steps", steps, rows


def ap_of(row: dict[str, Any]) -> float:
    """What a fit alone came to: nothing where it diverged."""
    return 0.0 if row["scores"] is None else float(row["scores"]["ap"])


def _place(plan: Plan, data_hash: str, fit: Fit | None) -> str:
    """Name of the folder of a measurement's rows; another one where anything differs."""
    if fit is None:
        return f"untrained-{plan.seed}-{data_hash[:12]}"
    supernet = plan.supernet.stem if fit.inherits else None
    judged = _statistics(plan, fit)
    facts: tuple[Any, ...] = (data_hash, plan.seed, plan.batch_size, asdict(fit), supernet, judged)
    if fit.is_taught:
        facts += (_name(plan.teacher), asdict(TEACHING))
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    return f"{fit.start.replace(', ', '-')}-{fit.steps}-{fit.seed}-{digest}"


def _name(teacher: Path | None) -> str | None:
    """A teacher's folder is named by what it was trained with."""
    return None if teacher is None else teacher.name


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("supernet", type=Path)
    parser.add_argument("--networks", type=int, default=16, help="(16)")
    parser.add_argument("--draw-seed", type=int, help="of the networks (--seed)")
    parser.add_argument("--macs", type=parse_quantity, default=300_000_000, help="about (300M)")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 100, 300])
    parser.add_argument("--alone-steps", type=int, default=1200, help="(1200)")
    parser.add_argument("--alone-seeds", type=int, default=2, help="fits alone of each (2)")
    parser.add_argument("--repeat-steps", type=int, nargs="*", default=[], help="of --steps (none)")
    parser.add_argument("--batch-size", type=int, default=4, help="images a step (4)")
    parser.add_argument("--teacher", type=Path, help="a folder of runs/.cache/teachers (none)")
    parser.add_argument("--starts", nargs="+", choices=UNTAUGHT + TAUGHT, help="(all)")
    parser.add_argument(
        "--known",
        type=Path,
        nargs="+",
        default=[],
        help="earlier records; of two fits alike the last one's (none)",
    )
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--folder", type=Path, default=Path("runs/proxies"))
    parser.add_argument("--write", type=Path, help="a JSON file, beside printing it")
    options = parser.parse_args()
    if options.teacher is None and set(TAUGHT).intersection(options.starts or ()):
        parser.error("taught fits need a --teacher")
    return options


def main() -> None:
    """Measure and print."""
    options = parse()
    plan = Plan(
        shards=options.shards,
        supernet=options.supernet,
        steps=tuple(options.steps),
        alone_steps=options.alone_steps,
        alone_seeds=options.alone_seeds,
        batch_size=options.batch_size,
        seed=options.seed,
        repeat_steps=tuple(options.repeat_steps),
        teacher=options.teacher,
        starts=None if options.starts is None else tuple(options.starts),
    )
    known: dict[tuple[str, Fit], dict[str, Any]] = {}
    for path in options.known:
        known |= known_rows(plan, json.loads(path.read_text()))
    draw_seed = options.seed if options.draw_seed is None else options.draw_seed
    keys = [a.key for a in draw(options.networks, options.macs, seed=draw_seed)]
    with shown_progress() as progress:
        result = record(plan, keys, options.folder, known=known, progress=progress)
    print(json.dumps({name: result[name] for name in ("alone", "proxies", "repeats")}, indent=2))
    if options.write is not None:
        write_json(options.write, result)


if __name__ == "__main__":
    main()
