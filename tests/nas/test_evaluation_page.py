"""The page is whole, stands alone but for its pictures, and says what it was given."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from data.wider_ground_truth import SUBSETS
from nas.evaluation_page import write_evaluation_page
from objectives.breakdown import BEST_F1
from tests.nas.test_report import Balanced

FEW, MANY = "0.1 false an image", "1 false an image"
LINE = {"recall": [0.1, 0.4], "precision": [1.0, 0.5]}
CURVES: dict[str, Any] = {
    "all": {**LINE, "score": [0.9, 0.2]},
    "wider": dict.fromkeys(SUBSETS, LINE),
}


def point(name: str, precision: float | None = 0.5) -> dict[str, Any]:
    return {
        "name": name,
        "score": 0.25,
        "precision": precision,
        "recall": 0.25,
        "false_per_image": 0.1,
    }


def group(faces: int, few: float, many: float) -> dict[str, Any]:
    return {"faces": faces, "ap": 0.4, "recall": {FEW: few, MANY: many}}


def result(**changes: Any) -> dict[str, Any]:
    subset = {"ap": 0.81234, "interval": [0.7, 0.9], "faces": 1234}
    return {
        "model": "runs/tea & <cake>/model.onnx",
        "data": "WIDER FACE val, 2 of 3 listed images",
        "split": "val",
        "image_size": "long side 640",
        "scales": [0.5, 1.0],
        "flip": True,
        "setting": "scales 0.5, 1, flip",
        "ap": 0.5,
        "interval": [0.45, 0.55],
        "iou_threshold": 0.5,
        "images": 2,
        "faces": 2000,
        "wider": {**dict.fromkeys(SUBSETS, subset)},
        "wider_note": "2 images of val's 3,226",
        "points": [point(FEW), point(MANY), point("score 0.5"), point(BEST_F1)],
        "groups": {
            "size": {"tiny": group(7, 0.125, 0.5)},
            "blur": {"clear": group(3, 0, 1), "heavy": group(4, 0.25, 0.75)},
            "event": {"0--Good_Place": group(3, 0.9, 1), "1--Bad": group(4, 0.1, 0.3)},
        },
        "worst": [
            {"image": "e/a b.jpg", "file": "01-a b.jpg", "found": 1, "missed": 2, "mistaken": 3}
        ],
        "date": "2026-01-02T03:04:05+00:00",
        "commit": None,
        "seed": 0,
        "data_hash": "abc",
        "schema_version": 1,
        **changes,
    }


def page_of(folder: Path, one: dict[str, Any], curves: dict[str, Any]) -> tuple[str, Any]:
    """The page and the lines its script draws."""
    write_evaluation_page(folder / "evaluation.html", one, curves)
    page = (folder / "evaluation.html").read_text(encoding="utf-8")
    found = re.search(r'id="curves">(.*?)</script>', page, re.DOTALL)
    assert found
    return page, json.loads(found[1])


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    return page_of(tmp_path_factory.mktemp("page"), result(), CURVES)


def test_the_page_is_balanced_and_loads_its_pictures_only(full: tuple[str, Any]) -> None:
    parser = Balanced()
    parser.feed(full[0].replace("<img ", '<link data-is="img" '))
    assert parser.open == []
    assert parser.addresses == ["data:,", *["worst/01-a%20b.jpg"] * 2]
    assert 4e6 < len(full[0]) < 8e6, "one copy of plotly"


def test_text_from_outside_stays_text(full: tuple[str, Any]) -> None:
    assert full[0].count("tea &amp; &lt;cake&gt;") == 3
    assert "<cake>" not in full[0]


def test_the_setting_and_the_numbers_are_shown(full: tuple[str, Any]) -> None:
    for text in (
        "WIDER FACE val, 2 of 3 listed images · image size: long side 640 · scales 0.5, 1, flip",
        "2 images of val&#x27;s 3,226",
        "<b>0.8123</b><p>0.700 to 0.900, 1\u202f234 faces</p>",
        "<b>0.5000</b><p>0.450 to 0.550, 2\u202f000 faces</p>",
        "<b>0.3333</b><p>at score 0.250</p>",  # of precision 1/2 and recall 1/4
        "<b>2 missed, 3 false</b>, 1 found",
        "<td>tiny, from 0 px</td>",
        "<dt>scales</dt><dd>0.5, 1</dd>",
    ):
        assert text in full[0], text


def test_bars_lie_over_each_other(full: tuple[str, Any]) -> None:
    assert '<i style="width:50.0%"></i><i style="width:12.5%"></i>' in full[0]


def test_events_are_sorted_hardest_first(full: tuple[str, Any]) -> None:
    assert 0 < full[0].index("1--Bad") < full[0].index("0--Good Place")


def test_what_is_not_shown_is_said(full: tuple[str, Any]) -> None:
    assert "all faces are alike: occlusion, pose, illumination, expression." in full[0]


def test_every_curve_is_drawn(full: tuple[str, Any]) -> None:
    assert [line["name"] for line in full[1]["wider"]] == list(SUBSETS)
    assert full[1]["all"] == [{"name": "all faces", **CURVES["all"]}]


def test_a_page_without_protocol_events_or_errors_says_so(tmp_path: Path) -> None:
    one = result(wider=None, wider_note="not scored: no ground truth", groups={}, worst=[])
    page, lines = page_of(tmp_path, one, {**CURVES, "wider": None})
    assert "not scored: no ground truth." in page
    assert "There is no image with an error" in page
    assert "<h3>Easy</h3>" not in page
    assert "<h2>Event</h2>" not in page
    assert list(lines) == ["all"]


def test_numbers_that_are_not_there_are_dashes(tmp_path: Path) -> None:
    without = {"ap": None, "interval": None, "faces": 0}
    points = [point(name, precision=None) for name in (FEW, MANY, BEST_F1)]
    one = result(wider=dict.fromkeys(SUBSETS, without), points=points)
    page, _ = page_of(tmp_path, one, CURVES)
    assert page.count("<b>\u2013</b><p>no interval, 0 faces</p>") == 3
    assert "<b>0.0000</b><p>at score" in page
