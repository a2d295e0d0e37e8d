"""How many images a second training takes in our loop and in a plain one, in one run.

Run from the repository's root:
python -m benchmarks.throughput --data WIDER [--output docs/results/throughput.json]
Without --data the images are drawn, and kept as JPEG. Both loops train retinaface-mnet025 from
equal weights on the same images, by SGD, with the loss of its training script. The plain loop is
`benchmarks.plain_training`; ours is what `retrain` does: `Trainer` fed by `prefetched`, with
--processes as a team. They take turns, round after round, each in processes of its own, after an
untimed step; a round makes its own batches from the first to the last. The parts of a step are
those of the median round; on CUDA those of a further round, not counted, in which the device is
waited for after each part.
"""

import argparse
import json
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.plain_training import (
    BOX_WEIGHT,
    LEARNING_RATE,
    MATCH_IOU,
    MOMENTUM,
    NEGATIVE_RATIO,
    WEIGHT_DECAY,
    PlainPictures,
    PlainTraining,
    plain_batches,
)
from data.augment import AugmentSettings
from data.files import write_json
from data.loader import FullSizeLoader, prefetched
from data.sample import Faces, ImageSource, Sample
from data.sources import open_source, ready_to_train
from data.synthetic import SyntheticSource
from nas.device import DEVICES, choose_device, keep_freed_memory
from nas.distributed import OwnRows, equal_start, same_for_all, shared_batch_norms
from nas.fitting import FitSettings, Trainer, seeded
from nas.records import record_header, usable_cores
from nas.retrain import peak_memory_bytes
from nas.team import Team, work_together
from objectives.loss import Losses, LossSettings
from objectives.network_loss import network_loss
from search_spaces.zoo.retinaface import RetinaFace, retinaface_mnet025

SEED = 0
NO_MORE = -1
PARTS = ("data", "forward", "loss", "backward", "optimizer")
LOSS = LossSettings(
    box_kind="smooth_l1",
    box_weight=BOX_WEIGHT,
    match_iou=MATCH_IOU,
    negative_ratio=NEGATIVE_RATIO,
)
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class JpegSource:
    """An ImageSource of JPEG pictures in memory, decoded anew whenever they are loaded."""

    description: str
    hash: str
    pictures: tuple[tuple[NDArray[np.uint8], Faces, str], ...]

    @classmethod
    def of(cls, source: ImageSource) -> "JpegSource":
        """Another source's images, written as JPEG of quality 90."""
        pictures = []
        for index in range(len(source)):
            sample = source.load(index)
            encoded = cv2.imencode(".jpg", sample.image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
            pictures.append((np.asarray(encoded, np.uint8), sample.faces, sample.source))
        return cls(f"{source.description}, as JPEG", source.fingerprint(), tuple(pictures))

    def fingerprint(self) -> str:
        return self.hash

    def __len__(self) -> int:
        return len(self.pictures)

    def load(self, index: int) -> Sample:
        encoded, faces, name = self.pictures[index]
        return Sample(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8), faces, name)


@dataclass(frozen=True, slots=True)
class Job:
    """What is measured.

    steps: of a loop in a round. rounds: that count. threads: of either loop, except that each of
    several processes has one. processes, compiled, keeps_memory: of ours; see `Trainer` and
    `keep_freed_memory`. plain_workers: of the plain loop's DataLoader; with 0 it makes a batch when
    one is asked for.
    """

    source: ImageSource
    device: torch.device
    image_size: int
    batch_size: int
    steps: int
    rounds: int
    threads: int
    processes: int = 1
    compiled: bool = False
    keeps_memory: bool = True
    plain_workers: int = 0

    def loader(self) -> FullSizeLoader:
        """Our batches; both loops take their images in this order."""
        return FullSizeLoader(
            self.source,
            batch_size=self.batch_size,
            image_size=self.image_size,
            seed=SEED,
            augment=AugmentSettings(),
        )

    def network(self) -> RetinaFace:
        """Equal weights for everyone."""
        with seeded(SEED):
            return retinaface_mnet025().to(self.device)

    @property
    def rounds_in_all(self) -> int:
        """Those that count, and on CUDA the one that times the parts."""
        return self.rounds + (self.device.type == "cuda")

    def steps_of(self, number: int) -> range:
        """The steps of a round; those of the warm-up come before round 0's."""
        return range(1 + number * self.steps, 1 + (number + 1) * self.steps)


WARM_UP = range(1)


class Stopwatch:
    """Seconds of each part since `start`; called where a part ends, with its name."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.start(waits=False)

    def start(self, *, waits: bool) -> None:
        """Begin anew. waits: for the device, wherever a part ends."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._waits = waits
        self._synchronize()
        self._first = self._last = time.perf_counter()
        self._system_before = resource.getrusage(resource.RUSAGE_SELF).ru_stime

    def __call__(self, part: str) -> None:
        if self._waits:
            self._synchronize()
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now

    def row(self, steps: int) -> Row:
        """Seconds a step: all, its parts, and processor seconds in the system (memory pages)."""
        self._synchronize()
        in_system = resource.getrusage(resource.RUSAGE_SELF).ru_stime - self._system_before
        return {
            "seconds": (time.perf_counter() - self._first) / steps,
            "parts": {part: self.seconds[part] / steps for part in PARTS},
            "system_seconds": in_system / steps,
            "peak_memory_bytes": peak_memory_bytes(self._device),
        }

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


Train = Callable[[range], object]


def _measured(job: Job, watch: Stopwatch, train: Train, number: int) -> Row:
    watch.start(waits=number == job.rounds)
    train(job.steps_of(number))
    return watch.row(job.steps)


def run_plain(job: Job, commands: "Connection[Any, Any]") -> None:
    """The plain loop, in this process: a row for each round that is asked for."""
    torch.set_num_threads(job.threads)
    torch.backends.cudnn.benchmark = True
    training = PlainTraining(job.network(), image_size=job.image_size, device=job.device)
    pictures = PlainPictures(job.source, job.image_size, SEED)
    watch = Stopwatch(job.device)

    def train(steps: range) -> None:
        indices = [job.loader().indices(step).tolist() for step in steps]
        training.train(plain_batches(pictures, indices, workers=job.plain_workers), watch)

    train(WARM_UP)
    commands.send({"threads": torch.get_num_threads(), "workers": job.plain_workers})
    while (number := commands.recv()) != NO_MORE:
        commands.send(_measured(job, watch, train, number))


def run_ours(job: Job, commands: "Connection[Any, Any]") -> None:
    """Our loop, in this process and those of its team: a row for each round that is asked for."""
    torch.set_num_threads(job.threads)
    work_together(
        _follow, job, size=job.processes, lead=lambda team: _take_part(team, job, commands)
    )


def _follow(team: Team, job: Job) -> None:
    _take_part(team, job, None)


def _take_part(team: Team, job: Job, commands: "Connection[Any, Any] | None") -> None:
    """A member's share of our loop; rank 0 has the commands."""
    keeps_memory = job.keeps_memory and keep_freed_memory()
    network, watch = job.network(), Stopwatch(job.device)
    equal_start(network, team)
    with shared_batch_norms(network, team), _parts_marked(watch):
        trainer = _trainer(network, team, job)
        trainer.optimizer.register_step_pre_hook(lambda *_: watch("backward"))
        loader = OwnRows(job.loader(), team)

        def train(steps: range) -> None:
            for batch in prefetched(loader, steps, workers=usable_cores()):
                watch("data")
                trainer.step(batch)
                watch("optimizer")

        train(WARM_UP)
        facts = {
            "processes": team.size,
            "threads": torch.get_num_threads(),
            "compiled": job.compiled,
            "keeps_freed_memory": keeps_memory,
        }
        number = _next_round(facts, team, job, commands)
        while number != NO_MORE:
            number = _next_round(_measured(job, watch, train, number), team, job, commands)


def _next_round(report: Row, team: Team, job: Job, commands: "Connection[Any, Any] | None") -> int:
    """Rank 0 reports and asks what is next; all members hear it."""
    number = 0
    if commands is not None:
        commands.send(report)
        number = commands.recv()
    return round(same_for_all(float(number), team, job.device))


def _trainer(network: RetinaFace, team: Team, job: Job) -> Trainer[RetinaFace]:
    fit = FitSettings(
        steps=1 + job.steps * job.rounds_in_all,
        batch_size=job.batch_size,
        image_size=job.image_size,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        optimizer="sgd",
        momentum=MOMENTUM,
        schedule="constant",
    )
    return Trainer(network, fit, loss=LOSS, team=team, compiled=job.compiled)


@contextmanager
def _parts_marked(watch: Stopwatch) -> Iterator[None]:
    """Inside, steps of a Trainer tell the watch where forward pass and loss end."""

    def loss(*arguments: Any, **settings: Any) -> Losses:
        watch("forward")
        losses = network_loss(*arguments, **settings)
        watch("loss")
        return losses

    with patch("nas.fitting.network_loss", loss):
        yield


class LoopProcess:
    """A loop that waits, in a process of its own, until a round of it is asked for."""

    def __init__(self, run: Callable[[Job, "Connection[Any, Any]"], None], job: Job) -> None:
        context = get_context("spawn")
        self._commands, others = context.Pipe()
        self._process = context.Process(target=run, args=(job, others))
        self._process.start()
        others.close()
        self.facts: Row = self._commands.recv()

    def round(self, number: int) -> Row:
        """What a round was like."""
        self._commands.send(number)
        row: Row = self._commands.recv()
        return row

    def close(self) -> None:
        """End the process, after its round."""
        if self._process.is_alive():
            self._commands.send(NO_MORE)
        self._process.join()


@contextmanager
def _both_loops(job: Job) -> Iterator[dict[str, LoopProcess]]:
    loops: dict[str, LoopProcess] = {}
    try:
        for name, run in (("plain", run_plain), ("ours", run_ours)):
            loops[name] = LoopProcess(run, job)
        yield loops
    finally:
        for loop in loops.values():
            loop.close()


def measure(job: Job) -> Row:
    """Rounds, rates, ratio and parts of both loops, ready for JSON."""
    rows: dict[str, list[Row]] = {"plain": [], "ours": []}
    with _both_loops(job) as loops:
        for number in range(job.rounds_in_all):
            for name in sorted(loops, reverse=number % 2 == 0):  # either goes first in turn
                rows[name].append(loops[name].round(number))
        facts = {name: loop.facts for name, loop in loops.items()}
    rates = {
        name: [job.batch_size / row["seconds"] for row in several[: job.rounds]]
        for name, several in rows.items()
    }
    ratios = [ours / plain for ours, plain in zip(rates["ours"], rates["plain"], strict=True)]
    return {
        "network": "retinaface-mnet025",
        "data": job.source.description,
        "device": str(job.device),
        "image_size": job.image_size,
        "batch_size": job.batch_size,
        "steps_a_round": job.steps,
        "ratio": _spread(ratios),
        **{name: _summary(facts[name], rates[name], rows[name]) for name in rows},
        "rounds": [
            {"plain": plain, "ours": ours, "ratio": ours / plain}
            for plain, ours in zip(rates["plain"], rates["ours"], strict=True)
        ],
    }


def _summary(facts: Row, rates: Sequence[float], rows: Sequence[Row]) -> Row:
    """A loop's settings, its rate, and the parts of the round after those that count, where there
    is one, else of the median round."""
    by_seconds = sorted(rows[len(rates) :] or rows, key=lambda row: float(row["seconds"]))
    shown = by_seconds[len(by_seconds) // 2]
    return {
        **facts,
        "images_per_second": _spread(rates),
        "seconds_a_step": {**shown["parts"], "all": shown["seconds"]},
        "system_processor_seconds_a_step": shown["system_seconds"],
        "peak_memory_bytes_of_a_process": rows[-1]["peak_memory_bytes"],
    }


def _spread(values: Sequence[float]) -> Row:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def _source(data: Path | None, images: int) -> ImageSource:
    """The train images of a folder, or drawn ones."""
    source = open_source(data, "train", synthetic_images=images, seed=SEED)
    if isinstance(source, SyntheticSource):
        return JpegSource.of(ready_to_train(source, workers=usable_cores()))
    return source


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of images with annotations, as of WIDER")
    parser.add_argument("--images", type=int, default=96, help="drawn without --data (96)")
    parser.add_argument("--image-size", type=int, default=640, help="pixels (640)")
    parser.add_argument("--batch-size", type=int, default=32, help="(32)")
    parser.add_argument("--steps", type=int, default=3, help="of each loop in a round (3)")
    parser.add_argument("--rounds", type=int, default=5, help="that count (5)")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="all cores")
    parser.add_argument("--processes", type=int, default=1, help="of our loop (1)")
    parser.add_argument("--compile", action="store_true", help="our network by torch.compile")
    parser.add_argument(
        "--return-memory", action="store_true", help="our loop leaves malloc as it is"
    )
    parser.add_argument(
        "--plain-workers", type=int, default=0, help="processes loading for the plain loop (0)"
    )
    parser.add_argument("--output", type=Path, help="a JSON file to write as well")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    options = _options()
    job = Job(
        source=_source(options.data, options.images),
        device=choose_device(options.device)[0],
        image_size=options.image_size,
        batch_size=options.batch_size,
        steps=options.steps,
        rounds=options.rounds,
        threads=options.threads,
        processes=options.processes,
        compiled=options.compile,
        keeps_memory=not options.return_memory,
        plain_workers=options.plain_workers,
    )
    header = record_header(seed=SEED, data_hash=job.source.fingerprint())
    result = {**header, **measure(job)}
    print(json.dumps(result, indent=2))
    if options.output:
        write_json(options.output, result)


if __name__ == "__main__":
    main()
