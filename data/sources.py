"""Opens the images a command was asked for: a WIDER FACE folder, or drawn ones."""

from pathlib import Path

from data.errors import unknown_name
from data.sample import ImageSource
from data.synthetic import SyntheticSource
from data.wider import WiderSource

SPLITS = ("train", "val")
SPLIT_SEED_STEP = 1_000_003
"""Between the seeds of drawn train and val images, so that the two never share a picture."""


def open_source(root: Path | None, split: str, *, synthetic_images: int, seed: int) -> ImageSource:
    """The images of a split; drawn ones when `root` is None, one fifth as many for val.

    Raises:
        UserError: the split is unknown, or the folder does not hold WIDER FACE.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if root is not None:
        return WiderSource.open(root, split)
    if split == "train":
        return SyntheticSource(count=synthetic_images, seed=seed)
    return SyntheticSource(count=max(1, synthetic_images // 5), seed=seed + SPLIT_SEED_STEP)
