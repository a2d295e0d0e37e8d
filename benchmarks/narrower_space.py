"""What of the fronts of searches the narrower space holds that their audits propose.

Run from the repository's root:
python -m benchmarks.narrower_space STUDY ... [--write docs/results/narrower_space.json]
Each STUDY is a folder with `front.json` and `audit.json` of a search of the whole space, such as
runs/wider or docs/results/wider. The proposal knows what the limits leave of random architectures,
and no search: it keeps the good region where it holds more of the fronts than of those. Their
hypervolume is of the logarithm of MACs, from the least of a front to the limit, times AP.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files import write_json
from nas.pareto import Box
from nas.records import record_header
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE


def held_of(folder: Path) -> dict[str, Any]:
    """What the narrower space of a study's audit holds of its front.

    Raises:
        UserError: a file is missing, the audit proposes nothing, or the search was of a narrower
            space already.
    """
    front, audit = _read(folder / "front.json"), _read(folder / "audit.json")
    dropped = (audit.get("shrink") or {}).get("dropped")
    if not dropped:
        raise UserError(f"the audit of {folder} proposes no narrower space; leave it out")
    if "--shrink" in front["command"]:
        raise UserError(f"{folder} is of a narrower space already; leave it out")
    narrower = SPACE.narrowed(dropped)
    points = [(math.log(row["macs"]), row["ap"]) for row in front["front"]]
    is_held = [Architecture.from_key(row["key"]) in narrower for row in front["front"]]
    box = Box(min(row["macs"] for row in front["front"]), audit["limits"]["max_macs"])
    kept = [point for point, held in zip(points, is_held, strict=True) if held]
    return {
        "study": folder.name,
        "dropped": dropped,
        "random_held": audit["shrink"]["kept"],
        "networks": len(points),
        "networks_held": sum(is_held),
        "hypervolume_held": box.share(kept) / box.share(points),
    }


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} is missing; run the search to its end")
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All fronts together; shares are means over the searches."""
    return {
        "random_held": sum(row["random_held"] for row in rows) / len(rows),
        "networks": sum(row["networks"] for row in rows),
        "networks_held": sum(row["networks_held"] for row in rows),
        "hypervolume_held": sum(row["hypervolume_held"] for row in rows) / len(rows),
        "studies": list(rows),
    }


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("studies", type=Path, nargs="+", help="folders of searches")
    parser.add_argument("--write", type=Path, help="a JSON file, beside printing it")
    options = parser.parse_args()
    found = summary([held_of(folder) for folder in options.studies])
    print(json.dumps(found, indent=2))
    if options.write is not None:
        write_json(options.write, {**record_header(seed=None, data_hash=None), **found})


if __name__ == "__main__":
    main()
