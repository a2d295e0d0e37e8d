"""Crops that lie on the training device, and batches that are cut from them there.

Shape letters: N crops, S their side, B batch, s the batch's image size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from data.augment import LIGHT
from data.crops import faces_in_view
from data.loader import BatchSource, ShardLoader
from data.sample import Batch, pad_faces
from data.shards import ShardSet
from nas.fitting import FitSettings

MOST_OF_FREE_MEMORY = 0.5
"""Share of a device's free memory that crops may take; training needs the rest."""


def crops_on(
    device: torch.device,
    shards: ShardSet,
    *,
    free_bytes: Callable[[torch.device], int] = lambda device: torch.cuda.mem_get_info(device)[0],
) -> Tensor | None:
    """All crops as one tensor on a CUDA device, (N, S, S, 3) uint8, so that a step moves none.

    None on the CPU, where they are already, and where they would take more than
    MOST_OF_FREE_MEMORY: each batch is then sent by itself, and shows the same.
    """
    if device.type == "cpu" or shards.images.nbytes > MOST_OF_FREE_MEMORY * free_bytes(device):
        return None
    return torch.from_numpy(shards.images).to(device)


def light_batches(
    shards: ShardSet, settings: FitSettings, *, seed: int, crops: Tensor | None = None
) -> BatchSource:
    """What short fits and the supernet learn from: the shards' crops, mirrored at most.

    crops: those of the shards on a device, where the batches are to be made; see `crops_on`.
    """
    loader = ShardLoader(
        shards,
        batch_size=settings.batch_size,
        image_size=settings.image_size,
        seed=seed,
        augment=LIGHT,
    )
    return loader if crops is None else ResidentLoader(loader, crops)


@dataclass(frozen=True, slots=True)
class ResidentLoader:
    """A `ShardLoader`'s batches, cut on the device from `crops`; their images are a tensor.

    Raises:
        ValueError: the loader scales its crops or changes their light: only whole pixels move.
    """

    loader: ShardLoader
    crops: Tensor

    def __post_init__(self) -> None:
        augment = self.loader.augment
        if augment is not None and not (augment.zoom == 1 and augment.keeps_light):
            raise ValueError(f"augment must leave scale and light alone, got {augment}")

    @property
    def batch_size(self) -> int:
        """Images of a batch."""
        return self.loader.batch_size

    @property
    def image_size(self) -> int:
        """Side of an image, pixels."""
        return self.loader.image_size

    @property
    def batches_per_epoch(self) -> int:
        """Batches after which every crop has been seen."""
        return self.loader.batches_per_epoch

    def batch(self, step: int) -> Batch:
        """The batch of a training step, counted from 0; the same one every time."""
        pictures = self.loader.pictures(step)
        views = [view for _, view, _ in pictures]
        along = torch.arange(self.image_size)
        starts = -torch.tensor([view.shift for view in views]).long()  # (B, 2): x, y
        is_mirrored = torch.tensor([view.mirrored for view in views])
        columns = torch.where(is_mirrored[:, None], along.flip(0), along) + starts[:, :1]
        lines = along + starts[:, 1:]
        numbers = torch.tensor([index for index, _, _ in pictures])
        numbers, lines, columns = (
            place.to(self.crops.device, non_blocking=True) for place in (numbers, lines, columns)
        )
        images = self.crops[numbers[:, None, None], lines[:, :, None], columns[:, None, :]]
        faces = self.loader.shards.faces
        return Batch(images, *pad_faces([faces_in_view(faces(i), view) for i, view, _ in pictures]))
