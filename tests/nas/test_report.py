"""The page is whole, stands alone and says what it was given."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nas.report import ReportData, write_report

TRIALS: list[dict[str, Any]] = [
    {"trial": 0, "ap": 0.2, "macs": 100_000_000, "params": 50_000, "key": "small"},
    {"trial": 2, "ap": 0.1, "macs": 400_000_000, "params": 90_000, "key": "bad"},
    {"trial": 1, "ap": 0.5, "macs": 300_000_000, "params": 80_000, "key": "</script><b>big"},
]
FULL = ReportData(
    study="tea & <cake>",
    trials=TRIALS,
    front=[TRIALS[0], TRIALS[2] | {"latency_ms": 8.25, "onnx": None}],
    hypervolume={
        "trials": 3,
        "compared": 3,
        "searches": 5,
        "box": {"cost": "macs", "least": 100_000_000, "highest": 400_000_000, "raised": "ap"},
        "measured": [0.1, 0.125, 0.2],
        "run": {"mean": [0.1, 0.1, 0.15], "low": [0.1, 0.1, 0.1], "high": [0.1, 0.1, 0.2]},
        "random": {"mean": [0.0, 0.1, 0.1], "low": [0.0, 0.0, 0.0], "high": [0.1, 0.1, 0.2]},
        "final": {"run": 0.15, "random": 0.1, "ratio": 1.5, "trials_to_random": 1},
        "surrogate": {"tau": 0.625, "tau_interval": (0.5, 0.75)},
    },
    retrained=[{"trial": 1, "ap": 0.7, "seconds": 12.0}],
    benchmark=[{"trial": 1, "image_size": 640, "threads": 1, "p50_ms": 8.25}],
    stages=[("prepare", 1.0), ("search", 75.0)],
    fidelity={"tau": 0.5, "interval": (0.25, 0.75), "candidates": 6},
    settings={"limits": {"max_params": 285_000}, "note": "@plotly@"},
    record={"date": "2026-01-02T03:04:05+00:00", "commit": None},
)


class Balanced(HTMLParser):
    """Fails on a tag that closes another than the last open one."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(data: ReportData, folder: Path) -> tuple[str, dict[str, Any]]:
    """The page and the numbers its script draws."""
    write_report(folder / "report.html", data)
    page = (folder / "report.html").read_text(encoding="utf-8")
    found = re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)
    assert found
    assert "<" not in found[1], "nothing in the data can end the script element"
    return page, json.loads(found[1])


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    return page_of(FULL, tmp_path_factory.mktemp("report"))


def test_the_page_is_balanced_and_loads_nothing(full: tuple[str, dict[str, Any]]) -> None:
    parser = Balanced()
    parser.feed(full[0])
    assert parser.open == []
    assert parser.addresses == ["data:,"], "no address but the empty icon"
    assert full[0].count("<script") - full[0].count('"<script') >= 3
    assert 4e6 < len(full[0]) < 8e6, "one copy of plotly"


def test_text_from_outside_stays_text(full: tuple[str, dict[str, Any]]) -> None:
    page, _ = full
    assert page.count("tea &amp; &lt;cake&gt;") == 2
    assert "<cake>" not in page
    assert "<b>big" not in page
    assert "<dd>@plotly@</dd>" in page, "a mark in a value is not a mark"


def test_front_and_trials_are_drawn_once_each(full: tuple[str, dict[str, Any]]) -> None:
    _, figures = full
    assert figures["front"]["trial"] == [0, 1]
    assert figures["front"]["cost"] == [100_000_000, 300_000_000]
    assert figures["trials"]["trial"] == [2]
    assert figures["retrained"]["trial"] == [1]
    assert "AP 0.500" in figures["retrained"]["text"][0]


def test_trials_are_drawn_beside_a_front_of_finals(
    full: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    page, figures = page_of(replace(FULL, finals="the front is that of longer fits"), tmp_path)
    assert "<p>The front is that of longer fits.</p>" in page
    assert figures["trials"]["trial"] == [row["trial"] for row in TRIALS]
    assert "finals" in figures["names"]["front"]
    assert full[1]["names"] == {"trials": "trials", "front": "front"}


def test_history_is_in_trial_order_and_never_falls(full: tuple[str, dict[str, Any]]) -> None:
    history = full[1]["history"]
    assert history["trial"] == [0, 1, 2]
    assert history["best"] == [0.2, 0.5, 0.5]
    assert history["title"] == "AP"
    assert "<h2>Best AP so far</h2>" in full[0]


def test_the_history_is_of_the_score_that_trials_raise(tmp_path: Path) -> None:
    trials = [row | {"promise": 0.9 - row["ap"]} for row in TRIALS]
    page, figures = page_of(replace(FULL, trials=trials, raised="promise"), tmp_path)
    assert figures["history"]["best"] == pytest.approx([0.7, 0.7, 0.8])
    assert "<h2>Best promise so far</h2>" in page
    with pytest.raises(ValueError, match="every trial must have promise"):
        write_report(tmp_path / "none.html", replace(FULL, raised="promise"))


def test_the_hypervolume_stands_beside_randoms(full: tuple[str, dict[str, Any]]) -> None:
    page, figures = full
    drawn = figures["hypervolume"]
    assert drawn == {name: FULL.hypervolume[name] for name in ("measured", "run", "random")}
    for text in (
        "<h3>Hypervolume beside random&#x27;s</h3><b>1.50 \u00d7</b>",
        "from 100.0 M MAC to 400.0 M MAC",
        "5 random searches of 3 feasible",
        "&#x27;s τ 0.62 (0.50 to 0.75)",
        "random search 10.00%; this run needed 1 of its trials to reach that",
    ):
        assert text in page


def test_a_guess_that_may_be_chance_is_called_so(
    full: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    doubt = "do not believe this comparison"
    assert doubt not in full[0]
    poor = {**FULL.hypervolume, "surrogate": {"tau": 0.1, "tau_interval": (-0.1, 0.3)}}
    assert doubt in page_of(replace(FULL, hypervolume=poor), tmp_path)[0]


def test_trials_that_ended_early_are_told_from_the_whole(tmp_path: Path) -> None:
    assert "<p>3 trials · 2 on the front" in page_of(FULL, tmp_path)[0]
    stopping = replace(
        FULL,
        hypervolume={**FULL.hypervolume, "trials": 5},
        early_stopping="early stopping: 2 of 5 trials stopped, 1 < 2",
    )
    page = page_of(stopping, tmp_path)[0]
    assert "<p>3 of 5 trials fitted to the end" in page
    assert "<p>Early stopping: 2 of 5 trials stopped, 1 &lt; 2.</p>" in page


def test_a_hypervolume_without_random_says_why(tmp_path: Path) -> None:
    named = ("trials", "box", "measured")
    alone = {name: FULL.hypervolume[name] for name in named} | {"why_not": "nobody <knows>"}
    page, figures = page_of(replace(FULL, hypervolume=alone), tmp_path)
    assert "There is no curve of random search: nobody &lt;knows&gt;." in page
    assert "<b>20.00%</b>" in page
    assert figures["hypervolume"] == {"measured": [0.1, 0.125, 0.2], "run": None, "random": None}


def test_a_latency_table_is_shown_where_there_is_one(
    full: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    assert "Latency table" not in full[0]
    table = {"device": "phone", "threads": 2, "error": "Spearman's correlation 0.999"}
    page, _ = page_of(replace(FULL, latency_table=table), tmp_path)
    assert "<dt>device</dt><dd>phone</dd><dt>threads</dt><dd>2</dd>" in page
    assert "correlation 0.999" in page


def test_numbers_are_shown_with_their_units(full: tuple[str, dict[str, Any]]) -> None:
    page, _ = full
    for text in ("macs, M MAC", "1 min 15 s", "interval 0.25 to 0.75", "2026-01-02 03:04 UTC"):
        assert text in page
    assert "<dt>limits · max params</dt><dd>285\u202f000</dd>" in page


def test_the_front_s_table_leaves_to_the_retrained_ones_what_they_measured(tmp_path: Path) -> None:
    measured = {"retrained_ap": 0.75, "retrained_ap_interval": [0.6512, 0.8], "latency_ms": 8.25}
    fitted = {"trial": 1, "ap": 0.5, "macs": 300_000_000, "alone_ap_interval": [0.4, 0.6]}
    front, retrained = [fitted | measured], [{"trial": 1, **measured}]

    def tables(cost: str) -> list[str]:
        data = replace(FULL, front=front, retrained=retrained, cost=cost)
        trials = [{**trial, "latency_ms": 1.0} for trial in TRIALS]
        page, _ = page_of(replace(data, trials=trials), tmp_path)
        return re.findall("<table>.*?</table>", page)

    of_front, of_retrained, *_ = tables("macs")
    assert "0.400 to 0.600" in of_front
    assert not re.search("retrained|latency", of_front)
    for text in ("retrained ap", "0.651 to 0.800", "latency, ms"):
        assert text in of_retrained
    assert "latency, ms" in tables("latency_ms")[0]  # it is what was lowered


def test_a_report_of_a_study_that_has_only_begun_says_so(tmp_path: Path) -> None:
    page, figures = page_of(ReportData(study="new", trials=(), front=()), tmp_path)
    assert figures["history"] is None
    for sentence in ("No trial has finished yet", "No network was retrained", "was not measured"):
        assert sentence in page


def test_a_row_without_its_cost_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    data = ReportData(study="s", trials=[{"trial": 0, "ap": 0.1}], front=())
    with pytest.raises(ValueError, match="every trial must have macs"):
        write_report(tmp_path / "report.html", data)
    assert list(tmp_path.iterdir()) == []
