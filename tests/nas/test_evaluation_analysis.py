"""The analysis of a set of images, and the pictures of the worst ones."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from data.boxes import move_boxes
from data.sample import Faces, Sample
from nas.drawing import read_image
from nas.evaluation_analysis import (
    CURVE_POINTS,
    FOUND_BGR,
    MISSED_BGR,
    MISTAKEN_BGR,
    Analysis,
    analyse,
    draw_outcome,
    write_worst,
)
from objectives.average_precision import evaluate_detections
from objectives.breakdown import BEST_F1, ImageOutcome
from tests.objectives.test_average_precision import (
    FACE_A,
    FACE_B,
    NOWHERE,
    faces_at,
    found,
    random_case,
)

RIGHT = found([FACE_A, FACE_B], [0.9, 0.8])
HALF = found([FACE_A], [0.9])
WRONG = found([NOWHERE, FACE_A], [0.95, 0.9])
BOTH = faces_at(FACE_A, FACE_B)


@dataclass(frozen=True, slots=True)
class Grey:
    """Grey images of 240 px."""

    faces: tuple[Faces, ...]

    @property
    def description(self) -> str:
        return "grey"

    def fingerprint(self) -> str:
        return "grey"

    def __len__(self) -> int:
        return len(self.faces)

    def load(self, index: int) -> Sample:
        return Sample(np.full((240, 240, 3), 90, np.uint8), self.faces[index], f"e/{index}.jpg")


def analysed() -> tuple[Analysis, Grey]:
    names = [f"e/{i}.jpg" for i in range(4)]
    return analyse([RIGHT, HALF, WRONG, RIGHT], [BOTH] * 4, names), Grey((BOTH,) * 4)


def test_points_and_groups_are_plain_json() -> None:
    value = analysed()[0].to_json()
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert [point["name"] for point in value["points"]][-1] == BEST_F1
    assert value["groups"]["size"]["small"]["faces"] == 8


@pytest.mark.parametrize(
    ("names", "events"),
    [(["a/0", "b/1"], {"a", "b"}), (["a/0", "a/1"], set()), (["a/0", "one"], set())],
)
def test_events_are_the_folders_of_the_names(names: list[str], events: set[str]) -> None:
    analysis = analyse([RIGHT, HALF], [BOTH, BOTH], names)
    assert set(analysis.groups.get("event", ())) == events


@pytest.mark.parametrize("images", [1, 8, 120])
def test_the_curve_that_is_kept_has_the_area_of_all_of_it(images: int) -> None:
    detections, faces = random_case(images, seed=images)
    analysis = analyse(detections, faces, ["x"] * images)
    curve = analysis.curve_json()
    assert 0 < len(curve["recall"]) == len(curve["precision"]) <= CURVE_POINTS
    assert (np.diff(curve["score"]) <= 0).all()
    envelope = np.maximum.accumulate(curve["precision"][::-1])[::-1]
    area = np.sum(np.diff(curve["recall"], prepend=0) * envelope)
    ap = evaluate_detections(detections, faces, resamples=1).ap
    assert area == pytest.approx(ap, abs=0.005)


def test_nothing_found_has_an_empty_curve() -> None:
    analysis = analyse([found([], [])], [faces_at(FACE_A)], ["x"])
    assert analysis.curve_json() == {"score": [], "recall": [], "precision": []}
    assert analysis.to_json()["points"][-1]["recall"] == 0


def test_the_worst_images_come_first_and_right_ones_not_at_all(tmp_path: Path) -> None:
    analysis, source = analysed()
    heard: list[tuple[int, int]] = []
    rows = write_worst(
        tmp_path,
        source,
        analysis,
        count=9,
        progress=lambda _label, done, total: heard.append((done, total)),
    )
    assert [(row["image"], row["missed"], row["mistaken"]) for row in rows] == [
        ("e/2.jpg", 1, 1),
        ("e/1.jpg", 1, 0),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["01-2.jpg", "02-1.jpg"]
    assert read_image(tmp_path / rows[0]["file"]).shape == (240, 240, 3)
    assert heard == [(1, 2), (2, 2)]


def test_earlier_pictures_go_and_other_files_stay(tmp_path: Path) -> None:
    analysis, source = analysed()
    (tmp_path / "note.jpg").write_bytes(b"mine")
    write_worst(tmp_path, source, analysis, count=9)
    write_worst(tmp_path, source, analysis, count=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["01-2.jpg", "note.jpg"]


def test_found_missed_and_mistaken_have_their_colours() -> None:
    image = np.zeros((60, 90, 3), np.uint8)
    box = np.array([[5, 5, 20, 20]], np.float32)
    missed, mistaken = (move_boxes(box, scale=1, shift=(x, 0)) for x in (30, 60))
    outcome = ImageOutcome(0, box, missed, mistaken)
    picture = draw_outcome(image, outcome)
    assert not image.any()
    for x, colour in ((5, FOUND_BGR), (35, MISSED_BGR), (65, MISTAKEN_BGR)):
        assert tuple(picture[12, x]) == colour
        assert not picture[12, x + 7].any()
