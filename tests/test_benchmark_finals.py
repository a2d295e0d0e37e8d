"""Two studies compared by their finals, on made-up records."""

import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.finals import Finals, compare, read_finals
from data.errors import UserError
from data.files import write_json
from search_spaces.space import SPACE

SMALLEST = SPACE.corner(largest=False).key


def finals(
    study: str, *points: tuple[int, float], deviation: float = 0.0, **made_of: Any
) -> Finals:
    macs, aps = zip(*points, strict=True)
    trial_aps = [ap / 2 for ap in aps]
    return Finals(study, macs, aps, trial_aps, [deviation] * len(aps), {"data": "x", **made_of})


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
    half = 1.645 * math.sqrt(2) * 0.05
    assert found["difference_interval"] == pytest.approx([-half, half], abs=0.01)


def test_finals_of_other_fits_are_not_compared() -> None:
    one, other = finals("a", (100, 0.5), fit=1), finals("b", (100, 0.5), fit=2)
    with pytest.raises(UserError, match="the finals of a and b have another fit: 1 and 2"):
        compare(one, other, max_macs=1000, draws=1, seed=0)


def test_a_record_is_read_with_the_costs_of_its_networks(tmp_path: Path) -> None:
    row = {"trial": 3, "key": SMALLEST, "trial_ap": 0.1, "ap": 0.2, "ap_interval": [0.1, 0.3]}
    found = read_finals(fidelity(tmp_path / "toy", [row]))
    assert (found.study, found.aps, found.trial_aps) == ("toy", [0.2], [0.1])
    assert found.macs[0] > 0
    assert found.deviations == pytest.approx([0.2 / (2 * 1.644854)])
    assert found.made_of["fit"] == {"steps": 20, "batch_size": 4}


def test_a_study_without_finals_is_told_how_to_hold_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fidelity\.json is missing"):
        read_finals(tmp_path)
    with pytest.raises(UserError, match=r"study toy has had no finals; hold them: .* --study toy"):
        read_finals(fidelity(tmp_path / "toy", None))
