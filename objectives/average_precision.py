"""How many faces are found, and how surely: average precision with its noise interval.

Shape letters: D detections of all images, P overlapping pairs, I images, F wanted faces of all
images, S steps of a precision-recall curve, R weightings of the images.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from data.boxes import box_heights, pairwise_coverage, pairwise_iou
from data.sample import Faces

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Interval = tuple[float, float]

STRATA = {"tiny": (0, 12), "small": (12, 32), "medium": (32, 96), "large": (96, np.inf)}
"""Bands of face height in pixels of the evaluated image, lower end in, upper end out."""

SMOOTH_IOU_THRESHOLDS = (0.3, 0.4, 0.5)
"""The thresholds `PrecisionReport.smooth_ap` is the mean over."""

IGNORED_COVERAGE = 0.5
"""A detection of which an ignored region covers this share counts neither way."""


LEAST_SCORE = 0.02
"""Detections below it are left out of evaluations, the field's usual setting."""

NMS_IOU = 0.4
"""Overlap at which two detections are one face in evaluations, the field's usual setting."""


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector says of one image.

    boxes_xyxy: (N, 4) float32, pixels. scores: (N,) float32, higher is surer, any order.

    Raises:
        ValueError: shapes or types differ from these, or a number is not finite.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        count = len(self.boxes_xyxy)
        expected = (
            ("boxes_xyxy", self.boxes_xyxy, (count, 4)),
            ("scores", self.scores, (count,)),
        )
        for name, array, shape in expected:
            if array.shape != shape or array.dtype != np.float32:
                raise ValueError(f"{name} must be {shape} float32, got {array.shape} {array.dtype}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite, got NaN or infinity")


@dataclass(frozen=True, slots=True)
class StratumPrecision:
    """Average precision and recall (0 to 1) of one band of face heights, their intervals as in
    `PrecisionReport`, and how many faces it holds."""

    ap: float
    interval: Interval
    recall: float
    recall_interval: Interval
    faces: int


@dataclass(frozen=True, slots=True)
class PrecisionReport:
    """How well faces are found. All shares are 0 to 1.

    ap: average precision at `iou_threshold`. interval: 5th and 95th percentile of `ap` when
    the images are drawn again with replacement. smooth_ap: mean AP over IoU 0.3, 0.4 and 0.5;
    it already tells networks apart after fits too short for boxes to fit tightly.
    quality_ap: AP at IoU 0.3 in which a face that is found counts by the IoU of its box.
    recall: share of faces found by any detection, whatever its score.
    promise: geometric mean of `ap`, `recall` and `recall`, which orders networks after short fits
    more like long ones do than either (docs/results/README.md, Which score a trial has).
    smooth_interval, quality_interval, recall_interval, promise_interval: the same of these.
    smooth_replicates: smooth_ap in each draw, 0 in one without faces. Reports on the same images by
    one seed have the same draws, so the difference of two is free of the luck of the images.
    strata: AP and recall by face height, keys of STRATA; bands without faces are left out.
    """

    ap: float
    interval: Interval
    smooth_ap: float
    smooth_interval: Interval
    quality_ap: float
    quality_interval: Interval
    recall: float
    recall_interval: Interval
    promise: float
    promise_interval: Interval
    strata: dict[str, StratumPrecision]
    images: int
    faces: int
    iou_threshold: float
    smooth_replicates: tuple[float, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """The same as plain lists, dicts and numbers, without the replicates."""
        fields = asdict(self)
        del fields["smooth_replicates"]
        plain: dict[str, Any] = json.loads(json.dumps(fields))
        return plain


def evaluate_detections(
    detections: Sequence[Detections],
    faces: Sequence[Faces],
    *,
    iou_threshold: float = 0.5,
    seed: int = 0,
    resamples: int = 200,
) -> PrecisionReport:
    """Average precision of detections against faces, one entry of each per image.

    Detections are matched in order of falling score, each to the face of highest IoU not yet
    taken; among equal scores the pair of higher IoU goes first. One left unmatched is a mistake,
    unless it overlaps an ignored region by the IoU threshold or is half covered by one. Equal
    scores make one step of the curve, so neither the order of images nor of equal scores matters.
    AP is the whole area under the precision envelope (Everingham et al., The PASCAL VOC Challenge:
    A Retrospective, IJCV 2015), not the mean at 11 recalls. In a stratum, faces of other bands
    and their detections count neither way, nor do mistakes whose own height is in another band;
    unlike in COCO the matching is done once for all bands.

    Raises:
        ValueError: the two lengths differ, no face is wanted, the threshold is not over 0 and at
            most 1, or resamples is not positive.
    """
    if len(detections) != len(faces):
        raise ValueError(
            f"detections must be one entry per image, got {len(detections)} for {len(faces)} images"
        )
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be over 0 and at most 1, got {iou_threshold}")
    if resamples < 1:
        raise ValueError(f"resamples must be positive, got {resamples}")
    pool = pool_images(detections, faces, lowest_iou=min(iou_threshold, *SMOOTH_IOU_THRESHOLDS))
    if not len(pool.face_image):
        raise ValueError(f"faces must hold a face to be found, got none in {len(faces)} images")

    images = len(faces)
    drawn = np.random.default_rng(seed).multinomial(
        images, np.full(images, 1 / images), size=resamples
    )
    weights = np.concatenate([np.ones((1, images)), drawn]).T
    verdicts = {one: judge(pool, one) for one in {iou_threshold, *SMOOTH_IOU_THRESHOLDS}}
    verdict, loosest = verdicts[iou_threshold], verdicts[min(SMOOTH_IOU_THRESHOLDS)]
    aps = {one: _ap(pool, verdicts[one], weights) for one in verdicts}
    ap, interval = _with_interval(aps[iou_threshold])
    smooth_aps = np.mean([aps[one] for one in SMOOTH_IOU_THRESHOLDS], axis=0)
    smooth_ap, smooth_interval = _with_interval(smooth_aps)
    quality_ap, quality_interval = _with_interval(_ap(pool, loosest, weights, worth=loosest.iou))
    recalls = _recall(pool, verdict, weights)
    recall, recall_interval = _with_interval(recalls)
    promise, promise_interval = _with_interval(promise_of(aps[iou_threshold], recalls))
    return PrecisionReport(
        ap=ap,
        interval=interval,
        smooth_ap=smooth_ap,
        smooth_interval=smooth_interval,
        quality_ap=quality_ap,
        quality_interval=quality_interval,
        recall=recall,
        recall_interval=recall_interval,
        promise=promise,
        promise_interval=promise_interval,
        strata=_strata(pool, verdict, weights),
        images=images,
        faces=len(pool.face_image),
        iou_threshold=iou_threshold,
        smooth_replicates=tuple(np.nan_to_num(smooth_aps[1:]).tolist()),
    )


def promise_of(ap: Floats | float, recall: Floats | float) -> Floats:
    """`PrecisionReport.promise` of each AP and recall."""
    return np.asarray(np.cbrt(ap * recall**2))


def _with_interval(samples: Floats) -> tuple[float, Interval]:
    """The first value, and the 5th and 95th percentile of the others, draws without faces left out;
    0 to 1 where no draw has any."""
    known = samples[1:][~np.isnan(samples[1:])]
    low, high = np.percentile(known, [5, 95]) if len(known) else (0.0, 1.0)
    return float(samples[0]), (float(low), float(high))


@dataclass(frozen=True, slots=True)
class Pool:
    """Detections and wanted faces of all images in one row each, with their overlaps.

    rank: (D,) 0 for the highest score, equal for equal scores. ignored_iou: (D,) highest IoU
    with an ignored region, 1 where one covers enough. pairs: (P, 2) detection and face in the
    order of matching. pair_iou: (P,).
    """

    rank: Ints
    image: Ints
    height: Floats
    ignored_iou: Floats
    face_image: Ints
    face_height: Floats
    images: int
    pairs: Ints
    pair_iou: Floats


@dataclass(frozen=True, slots=True)
class Verdict:
    """What detections came to. face: (D,) the face found, or -1. iou: (D,) with it, or 0.
    mistake: (D,). wanted: (F,)."""

    face: Ints
    iou: Floats
    mistake: Mask
    wanted: Mask

    @property
    def right(self) -> Mask:
        """Detections that found a wanted face."""
        return (self.face >= 0) & self.wanted[self.face]


def pool_images(
    detections: Sequence[Detections], faces: Sequence[Faces], *, lowest_iou: float
) -> Pool:
    """Put all images together; pairs under the lowest IoU of interest are left out."""
    wanted = [one.boxes_xyxy[~one.ignore] for one in faces]
    found = [one.boxes_xyxy for one in detections]
    scores = np.concatenate([np.empty(0, np.float32), *(one.scores for one in detections)])
    rank = np.unique(-scores, return_inverse=True)[1]
    pairs, pair_iou = _pairs(found, wanted, rank, lowest_iou=lowest_iou)
    return Pool(
        rank=rank,
        image=np.repeat(np.arange(len(found)), [len(boxes) for boxes in found]),
        height=_joined([box_heights(boxes) for boxes in found]),
        ignored_iou=_joined(
            [
                _ignored_iou(boxes, one.boxes_xyxy[one.ignore])
                for boxes, one in zip(found, faces, strict=True)
            ]
        ),
        face_image=np.repeat(np.arange(len(wanted)), [len(boxes) for boxes in wanted]),
        face_height=_joined([box_heights(boxes) for boxes in wanted]),
        images=len(faces),
        pairs=pairs,
        pair_iou=pair_iou,
    )


def _joined(parts: Sequence[NDArray[np.floating]]) -> Floats:
    return np.concatenate([np.empty(0), *parts])


def _ignored_iou(boxes_xyxy: NDArray[np.float32], ignored: NDArray[np.float32]) -> Floats:
    """Highest IoU of each box with an ignored region; 1 where a region covers enough of it."""
    if not len(ignored):
        return np.zeros(len(boxes_xyxy))
    covered = (pairwise_coverage(boxes_xyxy, ignored) >= IGNORED_COVERAGE).any(1)
    return np.where(covered, 1.0, pairwise_iou(boxes_xyxy, ignored).max(1))


def _pairs(
    found: Sequence[NDArray[np.float32]],
    wanted: Sequence[NDArray[np.float32]],
    rank: Ints,
    *,
    lowest_iou: float,
) -> tuple[Ints, Floats]:
    """Overlapping (detection, face) pairs by falling score, then by falling IoU."""
    rows: list[Ints] = [np.empty((0, 2), np.int64)]
    ious: list[NDArray[np.floating]] = []
    first = np.zeros(2, np.int64)
    for boxes, targets in zip(found, wanted, strict=True):
        iou = pairwise_iou(boxes, targets)
        near = np.argwhere(iou >= lowest_iou)
        rows.append(near + first)
        ious.append(iou[near[:, 0], near[:, 1]])
        first += (len(boxes), len(targets))
    pairs, pair_iou = np.concatenate(rows), _joined(ious)
    order = np.lexsort((-pair_iou, rank[pairs[:, 0]]))
    return pairs[order], pair_iou[order]


def judge(pool: Pool, iou_threshold: float) -> Verdict:
    """Match greedily at one threshold; what is left over and not in an ignored region is wrong."""
    face, iou = np.full(len(pool.rank), -1), np.zeros(len(pool.rank))
    taken: set[int] = set()
    matched: dict[int, int] = {}
    near = pool.pair_iou >= iou_threshold
    pairs = zip(*(column.tolist() for column in pool.pairs[near].T), strict=True)
    chosen = []
    for pair, (detection, target) in enumerate(pairs):
        if target not in taken and detection not in matched:
            taken.add(target)
            matched[detection] = target
            chosen.append(pair)
    face[list(matched)] = list(matched.values())
    iou[list(matched)] = pool.pair_iou[near][chosen]
    mistake = (face < 0) & (pool.ignored_iou < iou_threshold)
    return Verdict(face, iou, mistake, np.ones(len(pool.face_image), bool))


def _strata(pool: Pool, verdict: Verdict, weights: Floats) -> dict[str, StratumPrecision]:
    """AP and recall of each band that holds faces."""
    result = {}
    for name, (low, high) in STRATA.items():
        wanted = (pool.face_height >= low) & (pool.face_height < high)
        mistake = verdict.mistake & (pool.height >= low) & (pool.height < high)
        if wanted.any():
            band = replace(verdict, mistake=mistake, wanted=wanted)
            ap, interval = _with_interval(_ap(pool, band, weights))
            recall, recall_interval = _with_interval(_recall(pool, band, weights))
            faces = int(wanted.sum())
            result[name] = StratumPrecision(ap, interval, recall, recall_interval, faces)
    return result


def average_precision(pool: Pool, verdict: Verdict) -> float:
    """Area under the precision envelope of one verdict, 0 to 1; NaN where no face is wanted."""
    return float(_ap(pool, verdict, np.ones((pool.images, 1)))[0])


def _faces(pool: Pool, verdict: Verdict, weights: Floats) -> Floats:
    """Wanted faces when images count as often as `weights` says. (I, R) -> (R,); NaN for none."""
    faces = np.bincount(pool.face_image[verdict.wanted], minlength=pool.images) @ weights
    return np.where(faces > 0, faces, np.nan)


def _recall(pool: Pool, verdict: Verdict, weights: Floats) -> Floats:
    """Share of the wanted faces that are found. (I, R) -> (R,); NaN without faces."""
    found = np.bincount(pool.image[verdict.right], minlength=pool.images) @ weights
    return np.asarray(found / _faces(pool, verdict, weights))


def _ap(pool: Pool, verdict: Verdict, weights: Floats, *, worth: Floats | None = None) -> Floats:
    """AP when images count as often as `weights` says. (I, R) -> (R,); NaN without faces.

    worth: (D,) what a face found by each detection counts; None: one. Precision is not changed.
    The envelope can only change where a face is found, so mistakes are added to the next step
    at which one is, and a curve has at most as many steps as there are faces.
    """
    right, wrong = verdict.right, verdict.mistake
    steps = np.unique(pool.rank[right])
    step = np.searchsorted(steps, pool.rank)
    wrong = wrong & (step < len(steps))  # mistakes under the last face found change nothing
    one = np.ones(len(pool.rank))

    def at_steps(which: Mask, values: Floats) -> Floats:
        sums = coo_array(
            (values[which], (step[which], pool.image[which])), shape=(len(steps), pool.images)
        )
        return np.asarray(sums.tocsr() @ weights)

    found = at_steps(right, one)
    gained = found if worth is None else at_steps(right, worth)
    right_so_far = np.cumsum(found, axis=0)
    mistakes = np.cumsum(at_steps(wrong, one), axis=0)
    precision = right_so_far / np.maximum(right_so_far + mistakes, 1)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    return np.asarray((gained * envelope).sum(axis=0) / _faces(pool, verdict, weights))
