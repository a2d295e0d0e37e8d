"""What a short fit is worth in fits alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.equal_fidelity import compare, rows_of
from data.errors import UserError

ORDER = np.arange(1, 9) / 10


def noisy(seed: int, fits: int, sigma: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(fits, 12) made-up APs around a common order."""
    luck = np.random.default_rng(seed).normal(size=(fits, 12))
    return np.arange(12) / 12 + sigma * luck


def test_the_truth_is_the_fits_that_are_left_out() -> None:
    alone = np.stack([ORDER, ORDER, ORDER[::-1] / 10])
    found = compare(alone, ORDER, count=1, resamples=10)
    # The two that agree have each other and the contrary one for truth, that one only the two.
    assert found["tau_of_fits_alone"] == pytest.approx((1 + 1 - 1) / 3)
    assert found["tau_of_short_fit"] == 1
    assert found["difference"] == pytest.approx(2 / 3)


def test_a_fit_as_lucky_as_each_alone_is_worth_one_of_them() -> None:
    """And the mean of three of them says more than it."""
    differences = {1: [], 3: []}  # type: dict[int, list[float]]
    for seed in range(20):
        *alone, short = noisy(seed, 6, sigma=0.3)
        for count, found in differences.items():
            found.append(compare(np.array(alone), short, count=count, resamples=1)["difference"])
    assert abs(np.mean(differences[1])) < 0.05
    assert np.mean(differences[3]) < -0.1


def test_the_interval_holds_the_difference_and_is_that_of_the_seed() -> None:
    *alone, short = noisy(0, 4, sigma=0.2)
    first, second = (compare(np.array(alone), short, count=2, resamples=200) for _ in range(2))
    assert first == second
    low, high = first["difference_interval"]
    assert low <= first["difference"] <= high
    assert low < high


def written(path: Path, networks: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"networks": networks}))
    return path


def fits(*rows: tuple[int, float]) -> list[dict[str, Any]]:
    return [
        {"start": "own", "steps": steps, "scores": {"ap": ap, "recall": ap}} for steps, ap in rows
    ]


def test_a_record_has_a_row_for_each_short_fit_and_number_of_fits_alone(tmp_path: Path) -> None:
    networks = [
        {"short": fits((0, 0.5), (20, ap), (40, -ap)), "alone": fits(*[(100, ap)] * 3)}
        for ap in ORDER
    ]
    networks[0]["short"][1]["scores"] = None  # diverged, as the least network well may
    rows = list(rows_of(written(tmp_path / "record.json", networks), resamples=5))
    assert [(row["short_fit"], row["fits_alone"], row["steps_alone"]) for row in rows] == [
        ("own, 20 steps", 1, 100),
        ("own, 20 steps", 2, 200),
        ("own, 40 steps", 1, 100),
        ("own, 40 steps", 2, 200),
    ]
    assert [row["tau_of_short_fit"] for row in rows] == [1, 1, -1, -1]


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    networks = [{"short": fits((20, ap)), "alone": fits((100, ap))} for ap in ORDER]
    with pytest.raises(UserError, match="one fit alone of each network; at least two"):
        list(rows_of(written(tmp_path / "one.json", networks), resamples=5))
    with pytest.raises(UserError, match="holds no networks' fits"):
        list(rows_of(written(tmp_path / "none.json", []), resamples=5))
