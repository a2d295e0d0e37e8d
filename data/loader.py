"""Batches for training, each a function of (seed, step) alone.

Shape letters: B batch, S image size.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from data.augment import OFF, AugmentSettings, change_light, draw_view, show
from data.crops import View, cut, draw_window, faces_in_view
from data.sample import Batch, Faces, ImageSource, pad_faces
from data.shards import ShardSet

SHORT_SIDES = (0.3, 2.0)
"""Full-size images are cut to squares of this many of their short sides (RetinaFace,
arXiv:1905.00641, section 4.2, cuts 0.3 to 1.0; beyond 1.0 the square is padded and faces shrink,
as they do in the wide images of deployment)."""

BACKGROUND_SHARE = 0.15
"""Share of full-size squares that are put anywhere instead of around a face."""


class BatchSource(Protocol):
    """What training takes batches from."""

    @property
    def batch_size(self) -> int: ...

    @property
    def image_size(self) -> int: ...

    @property
    def batches_per_epoch(self) -> int:
        """Batches after which every image has been seen."""

    def batch(self, step: int) -> Batch:
        """The batch of a training step, counted from 0; the same one every time."""


@dataclass(frozen=True, slots=True)
class ShardLoader:
    """Augmented batches of prepared crops, smaller than the crops if wished.

    Batches are always full: the last of an epoch takes its rest from the next epoch.
    augment: None changes nothing, but pictures smaller than the crops are cut at random places.

    Raises:
        ValueError: a setting is out of range.
    """

    shards: ShardSet
    _: KW_ONLY
    batch_size: int
    image_size: int
    seed: int
    augment: AugmentSettings | None

    def __post_init__(self) -> None:
        _check(len(self.shards), self.batch_size, self.image_size, self.seed)
        if self.image_size > self.shards.image_size:
            raise ValueError(
                f"image_size must be at most the shards' {self.shards.image_size}, "
                f"got {self.image_size}"
            )

    @property
    def batches_per_epoch(self) -> int:
        """Batches after which every crop has been seen."""
        return -(-len(self.shards) // self.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of a training step, counted from 0; the same one every time."""
        rng = _step_rng(self.seed, step)
        settings = self.augment or OFF
        images = np.empty((self.batch_size, self.image_size, self.image_size, 3), dtype=np.uint8)
        faces = []
        for out, index in zip(images, self.indices(step), strict=True):
            view = draw_view(
                self.shards.image_size, size=self.image_size, settings=settings, rng=rng
            )
            faces.append(
                show(self.shards.images[index], self.shards.faces(int(index)), view, out=out)
            )
            if settings is not OFF:
                change_light(out, settings, rng)
        return Batch(images, *pad_faces(faces))

    def indices(self, step: int) -> NDArray[np.int64]:
        """Which crops are in a batch. Shape (B,)."""
        return _shuffled(len(self.shards), self.batch_size, seed=self.seed, step=step)


@dataclass(frozen=True, slots=True)
class FullSizeLoader:
    """Batches of random squares cut from full images and scaled to `image_size`.

    The square's side is drawn from SHORT_SIDES; where it is larger than the image it is padded.
    Images are loaded anew for every batch. augment: None mirrors and colours nothing.

    Raises:
        ValueError: a setting is out of range.
    """

    source: ImageSource
    _: KW_ONLY
    batch_size: int
    image_size: int
    seed: int
    augment: AugmentSettings | None

    def __post_init__(self) -> None:
        _check(len(self.source), self.batch_size, self.image_size, self.seed)

    @property
    def batches_per_epoch(self) -> int:
        """Batches after which every image has been seen."""
        return -(-len(self.source) // self.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of a training step, counted from 0; the same one every time."""
        rng = _step_rng(self.seed, step)
        images = np.empty((self.batch_size, self.image_size, self.image_size, 3), dtype=np.uint8)
        faces = [
            self._draw(int(index), rng, out=out)
            for out, index in zip(images, self.indices(step), strict=True)
        ]
        return Batch(images, *pad_faces(faces))

    def indices(self, step: int) -> NDArray[np.int64]:
        """Which images are in a batch. Shape (B,)."""
        return _shuffled(len(self.source), self.batch_size, seed=self.seed, step=step)

    def _draw(self, index: int, rng: np.random.Generator, *, out: NDArray[np.uint8]) -> Faces:
        settings = self.augment or OFF
        sample = self.source.load(index)
        side = min(sample.image.shape[:2]) * rng.uniform(*SHORT_SIDES)
        window = draw_window(sample, side=side, background_share=BACKGROUND_SHARE, rng=rng)
        square = cut(sample, window, size=self.image_size)
        faces = square.faces
        if rng.random() < settings.flip_share:
            cv2.flip(square.image, 1, dst=out)
            faces = faces_in_view(faces, View(1.0, (0.0, 0.0), self.image_size, mirrored=True))
        else:
            out[:] = square.image
        if settings is not OFF:
            change_light(out, settings, rng)
        return faces


def prefetched(loader: BatchSource, steps: Iterable[int], *, workers: int) -> Iterator[Batch]:
    """The batches of the steps, in order, made ahead of their use by threads.

    Raises:
        ValueError: workers is under 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    return _in_order(loader, iter(steps), workers)


def _in_order(loader: BatchSource, steps: Iterator[int], workers: int) -> Iterator[Batch]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
    waiting: deque[Future[Batch]] = deque()
    try:
        for step in steps:
            waiting.append(pool.submit(loader.batch, step))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _check(count: int, batch_size: int, image_size: int, seed: int) -> None:
    if count < 1:
        raise ValueError(f"a loader must have at least 1 image, got {count}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if image_size < 32 or image_size % 32:
        raise ValueError(f"image_size must be a positive multiple of 32, got {image_size}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")


def _step_rng(seed: int, step: int) -> np.random.Generator:
    if step < 0:
        raise ValueError(f"step must be at least 0, got {step}")
    return np.random.default_rng((seed, 1, step))


def _shuffled(count: int, batch_size: int, *, seed: int, step: int) -> NDArray[np.int64]:
    """Positions step * B to step * B + B - 1 in the endless row of shuffled epochs."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    picked = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(positions // count):
        order = np.random.default_rng((seed, 0, int(epoch))).permutation(count)
        here = positions // count == epoch
        picked[here] = order[positions[here] % count]
    return picked
