"""Two searches of the same data compared by their finals: what share of a box each front dominates.

Run from the repository's root:
python -m benchmarks.finals STUDY OTHER [--max-macs 1G] [--write docs/results/finals.json]
STUDY and OTHER are folders with a `fidelity.json`, such as runs/wider or docs/results/wider. The
box spans the logarithm of MACs from the least of all finalists to --max-macs, and AP from 0 to 1.
Every AP is uncertain, and drawn anew for each of --draws it gives the interval of the difference.

With --again STUDY_2 OTHER_2, the finals of the same two searches held a second time with another
seed (fidelity --seed 1), a network's AP is the mean of both, and how uncertain it is comes from how
far the two are apart: by other first weights, another order of images and other held-out crops. Of
finals held once only the luck of the crops is known, by their 90 % intervals: too much, as both
searches had the same crops and what every network finds hard cancels, and too little, as a fit has
luck of its own.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
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

INTERVAL = (0.05, 0.95)


@dataclass(frozen=True, slots=True)
class Finals:
    """Networks that a search ended with, fitted alone for `steps` steps.

    trial_aps: what they had as trials. deviations: standard deviations of `aps`. made_of: what two
    searches must agree in.
    """

    study: str
    keys: Sequence[str]
    macs: Sequence[int]
    aps: Sequence[float]
    trial_aps: Sequence[float]
    deviations: Sequence[float]
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
        keys=[one["key"] for one in networks],
        macs=[
            architecture_cost(Architecture.from_key(one["key"]), image_size=size).macs
            for one in networks
        ],
        aps=[one["ap"] for one in networks],
        trial_aps=[one["trial_ap"] for one in networks],
        deviations=[_deviation(*one["ap_interval"]) for one in networks],
        made_of={
            "data": record["data_hash"],
            "seed": record["seed"],
            "fit": {**record["alone"], "steps": record[FINALS]["steps"]},
        },
    )


def _deviation(low: float, high: float) -> float:
    return (high - low) / float(norm.ppf(INTERVAL[1]) - norm.ppf(INTERVAL[0]))


def fit_scatter(held: Sequence[tuple[Finals, Finals]]) -> float:
    """Standard deviation of the root of one fit's AP, from finals that were held twice.

    How hard the crops of one time are is common to all its networks, and left out.
    """
    apart = np.concatenate(
        [np.sqrt(first.aps) - np.sqrt(_in_order(again, first).aps) for first, again in held]
    )
    return float(apart.std(ddof=1) / math.sqrt(2))


def together(first: Finals, again: Finals, scatter: float) -> Finals:
    """Finals that were held twice, as one. scatter: of the root of one fit's AP."""
    aps = np.mean([first.aps, _in_order(again, first).aps], axis=0)
    deviations = 2 * np.sqrt(aps) * scatter / math.sqrt(2)
    return replace(first, aps=aps.tolist(), deviations=deviations.tolist())


def _in_order(finals: Finals, model: Finals) -> Finals:
    """The same networks in the order of another holding.

    Raises:
        UserError: they are others or were fitted otherwise, or the seed is the same.
    """
    if sorted(finals.keys) != sorted(model.keys):
        raise UserError(
            f"the finals of {model.study} were held twice with different networks; hold them with "
            "the same --finalists"
        )
    if finals.made_of["seed"] == model.made_of["seed"]:
        raise UserError(
            f"the finals of {model.study} were held twice with seed {model.made_of['seed']}; give "
            "fidelity another --seed"
        )
    check_alike(
        *(replace(held, made_of={**held.made_of, "seed": None}) for held in (finals, model))
    )
    places = [finals.keys.index(key) for key in model.keys]
    return replace(finals, keys=model.keys, aps=[finals.aps[i] for i in places])


def check_alike(one: Finals, other: Finals) -> None:
    """Two searches can be compared.

    Raises:
        UserError: the finals were of other data, another split or other fits.
    """
    for name, value in one.made_of.items():
        if other.made_of[name] != value:
            raise UserError(
                f"the finals of {one.study} and {other.study} have another {name}: {value} and "
                f"{other.made_of[name]}; hold them with the same"
            )


def compare(one: Finals, other: Finals, *, max_macs: int, draws: int, seed: int) -> dict[str, Any]:
    """The share of each, and the first's less the second's.

    Raises:
        UserError: see `check_alike`.
    """
    check_alike(one, other)
    box = Box(min(*one.macs, *other.macs), max_macs)
    shares = [finals.share(box, finals.aps) for finals in (one, other)]
    generator = np.random.default_rng(seed)
    differences = [
        _drawn_share(one, box, generator) - _drawn_share(other, box, generator)
        for _ in range(draws)
    ]
    return {
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


def _drawn_share(finals: Finals, box: Box, generator: np.random.Generator) -> float:
    aps = generator.normal(finals.aps, finals.deviations)
    return finals.share(box, np.clip(aps, 0.0, 1.0).tolist())


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", type=Path, help="folder with a fidelity.json")
    parser.add_argument("other", type=Path, help="the same of another study")
    parser.add_argument(
        "--again", nargs=2, type=Path, metavar=("STUDY_2", "OTHER_2"), help="held a second time"
    )
    parser.add_argument("--max-macs", type=parse_quantity, default=Limits().max_macs, help="(1G)")
    parser.add_argument("--draws", type=int, default=2000, help="(2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    parser.add_argument("--write", type=Path, help="a JSON file, beside printing it")
    options = parser.parse_args()
    one, other = read_finals(options.study), read_finals(options.other)
    fit = {"fit": one.made_of["fit"], "holdings": 1}
    if options.again is not None:
        again = [read_finals(folder) for folder in options.again]
        check_alike(*again)
        scatter = fit_scatter([(one, again[0]), (other, again[1])])
        one, other = (
            together(first, second, scatter)
            for first, second in zip((one, other), again, strict=True)
        )
        fit |= {"holdings": 2, "fit_scatter": scatter}
    found = compare(one, other, max_macs=options.max_macs, draws=options.draws, seed=options.seed)
    result = {
        **record_header(seed=options.seed, data_hash=one.made_of["data"]),
        **fit,
        **found,
    }
    print(json.dumps(found, indent=2))
    if options.write is not None:
        write_json(options.write, result)


if __name__ == "__main__":
    main()
