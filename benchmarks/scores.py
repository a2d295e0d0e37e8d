"""Which score of a trial orders networks as fits alone do, over all that is on record.

Run from the repository's root:
python -m benchmarks.scores docs/results/proxies_rungs.json docs/results/wider/fidelity.json ...
    [--least-steps 100] [--write docs/results/scores.json]
A record is one that `benchmarks.proxies` wrote, with short fits of several kinds of the same
networks, or a search's `fidelity.json`, with the trials of a few. Kendall's tau of each of SCORES
with the AP of the networks' fits alone (the mean, where a record has several) is given for each
kind of fit and each search, and their means over kinds and over searches. Of fits that several
records hold, the first record counts.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proxies import score_of
from data.errors import UserError
from data.files import write_json
from nas.fidelity import kendall_tau
from nas.records import record_header

SCORES = ("ap", "smooth_ap", "recall", "promise")


@dataclass(frozen=True, slots=True)
class Fits:
    """One kind of fit of some networks. label: of the kind, or of a search. scores: what the fits
    gave, network by network. truth: AP of the fits alone, the same. keys: of the networks."""

    label: str
    scores: Sequence[dict[str, Any]]
    truth: Sequence[float]
    keys: tuple[str, ...]

    def taus(self) -> dict[str, float]:
        """Kendall's tau of each score with the truth."""
        found = {}
        for name in SCORES:
            values = [score_of({"scores": one}, name) for one in self.scores]
            known = [value for value in values if value is not None]
            if len(known) < len(values):
                raise UserError(f"{self.label}: not every network has {name}")
            found[name] = kendall_tau(known, self.truth, seed=0, resamples=1)[0]
        return found


def fits_of(path: Path, *, least_steps: int) -> Iterator[Fits]:
    """The kinds of fit of a record.

    Raises:
        UserError: it is no record of `benchmarks.proxies` and no `fidelity.json`.
    """
    record = json.loads(path.read_text())
    if "architectures" in record:
        rows = record["architectures"]
        keys = tuple(row["key"] for row in rows)
        yield Fits(path.parent.name, rows, [row["alone_ap"] for row in rows], keys)
        return
    if "networks" not in record:
        raise UserError(f"{path} holds neither networks' short fits nor a search's fidelity")
    networks = record["networks"]
    keys = tuple(network["key"] for network in networks)
    truth = [float(np.mean([fit["scores"]["ap"] for fit in one["alone"]])) for one in networks]
    for fits in zip(*(network["short"] for network in networks), strict=True):
        if fits[0]["steps"] >= least_steps and all(fit["scores"] for fit in fits):
            label = f"{fits[0]['start']}, {fits[0]['steps']} steps"
            yield Fits(label, [fit["scores"] for fit in fits], truth, keys)


def compare(paths: Sequence[Path], *, least_steps: int) -> dict[str, Any]:
    """Rows of each kind of fit and each search, and means over both.

    Raises:
        UserError: a file is no record, or lacks a score.
    """
    found: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
    for path in paths:
        for fits in fits_of(path, least_steps=least_steps):
            row = {
                "record": str(path),
                "fits": fits.label,
                "networks": len(fits.keys),
                "tau": fits.taus(),
            }
            found.setdefault((fits.label, fits.keys), row)
    rows = list(found.values())
    kinds = {
        name: [row for row in rows if Path(row["record"]).name.startswith("fidelity") is is_search]
        for name, is_search in (("fits", False), ("searches", True))
    }
    return {
        "rows": rows,
        "means": {
            name: {score: float(np.mean([row["tau"][score] for row in of])) for score in SCORES}
            for name, of in kinds.items()
            if of
        },
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
