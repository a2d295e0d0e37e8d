"""What a short fit is worth in fits alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.equal_fidelity import NetworkSet, compare, read_sets
from data.errors import UserError
from nas.outlook import USUAL_MACS

ORDER = np.arange(1, 9) / 10


def only(row: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """The one row of so many fits alone."""
    (found,) = (one for one in row if one["fits_alone"] == count)
    return found


def made_up(*alone: Any, short: Any) -> NetworkSet:
    keys = tuple(f"network {i}" for i in range(len(short)))
    return NetworkSet(keys, np.array(alone), {"short": np.asarray(short)})


def lucky(seed: int, fits: int, sigma: float) -> NetworkSet:
    """Twelve networks of rising AP, and of luck, in fits alone and one more."""
    luck = np.random.default_rng(seed).normal(size=(fits + 1, 12))
    *alone, short = np.arange(12) / 12 + sigma * luck
    return made_up(*alone, short=short)


def test_the_truth_is_the_fits_that_are_left_out() -> None:
    some = made_up(ORDER, ORDER, ORDER[::-1] / 10, short=ORDER)
    found = only(compare([some], resamples=10), 1)
    # The two that agree have each other and the contrary one for truth, that one only the two.
    assert found["tau_of_fits_alone"] == pytest.approx([(1 + 1 - 1) / 3])
    assert found["tau_of_short_fit"] == [1]
    assert found["difference"] == pytest.approx(2 / 3)


def test_a_fit_as_lucky_as_each_alone_is_worth_one_of_them() -> None:
    """And the mean of three of them says more than it."""
    rows = [compare([lucky(seed, fits=5, sigma=0.3)], resamples=1) for seed in range(20)]
    one, three = (np.mean([only(row, n)["difference"] for row in rows]) for n in (1, 3))
    assert abs(one) < 0.05
    assert three < -0.1


def test_sets_are_averaged_and_more_networks_say_more() -> None:
    sets = [lucky(seed, fits=3, sigma=0.2) for seed in range(6)]
    each = [only(compare([some], resamples=300), 2) for some in sets]
    found = only(compare(sets, resamples=300), 2)
    assert found["sets"] == [*range(6)]
    assert found["tau_of_short_fit"] == [row["tau_of_short_fit"][0] for row in each]
    assert found["difference"] == pytest.approx(np.mean([row["difference"] for row in each]))
    widths = [np.ptp(row["difference_interval"]) for row in (found, *each)]
    assert 0 < widths[0] < min(widths[1:])
    low, high = found["difference_interval"]
    assert low <= found["difference"] <= high


def fit(steps: int, ap: float, seed: int = 0) -> dict[str, Any]:
    scores = {"ap": ap, "recall": ap}
    return {"start": "own", "steps": steps, "seed": seed, "scores": scores}


def record(*steps: int, seeds: tuple[int, ...] = (1, 2, 3), **facts: Any) -> dict[str, Any]:
    networks = [
        {
            "key": f"network {ap}",
            "untrained": {"macs": USUAL_MACS},
            "short": [fit(n, ap) for n in steps],
            "alone": [fit(100, ap, seed) for seed in seeds],
        }
        for ap in ORDER
    ]
    return {"networks": networks, "alone_steps": 100, "seed": 0, **facts}


def read(*records: dict[str, Any]) -> list[NetworkSet]:
    return read_sets({Path(f"{i}.json"): one for i, one in enumerate(records)})


def test_records_of_the_same_networks_are_put_together() -> None:
    other = record(20, seeds=(1, 2))
    for network in other["networks"]:
        network["key"] += " of another set"
    first, second = read(record(0, 20, seeds=(1, 2)), record(20, 40), other)
    assert first.short.keys() == {"own, 20 steps", "own, 40 steps"}
    assert first.alone.shape == (3, 8)
    rows = compare([first, second], resamples=5)
    assert [(row["short_fit"], row["fits_alone"], row["sets"]) for row in rows] == [
        ("own, 20 steps", 1, [0, 1]),
        ("own, 40 steps", 1, [0]),
        ("own, 40 steps", 2, [0]),
    ]


def test_a_short_fit_counts_by_its_outlook() -> None:
    of_sizes = record(20)
    for network in of_sizes["networks"]:
        network["untrained"]["macs"] = 16 * USUAL_MACS
    (usual,), (large,) = read(record(20)), read(of_sizes)
    assert usual.short["own, 20 steps"] == pytest.approx(ORDER)
    assert large.short["own, 20 steps"] == pytest.approx(2 * ORDER)


def test_a_fit_that_diverged_is_the_worst() -> None:
    lost = record(20)
    lost["networks"][-1]["short"][0]["scores"] = None
    (some,) = read(lost)
    assert some.short["own, 20 steps"].argmin() == len(ORDER) - 1


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(20, seeds=(1,))], "one fit alone of network 0.1; at least two"),
        ([{"networks": []}], "0.json holds no networks' fits"),
        ([{"architectures": [1]}], "0.json holds no networks' fits"),
        ([record(20), record(20, data_hash="b")], "1.json is of data_hash b, not None; leave"),
        ([record(20, batch_size=8), record(20, batch_size=4)], "batch_size 4, not 8"),
    ],
)
def test_what_cannot_be_compared_is_refused(records: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(*records)
