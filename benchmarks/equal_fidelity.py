"""How many fits alone say as much of the order of networks as one short fit, as trials have, does.

Run from the repository's root:
python -m benchmarks.equal_fidelity docs/results/proxies_taught_short.json ...
    [--resamples 1000] [--write docs/results/equal_fidelity.json]
Each file is a record of `benchmarks.proxies`; records of the same networks are put together. Of
each network's fits alone some are taken for the truth, by their mean AP. Kendall's tau with it is
given of the mean AP of the others, and of the outlook of each kind of short fit, as the mean over
all choices of so many others; for each set of networks, and on average over the sets that have such
fits, with the 90 % interval of the difference by a bootstrap over the networks of each.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.proxies import ap_of, outlook_of, short_kinds
from data.errors import UserError
from data.files import write_json
from nas.fidelity import tau_b
from nas.records import record_header

Floats = NDArray[np.float64]

COMMON = ("data_hash", "seed", "batch_size", "alone_steps", "supernet")
"""What records must agree in to be compared. (A teacher only some of them have.)"""


@dataclass(frozen=True, slots=True)
class NetworkSet:
    """N networks, by their keys, and their fits. alone: (A, N) AP in A fits alone. short: (N,)
    outlook in each kind of short fit."""

    keys: tuple[str, ...]
    alone: Floats
    short: Mapping[str, Floats]


def read_sets(records: Mapping[Path, Mapping[str, Any]]) -> list[NetworkSet]:
    """The networks of these records of `benchmarks.proxies`, set by set.

    Raises:
        UserError: one is none, they are of different crops, supernets or lengths, or a set has one
            fit alone of each network.
    """
    alone: dict[tuple[str, ...], dict[int, list[float]]] = {}
    short: dict[tuple[str, ...], dict[str, list[float]]] = {}
    _require_alike(records)
    for record in records.values():
        networks = record["networks"]
        keys = tuple(network["key"] for network in networks)
        macs = [network["untrained"]["macs"] for network in networks]
        for fits in zip(*(network["alone"] for network in networks), strict=True):
            alone.setdefault(keys, {}).setdefault(fits[0]["seed"], [ap_of(fit) for fit in fits])
        for label, steps, fits in short_kinds(networks):
            if steps:
                outlooks = [outlook_of(*one) or 0.0 for one in zip(fits, macs, strict=True)]
                short.setdefault(keys, {}).setdefault(label, outlooks)
    lonely = [keys for keys, fits in alone.items() if len(fits) < 2]
    if lonely:
        raise UserError(f"there is one fit alone of {lonely[0][0]}; at least two are compared")
    return [
        NetworkSet(
            keys,
            np.array(list(fits.values())),
            {label: np.array(outlooks) for label, outlooks in short[keys].items()},
        )
        for keys, fits in alone.items()
    ]


def _require_alike(records: Mapping[Path, Mapping[str, Any]]) -> None:
    first = next(iter(records.values()))
    for path, record in records.items():
        if not record.get("networks"):
            raise UserError(f"{path} holds no networks' fits; give records of benchmarks.proxies")
        for name in COMMON:
            value, wanted = record.get(name), first.get(name)
            if value != wanted:
                raise UserError(f"{path} is of {name} {value}, not {wanted}; leave it out")


def taus_of(some: NetworkSet, label: str, count: int, draws: NDArray[np.int64]) -> Floats:
    """Two taus with the mean AP of all fits alone but some, averaged over the choices of so many:
    that of their mean AP, and that of a kind of short fit. draws: (D, N) networks. Shape (D, 2)."""
    short = some.short[label]
    choices = [list(choice) for choice in combinations(range(len(some.alone)), count)]
    pairs = [
        (some.alone[choice].mean(axis=0), np.delete(some.alone, choice, axis=0).mean(axis=0))
        for choice in choices
    ]
    return np.array(
        [
            np.mean(
                [
                    (tau_b(mean[draw], truth[draw]), tau_b(short[draw], truth[draw]))
                    for mean, truth in pairs
                ],
                axis=0,
            )
            for draw in draws
        ]
    )


def compare(sets: Sequence[NetworkSet], *, resamples: int, seed: int = 0) -> list[dict[str, Any]]:
    """A row for each kind of short fit and each number of fits alone but all that a set has."""
    generator = np.random.default_rng(seed)
    draws = []
    for some in sets:
        networks = len(some.keys)
        drawn = generator.integers(networks, size=(resamples, networks))
        draws.append(np.concatenate([np.arange(networks)[None], drawn]))
    rows = []
    for label in dict.fromkeys(label for some in sets for label in some.short):
        which = [i for i, some in enumerate(sets) if label in some.short]
        for count in range(1, min(len(sets[i].alone) for i in which)):
            taus = np.array([taus_of(sets[i], label, count, draws[i]) for i in which])
            difference = np.diff(taus.mean(axis=0), axis=1)[:, 0]
            rows.append(
                {
                    "short_fit": label,
                    "fits_alone": count,
                    "sets": which,
                    "tau_of_fits_alone": taus[:, 0, 0].tolist(),
                    "tau_of_short_fit": taus[:, 0, 1].tolist(),
                    "difference": float(difference[0]),
                    "difference_interval": np.quantile(difference[1:], (0.05, 0.95)).tolist(),
                }
            )
    return rows


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--resamples", type=int, default=1000, help="of the networks (1000)")
    parser.add_argument("--write", type=Path, help="a JSON file, beside printing it")
    options = parser.parse_args()
    records = {path: json.loads(path.read_text()) for path in options.records}
    sets = read_sets(records)
    result = {
        "alone_steps": next(iter(records.values()))["alone_steps"],
        "sets": [list(some.keys) for some in sets],
        "rows": compare(sets, resamples=options.resamples),
    }
    print(json.dumps(result, indent=2))
    if options.write is not None:
        write_json(options.write, {**record_header(seed=0, data_hash=None), **result})


if __name__ == "__main__":
    main()
