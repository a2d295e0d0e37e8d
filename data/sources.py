"""Opens the images a command was asked for: a folder of a known format, or drawn ones."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np

from data.errors import UserError, unknown_name
from data.formats import open_folder
from data.processes import ProcessPool
from data.progress import Progress, silent
from data.sample import ImageSource, Sample
from data.synthetic import SyntheticSource

SPLITS = ("train", "val")
SPLIT_SEED_STEP = 1_000_003
"""Between the seeds of drawn train and val images, so that the two never share a picture."""


def open_source(root: Path | None, split: str, *, synthetic_images: int, seed: int) -> ImageSource:
    """The images of a split; drawn ones when `root` is None, one fifth as many for val.

    Raises:
        UserError: the split is unknown, or the folder holds no format of `data.formats`.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if root is not None:
        return open_folder(root, split)
    if split == "train":
        return SyntheticSource(count=synthetic_images, seed=seed)
    return SyntheticSource(count=max(1, synthetic_images // 5), seed=seed + SPLIT_SEED_STEP)


@dataclass(frozen=True, slots=True, eq=False)
class HeldSource:
    """Another source's images, held in memory: for training on images that are slow to make."""

    source: ImageSource
    samples: tuple[Sample, ...]

    @property
    def description(self) -> str:
        """The held source's own."""
        return self.source.description

    def fingerprint(self) -> str:
        """The held source's own: the images are the same."""
        return self.source.fingerprint()

    def __len__(self) -> int:
        return len(self.samples)

    def load(self, index: int) -> Sample:
        """The sample at an index."""
        return self.samples[index]


def ready_to_train(
    source: ImageSource, *, workers: int, progress: Progress = silent
) -> ImageSource:
    """A source that gives its images about as fast as a disk does: drawn ones are held in memory.

    A drawn image of 640 px takes 1.2 MB.
    """
    if not isinstance(source, SyntheticSource):
        return source
    samples = []
    with ProcessPool(workers, cv2.setNumThreads, (1,)) as pool:
        for sample in pool.map(source.load, range(len(source)), chunksize=8):
            samples.append(sample)
            progress("draw", len(samples), len(source))
    return HeldSource(source, tuple(samples))


@dataclass(frozen=True, slots=True, eq=False)
class SubsetSource:
    """Some of another source's images."""

    source: ImageSource
    indices: tuple[int, ...]
    name: str

    @property
    def description(self) -> str:
        """The source's own, and which part of it this is."""
        return f"{self.source.description}: {self.name}, {len(self)} images"

    def fingerprint(self) -> str:
        """Of the source and of which images are taken."""
        taken = ",".join(map(str, self.indices))
        return sha256(f"{self.source.fingerprint()} {taken}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int) -> Sample:
        """The sample at an index of this part."""
        return self.source.load(self.indices[index])


def hold_out(
    source: ImageSource, share: float, *, most: int, seed: int
) -> tuple[SubsetSource, SubsetSource]:
    """A source in two: images to train on, and a share, at most `most`, to validate on.

    Raises:
        UserError: there are fewer than two images.
        ValueError: share is not over 0 and under 1, or most is under 1.
    """
    if not 0 < share < 1 or most < 1:
        raise ValueError(f"share must be over 0, under 1 and most at least 1, got {share}, {most}")
    if len(source) < 2:
        raise UserError(
            f"validation needs at least 2 images, got {source.description}; "
            "add images, or train without validation"
        )
    order = np.random.default_rng(seed).permutation(len(source)).tolist()
    count = min(most, max(1, round(share * len(source))))
    kept, held = tuple(sorted(order[count:])), tuple(sorted(order[:count]))
    return SubsetSource(source, kept, "trained on"), SubsetSource(source, held, "held out")
