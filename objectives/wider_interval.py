"""How far the WIDER protocol's results move when the images are drawn again.

Shape letters: D detections and F faces of all images, I images, R weightings of the images,
T points of the curve.
"""

from collections.abc import Collection, Mapping

import numpy as np
from scipy.sparse import coo_array

from data.progress import silent
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

Interval = tuple[float, float]


def wider_intervals(
    ground_truth: Mapping[str, CountedFaces],
    predictions: Mapping[str, Floats],
    *,
    images: Collection[str] | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> dict[str, Interval | None]:
    """5th and 95th percentile of each subset's AP, None where no face counts.

    Takes and refuses what `wider_average_precision` does. Images are drawn with replacement:
    matched once, they are weighted by how often they come; scores stay stretched over the set.

    Raises:
        ValueError: resamples is not positive.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be positive, got {resamples}")
    names = sorted(ground_truth if images is None else set(images))
    _check(names, ground_truth, predictions)
    drawn = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=resamples
    )
    faces, rows = [ground_truth[name] for name in names], [predictions[name] for name in names]
    pool = _pool(faces, rows, silent)
    face_image = np.repeat(np.arange(len(names)), [len(one.boxes_xywh) for one in faces])
    image = np.repeat(np.arange(len(names)), [len(one) for one in rows])
    return {
        subset: _interval(_weighted_ap(pool, counted, (image, face_image), drawn.T.astype(float)))
        for subset, counted in pool.counted.items()
    }


def _interval(aps: Floats) -> Interval | None:
    """Of (R,) values, those without faces (NaN) left out."""
    known = aps[np.isfinite(aps)]
    if not len(known):
        return None
    low, high = np.percentile(known, [5, 95])
    return float(low), float(high)


def _weighted_ap(
    pool: _Pool, counted: Mask, image_of: tuple[Ints, Ints], weights: Floats
) -> Floats:
    """(R,) AP when images count as often as weights (I, R) say. Otherwise as `_subset_precision`.

    counted: (F,). image_of: of detections (D,) and of faces (F,).
    """
    first_points = _first_points(pool.scores)
    belongs = pool.face >= 0
    proposed = pool.judged & ~belongs
    proposed[belongs] = counted[pool.face[belongs]]
    found_at = np.full(len(counted), POINTS)
    np.minimum.at(found_at, pool.face[belongs], first_points[belongs])

    image, face_image = image_of
    proposals = _weighted_counts(first_points[proposed], image[proposed], weights)
    found = _weighted_counts(found_at[counted], face_image[counted], weights)
    faces = np.bincount(face_image[counted], minlength=len(weights)) @ weights
    precision = found / np.maximum(proposals, 1)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    area: Floats = (np.diff(found, axis=0, prepend=0) * envelope).sum(axis=0)
    return area / np.where(faces > 0, faces, np.nan)


def _weighted_counts(first_points: Ints, image: Ints, weights: Floats) -> Floats:
    """(T, R) how many have come in at each point of the curve."""
    seen = first_points < POINTS
    counts = coo_array(
        (np.ones(int(seen.sum())), (first_points[seen], image[seen])),
        shape=(POINTS, len(weights)),
    )
    return np.cumsum(np.asarray(counts.tocsr() @ weights), axis=0)
