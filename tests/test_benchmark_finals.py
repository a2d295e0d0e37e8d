"""Two studies compared by their finals, on made-up records."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.finals import Finals, compare, fit_scatter, read_finals, together
from data.errors import UserError
from data.files import write_json
from search_spaces.space import SPACE

SMALLEST = SPACE.corner(largest=False).key


def finals(
    study: str, *points: tuple[int, float], deviation: float = 0.0, **made_of: Any
) -> Finals:
    macs, aps = zip(*points, strict=True)
    trial_aps = [ap / 2 for ap in aps]
    keys = [str(cost) for cost in macs]
    made_of = {"data": "x", "seed": 0, **made_of}
    return Finals(study, keys, macs, aps, trial_aps, [deviation] * len(aps), made_of)


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


def test_finals_held_twice_say_how_far_one_fit_is_to_be_believed() -> None:
    generator = np.random.default_rng(0)
    truth = generator.uniform(0.2, 0.4, size=400)

    def held(seed: int, harder: float) -> Finals:
        roots = truth - harder + generator.normal(0, 0.02, size=400)
        return finals("a", *enumerate((roots**2).tolist(), start=100), seed=seed)

    first, again = held(0, 0.0), held(1, 0.05)
    assert fit_scatter([(first, again)]) == pytest.approx(0.02, rel=0.1)


def test_finals_held_twice_have_the_mean_of_both_and_less_doubt() -> None:
    first = finals("a", (100, 0.16), (200, 0.36))
    again = finals("a", (200, 0.30), (100, 0.16), seed=1)
    found = together(first, again, scatter=0.1)
    assert found.aps == pytest.approx([0.16, 0.33])
    assert found.deviations == pytest.approx([2 * 0.4 * 0.1 / math.sqrt(2), 0.081], rel=0.01)
    assert found.macs == (100, 200)


def test_only_the_same_networks_with_another_seed_are_finals_held_twice() -> None:
    first = finals("a", (100, 0.16))
    with pytest.raises(UserError, match="held twice with seed 0; give fidelity another --seed"):
        together(first, first, scatter=0.1)
    with pytest.raises(UserError, match="held twice with different networks"):
        together(first, finals("a", (200, 0.16), seed=1), scatter=0.1)
    with pytest.raises(UserError, match="have another fit: 2 and 1"):
        together(finals("a", (1, 0.1), fit=1), finals("a", (1, 0.1), seed=1, fit=2), scatter=0.1)


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
