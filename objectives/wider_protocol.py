"""Average precision as WIDER FACE's toolbox measures it, on its easy, medium and hard subset.

Yang et al., WIDER FACE: A Face Detection Benchmark, CVPR 2016, and its evaluation toolbox:

- Scores are stretched so that the lowest of the whole set is 0 and the highest 1; the curve has
  one point at each of the scores 0.999, 0.998, ..., 0.
- A detection belongs to the face of highest IoU, the first of equals, where that is at least 0.5.
  Widths and heights are one pixel more than written, in overlaps and in areas.
- A detection that belongs to a face which does not count in the subset is left out. Every other
  one is a proposal, right or wrong, also the second of a face.
- Precision is the faces found over the proposals, recall the faces found over those that count.
- AP is the area under the precision envelope (Everingham et al., The PASCAL VOC Challenge: A
  Retrospective, IJCV 2015).

Detections count by their score, whatever their order in the file, as the toolbox sorts them.
Overlaps are fractions in double precision, as in the toolbox's usual Python port.

Shape letters: D detections and F faces of all images (in `_belonging`: of one), T points of the
curve.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.boxes import box_xywh_to_xyxy
from data.errors import UserError
from data.progress import Progress, silent
from data.wider_ground_truth import SUBSETS, CountedFaces

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

POINTS = 1000
IOU_THRESHOLD = 0.5
CURVE_SCORES = 1 - np.arange(1, POINTS + 1) / POINTS

_LEAST_HIGHEST = float(np.finfo(np.float32).tiny)  # where the toolbox's maximum begins
_PAIRS = 1_000_000  # of boxes compared at once: 8 MB an array


@dataclass(frozen=True, slots=True)
class SubsetPrecision:
    """One subset's result. All shares are 0 to 1.

    ap: None where no face counts. faces: how many count. precision, recall: T points by falling
    score; precision is 0 where there is no proposal yet, recall where no face counts.
    """

    ap: float | None
    faces: int
    precision: tuple[float, ...]
    recall: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class WiderReport:
    """The three results and what they were measured on.

    lowest_score, highest_score: of all detections, None where there are none. Where the two are
    equal (and not 0) the protocol divides 0 by 0 and finds nothing: every AP is 0.
    """

    easy: SubsetPrecision
    medium: SubsetPrecision
    hard: SubsetPrecision
    images: int
    detections: int
    lowest_score: float | None
    highest_score: float | None

    @property
    def subsets(self) -> dict[str, SubsetPrecision]:
        """The three results by their names in SUBSETS."""
        return {"easy": self.easy, "medium": self.medium, "hard": self.hard}

    def to_json(self) -> dict[str, Any]:
        """The same as plain lists, dicts and numbers."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """Points of the curve at which one subset's P proposals and K faces that count come in.

    proposed_at, proposal_image: (P,). found_at, face_image: (K,). POINTS stands for never.
    """

    proposed_at: Ints
    proposal_image: Ints
    found_at: Ints
    face_image: Ints


@dataclass(frozen=True, slots=True, eq=False)
class WiderMatches:
    """Which face each detection belongs to, image after image.

    images: how many. scores, image: (D,). face: (D,) the face that a detection belongs to, -1 for
    none. first_point: (D,) where on the curve it comes in, POINTS where it never does. judged:
    (D,) false in images without annotation, whose detections are no proposals. face_image: (F,).
    counted: (F,) by subset.
    """

    images: int
    scores: Floats
    image: Ints
    face: Ints
    first_point: Ints
    judged: Mask
    face_image: Ints
    counted: dict[str, Mask]

    def arrivals(self, subset: str) -> Arrivals:
        """When the proposals of a subset come in, and when its faces are found."""
        counted, belongs = self.counted[subset], self.face >= 0
        proposed = self.judged & ~belongs
        proposed[belongs] = counted[self.face[belongs]]
        found_at = np.full(len(counted), POINTS)
        np.minimum.at(found_at, self.face[belongs], self.first_point[belongs])
        return Arrivals(
            proposed_at=self.first_point[proposed],
            proposal_image=self.image[proposed],
            found_at=found_at[counted],
            face_image=self.face_image[counted],
        )


def wider_average_precision(
    ground_truth: Mapping[str, CountedFaces],
    predictions: Mapping[str, Floats],
    *,
    images: Collection[str] | None = None,
    progress: Progress = silent,
) -> WiderReport:
    """Match predictions and score them: `match_predictions`, then `report_precision`."""
    return report_precision(
        match_predictions(ground_truth, predictions, images=images, progress=progress)
    )


def match_predictions(
    ground_truth: Mapping[str, CountedFaces],
    predictions: Mapping[str, Floats],
    *,
    images: Collection[str] | None = None,
    progress: Progress = silent,
) -> WiderMatches:
    """Match predictions: rows (N, 5) x, y, width, height, score of each image, in any order.

    images: names of those scored, all of the ground truth if None. Only their faces and
    detections count, and only their scores are stretched; predictions of others are left aside.
    An image in which nothing was found needs an entry without rows.

    Raises:
        ValueError: no images, one that is not in the ground truth, or rows of another shape.
        UserError: predictions of an image that is not in the ground truth, or none of one that
            is to be scored.
    """
    names = sorted(ground_truth if images is None else set(images))
    _check(names, ground_truth, predictions)
    faces, rows = [ground_truth[name] for name in names], [predictions[name] for name in names]
    face_counts = [len(one.boxes_xywh) for one in faces]
    row_counts = [len(one) for one in rows]
    scores = np.concatenate([one[:, 4] for one in rows])
    return WiderMatches(
        images=len(names),
        scores=scores,
        image=np.repeat(np.arange(len(names)), row_counts),
        face=_faces_of_detections(faces, rows, progress),
        first_point=_first_points(scores),
        judged=np.repeat(np.array(face_counts) > 0, row_counts),
        face_image=np.repeat(np.arange(len(names)), face_counts),
        counted={
            subset: np.concatenate([_mask(one, subset) for one in faces]) for subset in SUBSETS
        },
    )


def report_precision(matches: WiderMatches) -> WiderReport:
    """Score what was matched, on all three subsets."""
    easy, medium, hard = (_subset_precision(matches.arrivals(subset)) for subset in SUBSETS)
    found = len(matches.scores)
    return WiderReport(
        easy=easy,
        medium=medium,
        hard=hard,
        images=matches.images,
        detections=found,
        lowest_score=float(matches.scores.min()) if found else None,
        highest_score=float(matches.scores.max()) if found else None,
    )


def _check(
    names: Sequence[str],
    ground_truth: Mapping[str, CountedFaces],
    predictions: Mapping[str, Floats],
) -> None:
    """Refuse what cannot be scored; see `match_predictions`."""
    unknown = sorted(predictions.keys() - ground_truth.keys())
    if unknown:
        raise UserError(
            f"there are predictions of {len(unknown)} images that are not in the ground truth, "
            f"such as {unknown[0]}; remove them or give the ground truth of their data set"
        )
    if not names:
        raise ValueError("images must be at least one, got none")
    strangers = [name for name in names if name not in ground_truth]
    if strangers:
        raise ValueError(f"images must be in the ground truth, got {strangers[0]!r}")
    without = [name for name in names if name not in predictions]
    if without:
        raise UserError(
            f"{len(without)} of {len(names)} images have no predictions, such as {without[0]}; "
            f"predict them too (an image in which nothing was found has a file that says 0), or "
            f"score only the images that have some"
        )
    for name in names:
        rows = predictions[name]
        if rows.ndim != 2 or rows.shape[1] != 5 or not np.isfinite(rows).all():
            raise ValueError(f"predictions must be finite (N, 5), got {rows.shape} for {name}")


def _faces_of_detections(
    faces: Sequence[CountedFaces], rows: Sequence[Floats], progress: Progress
) -> Ints:
    """(D,) the face that each detection belongs to, -1 for none. One entry an image of each."""
    parts, first_face = [], 0
    for done, (one, found) in enumerate(zip(faces, rows, strict=True)):
        progress("matching detections to faces", done, len(faces))
        own = _belonging(found, one.boxes_xywh)
        parts.append(np.where(own >= 0, own + first_face, -1))
        first_face += len(one.boxes_xywh)
    progress("matching detections to faces", len(faces), len(faces))
    return np.concatenate(parts)


def _mask(faces: CountedFaces, subset: str) -> Mask:
    mask = np.zeros(len(faces.boxes_xywh), dtype=np.bool_)
    mask[faces.counted[subset]] = True
    return mask


def _belonging(rows: Floats, faces_xywh: Floats) -> Ints:
    """(D,) the face of one image that each of its detections belongs to, -1 for none."""
    own = np.full(len(rows), -1)
    if not len(faces_xywh):
        return own
    found_xyxy = box_xywh_to_xyxy(rows[:, :4])
    faces_xyxy = box_xywh_to_xyxy(faces_xywh)
    step = max(1, _PAIRS // len(faces_xywh))
    for start in range(0, len(rows), step):
        overlaps = _overlaps(found_xyxy[start : start + step], faces_xyxy)
        best = overlaps.argmax(axis=1)
        fits = overlaps[np.arange(len(best)), best] >= IOU_THRESHOLD
        own[start : start + step] = np.where(fits, best, -1)
    return own


def _overlaps(boxes_xyxy: Floats, others_xyxy: Floats) -> Floats:
    """IoU of boxes that hold their last pixel too. (D, 4), (F, 4) -> (D, F)."""
    x1, y1, x2, y2 = boxes_xyxy.T[:, :, None]
    left, top, right, bottom = others_xyxy.T
    widths = np.minimum(x2, right) - np.maximum(x1, left) + 1
    heights = np.minimum(y2, bottom) - np.maximum(y1, top) + 1
    shared = widths.clip(min=0) * heights.clip(min=0)
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    other_areas = (right - left + 1) * (bottom - top + 1)
    overlaps: Floats = np.zeros(shared.shape)
    np.divide(shared, areas + other_areas - shared, out=overlaps, where=shared > 0)
    return overlaps


def _first_points(scores: Floats) -> Ints:
    """(D,) the first point of the curve at which each detection counts, T where it never does."""
    lowest = scores.min(initial=np.inf)
    highest = scores.max(initial=_LEAST_HIGHEST)
    if lowest >= highest:
        return np.full(len(scores), POINTS)
    stretched = (scores - lowest) / (highest - lowest)
    return np.asarray(POINTS - np.searchsorted(CURVE_SCORES[::-1], stretched, side="right"))


def _subset_precision(arrivals: Arrivals) -> SubsetPrecision:
    proposals, found = _counts(arrivals.proposed_at), _counts(arrivals.found_at)
    faces = len(arrivals.found_at)
    precision, recall = found / np.maximum(proposals, 1), found / max(faces, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    ap = float((np.diff(recall, prepend=0.0) * envelope).sum())
    return SubsetPrecision(
        ap if faces else None, faces, tuple(precision.tolist()), tuple(recall.tolist())
    )


def _counts(first_points: Ints) -> Ints:
    """(T,) how many have come in at each point of the curve."""
    return np.bincount(first_points, minlength=POINTS + 1).cumsum()[:POINTS]
