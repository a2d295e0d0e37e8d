"""The least that can be trained: the smallest network, pictures of 64 px, batches of two."""

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.loader import BatchSource, ShardLoader
from data.sample import Batch
from data.shards import ShardSet, ShardSettings, prepare_shards, shard_folder
from nas.fitting import FitSettings, NetworkType, fit_through, seeded
from objectives.loss import Losses
from search_spaces.network import Detector, build
from search_spaces.space import SPACE
from tests.data.drawn_faces import DrawnFaces

SMALLEST = SPACE.corner(largest=False)
CPU = torch.device("cpu")
FIT = FitSettings(steps=4, batch_size=2, image_size=64)
SOURCE = DrawnFaces(count=10)
SHARDS = ShardSettings(image_size=64, full_size=160, images_per_shard=4)


def tiny_shards(folder: Path) -> tuple[ShardSet, Path]:
    """Nineteen crops of drawn faces, and the folder they lie in."""
    shards = prepare_shards(SOURCE, folder, SHARDS, workers=1)
    return shards, shard_folder(SOURCE, folder, SHARDS)


def tiny_network(seed: int = 0) -> Detector:
    """The smallest network of the space, with weights drawn from the seed."""
    with seeded(seed):
        return build(SMALLEST)


def fitted(
    network: NetworkType, batches: BatchSource, settings: FitSettings, **options: Any
) -> NetworkType:
    """A network after its whole fit; see `nas.fitting.fit_through`."""
    return next(fit_through(network, batches, settings, stops=(settings.steps,), **options))


@dataclass(frozen=True, slots=True)
class TinyBatches:
    """Crops of one shard set, two at a time."""

    shards: ShardSet
    batch_size: int = 2
    image_size: int = 64

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.shards) // self.batch_size)

    def batch(self, step: int) -> Batch:
        loader = ShardLoader(
            self.shards,
            batch_size=self.batch_size,
            image_size=self.image_size,
            seed=0,
            augment=None,
        )
        return loader.batch(step)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy of everything a network's state holds."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def equal_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states are the same to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def diverge(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Make the detection loss that a module uses NaN."""
    name = "network_loss" if module == "nas.fitting" else "detection_loss"
    loss = getattr(import_module(module), name)

    def nan_loss(*arguments: Any, **settings: Any) -> Losses:
        losses: Losses = loss(*arguments, **settings)
        return replace(losses, total=losses.total * np.nan)

    monkeypatch.setattr(f"{module}.{name}", nan_loss)
