from pathlib import Path

import pytest

import run_search
from data.errors import UserError
from studies.workspace import RUNS, Workspace, architecture_subject


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


def test_options_name_a_study_where_it_is() -> None:
    assert run_search.RUNS == RUNS  # which options leave out
    assert Workspace(RUNS, "one").options() == "--study one"
    assert Workspace(Path("/my runs"), "one").options() == "--study one --runs '/my runs'"
    assert (
        Workspace(RUNS, "one").options("sqlite:///a.db") == "--study one --storage sqlite:///a.db"
    )
    assert (
        Workspace(Path("there"), "one").subject(3).options == "--study one --trial 3 --runs there"
    )
    assert architecture_subject(Path("there"), "yunet-n").options == "--arch yunet-n --runs there"
