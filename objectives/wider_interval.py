"""How far the WIDER protocol's results move when the images are drawn again.

Shape letters: I images, R weightings of the images, T points of the curve; N proposals or faces.
"""

import numpy as np
from scipy.sparse import coo_array

from objectives.wider_protocol import POINTS, Arrivals, Floats, Ints, WiderMatches

Interval = tuple[float, float]


def wider_intervals(
    matches: WiderMatches, *, seed: int = 0, resamples: int = 200
) -> dict[str, Interval | None]:
    """5th and 95th percentile of each subset's AP, None where no face counts.

    Images are drawn with replacement: matched once, they are weighted by how often they come;
    scores stay stretched over the set.

    Raises:
        ValueError: resamples is not positive.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be positive, got {resamples}")
    images = matches.images
    drawn = np.random.default_rng(seed).multinomial(
        images, np.full(images, 1 / images), size=resamples
    )
    weights = drawn.T.astype(float)
    return {
        subset: _interval(_weighted_ap(matches.arrivals(subset), weights))
        for subset in matches.counted
    }


def _interval(aps: Floats) -> Interval | None:
    """Of (R,) values, those without faces (NaN) left out."""
    known = aps[np.isfinite(aps)]
    if not len(known):
        return None
    low, high = np.percentile(known, [5, 95])
    return float(low), float(high)


def _weighted_ap(arrivals: Arrivals, weights: Floats) -> Floats:
    """(R,) AP when images count as often as weights (I, R) say; NaN without faces."""
    proposals = _weighted_counts(arrivals.proposed_at, arrivals.proposal_image, weights)
    found = _weighted_counts(arrivals.found_at, arrivals.face_image, weights)
    faces = np.bincount(arrivals.face_image, minlength=len(weights)) @ weights
    precision = found / np.maximum(proposals, 1)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    area: Floats = (np.diff(found, axis=0, prepend=0) * envelope).sum(axis=0)
    return area / np.where(faces > 0, faces, np.nan)


def _weighted_counts(points: Ints, image: Ints, weights: Floats) -> Floats:
    """(T, R) how many have come in at each point of the curve. points, image: (N,)."""
    seen = points < POINTS
    counts = coo_array(
        (np.ones(int(seen.sum())), (points[seen], image[seen])),
        shape=(POINTS, len(weights)),
    )
    return np.cumsum(np.asarray(counts.tocsr() @ weights), axis=0)
