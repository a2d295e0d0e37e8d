"""Which score of a trial orders networks as fits alone do, over all that is on record.

Run from the repository's root:
python -m benchmarks.scores docs/results/proxies_rungs.json docs/results/wider/fidelity.json ...
    [--least-steps 100] [--write docs/results/scores.json]
A record is one that `benchmarks.proxies` wrote, with short fits of several kinds of the same
networks, or a search's `fidelity.json`, with the trials of a few. Kendall's tau of each of SCORES
with the AP of the networks' fits alone (the mean, where a record has several) is given for each
kind of fit and each search, and their means over kinds and over searches; the means also of
outlooks with other exponents (`nas.outlook`). Of fits that several records hold, the first record
counts.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proxies import (
    Column,
    ap_of,
    columns_of,
    outlook_of,
    score_of,
    short_kinds,
    summarise,
)
from data.errors import UserError
from data.files import write_json
from nas.outlook import END_EXPONENT, OUTLOOK
from nas.records import record_header
from studies.settings import AVERAGE_PRECISION, PROMISE

EXPONENTS = (0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Of the MACs, in outlooks."""

SCORES = (AVERAGE_PRECISION, "smooth_ap", "recall", PROMISE, OUTLOOK)
FITS, SEARCHES = "fits", "searches"
"""Of networks of a benchmark; of the trials of a search."""


@dataclass(frozen=True, slots=True)
class Fits:
    """One kind of fit of some networks. kind: `FITS` or `SEARCHES`. label: of the fits, or of the
    search. rows: of the networks, each with the `scores` of its fit, None where that diverged.
    macs: of the networks. truth: AP of the fits alone. keys: of the networks."""

    kind: str
    label: str
    rows: Sequence[dict[str, Any]]
    macs: Sequence[int]
    truth: Sequence[float]
    keys: tuple[str, ...]

    def taus(self) -> dict[str, dict[str, Any]]:
        """Kendall's tau of each score with the truth, and its interval; see
        `benchmarks.proxies.summarise`.

        Raises:
            UserError: a fit lacks a score.
        """
        known = [name for name in SCORES if name != OUTLOOK]
        for name in known:
            if any(row["scores"] and score_of(row, name) is None for row in self.rows):
                raise UserError(f"{self.label}: not every network has {name}")
        columns = [*columns_of(self.rows, "", known), self._outlooks(OUTLOOK, END_EXPONENT)]
        return summarise(columns, self.truth, seed=0)

    def taus_by_exponent(self) -> dict[str, float]:
        """The same of outlooks with each of EXPONENTS."""
        columns = [self._outlooks(str(exponent), exponent) for exponent in EXPONENTS]
        found = summarise(columns, self.truth, seed=0)
        return {column.name: found[column.name]["tau"] for column in columns}

    def _outlooks(self, name: str, exponent: float) -> Column:
        outlooks = [
            outlook_of(row, macs, exponent) for row, macs in zip(self.rows, self.macs, strict=True)
        ]
        return Column(name, outlooks, 0.0)


def fits_of(path: Path, *, least_steps: int) -> Iterator[Fits]:
    """The kinds of fit of a record.

    Raises:
        UserError: it is no record of `benchmarks.proxies` and no `fidelity.json`.
    """
    record = json.loads(path.read_text())
    if "architectures" in record:
        rows = record["architectures"]
        keys = tuple(row["key"] for row in rows)
        truth = [row["alone_ap"] for row in rows]
        macs = [row["macs"] for row in rows]
        name, trials = path.parent.name, [{"scores": row} for row in rows]
        yield Fits(SEARCHES, name, trials, macs, truth, keys)
        return
    if "networks" not in record:
        raise UserError(f"{path} holds neither networks' short fits nor a search's fidelity")
    networks = record["networks"]
    keys = tuple(network["key"] for network in networks)
    macs = [network["untrained"]["macs"] for network in networks]
    truth = [float(np.mean([ap_of(fit) for fit in one["alone"]])) for one in networks]
    for label, steps, fits in short_kinds(networks):
        if steps >= least_steps:
            yield Fits(FITS, label, fits, macs, truth, keys)


def compare(paths: Sequence[Path], *, least_steps: int) -> dict[str, Any]:
    """Rows of each kind of fit and each search, and means over both.

    Raises:
        UserError: a file is no record, or lacks a score.
    """
    first: dict[tuple[str, tuple[str, ...]], tuple[Path, Fits]] = {}
    for path in paths:
        for fits in fits_of(path, least_steps=least_steps):
            first.setdefault((fits.label, fits.keys), (path, fits))
    rows: list[dict[str, Any]] = []
    taus: dict[str, list[dict[str, float]]] = {}
    by_exponent: dict[str, list[dict[str, float]]] = {}
    for path, fits in first.values():
        found = fits.taus()
        tau = {score: found[score]["tau"] for score in SCORES}
        taus.setdefault(fits.kind, []).append(tau)
        by_exponent.setdefault(fits.kind, []).append(fits.taus_by_exponent())
        rows.append(
            {
                "record": str(path),
                "fits": fits.label,
                "networks": len(fits.keys),
                "tau": tau,
                "tau_interval": {score: found[score]["tau_interval"] for score in SCORES},
            }
        )
    return {"rows": rows, "means": _means(taus), "means_by_exponent": _means(by_exponent)}


def _means(taus: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Over the fits of each kind."""
    return {
        kind: {name: float(np.mean([tau[name] for tau in of])) for name in of[0]}
        for kind, of in taus.items()
    }


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--least-steps", type=int, default=100, help="of a short fit (100)")
    parser.add_argument("--write", type=Path, help="a JSON file, beside printing it")
    options = parser.parse_args()
    result = compare(options.records, least_steps=options.least_steps)
    print(json.dumps(result, indent=2))
    if options.write is not None:
        write_json(options.write, {**record_header(seed=None, data_hash=None), **result})


if __name__ == "__main__":
    main()
