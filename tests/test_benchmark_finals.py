"""Two studies compared by their finals, on made-up records."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.finals import Finals, compare, fit_scatter, read_finals
from data.errors import UserError
from data.files import write_json
from search_spaces.space import SPACE

SMALLEST = SPACE.corner(largest=False).key


HALF_OF_90_PERCENT = 1.644854
"""Standard deviations of a normal distribution."""


def finals(
    study: str, *points: tuple[int, float], deviation: float = 0.0, **made_of: Any
) -> Finals:
    macs, aps = zip(*points, strict=True)
    trial_aps = [ap / 2 for ap in aps]
    half = deviation * HALF_OF_90_PERCENT
    intervals = [(ap - half, ap + half) for ap in aps]
    fits = [[ap] for ap in aps]
    return Finals(study, macs, aps, trial_aps, intervals, fits, {"data": "x", **made_of})


def fitted_often(fits: NDArray[np.float64]) -> Finals:
    """fits: AP of each network and fit."""
    points = enumerate(fits.mean(axis=1).tolist(), start=100)
    return replace(finals("a", *points), fits=fits.tolist())


def fidelity(folder: Path, networks: list[dict[str, Any]] | None) -> Path:
    folder.mkdir()
    record = {
        "study": folder.name,
        "seed": 0,
        "data_hash": "abc",
        "alone": {"steps": 10, "batch_size": 4},
        "finals": None if networks is None else {"steps": 20, "networks": networks},
    }
    write_json(folder / "fidelity.json", record)
    return folder


def test_shares_are_of_one_box() -> None:
    one, other = finals("a", (100, 0.5)), finals("b", (1000, 0.8))
    found = compare(one, other, max_macs=10_000, draws=10, seed=0)
    assert found["box"] == {"least_macs": 100, "highest_macs": 10_000}
    assert [study["share"] for study in found["studies"]] == pytest.approx([0.5, 0.4])
    assert [study["share_as_trials"] for study in found["studies"]] == pytest.approx([0.25, 0.2])
    assert found["difference"] == pytest.approx(0.1)
    assert found["difference_interval"] == pytest.approx([0.1, 0.1])  # exact APs


def test_uncertain_precisions_make_an_interval_around_the_difference() -> None:
    one, other = (finals(name, (100, 0.5), deviation=0.05) for name in "ab")
    found = compare(one, other, max_macs=1000, draws=2000, seed=0)
    half = HALF_OF_90_PERCENT * math.sqrt(2) * 0.05
    assert found["difference_interval"] == pytest.approx([-half, half], abs=0.01)


def test_several_fits_of_each_network_tell_how_far_one_is_to_be_believed() -> None:
    generator = np.random.default_rng(0)
    truth = generator.uniform(0.2, 0.4, size=(400, 1))
    hard = np.array([0.0, 0.05])  # the crops of the second time
    fits = (truth - hard + generator.normal(0, 0.02, size=(400, 2))) ** 2
    parts = [fitted_often(fits[:150]), fitted_often(fits[150:])]
    assert fit_scatter(parts) == pytest.approx(0.02, rel=0.1)
    assert fit_scatter([finals("a", (100, 0.2))]) is None


def test_the_scatter_of_fits_makes_the_interval_where_it_is_known() -> None:
    one = fitted_often(np.array([[0.20, 0.30]]))
    other = fitted_often(np.array([[0.30, 0.20]]))
    scatter = float(fit_scatter((one, other)) or 0)
    assert scatter == pytest.approx(math.sqrt(0.3) - math.sqrt(0.2))
    found = compare(one, other, max_macs=1000, draws=4000, seed=0)
    assert found["fit_scatter"] == scatter
    half = HALF_OF_90_PERCENT * math.sqrt(2) * (2 * 0.5 * scatter / math.sqrt(2))
    assert found["difference_interval"] == pytest.approx([-half, half], rel=0.1)


def test_finals_of_other_fits_are_not_compared() -> None:
    one, other = finals("a", (100, 0.5), fit=1), finals("b", (100, 0.5), fit=2)
    with pytest.raises(UserError, match="the finals of a and b have another fit: 1 and 2"):
        compare(one, other, max_macs=1000, draws=1, seed=0)


def test_a_record_is_read_with_the_costs_of_its_networks(tmp_path: Path) -> None:
    row = {"trial": 3, "key": SMALLEST, "trial_ap": 0.1, "ap": 0.2, "ap_interval": [0.1, 0.3]}
    found = read_finals(fidelity(tmp_path / "toy", [row]))
    assert (found.study, found.aps, found.trial_aps) == ("toy", [0.2], [0.1])
    assert found.macs[0] > 0
    assert found.intervals == [(0.1, 0.3)]
    assert found.fits == [[0.2]]
    assert found.made_of["fit"] == {"steps": 20, "batch_size": 4}
    again = read_finals(fidelity(tmp_path / "twice", [{**row, "aps": [0.1, 0.3]}]))
    assert again.fits == [[0.1, 0.3]]


def test_a_study_without_finals_is_told_how_to_hold_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fidelity\.json is missing"):
        read_finals(tmp_path)
    with pytest.raises(UserError, match=r"study toy has had no finals; hold them: .* --study toy"):
        read_finals(fidelity(tmp_path / "toy", None))
