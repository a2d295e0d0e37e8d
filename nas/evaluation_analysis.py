"""Where a detector fails: numbers by kind of face, and pictures of the images that went worst."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data.progress import Progress, silent
from data.sample import Faces, ImageSource
from nas.drawing import write_image
from objectives.average_precision import Detections
from objectives.breakdown import (
    BEST_F1,
    Curve,
    GroupResult,
    ImageOutcome,
    Matches,
    OperatingPoint,
    breakdown,
    match_detections,
    operating_points,
    precision_recall,
    worst_images,
)

FOUND_BGR = (80, 220, 60)
MISSED_BGR = (60, 60, 255)
MISTAKEN_BGR = (0, 210, 255)
"""Green for faces found, red for faces missed, yellow for detections of nothing."""

CURVE_POINTS = 500


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """Operating points over all faces, results by group, and the curve they come from."""

    matches: Matches
    curve: Curve
    points: tuple[OperatingPoint, ...]
    groups: dict[str, dict[str, GroupResult]]

    @property
    def best_score(self) -> float:
        """The score of the best F1."""
        return next(point.score for point in self.points if point.name == BEST_F1)

    def to_json(self) -> dict[str, Any]:
        """`points` and `groups` as plain lists, dicts and numbers."""
        return {
            "points": [asdict(point) for point in self.points],
            "groups": {
                kind: {name: asdict(group) for name, group in groups.items()}
                for kind, groups in self.groups.items()
            },
        }

    def curve_json(self) -> dict[str, list[float]]:
        """At most CURVE_POINTS points of the curve, evenly over its recalls."""
        recall = self.curve.recall
        wanted = np.linspace(0, recall[-1], CURVE_POINTS) if len(recall) else recall
        at = np.unique(np.searchsorted(recall, wanted))
        columns = {
            "score": self.curve.scores,
            "recall": recall,
            "precision": self.curve.precision,
        }
        return {name: column[at].round(5).tolist() for name, column in columns.items()}


def analyse(found: Sequence[Detections], faces: Sequence[Faces], names: Sequence[str]) -> Analysis:
    """Analyse what was found in images; one entry of each an image.

    An image called 'event/file' belongs to that event; where not all are, or all to one, there
    are no results by event.
    """
    matches = match_detections(found, faces)
    points = operating_points(matches)
    events = [name.rpartition("/")[0] for name in names]
    return Analysis(
        matches=matches,
        curve=precision_recall(matches),
        points=points,
        groups=breakdown(
            matches, points, events=events if all(events) and len(set(events)) > 1 else None
        ),
    )


def write_worst(
    folder: Path,
    source: ImageSource,
    analysis: Analysis,
    *,
    count: int,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Draw the images with the most errors at the best F1; earlier pictures are removed.

    Gives for each its `image`, the `file` in the folder, and how many `found`, `missed` and
    `mistaken`, worst image first.
    """
    for old in folder.glob("[0-9][0-9]-*.jpg"):
        old.unlink()
    rows = []
    outcomes = worst_images(analysis.matches, score=analysis.best_score, count=count)
    for place, outcome in enumerate(outcomes, 1):
        sample = source.load(outcome.index)
        file = f"{place:02d}-{Path(sample.source).stem}.jpg"
        write_image(folder / file, draw_outcome(sample.image, outcome))
        rows.append(
            {
                "image": sample.source,
                "file": file,
                "found": len(outcome.found_xyxy),
                "missed": len(outcome.missed_xyxy),
                "mistaken": len(outcome.mistaken_xyxy),
            }
        )
        progress("draw the worst images", place, len(outcomes))
    return rows


def draw_outcome(image_bgr: NDArray[np.uint8], outcome: ImageOutcome) -> NDArray[np.uint8]:
    """A copy of an (H, W, 3) image with green, red and yellow boxes, see FOUND_BGR."""
    picture = np.ascontiguousarray(image_bgr).copy()
    line_width = max(1, round(max(picture.shape[:2]) / 500))
    for boxes_xyxy, colour in (
        (outcome.found_xyxy, FOUND_BGR),
        (outcome.mistaken_xyxy, MISTAKEN_BGR),
        (outcome.missed_xyxy, MISSED_BGR),
    ):
        for x1, y1, x2, y2 in boxes_xyxy.round().astype(int).tolist():
            cv2.rectangle(picture, (x1, y1), (x2, y2), colour, line_width)
    return picture
