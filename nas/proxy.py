"""What one candidate is worth, in seconds: a short fit from the supernet's weights."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.augment import LIGHT
from data.loader import ShardLoader
from data.shards import ShardSet, open_shards
from nas.fitting import (
    FitSettings,
    NotFiniteError,
    fit,
    images_to_tensor,
    seeded,
    targets_to_tensors,
    to_channels_last,
)
from nas.inference import detect_images, recalibrate
from nas.supernet_training import load_supernet
from objectives.average_precision import PrecisionReport, evaluate_detections
from objectives.latency_table import LatencyTable
from objectives.loss import detection_loss
from search_spaces.architecture import Architecture
from search_spaces.network import Detector, build
from search_spaces.space import SPACE
from search_spaces.supernet import Supernet


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """How a candidate is judged.

    fit: the short fit. recalibration_images: for the batch-norm statistics after it.
    held_out_share: of the shards' source images, kept for the judgement.
    held_out_images: most crops used for it.
    """

    fit: FitSettings
    recalibration_images: int = 128
    held_out_share: float = 0.2
    held_out_images: int = 256


class CandidateFitter:
    """Fits candidates on one split of the shards and judges them on the other.

    seed: of the split, of the order of images and of initial weights.
    """

    def __init__(
        self, shards: ShardSet, settings: ProxySettings, *, seed: int, device: torch.device
    ) -> None:
        self.settings = settings
        self.device = device
        self._seed = seed
        self.train, held_out = shards.split(settings.held_out_share, seed=seed)
        self.held_out = held_out.take(min(len(held_out), settings.held_out_images), seed=seed)
        self._recalibration = self.train.take(
            min(len(self.train), settings.recalibration_images), seed=seed
        ).images

    def judge(self, network: Detector) -> PrecisionReport:
        """Average precision on the held-out crops, with statistics of the network's own."""
        recalibrate(network, self._recalibration, device=self.device)
        found = detect_images(network, self.held_out.images, device=self.device)
        faces = [self.held_out.faces(i) for i in range(len(self.held_out))]
        return evaluate_detections(found, faces, seed=self._seed)

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
        batches = ShardLoader(
            self.train,
            batch_size=settings.batch_size,
            image_size=settings.image_size,
            seed=self._seed,
            augment=LIGHT,
        )
        return fit(network, batches, settings)

    def inherit(self, supernet: Supernet, architecture: Architecture) -> Detector:
        """A candidate with the supernet's weights."""
        return to_channels_last(supernet.extract(architecture))

    def start(self, architecture: Architecture) -> Detector:
        """A candidate with weights of its own, drawn from the seed."""
        with seeded(self._seed):
            return to_channels_last(build(architecture).to(self.device))


@dataclass(frozen=True, slots=True)
class ProxyJob:
    """Where a worker process finds what it needs to judge candidates.

    latency_table: with it a candidate's latency is a score too. None: it is not.
    """

    shards: Path
    supernet: Path
    settings: ProxySettings
    seed: int
    device: str
    latency_table: LatencyTable | None = None


class ProxyEvaluator:
    """Scores of a candidate by its architecture: inherit, fit, recalibrate, judge.

    A fit that diverges scores NaN, which fails its trial and not the search.
    """

    def __init__(self, job: ProxyJob) -> None:
        device = torch.device(job.device)
        self._fitter = CandidateFitter(
            open_shards(job.shards), job.settings, seed=job.seed, device=device
        )
        self._supernet = load_supernet(job.supernet, SPACE).to(device)
        self._latency_table = job.latency_table

    def __call__(self, architecture: Architecture, trial: int) -> dict[str, Any]:  # noqa: ARG002
        known: dict[str, Any] = {}
        if self._latency_table is not None:
            known["latency_ms"] = self._latency_table.latency_us(architecture) / 1000
        network = self._fitter.inherit(self._supernet, architecture)
        try:
            fitted = self._fitter.fit(network, self._fitter.settings.fit)
        except NotFiniteError:
            return known | {"ap": math.nan}
        return report_scores(self._fitter.judge(fitted)) | known


def report_scores(report: PrecisionReport) -> dict[str, Any]:
    """The scores that a trial keeps."""
    return {
        "ap": report.ap,
        "ap_interval": list(report.interval),
        "smooth_ap": report.smooth_ap,
        "recall": report.recall,
        **{f"ap_{name}": stratum.ap for name, stratum in report.strata.items()},
    }
