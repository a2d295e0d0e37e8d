"""How far the WIDER protocol's results move when the images are drawn again.

Shape letters: D detections and F faces of all images, I images, R weightings of the images,
T points of the curve.
"""

from collections.abc import Collection, Mapping

import numpy as np
from scipy.sparse import coo_array

from data.wider_ground_truth import CountedFaces
from objectives.wider_protocol import (
    POINTS,
    Floats,
    Ints,
    Mask,
    _check,
    _first_points,
    _Pool,
    _pool,
)
from data.progress import silent

Interval = tuple[float, float]


def wider_intervals(
    ground_truth: Mapping[str, CountedFaces],
    predictions: Mapping[str, Floats],
    *,
    images: Collection[str] | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> dict[str, Interval | None]:
    """90 % bootstrap interval over images of each subset's AP, None where no face counts.

    Takes and refuses what `wider_average_precision` does. Images are matched once and then
    weighted by how often they are drawn; scores stay stretched as in the whole set.
    """
