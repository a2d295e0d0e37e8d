"""Two searches of the same data compared by their finals: what share of a box each front dominates.

Run from the repository's root:
python -m benchmarks.finals STUDY OTHER [--max-macs 1G] [--write docs/results/finals.json]
STUDY and OTHER are folders with a `fidelity.json`, such as runs/wider or docs/results/wider. The
box spans the logarithm of MACs from the least of all finalists to --max-macs, and AP from 0 to 1.
Every AP is uncertain, and drawn anew for each of --draws it gives the interval of the difference.

Where each network was fitted several times (fidelity --fits 2), its AP is the mean, and how
uncertain it is comes from how far the fits are apart: by other first weights, another order of
images and other held-out crops. Of single fits only the luck of the crops is known, by their 90 %
intervals: too much, as both searches had the same crops and what every network finds hard cancels,
and too little, as a fit has luck of its own.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from data.errors import UserError
from data.files import write_json
from data.quantities import parse_quantity
from nas.pareto import Box
from nas.records import record_header
from objectives.cost import architecture_cost
from objectives.limits import Limits
from search_spaces.architecture import Architecture
from studies.front import FIDELITY, FINALS

Array = NDArray[np.float64]

INTERVAL = (0.05, 0.95)


@dataclass(frozen=True, slots=True)
class Finals:
    """Networks that a search ended with, fitted alone for `steps` steps.

    trial_aps: what they had as trials. intervals: of `aps`, by the luck of the crops. fits: AP of
    every fit of each, (N, fits). made_of: what two searches must agree in.
    """

    study: str
    macs: Sequence[int]
    aps: Sequence[float]
    trial_aps: Sequence[float]
    intervals: Sequence[tuple[float, float]]
    fits: Sequence[Sequence[float]]
    made_of: dict[str, Any]

    def share(self, box: Box, aps: Sequence[float]) -> float:
        """What the networks dominate of the box, with these APs."""
        return box.share(list(zip(map(math.log, self.macs), aps, strict=True)))


def read_finals(folder: Path) -> Finals:
    """The finals of a study's folder.

    Raises:
        UserError: the folder has no record, or no finals were held.
    """
    path = folder / FIDELITY
    if not path.is_file():
        raise UserError(f"{path} is missing; run the search, or its fidelity, to the end")
    record = json.loads(path.read_text(encoding="utf-8"))
    if not record[FINALS]:
        raise UserError(
            f"study {record['study']} has had no finals; hold them: "
            f"python run_search.py fidelity --study {record['study']} --finalists 24"
        )
    networks = record[FINALS]["networks"]
    size = Limits().image_size
    return Finals(
        study=record["study"],
        macs=[
            architecture_cost(Architecture.from_key(one["key"]), image_size=size).macs
            for one in networks
        ],
        aps=[one["ap"] for one in networks],
        trial_aps=[one["trial_ap"] for one in networks],
        intervals=[tuple(one["ap_interval"]) for one in networks],
        fits=[one.get("aps", [one["ap"]]) for one in networks],
        made_of={
            "data": record["data_hash"],
            "seed": record["seed"],
            "number of fits": record[FINALS].get("fits", 1),
            "fit": {**record["alone"], "steps": record[FINALS]["steps"]},
        },
    )


def fit_scatter(searches: Sequence[Finals]) -> float | None:
    """Standard deviation of the root of one fit's AP, among the fits of one network; None where
    each was fitted once.

    How hard the crops of one time are is common to all networks that had them, and left out.
    """
    roots = np.sqrt(np.concatenate([one.fits for one in searches]))
    networks, fits = roots.shape
    if fits == 1:
        return None
    left = roots - roots.mean(axis=0) - roots.mean(axis=1, keepdims=True) + roots.mean()
    return float(np.sqrt((left**2).sum() / ((networks - 1) * (fits - 1))))


def _deviations(finals: Finals, scatter: float | None) -> Array:
    """Standard deviation of each AP. scatter: of the root of a fit's AP, where it is known."""
    if scatter is None:
        low, high = np.array(finals.intervals).T
        return np.asarray((high - low) / (norm.ppf(INTERVAL[1]) - norm.ppf(INTERVAL[0])))
    return np.asarray(2 * np.sqrt(finals.aps) * scatter / math.sqrt(len(finals.fits[0])))


def compare(one: Finals, other: Finals, *, max_macs: int, draws: int, seed: int) -> dict[str, Any]:
    """The share of each, and the first's less the second's.

    Raises:
        UserError: the finals were of other data, another split or other fits.
    """
    for name, value in one.made_of.items():
        if other.made_of[name] != value:
            raise UserError(
                f"the finals of {one.study} and {other.study} have another {name}: {value} and "
                f"{other.made_of[name]}; hold them with the same"
            )
    scatter = fit_scatter((one, other))
    box = Box(min(*one.macs, *other.macs), max_macs)
    shares = [finals.share(box, finals.aps) for finals in (one, other)]
    first, second = (_deviations(finals, scatter) for finals in (one, other))
    generator = np.random.default_rng(seed)
    differences = [
        _drawn_share(one, box, first, generator) - _drawn_share(other, box, second, generator)
        for _ in range(draws)
    ]
    return {
        "fit_scatter": scatter,
        "box": {"least_macs": box.least, "highest_macs": box.highest},
        "studies": [
            {
                "study": finals.study,
                "networks": len(finals.aps),
                "share": share,
                "share_as_trials": finals.share(box, finals.trial_aps),
            }
            for finals, share in zip((one, other), shares, strict=True)
        ],
        "difference": shares[0] - shares[1],
        "difference_interval": np.quantile(differences, INTERVAL).tolist(),
    }


def _drawn_share(
    finals: Finals, box: Box, deviations: Array, generator: np.random.Generator
) -> float:
    aps = generator.normal(finals.aps, deviations)
    return finals.share(box, np.clip(aps, 0.0, 1.0).tolist())


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", type=Path, help="folder with a fidelity.json")
    parser.add_argument("other", type=Path, help="the same of another study")
    parser.add_argument("--max-macs", type=parse_quantity, default=Limits().max_macs, help="(1G)")
    parser.add_argument("--draws", type=int, default=2000, help="(2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    parser.add_argument("--write", type=Path, help="a JSON file, beside printing it")
    options = parser.parse_args()
    one, other = read_finals(options.study), read_finals(options.other)
    found = compare(one, other, max_macs=options.max_macs, draws=options.draws, seed=options.seed)
    result = {
        **record_header(seed=options.seed, data_hash=one.made_of["data"]),
        "fit": one.made_of["fit"],
        "fits": one.made_of["number of fits"],
        **found,
    }
    print(json.dumps(found, indent=2))
    if options.write is not None:
        write_json(options.write, result)


if __name__ == "__main__":
    main()
