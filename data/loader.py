"""Batches for training, each a function of (seed, step) alone.

Shape letters: B batch, S image size.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from data.augment import OFF, AugmentSettings, change_light, draw_light, draw_view, show
from data.boxes import box_heights
from data.crops import SMALLEST_FACE_PX, View, cut, draw_window, faces_in_view
from data.mosaic import TILES, mosaic
from data.sample import Batch, Faces, ImageSource, Sample, pad_faces
from data.shards import ShardSet


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


@runtime_checkable
class PartedBatchSource(BatchSource, Protocol):
    """One that makes some rows of a batch without the others."""

    def part(self, step: int, rows: range) -> Batch:
        """The same rows as in `batch(step)`; boxes may be padded to another number of faces."""


class Picture(NamedTuple):
    """A crop by its number, how it is seen, and its new levels; see `draw_light`."""

    crop: int
    view: View
    light: NDArray[np.uint8] | None


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
        images = np.empty((self.batch_size, self.image_size, self.image_size, 3), dtype=np.uint8)
        faces = []
        for out, (crop, view, light) in zip(images, self.pictures(step), strict=True):
            faces.append(show(self.shards.images[crop], self.shards.faces(crop), view, out=out))
            change_light(out, light)
        return Batch(images, *pad_faces(faces))

    def pictures(self, step: int) -> list[Picture]:
        """What is in a batch, not drawn yet."""
        indices = self.indices(step)
        rng, settings = _rng(self.seed, 1, step), self.augment or OFF
        side, size = self.shards.image_size, self.image_size
        return [
            Picture(
                int(index),
                draw_view(side, size=size, settings=settings, rng=rng),
                draw_light(settings, rng),
            )
            for index in indices
        ]

    def indices(self, step: int) -> NDArray[np.int64]:
        """Which crops are in a batch. Shape (B,)."""
        return _shuffled(len(self.shards), self.batch_size, seed=self.seed, step=step)


@dataclass(frozen=True, slots=True)
class FullSizeSettings:
    """Which squares of full images are shown.

    short_sides: least and most side of a square, in short sides of its image (RetinaFace,
        arXiv:1905.00641, section 4.2, cuts 0.3 to 1.0; beyond 1.0 the square is padded and faces
        shrink, as they do in the wide images of deployment).
    background_share: share of squares that are put anywhere instead of around a face.
    mosaic_share: share of pictures that are put together from squares of four images.
    ignore_under_px: faces that are lower in the picture are ignored: not to be found, and no
        mistake when found. At least 4, under which every cut ignores them.
    """

    short_sides: tuple[float, float] = (0.3, 2.0)
    background_share: float = 0.15
    mosaic_share: float = 0.0
    ignore_under_px: float = SMALLEST_FACE_PX

    def __post_init__(self) -> None:
        least, most = self.short_sides
        if not 0 < least <= most:
            raise ValueError(f"short_sides must be two rising positive numbers, got {least, most}")
        for name in ("background_share", "mosaic_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        if not self.ignore_under_px >= SMALLEST_FACE_PX:
            raise ValueError(
                f"ignore_under_px must be at least {SMALLEST_FACE_PX:g}, got {self.ignore_under_px}"
            )


USUAL_VIEWS = FullSizeSettings()


@dataclass(frozen=True, slots=True)
class FullSizeLoader:
    """Batches of random squares cut from full images and scaled to `image_size`.

    Images are loaded anew for every batch. augment: None mirrors and colours nothing.

    A picture depends on the seed and its place in the endless row of pictures alone: batches of
    any size, and parts of batches, show the same row.

    Raises:
        ValueError: a setting is out of range.
    """

    source: ImageSource
    _: KW_ONLY
    batch_size: int
    image_size: int
    seed: int
    augment: AugmentSettings | None
    views: FullSizeSettings = USUAL_VIEWS

    def __post_init__(self) -> None:
        _check(len(self.source), self.batch_size, self.image_size, self.seed)

    @property
    def batches_per_epoch(self) -> int:
        """Batches after which every image has been seen."""
        return -(-len(self.source) // self.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of a training step, counted from 0; the same one every time."""
        return self.part(step, range(self.batch_size))

    def part(self, step: int, rows: range) -> Batch:
        """Some rows of a batch; no other image is loaded."""
        indices = self.indices(step)
        images = np.empty((len(rows), self.image_size, self.image_size, 3), dtype=np.uint8)
        faces = [
            self._draw(int(indices[row]), _rng(self.seed, 2, step * self.batch_size + row), out=out)
            for out, row in zip(images, rows, strict=True)
        ]
        return Batch(images, *pad_faces(faces))

    def indices(self, step: int) -> NDArray[np.int64]:
        """Which images are in a batch. Shape (B,). A mosaic shows three more."""
        return _shuffled(len(self.source), self.batch_size, seed=self.seed, step=step)

    def _draw(self, index: int, rng: np.random.Generator, *, out: NDArray[np.uint8]) -> Faces:
        settings = self.augment or OFF
        if rng.random() < self.views.mosaic_share:
            others = rng.integers(len(self.source), size=TILES - 1)
            square = mosaic(
                lambda tile, size: self._square((index, *others)[tile], size, rng),
                size=self.image_size,
                rng=rng,
            )
        else:
            square = self._square(index, self.image_size, rng)
        faces = square.faces
        if rng.random() < settings.flip_share:
            cv2.flip(square.image, 1, dst=out)
            faces = faces_in_view(faces, View(1.0, (0.0, 0.0), self.image_size, mirrored=True))
        else:
            out[:] = square.image
        change_light(out, draw_light(settings, rng))
        is_small = box_heights(faces.boxes_xyxy) < self.views.ignore_under_px
        return Faces(faces.boxes_xyxy, faces.attributes, faces.ignore | is_small)

    def _square(self, index: int, size: int, rng: np.random.Generator) -> Sample:
        """A random square of an image, `size` pixels wide."""
        sample = self.source.load(int(index))
        side = min(sample.image.shape[:2]) * rng.uniform(*self.views.short_sides)
        window = draw_window(
            sample, side=side, background_share=self.views.background_share, rng=rng
        )
        return cut(sample, window, size=size)


def part_of_batch(loader: BatchSource, step: int, rows: range) -> Batch:
    """Some rows of a loader's batch, made without the others where the loader can."""
    if isinstance(loader, PartedBatchSource):
        return loader.part(step, rows)
    return rows_of_batch(loader.batch(step), rows)


def rows_of_batch(batch: Batch, rows: range) -> Batch:
    """A batch of some rows of another; its arrays are views of the other's."""
    these = slice(rows.start, rows.stop)
    return Batch(
        batch.images[these], batch.boxes_xyxy[these], batch.wanted[these], batch.ignore[these]
    )


def join_batches(parts: Sequence[Batch]) -> Batch:
    """All rows of some batches as one, their faces padded to the largest count."""
    if len(parts) == 1:
        return parts[0]
    most = max(part.wanted.shape[1] for part in parts)

    def joined(name: str) -> NDArray[Any]:
        arrays = []
        for part in parts:
            array = getattr(part, name)
            room = [(0, 0), (0, most - array.shape[1]), *[(0, 0)] * (array.ndim - 2)]
            arrays.append(np.pad(array, room))
        return np.concatenate(arrays)

    images = np.concatenate([part.images for part in parts])
    return Batch(images, joined("boxes_xyxy"), joined("wanted"), joined("ignore"))


PART_ROWS = 16
"""Rows that one thread makes at a time."""


def prefetched(loader: BatchSource, steps: Iterable[int], *, workers: int) -> Iterator[Batch]:
    """The batches of the steps, in order, made ahead of their use by threads.

    Several threads share a large batch, where the loader makes parts. About 2 * workers parts
    are held ahead, but always a batch.

    Raises:
        ValueError: workers is under 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    return _in_order(loader, iter(steps), workers)


def _in_order(loader: BatchSource, steps: Iterator[int], workers: int) -> Iterator[Batch]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
    size = loader.batch_size
    rows = PART_ROWS if isinstance(loader, PartedBatchSource) else size
    parts = [range(first, min(first + rows, size)) for first in range(0, size, rows)]
    ahead = max(1, 2 * workers // len(parts))
    waiting: deque[list[Future[Batch]]] = deque()
    try:
        for step in steps:
            waiting.append([pool.submit(part_of_batch, loader, step, part) for part in parts])
            if len(waiting) > ahead:
                yield join_batches([part.result() for part in waiting.popleft()])
        while waiting:
            yield join_batches([part.result() for part in waiting.popleft()])
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


def _rng(seed: int, purpose: int, place: int) -> np.random.Generator:
    return np.random.default_rng((seed, purpose, place))


def _shuffled(count: int, batch_size: int, *, seed: int, step: int) -> NDArray[np.int64]:
    """Positions step * B to step * B + B - 1 in the endless row of shuffled epochs."""
    if step < 0:
        raise ValueError(f"step must be at least 0, got {step}")
    positions = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    picked = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(positions // count):
        order = np.random.default_rng((seed, 0, int(epoch))).permutation(count)
        here = positions // count == epoch
        picked[here] = order[positions[here] % count]
    return picked
