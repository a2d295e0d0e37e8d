"""How many fits alone say as much of the order of networks as one short fit, as trials have, does.

Run from the repository's root:
python -m benchmarks.equal_fidelity docs/results/proxies_taught_short.json ...
    [--resamples 1000] [--write docs/results/equal_fidelity.json]
Each file is a record of `benchmarks.proxies` with several fits alone of each network. Some of these
are taken for the truth, by their mean AP. Kendall's tau with it is given of the mean AP of the
others, and of the promise of each kind of short fit, as the mean over all choices of so many
others; and of the difference the 90 % interval, by a bootstrap over the networks.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.proxies import ap_of, score_of
from data.errors import UserError
from data.files import write_json
from nas.fidelity import tau_b
from nas.records import record_header
from studies.settings import PROMISE

Floats = NDArray[np.float64]


def rows_of(path: Path, *, resamples: int) -> Iterator[dict[str, Any]]:
    """A row for each kind of short fit of a record and each number of fits alone but all.

    Raises:
        UserError: it is no record of `benchmarks.proxies`, or has one fit alone of each network.
    """
    networks = json.loads(path.read_text()).get("networks")
    if not networks:
        raise UserError(f"{path} holds no networks' fits; give records of benchmarks.proxies")
    alone = np.array([[ap_of(fit) for fit in network["alone"]] for network in networks]).T
    if len(alone) < 2:
        raise UserError(f"{path} holds one fit alone of each network; at least two are compared")
    for fits in zip(*(network["short"] for network in networks), strict=True):
        if fits[0]["steps"] == 0:
            continue
        promises = np.array([score_of(fit, PROMISE) or 0.0 for fit in fits])
        for count in range(1, len(alone)):
            yield {
                "record": str(path),
                "short_fit": f"{fits[0]['start']}, {fits[0]['steps']} steps",
                "fits_alone": count,
                "steps_alone": count * networks[0]["alone"][0]["steps"],
                **compare(alone, promises, count=count, resamples=resamples),
            }


def compare(
    alone: Floats, short: Floats, *, count: int, seed: int = 0, resamples: int
) -> dict[str, Any]:
    """Tau of the means of so many fits alone with the means of the others, tau of a short fit with
    the latter, and what the short fit has more, with its 90 % interval.

    alone: (A, N) AP of N networks in A fits alone. short: (N,) their scores in the short fit.
    """
    choices = [list(choice) for choice in combinations(range(len(alone)), count)]
    means = [alone[choice].mean(axis=0) for choice in choices]
    truths = [np.delete(alone, choice, axis=0).mean(axis=0) for choice in choices]

    def taus(some: Sequence[int] | NDArray[np.int64]) -> tuple[float, float]:
        by_means = [
            tau_b(mean[some], truth[some]) for mean, truth in zip(means, truths, strict=True)
        ]
        by_short = [tau_b(short[some], truth[some]) for truth in truths]
        return float(np.mean(by_means)), float(np.mean(by_short))

    networks = range(alone.shape[1])
    draws = np.random.default_rng(seed).choice(networks, size=(resamples, len(networks)))
    of_alone, of_short = taus(networks)
    more = [short_tau - alone_tau for alone_tau, short_tau in map(taus, draws)]
    return {
        "tau_of_fits_alone": of_alone,
        "tau_of_short_fit": of_short,
        "difference": of_short - of_alone,
        "difference_interval": np.quantile(more, (0.05, 0.95)).tolist(),
    }


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--resamples", type=int, default=1000, help="of the networks (1000)")
    parser.add_argument("--write", type=Path, help="a JSON file, beside printing it")
    options = parser.parse_args()
    rows = [row for path in options.records for row in rows_of(path, resamples=options.resamples)]
    print(json.dumps(rows, indent=2))
    if options.write is not None:
        write_json(options.write, {**record_header(seed=0, data_hash=None), "rows": rows})


if __name__ == "__main__":
    main()
