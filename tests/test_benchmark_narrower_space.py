import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.narrower_space import held_of, summary
from data.errors import UserError
from search_spaces.space import SPACE

SMALL = SPACE.corner(largest=False)
WIDE = SPACE.corner(largest=True)
DROPPED = {"stage32_width": [WIDE.stages[2].width]}


def write_study(folder: Path, *, dropped: dict[str, Any], command: list[str]) -> Path:
    folder.mkdir()
    rows = [
        {"key": SMALL.key, "macs": 1_000, "ap": 0.2},
        {"key": WIDE.key, "macs": 10_000, "ap": 0.3},
    ]
    front = {"front": rows, "command": command}
    audit = {"limits": {"max_macs": 100_000}, "shrink": {"dropped": dropped, "kept": 0.75}}
    (folder / "front.json").write_text(json.dumps(front))
    (folder / "audit.json").write_text(json.dumps(audit))
    return folder


def test_a_front_counts_by_what_the_narrower_space_holds_of_it(tmp_path: Path) -> None:
    row = held_of(write_study(tmp_path / "one", dropped=DROPPED, command=["run_search.py"]))
    assert (row["study"], row["networks"], row["networks_held"]) == ("one", 2, 1)
    # Two decades of MACs at 0.2, of 0.2 over two decades and 0.1 more over one.
    assert row["hypervolume_held"] == pytest.approx(0.4 / 0.5)
    whole = summary([row, {**row, "networks_held": 2, "hypervolume_held": 1.0}])
    assert (whole["networks"], whole["networks_held"]) == (4, 3)
    assert whole["hypervolume_held"] == pytest.approx(0.9)
    assert whole["random_held"] == 0.75


def test_what_says_nothing_of_the_proposal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"front\.json is missing; run the search"):
        held_of(tmp_path)
    nothing = write_study(tmp_path / "nothing", dropped={}, command=["run_search.py"])
    with pytest.raises(UserError, match="proposes no narrower space"):
        held_of(nothing)
    shrunk = write_study(
        tmp_path / "shrunk", dropped=DROPPED, command=["run_search.py", "--shrink"]
    )
    with pytest.raises(UserError, match="of a narrower space already"):
        held_of(shrunk)
