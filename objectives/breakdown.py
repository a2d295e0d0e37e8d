"""Where a detector does well and where it fails: by event, size and attribute, image by image.

Shape letters: D detections and F wanted faces of all images, I images, S distinct scores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data.sample import ATTRIBUTES, Faces
from objectives.average_precision import (
    STRATA,
    Detections,
    Floats,
    Ints,
    Mask,
    Pool,
    Verdict,
    average_precision,
    judge,
    pool_images,
)

ATTRIBUTE_VALUES = {
    "blur": ("clear", "normal", "heavy"),
    "occlusion": ("none", "partial", "heavy"),
    "pose": ("typical", "atypical"),
    "illumination": ("normal", "extreme"),
    "expression": ("typical", "exaggerated"),
}
"""What WIDER FACE's values 0, 1 and 2 of an attribute stand for."""

FALSE_PER_IMAGE = (0.1, 1.0)
"""False detections an image at which recalls are compared."""

SCORE = 0.5
"""Score at which recalls are compared too: where FaceDetector shows boxes if not told other."""

BEST_F1 = "best F1"


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """What became of every detection and every wanted face at one IoU threshold.

    scores: (D,). boxes_xyxy: (D, 4). face_boxes_xyxy: (F, 4). attributes: (F, 6), columns as
    ATTRIBUTES. pool and verdict: as in objectives.average_precision.
    """

    scores: Floats
    boxes_xyxy: NDArray[np.float32]
    face_boxes_xyxy: NDArray[np.float32]
    attributes: NDArray[np.uint8]
    pool: Pool
    verdict: Verdict

    @property
    def found_at(self) -> Floats:
        """(F,) score of the detection that found each face, -inf where none did."""
        scores = np.full(len(self.face_boxes_xyxy), -np.inf)
        found = self.verdict.face >= 0
        scores[self.verdict.face[found]] = self.scores[found]
        return scores


def match_detections(
    detections: Sequence[Detections], faces: Sequence[Faces], *, iou_threshold: float = 0.5
) -> Matches:
    """Match as `evaluate_detections` does. One entry of each an image.

    Raises:
        ValueError: the lengths differ, or no face is wanted.
    """
    pool = pool_images(detections, faces, lowest_iou=iou_threshold)
    if not len(pool.face_image):
        raise ValueError(f"faces must hold a face to be found, got none in {len(faces)} images")
    no_boxes = np.empty((0, 4), np.float32)
    return Matches(
        scores=np.concatenate([np.empty(0), *(one.scores for one in detections)]),
        boxes_xyxy=np.concatenate([no_boxes, *(one.boxes_xyxy for one in detections)]),
        face_boxes_xyxy=np.concatenate([one.boxes_xyxy[~one.ignore] for one in faces]),
        attributes=np.concatenate([one.attributes[~one.ignore] for one in faces]),
        pool=pool,
        verdict=judge(pool, iou_threshold),
    )


# All faces


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What is shown from each score on. scores: (S,) falling. found, mistakes: (S,) how many."""

    scores: Floats
    found: Ints
    mistakes: Ints
    faces: int

    @property
    def precision(self) -> Floats:
        """(S,) share of what is shown that is a face."""
        shares: Floats = self.found / np.maximum(self.found + self.mistakes, 1)
        return shares

    @property
    def recall(self) -> Floats:
        """(S,) share of the faces that is shown."""
        shares: Floats = self.found / self.faces
        return shares

    @property
    def f1(self) -> Floats:
        """(S,) harmonic mean of precision and recall."""
        means: Floats = 2 * self.found / (self.found + self.mistakes + self.faces)
        return means


def precision_recall(matches: Matches) -> Curve:
    """The curve of all faces. Detections of ignored faces count neither way."""
    counts = [
        np.bincount(matches.pool.rank[which]).cumsum()
        for which in (matches.verdict.right, matches.verdict.mistake)
    ]
    scores = -np.unique(-matches.scores)
    found, mistakes = (_lengthened(count, len(scores)) for count in counts)
    return Curve(scores, found, mistakes, len(matches.face_boxes_xyxy))


def _lengthened(counts: Ints, length: int) -> Ints:
    """Counts that stay at their last for the rest."""
    last = counts[-1] if len(counts) else 0
    return np.concatenate([counts, np.full(length - len(counts), last, counts.dtype)])


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Detections of at least a score, and what they come to. precision: None where there are none.

    Mistakes are counted an image, over all images.
    """

    name: str
    score: float
    precision: float | None
    recall: float
    false_per_image: float


def operating_points(matches: Matches) -> tuple[OperatingPoint, ...]:
    """The scores at which groups of faces are compared, and at `BEST_F1` the best single one."""
    curve = precision_recall(matches)
    points = [
        _point_at(f"{rate:g} false an image", _least_score(curve, allowed), matches)
        for rate in FALSE_PER_IMAGE
        for allowed in [curve.mistakes <= rate * matches.pool.images]
    ]
    points.append(_point_at(f"score {SCORE}", SCORE, matches))
    best = curve.f1 >= curve.f1.max(initial=0)
    first_best = np.arange(len(best)) <= best.argmax() if len(best) else best
    return (*points, _point_at(BEST_F1, _least_score(curve, first_best), matches))


def _least_score(curve: Curve, allowed: Mask) -> float:
    """The last score allowed; one over all scores where none is."""
    if allowed.any():
        return float(curve.scores[allowed][-1])
    return float(np.nextafter(curve.scores.max(initial=0), np.inf))


def _point_at(name: str, score: float, matches: Matches) -> OperatingPoint:
    shown = matches.scores >= score
    found = int((matches.verdict.right & shown).sum())
    mistakes = int((matches.verdict.mistake & shown).sum())
    return OperatingPoint(
        name=name,
        score=score,
        precision=found / (found + mistakes) if found + mistakes else None,
        recall=found / len(matches.face_boxes_xyxy),
        false_per_image=mistakes / matches.pool.images,
    )


# Groups of faces


@dataclass(frozen=True, slots=True)
class GroupResult:
    """How well the faces of one group are found.

    ap: as if all other faces were ignored. Mistakes have no attributes, so all of them count
    against each group (of a size: those of its own size, of an event: those in its images): the
    fewer faces a group has, the lower its AP. recall: by operating point, whose score is the same
    for all groups, so that it is fair to compare.
    """

    faces: int
    ap: float
    recall: dict[str, float]


def breakdown(
    matches: Matches, points: Sequence[OperatingPoint], *, events: Sequence[str] | None = None
) -> dict[str, dict[str, GroupResult]]:
    """Results by "size" (the bands of STRATA), each attribute, and "event"; only where faces are.

    events: one an image; without them that part is left out. So is an attribute that is the same
    for every face: a data set without attributes has zeros.

    Raises:
        ValueError: events are not one an image.
    """
    if events is not None and len(events) != matches.pool.images:
        raise ValueError(
            f"events must be one per image, got {len(events)} for {matches.pool.images} images"
        )
    found_at = matches.found_at
    result: dict[str, dict[str, GroupResult]] = {}
    for kind, name, wanted, near in _groups(matches, events):
        if not wanted.any():
            continue
        verdict = replace(matches.verdict, mistake=matches.verdict.mistake & near, wanted=wanted)
        result.setdefault(kind, {})[name] = GroupResult(
            faces=int(wanted.sum()),
            ap=average_precision(matches.pool, verdict),
            recall={
                point.name: float((found_at[wanted] >= point.score).mean()) for point in points
            },
        )
    return result


def _groups(
    matches: Matches, events: Sequence[str] | None
) -> Iterator[tuple[str, str, Mask, Mask]]:
    """Kind and name of every group, its faces (F,), and the detections (D,) it may answer for."""
    pool = matches.pool
    everywhere = np.ones(len(pool.rank), bool)
    for name, (low, high) in STRATA.items():
        sizes = (pool.face_height, pool.height)
        wanted, near = ((size >= low) & (size < high) for size in sizes)
        yield "size", name, wanted, near
    for kind, names in ATTRIBUTE_VALUES.items():
        values = matches.attributes[:, ATTRIBUTES.index(kind)]
        present = np.unique(values).tolist()
        for value in present if len(present) > 1 else ():
            name = names[value] if value < len(names) else f"value {value}"
            yield kind, name, values == value, everywhere
    own = np.array(events or [], dtype=object)
    for event in sorted(set(events or ())):
        yield "event", event, own[pool.face_image] == event, own[pool.image] == event


# Single images


@dataclass(frozen=True, slots=True, eq=False)
class ImageOutcome:
    """What is right and wrong in one image at a score. All boxes (N, 4) xyxy.

    found: detections of faces. missed: faces. mistaken: detections of nothing.
    """

    index: int
    found_xyxy: NDArray[np.float32]
    missed_xyxy: NDArray[np.float32]
    mistaken_xyxy: NDArray[np.float32]

    @property
    def errors(self) -> int:
        """Faces missed and false detections together."""
        return len(self.missed_xyxy) + len(self.mistaken_xyxy)


def worst_images(matches: Matches, *, score: float, count: int) -> list[ImageOutcome]:
    """The images with the most errors at a score, the first of equals first; none without any."""
    pool, shown = matches.pool, matches.scores >= score
    right, mistaken = matches.verdict.right & shown, matches.verdict.mistake & shown
    missed = matches.found_at < score
    errors = np.bincount(pool.face_image[missed], minlength=pool.images)
    errors += np.bincount(pool.image[mistaken], minlength=pool.images)
    worst = np.argsort(-errors, kind="stable")[:count]
    return [
        ImageOutcome(
            index=int(image),
            found_xyxy=matches.boxes_xyxy[right & (pool.image == image)],
            missed_xyxy=matches.face_boxes_xyxy[missed & (pool.face_image == image)],
            mistaken_xyxy=matches.boxes_xyxy[mistaken & (pool.image == image)],
        )
        for image in worst
        if errors[image]
    ]
