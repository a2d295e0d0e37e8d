"""What one candidate is worth, in seconds: a short fit from the supernet's weights or its own."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.loader import BatchSource, ShardLoader
from data.shards import ShardSet, open_shards
from nas.distillation import Distillation, DistillationSettings
from nas.fitting import (
    ExtraLoss,
    FitSettings,
    NotFiniteError,
    fit_through,
    images_to_tensor,
    seeded,
    targets_to_tensors,
    to_channels_last,
)
from nas.inference import detect_images, recalibrate
from nas.outlook import OUTLOOK, handicap, usual_macs
from nas.resident import crops_on, light_batches
from nas.stop_rule import (
    FIT_STEPS,
    RUNG_REPLICATES,
    RUNG_SCORES,
    SPARED_AT,
    STOPPED_AT,
    StopRule,
    rungs_of,
)
from nas.supernet_training import load_supernet
from nas.teachers import Teacher, open_teacher
from objectives.average_precision import PrecisionReport, evaluate_detections
from objectives.latency_table import LatencyTable
from objectives.loss import SHORT_FIT, LossSettings, detection_loss
from search_spaces.architecture import Architecture
from search_spaces.network import Detector, build
from search_spaces.space import SPACE
from search_spaces.supernet import Supernet

ANSWER_BYTES = 2**29
"""Memory that a process keeps a teacher's answers in. All trials see the same batches: 300 of four
crops of 256 px take 445 MB, and asking again would take a fifth of a fit."""


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """How a candidate is judged.

    fit: the short fit, and loss, what it minimises. inherit: whether it starts from the supernet's
    weights, or else from weights of the candidate's own. teaching: how it learns from a trained
    network beside the annotation; None: not at all. recalibration_images: for the batch-norm
    statistics after it. held_out_share: of the shards' source images, kept for the judgement.
    held_out_images: most crops used for it. early_stopping: whether a fit is judged at rungs
    and may end there. rung_images: most crops used for the judgement at a rung.
    """

    fit: FitSettings
    loss: LossSettings = SHORT_FIT
    inherit: bool = True
    teaching: DistillationSettings | None = None
    recalibration_images: int = 128
    held_out_share: float = 0.2
    held_out_images: int = 256
    early_stopping: bool = False
    rung_images: int = 96

    @property
    def rungs(self) -> dict[int, float]:
        """Steps after which a fit is judged, its end left out; see `nas.stop_rule.rungs_of`."""
        return rungs_of(self.fit.steps) if self.early_stopping else {}


class CandidateFitter:
    """Fits candidates on one split of the shards and judges them on the other.

    seed: of the split, of the order of images and of initial weights. fit_seed: of the last two,
    where they are to differ from fit to fit. teacher: what fits learn from as `settings.teaching`
    says; None: nothing, whatever that says.
    """

    def __init__(
        self,
        shards: ShardSet,
        settings: ProxySettings,
        *,
        seed: int,
        device: torch.device,
        fit_seed: int | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.settings = settings
        self.device = device
        self._teacher = teacher
        self._seed = seed
        self._fit_seed = seed if fit_seed is None else fit_seed
        self.train, held_out = shards.split(settings.held_out_share, seed=seed)
        self.held_out = held_out.take(min(len(held_out), settings.held_out_images), seed=seed)
        self._crops = crops_on(device, self.train)
        self._recalibration = self.train.take(
            min(len(self.train), settings.recalibration_images), seed=seed
        ).images

    def judge(self, network: Detector, *, images: int | None = None) -> PrecisionReport:
        """Average precision on the held-out crops, with statistics of the network's own.

        images: most crops to judge by, and half as many to take statistics from, evenly out of
        all (neighbours are of one event); None for all.
        """
        crops, own = len(self.held_out), len(self._recalibration)
        which = _evenly(crops, crops if images is None else images)
        statistics = _evenly(own, own if images is None else images // 2)
        recalibrate(network, self._recalibration[statistics], device=self.device)
        found = detect_images(network, self.held_out.images[which], device=self.device)
        return evaluate_detections(found, [self.held_out.faces(i) for i in which], seed=self._seed)

    def held_out_loss(self, network: Detector, *, batch_size: int = 16) -> float:
        """Mean detection loss on the held-out crops, unchanged; the network is left in eval mode.

        A judged network has the statistics that it needs for this.
        """
        size = self.held_out.image_size
        batches = ShardLoader(
            self.held_out, batch_size=batch_size, image_size=size, seed=self._seed, augment=None
        )
        network.eval()
        losses = []
        with torch.inference_mode():
            for step in range(batches.batches_per_epoch):
                batch = batches.batch(step)
                levels = network(images_to_tensor(batch.images, self.device))
                targets = targets_to_tensors(batch, self.device)
                losses.append(detection_loss(levels, *targets).total.item())
        return sum(losses) / len(losses)

    def fit(self, network: Detector, settings: FitSettings) -> Detector:
        """Fit a network on the training crops."""
        return next(self.fit_through(network, settings, stops=(settings.steps,)))

    def fit_through(
        self, network: Detector, settings: FitSettings, *, stops: Sequence[int]
    ) -> Iterator[Detector]:
        """The same, shown after each of these numbers of steps; see `nas.fitting.fit_through`."""
        batches, loss, lessons = self._batches(settings), self.settings.loss, self._lessons(network)
        return fit_through(network, batches, settings, stops=stops, loss=loss, extra_loss=lessons)

    def _lessons(self, student: Detector) -> ExtraLoss | None:
        if self._teacher is None:
            return None
        return Distillation(student, self._teacher, self.settings.teaching, seed=self._fit_seed)

    def _batches(self, settings: FitSettings) -> BatchSource:
        return light_batches(self.train, settings, seed=self._fit_seed, crops=self._crops)

    def inherit(self, supernet: Supernet, architecture: Architecture) -> Detector:
        """A candidate with the supernet's weights."""
        return to_channels_last(supernet.extract(architecture))

    def start(self, architecture: Architecture, supernet: Supernet | None = None) -> Detector:
        """A candidate with weights of its own, drawn from the seed, or with a supernet's."""
        if supernet is not None:
            return self.inherit(supernet, architecture)
        with seeded(self._fit_seed):
            return to_channels_last(build(architecture).to(self.device))


def _evenly(length: int, count: int) -> list[int]:
    """At most so many of the positions 0 to length - 1, at least one, at equal distances."""
    positions = np.linspace(0, length - 1, max(1, min(count, length)))
    whole: list[int] = positions.round().astype(int).tolist()
    return whole


@dataclass(frozen=True, slots=True)
class ProxyJob:
    """Where a worker process finds what it needs to judge candidates.

    supernet: of the weights that fits start from; None where the settings do not inherit. teacher:
    what they learn from; None where the settings have no teaching. latency_table: with it a
    candidate's latency is a score too. None: it is not.
    """

    shards: Path
    supernet: Path | None
    settings: ProxySettings
    seed: int
    device: str
    teacher: Path | None = None
    latency_table: LatencyTable | None = None


def teacher_of_trials(path: Path, device: torch.device) -> Teacher:
    """A trained network, from its file or folder, that fit after fit can learn from."""
    teacher = open_teacher(str(path), device=device)
    if device.type == "cpu":  # elsewhere asking costs less than looking up
        teacher.remember(ANSWER_BYTES)
    return teacher


class ProxyEvaluator:
    """Scores of a candidate by its architecture: start, fit, recalibrate, judge.

    A fit that its rule stops has the scores of that rung, and STOPPED_AT among them. One that
    diverges scores NaN, which fails its trial and not the search.
    """

    def __init__(self, job: ProxyJob) -> None:
        device = torch.device(job.device)
        teacher = None
        if job.settings.teaching is not None:
            if job.teacher is None:
                raise ValueError("teacher must be a file or folder where fits are taught, got None")
            teacher = teacher_of_trials(job.teacher, device)
        self.fitter = CandidateFitter(
            open_shards(job.shards), job.settings, seed=job.seed, device=device, teacher=teacher
        )
        self._supernet: Supernet | None = None
        if job.settings.inherit:
            if job.supernet is None:
                raise ValueError("supernet must be a file where fits inherit weights, got None")
            self._supernet = load_supernet(job.supernet, SPACE).to(device)
        self._latency_table = job.latency_table

    def __call__(
        self,
        architecture: Architecture,
        trial: int,  # noqa: ARG002
        rule: StopRule,
    ) -> dict[str, Any]:
        known: dict[str, Any] = {}
        if self._latency_table is not None:
            known["latency_ms"] = self._latency_table.latency_us(architecture) / 1000
            rule = replace(rule, cost=known["latency_ms"])
        try:
            return self._judged(architecture, rule) | known
        except NotFiniteError:
            return known | {"ap": math.nan, "promise": math.nan, OUTLOOK: math.nan}

    def fit_through(
        self, architecture: Architecture, *, stops: Sequence[int]
    ) -> Iterator[Detector]:
        """The fit of a trial, shown after each of these numbers of steps; see
        `nas.fitting.fit_through`."""
        network = self.fitter.start(architecture, self._supernet)
        return self.fitter.fit_through(network, self.fitter.settings.fit, stops=stops)

    def _judged(self, architecture: Architecture, rule: StopRule) -> dict[str, Any]:
        """Scores of the fit's end, or of the rung where the rule ends it."""
        fitter, settings = self.fitter, self.fitter.settings
        macs = usual_macs(architecture)
        end, rungs = settings.fit.steps, settings.rungs
        known: dict[str, Any] = {RUNG_SCORES: [], RUNG_REPLICATES: []} if rungs else {}
        shown = self.fit_through(architecture, stops=(*rungs, end))
        for rung, (steps, exponent) in enumerate(rungs.items()):
            report = fitter.judge(next(shown), images=settings.rung_images)
            at_rung = handicap(macs, exponent)
            replicates = short_numbers([at_rung * ap for ap in report.smooth_replicates])
            known[RUNG_SCORES].append(at_rung * report.smooth_ap)
            known[RUNG_REPLICATES].append(replicates)
            if not rule.is_beaten(rung, replicates):
                continue
            if not rule.is_exempt:
                return trial_scores(report, macs) | known | {STOPPED_AT: steps, FIT_STEPS: steps}
            known.setdefault(SPARED_AT, steps)
        return trial_scores(fitter.judge(next(shown)), macs) | known | {FIT_STEPS: end}


def short_numbers(values: Sequence[float]) -> list[float]:
    """Four digits of each, as many as noise leaves, so that hundreds of them can be stored."""
    return [float(f"{value:.4g}") for value in values]


def trial_scores(report: PrecisionReport, macs: int) -> dict[str, Any]:
    """What a trial keeps: `report_scores` and its outlook, which it raises."""
    scores, size = report_scores(report), handicap(macs)
    scores["intervals"][OUTLOOK] = [size * end for end in report.promise_interval]
    return scores | {OUTLOOK: size * report.promise}


def report_scores(report: PrecisionReport) -> dict[str, Any]:
    """The scores of one judgement: numbers, and `ap_interval`, `smooth_ap_interval` and, for all
    others together, `intervals` by name (a study stores every value in a commit of its own)."""
    others = {
        "quality_ap": (report.quality_ap, report.quality_interval),
        "recall": (report.recall, report.recall_interval),
        "promise": (report.promise, report.promise_interval),
    }
    for name, stratum in report.strata.items():
        others[f"ap_{name}"] = stratum.ap, stratum.interval
        others[f"recall_{name}"] = stratum.recall, stratum.recall_interval
    return {
        "ap": report.ap,
        "ap_interval": list(report.interval),
        "smooth_ap": report.smooth_ap,
        "smooth_ap_interval": list(report.smooth_interval),
        **{name: score for name, (score, _) in others.items()},
        "intervals": {name: list(interval) for name, (_, interval) in others.items()},
    }
