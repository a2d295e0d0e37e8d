from pathlib import Path

import pytest

from data.errors import UserError
from studies.workspace import Workspace

RUNS = Path("runs")


def test_two_studies_share_the_cache_and_nothing_else() -> None:
    one, other = Workspace(RUNS, "one"), Workspace(RUNS, "other")
    assert one.cache == other.cache
    assert one.shards == other.shards
    assert one.supernet("x") == other.supernet("x")
    own = [
        (w.folder, w.database, w.storage_url, w.trial(3), w.file("front.json"))
        for w in (one, other)
    ]
    assert not set(own[0]) & set(own[1])


def test_all_files_lie_in_the_folder_of_runs() -> None:
    workspace = Workspace(RUNS, "one")
    for path in (workspace.database, workspace.trial(3), workspace.file("front.json")):
        assert path.is_relative_to(workspace.folder)
    assert workspace.supernet("x").is_relative_to(workspace.cache)
    assert workspace.storage_url == "sqlite:///runs/one/study.db"


def test_trials_and_supernets_have_places_of_their_own() -> None:
    workspace = Workspace(RUNS, "one")
    assert len({workspace.trial(n) for n in range(5)}) == 5
    assert len({workspace.supernet(name) for name in "abc"}) == 3


@pytest.mark.parametrize("name", ["", ".", "..", ".cache", "a/b", "/a"])
def test_a_name_that_is_no_folder_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="a study's name is its folder's"):
        Workspace(RUNS, name)
