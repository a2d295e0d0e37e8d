"""The largest batch that fits into a CUDA device's memory."""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from data.errors import UserError
from data.sample import Batch
from nas.fitting import Trainer
from nas.recipe import Recipe
from search_spaces.face_network import FaceNetwork

MOST_IMAGES = 1024
FACES_OF_A_CROWD = 200
"""Faces of each image of the batches that are tried: memory grows with them."""


def largest_batch(
    make_step: Callable[[int], object], start: int, most: int = MOST_IMAGES
) -> tuple[int, str]:
    """The largest batch size, start times a power of two, whose step fits, and why it is that.

    make_step: takes a training step with a batch of so many images, or raises
    torch.OutOfMemoryError. It is doubled from start while it fits, else halved until it does.

    Raises:
        UserError: not even one image fits.
    """
    if not 1 <= start <= most:
        raise ValueError(f"start must be in 1..{most}, got {start}")
    size = start
    while not _fits(make_step, size):
        if size == 1:
            raise UserError(
                "out of memory with one image; use a smaller image_size, or another device"
            )
        size //= 2
    if size < start:
        return size, f"batch size {size}: {2 * size if 2 * size < start else start} did not fit"
    while 2 * size <= most:
        if not _fits(make_step, 2 * size):
            return size, f"batch size {size}: the largest that fits, {2 * size} did not"
        size *= 2
    return size, f"batch size {size}: fits, and twice as many would be over the most, {most}"


def _fits(make_step: Callable[[int], object], size: int) -> bool:
    try:
        make_step(size)
    except torch.OutOfMemoryError:
        return False
    return True


def automatic_batch_size(network: FaceNetwork, recipe: Recipe) -> tuple[int, str]:
    """The batch size for a network on the device it is on, and why it is that.

    On the CPU it is the recipe's. On CUDA steps of a copy of the network are tried, on noise
    with crowds of faces. The learning rate is not adapted.
    """
    settings = recipe.fit
    device = next(network.parameters()).device
    if device.type != "cuda":
        return settings.batch_size, f"batch size {settings.batch_size}: the recipe's, on the CPU"

    def make_step(size: int) -> None:
        torch.cuda.empty_cache()
        trainer = Trainer(
            copy.deepcopy(network), replace(settings, batch_size=size), loss=recipe.loss
        )
        trainer.step(crowded_batch(size, settings.image_size))
        if trainer.parts > 1:  # it recovers by itself, which is not what is asked here
            raise torch.OutOfMemoryError(trainer.notes[0])

    return largest_batch(make_step, min(settings.batch_size, MOST_IMAGES))


def crowded_batch(images: int, image_size: int) -> Batch:
    """Noise with FACES_OF_A_CROWD boxes an image, for measuring memory and speed."""
    rng = np.random.default_rng(0)
    sides = rng.uniform(8, image_size / 4, (images, FACES_OF_A_CROWD, 1))
    corners = rng.uniform(0, 1, (images, FACES_OF_A_CROWD, 2)) * (image_size - sides)
    wanted = np.ones((images, FACES_OF_A_CROWD), dtype=bool)
    return Batch(
        rng.integers(0, 256, (images, image_size, image_size, 3), dtype=np.uint8),
        np.concatenate([corners, corners + sides], -1).astype(np.float32),
        wanted,
        ~wanted,
    )
