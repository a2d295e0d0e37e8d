"""What makes AP rise fastest per second of a short fit: one change at a time, at equal cost.

Run from the repository's root:
python -m benchmarks.fit_speed SHARDS [--synthetic SHARDS] [--steps 250] [--seed 0]
    [--arms NAME ...] [--write docs/results/fit_speed.json]
The usual fit is that of the settings' defaults; trials are fitted as `batch-4-simota-20`, since
this was measured. SHARDS are folders that `prepare` or a search wrote, --synthetic's of drawn
faces; without it the arms that need it are left out, and the result says so. Every arm sees as many
pixels as the usual fit of --steps steps; a step on smaller crops costs less, so there are more of
them. Four networks of different blocks are fitted from scratch and judged on held-out crops, the
loss there being the usual one for every arm. What is measured once is kept in --folder, so a run
that was cut goes on.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student_t

from benchmarks.kept_rows import kept_rows
from data.augment import LIGHT
from data.errors import UserError
from data.files import write_json
from data.loader import ShardLoader
from data.progress import Progress, silent
from data.sample import Batch
from data.shards import ShardSet, open_shards
from nas.device import keep_freed_memory
from nas.fitting import FitSettings, NotFiniteError, StepReport, Trainer, seeded
from nas.proxy import CandidateFitter, ProxySettings, report_scores
from nas.records import record_header
from objectives.assignment import AssignmentSettings
from objectives.cost import architecture_cost
from objectives.limits import Limits
from objectives.loss import SHORT_FIT, LossSettings
from search_spaces.architecture import Architecture
from search_spaces.network import Detector, build
from studies.console import show_table, shown_progress

NETWORKS = (
    "stem8x1_residual.16x4k3e1.none-residual.32x4k3e1.none-residual.48x4k3e1.none"
    "_fpn.16x1_shared.none.0x0.none",
    "stem16x2_depthwise.64x2k3e1.none-depthwise.64x2k3e1.none-depthwise.64x2k3e1.none"
    "_fpn.64x1_per_level.none.0x0.none",
    "stem8x1_ultra_efficient.32x2k3e1.none-ultra_efficient.64x2k3e1.none"
    "-ultra_efficient.128x1k3e1.none_pyramid_attention.64x2_shared.depthwise.64x2.dynamic",
    "stem16x2_inverted.48x4k3e2.none-residual.32x1k3e1.dynamic-inverted.32x3k5e3.eca"
    "_bifpn.64x1_shared.none.0x0.se",
)
"""175, 233, 351 and 474 million MACs at 640 px: three of `starting_points`, one that a search
found."""

USUAL = FitSettings(steps=250)
COMPARED = ("smooth_ap", "ap", "held_out_loss", "seconds", "cpu_seconds")
CONFIDENCE = 0.9
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a fit in which all batches are of one kind.

    cost_share: of the pixels of the fit. batch_size: images a step. shrink: images are random
    squares of 1 / shrink of a crop's side, at its scale. drawn: they show drawn faces.
    """

    cost_share: float = 1.0
    batch_size: int = USUAL.batch_size
    shrink: int = 1
    drawn: bool = False

    def steps(self, usual_steps: int) -> int:
        """The steps that cost its share of as many usual ones, at least one."""
        images = self.cost_share * usual_steps * USUAL.batch_size * self.shrink**2
        return max(1, round(images / self.batch_size))


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to spend the cost of the usual fit.

    stretches: one after the other, in one schedule of the learning rate. restarts: each is a fit
    of its own instead, from the weights of the one before. learning_rate, schedule,
    average_decay: see `FitSettings`. draw: added to the seed of initial weights and of the order
    of images.
    """

    stretches: tuple[Stretch, ...] = (Stretch(),)
    restarts: bool = False
    learning_rate: float = USUAL.learning_rate
    schedule: str = USUAL.schedule
    average_decay: float = USUAL.average_decay
    loss: LossSettings = field(default_factory=LossSettings)
    draw: int = 0

    @property
    def needs_drawn(self) -> bool:
        """Whether it sees drawn faces."""
        return any(stretch.drawn for stretch in self.stretches)

    def fits(self) -> tuple[tuple[Stretch, ...], ...]:
        """The stretches that share a schedule, fit by fit."""
        return tuple((one,) for one in self.stretches) if self.restarts else (self.stretches,)

    def settings(self, steps: int) -> FitSettings:
        """What a trainer of so many steps reads; batches are the stretches' matter."""
        return FitSettings(
            steps,
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            average_decay=self.average_decay,
        )


def _batch(size: int) -> Arm:
    return Arm((Stretch(batch_size=size),))


def _small_first(batch_size: int) -> Arm:
    return Arm((Stretch(1 / 3, batch_size, shrink=2), Stretch(2 / 3)))


def _assign(assignment: AssignmentSettings) -> Arm:
    return Arm(loss=LossSettings(assignment=assignment))


_DRAWN_FIRST = (Stretch(0.5, drawn=True), Stretch(0.5))

ARMS: dict[str, Arm] = {
    "usual": Arm(),
    "other-draw": Arm(draw=1),
    "half-rate": Arm(learning_rate=2.5e-3),
    "double-rate": Arm(learning_rate=1e-2),
    "batch-4": _batch(4),
    "batch-16": _batch(16),
    "half-size-first": _small_first(USUAL.batch_size),
    "half-size-first-batch-32": _small_first(4 * USUAL.batch_size),
    "simota-4": _assign(AssignmentSettings(most_positives=4)),
    "simota-20": Arm(loss=SHORT_FIT),
    "simota-wide": _assign(AssignmentSettings(centre_radius_strides=2.0)),
    "task-aligned-4": _assign(AssignmentSettings("task_aligned", most_positives=4)),
    "task-aligned-13": _assign(AssignmentSettings("task_aligned", most_positives=13)),
    "half-box-weight": Arm(loss=LossSettings(box_weight=2.5)),
    "double-box-weight": Arm(loss=LossSettings(box_weight=10.0)),
    "average-0.9": Arm(average_decay=0.9),
    "average-0.95": Arm(average_decay=0.95),
    "onecycle": Arm(schedule="onecycle"),
    "constant-rate": Arm(schedule="constant"),
    "constant-rate-average-0.95": Arm(schedule="constant", average_decay=0.95),
    "batch-4-simota-20": replace(_batch(4), loss=SHORT_FIT),
    "half-size-first-batch-32-simota-20": replace(_small_first(32), loss=SHORT_FIT),
    "half-size-only-batch-16-simota-20": Arm((Stretch(batch_size=16, shrink=2),), loss=SHORT_FIT),
    "synthetic-first": Arm(_DRAWN_FIRST, restarts=True),
    "synthetic-first-one-schedule": Arm(_DRAWN_FIRST),
}
"""`other-draw` changes nothing but chance: what it gains or loses is noise."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What all arms have in common. synthetic: shards of drawn faces, if there are any."""

    shards: Path
    synthetic: Path | None
    steps: int
    seed: int


@cache
def _fitter(shards: Path, seed: int) -> CandidateFitter:
    """Opened once in each process."""
    torch.set_num_threads(1)
    keep_freed_memory()
    return CandidateFitter(open_shards(shards), ProxySettings(USUAL), seed=seed, device=CPU)


@cache
def _drawn(shards: Path) -> ShardSet:
    return open_shards(shards)


def _batches(plan: Plan, stretch: Stretch, *, seed: int, shown: int) -> Iterator[Batch]:
    """A stretch's batches, from about the place in the row of images where `shown` ends."""
    shards = _fitter(plan.shards, plan.seed).train
    if stretch.drawn:
        if plan.synthetic is None:
            raise ValueError("synthetic must be a folder of shards for drawn faces, got None")
        shards = _drawn(plan.synthetic)
    loader = ShardLoader(
        shards,
        batch_size=stretch.batch_size,
        image_size=shards.image_size // stretch.shrink,
        seed=seed,
        augment=LIGHT,
    )
    first = math.ceil(shown / stretch.batch_size)
    return map(loader.batch, range(first, first + stretch.steps(plan.steps)))


def fit_arm(plan: Plan, arm: Arm, architecture: Architecture) -> tuple[Detector, list[StepReport]]:
    """A network fitted from scratch, and what its steps were like."""
    seed, shown = plan.seed + arm.draw, 0
    with seeded(seed):
        network = build(architecture)
    reports: list[StepReport] = []
    for stretches in arm.fits():
        steps = sum(stretch.steps(plan.steps) for stretch in stretches)
        trainer = Trainer(network, arm.settings(steps), loss=arm.loss)
        for stretch in stretches:
            reports += map(trainer.step, _batches(plan, stretch, seed=seed, shown=shown))
            shown += stretch.steps(plan.steps) * stretch.batch_size
        network = trainer.result
    return network, reports


def measure(plan: Plan, name: str, key: str) -> dict[str, Any]:
    """A row: scores of one network after one arm's fit, None where the loss was not finite."""
    arm = ARMS[name]
    fitter = _fitter(plan.shards, plan.seed)
    if arm.needs_drawn and plan.synthetic is not None:
        _drawn(plan.synthetic)
    row: dict[str, Any] = {"arm": name, "key": key, "seed": plan.seed, "ap": None}
    start, cpu_start = perf_counter(), process_time()
    try:
        network, reports = fit_arm(plan, arm, Architecture.from_key(key))
    except NotFiniteError:
        return row
    seconds, cpu_seconds = perf_counter() - start, process_time() - cpu_start
    images = sum(stretch.steps(plan.steps) * stretch.batch_size for stretch in arm.stretches)
    return row | {
        **report_scores(fitter.judge(network)),
        "held_out_loss": fitter.held_out_loss(network),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "steps": len(reports),
        "images": images,
        "positives_per_image": sum(report.positives for report in reports) / images,
    }


def ratio_to_usual(
    rows: Sequence[Mapping[str, Any]], usual: Sequence[Mapping[str, Any]], name: str
) -> dict[str, Any]:
    """Geometric mean over networks of one measure's ratio to the usual fit, with its interval.

    rows, usual: of the same networks in the same order. The interval is Student's for the
    logarithms. Networks where either is 0 or not known are not counted in `networks`.
    """
    pairs = [(row.get(name), base.get(name)) for row, base in zip(rows, usual, strict=True)]
    logs = np.array([math.log(value / base) for value, base in pairs if value and base])
    ratio, interval = None, None
    if len(logs):
        ratio = math.exp(logs.mean())
    if len(logs) > 1:
        factor = student_t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) / math.sqrt(len(logs))
        half = float(factor * logs.std(ddof=1))
        interval = [math.exp(logs.mean() - half), math.exp(logs.mean() + half)]
    return {"ratio": ratio, "interval": interval, "networks": len(logs)}


def summarise(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Every arm's ratios to the usual one, highest smooth AP first."""
    found = {
        arm: {name: ratio_to_usual(measured, rows["usual"], name) for name in COMPARED}
        for arm, measured in rows.items()
    }
    return dict(sorted(found.items(), key=lambda item: -(item[1]["smooth_ap"]["ratio"] or 0)))


def changes(arm: Arm) -> dict[str, Any]:
    """The settings in which an arm differs from the usual one."""
    return _differences(asdict(arm), asdict(ARMS["usual"]))


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _differences(value, other[name]) if isinstance(value, dict) else value
        for name, value in one.items()
        if value != other[name]
    }


def record(
    plan: Plan,
    arms: Iterable[str],
    networks: Sequence[str],
    folder: Path,
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The result as plain values. folder: where rows are kept until all are known."""
    facts = _facts(plan)
    wanted = list(dict.fromkeys(("usual", *arms)))
    lacking = [arm for arm in wanted if ARMS[arm].needs_drawn and plan.synthetic is None]
    measured = [arm for arm in wanted if arm not in lacking]
    measurements = {
        folder / _fingerprint(plan, arm, facts) / f"{key}.json": partial(measure, plan, arm, key)
        for arm in measured
        for key in networks
    }
    warm_up = partial(_warm_up, plan)
    rows = kept_rows(measurements, unit="fits", progress=progress, warm_up=warm_up)
    by_arm = {arm: [row for row in rows if row["arm"] == arm] for arm in measured}
    return {
        **record_header(seed=plan.seed, data_hash=facts["data"]["hash"]),
        **facts,
        "usual_steps": plan.steps,
        "usual": asdict(ARMS["usual"]),
        "arms": {arm: changes(ARMS[arm]) for arm in measured},
        "left_out": dict.fromkeys(lacking, "needs --synthetic, shards of drawn faces"),
        "not_finite": [[row["arm"], row["key"]] for row in rows if row["ap"] is None],
        "macs": {key: _macs(key) for key in networks},
        "summary": summarise(by_arm),
        "rows": rows,
    }


def _facts(plan: Plan) -> dict[str, Any]:
    """What the shards hold, of the real and the drawn faces; they are not kept in memory."""
    facts: dict[str, Any] = {"data": None, "synthetic": None}
    sides = {}
    for name, folder in (("data", plan.shards), ("synthetic", plan.synthetic)):
        if folder is not None:
            shards = open_shards(folder)
            facts[name] = {"source": shards.manifest["source"], "hash": shards.hash}
            sides[name] = shards.image_size
    if len(set(sides.values())) > 1:
        raise UserError(
            f"crops are {sides['data']} px in {plan.shards} and {sides['synthetic']} px in "
            f"{plan.synthetic}; prepare both with the same image size"
        )
    return facts


def _fingerprint(plan: Plan, name: str, facts: Mapping[str, Any]) -> str:
    """Name of the folder of an arm's rows; another one where any setting or data differ."""
    arm = ARMS[name]
    synthetic = facts["synthetic"] if arm.needs_drawn else None
    everything = (facts["data"], synthetic, plan.steps, plan.seed, asdict(arm))
    return f"{name}-{hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:12]}"


def _macs(key: str) -> int:
    return architecture_cost(Architecture.from_key(key), image_size=Limits().image_size).macs


def _warm_up(plan: Plan) -> None:
    """Take a process's first step, a second slower than the others, before any is timed."""
    fit_arm(replace(plan, steps=1), ARMS["usual"], Architecture.from_key(NETWORKS[0]))


def summary_cells(summary: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A table: the arm, the ratio of smooth AP with its interval, and the other ratios."""
    return [
        (
            arm,
            _number(found["smooth_ap"]["ratio"]),
            _range(found["smooth_ap"]["interval"]),
            *(_number(found[name]["ratio"]) for name in COMPARED[1:]),
        )
        for arm, found in summary.items()
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _range(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else " to ".join(map(_number, interval))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--synthetic", type=Path, help="shards of drawn faces")
    parser.add_argument("--steps", type=int, default=USUAL.steps, help="of the usual fit (250)")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument(
        "--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="beside usual (all)"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/fit_speed"))
    parser.add_argument("--write", type=Path, help="a JSON file, beside printing a table")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    plan = Plan(options.shards, options.synthetic, options.steps, options.seed)
    with shown_progress() as progress:
        result = record(plan, options.arms, NETWORKS, options.folder, progress=progress)
    print(f"ratios to the usual fit of {plan.steps} steps, interval over {len(NETWORKS)} networks")
    columns = ("arm", "smooth AP", "90 % interval", "AP", "held-out loss", "seconds", "CPU seconds")
    show_table(columns, summary_cells(result["summary"]))
    for arm, reason in result["left_out"].items():
        print(f"left out: {arm} {reason}")
    for arm, key in result["not_finite"]:
        print(f"not finite: {arm}, {key}")
    if options.write is not None:
        write_json(options.write, result)


if __name__ == "__main__":
    main()
