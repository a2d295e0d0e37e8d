"""The comparison of scores over records."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scores import compare
from data.errors import UserError
from nas.outlook import USUAL_MACS

TRUTH = (0.1, 0.2, 0.3, 0.4)
SEEN = ("ap", "recall")
PERFECT, REVERSED = (0.1, 0.2, 0.3, 0.4), (0.4, 0.3, 0.2, 0.1)


def scores(ap: float, recall: float) -> dict[str, float]:
    return {"ap": ap, "smooth_ap": ap, "recall": recall}


def written(path: Path, value: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def proxies(path: Path, *kinds: tuple[int, tuple[float, ...], tuple[float, ...]]) -> Path:
    """A record of four networks. kinds: steps, APs and recalls of each kind of short fit."""
    networks = [
        {
            "key": f"network {i}",
            "untrained": {"macs": USUAL_MACS},
            "short": [
                {"start": "own", "steps": steps, "scores": scores(aps[i], recalls[i])}
                for steps, aps, recalls in kinds
            ],
            "alone": [{"scores": {"ap": truth - 0.05}}, {"scores": {"ap": truth + 0.05}}],
        }
        for i, truth in enumerate(TRUTH)
    ]
    return written(path, {"networks": networks})


def fidelity(folder: Path, macs: tuple[int, ...] = (USUAL_MACS,) * 4) -> Path:
    rows = [
        {"key": f"network {i}", "macs": macs[i], **scores(PERFECT[i], PERFECT[i]), "alone_ap": ap}
        for i, ap in enumerate(TRUTH)
    ]
    return written(folder / "fidelity.json", {"architectures": rows})


def test_each_kind_of_fit_counts_once_and_short_ones_not_at_all(tmp_path: Path) -> None:
    first = proxies(tmp_path / "a.json", (50, REVERSED, REVERSED), (300, REVERSED, PERFECT))
    again = proxies(tmp_path / "b.json", (300, PERFECT, PERFECT), (600, PERFECT, PERFECT))
    found = compare([first, again, fidelity(tmp_path / "study")], least_steps=100)
    taus = {(row["fits"], name): row["tau"][name] for row in found["rows"] for name in SEEN}
    expected = {
        ("own, 300 steps", "ap"): -1,
        ("own, 300 steps", "recall"): 1,
        ("own, 600 steps", "ap"): 1,
        ("own, 600 steps", "recall"): 1,
        ("study", "ap"): 1,
        ("study", "recall"): 1,
    }
    assert taus == pytest.approx(expected)
    assert found["means"]["fits"]["ap"] == pytest.approx(0)
    assert found["means"]["searches"]["promise"] == pytest.approx(1)


def test_the_promise_of_older_fits_is_worked_out(tmp_path: Path) -> None:
    record = proxies(tmp_path / "a.json", (300, (0.1, 0.1, 0.1, 0.1), REVERSED))
    (row,) = compare([record], least_steps=0)["rows"]
    expected = {"ap": 0, "smooth_ap": 0, "recall": -1, "promise": -1, "outlook": -1}
    assert row["tau"] == pytest.approx(expected)


def test_outlooks_count_the_size_of_networks_by_each_exponent(tmp_path: Path) -> None:
    shrinking = (10**15, 10**13, 10**11, 10**9)
    found = compare([fidelity(tmp_path / "study", shrinking)], least_steps=0)
    (row,) = found["rows"]
    assert (row["tau"]["promise"], row["tau"]["outlook"]) == pytest.approx((1, -1))
    means = found["means_by_exponent"]["searches"]
    assert (means["0.0"], means["0.5"]) == pytest.approx((1, -1))
    assert means["0.25"] == row["tau"]["outlook"]


def test_strange_files_and_missing_scores_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.json holds neither networks"):
        compare([written(tmp_path / "x.json", {})], least_steps=0)
    path = fidelity(tmp_path / "study")
    record = json.loads(path.read_text())
    del record["architectures"][1]["smooth_ap"]
    with pytest.raises(UserError, match="study: not every network has smooth_ap"):
        compare([written(path, record)], least_steps=0)
