"""Studies are opened, refused and read as their settings say."""

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from data.errors import UserError
from objectives.limits import Limits
from studies.dashboard import note_on_study, note_on_trial, study_note
from studies.executors import local_workers
from studies.search import run_search
from studies.settings import StudySettings
from studies.storage import (
    find_trial,
    load_study,
    one_writer,
    open_storage,
    open_study,
    saved_settings,
    sqlite_url,
)
from tests.studies.toy import make_toy, toy_search, toy_settings


def test_sqlite_is_tuned(tmp_path: Path) -> None:
    storage = open_storage(sqlite_url(tmp_path / "new" / "study.db"))
    with storage.engine.connect() as connection:
        for pragma, value in (
            ("journal_mode", "wal"),
            ("synchronous", 1),
            ("busy_timeout", 60_000),
        ):
            assert connection.execute(sqlalchemy.text(f"PRAGMA {pragma}")).scalar() == value


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "study.db")
    settings = toy_settings()
    open_study("toy", url, settings)
    open_study("toy", url, settings)
    changed = replace(
        settings,
        seed=7,
        limits=Limits(max_params=999),
        stages={"proxy": {"steps": 20, "sizes": [160, 256]}},
    )
    with pytest.raises(UserError) as refusal:
        open_study("toy", url, changed)
    text = str(refusal.value)
    for difference in (
        "seed was 0 and is now 7",
        "limits.max_params was 20000 and is now 999",
        "stages.proxy.steps was 10 and is now 20",
        "another --study name",
    ):
        assert difference in text
    assert "sizes" not in text
    open_study("other", url, changed)


def test_a_study_of_another_program_is_refused(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "study.db")
    optuna.create_study(study_name="toy", storage=url).optimize(lambda _: 1.0, n_trials=1)
    with pytest.raises(UserError, match=r"was not made by this program"):
        open_study("toy", url, toy_settings())


def test_unknown_studies_and_trials_name_the_known_ones(tmp_path: Path) -> None:
    search = toy_search(tmp_path, toy_settings())
    with pytest.raises(UserError, match=r"there is no file .*study.db"):
        load_study("toy", search.storage_url)
    assert not (tmp_path / "study.db").exists()
    with local_workers(make_toy, processes=1) as workers:
        run_search(search, workers, budget=3)
    with pytest.raises(UserError, match=r"unknown study 'tou'; known: toy. Did you mean 'toy'"):
        load_study("tou", search.storage_url)
    study = load_study("toy", search.storage_url)
    assert find_trial(study, 2).trial == 2
    with pytest.raises(UserError, match=r"no completed trial 9; completed: 0-2"):
        find_trial(study, 9)


def test_a_reader_makes_no_tables(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "study.db")
    engine = sqlalchemy.create_engine(url)
    engine.connect().close()  # the file of a search that has not made its tables yet
    assert (tmp_path / "study.db").is_file()
    with pytest.raises(UserError, match="holds none; run a search first"):
        load_study("toy", url)
    assert saved_settings("toy", url) is None
    assert sqlalchemy.inspect(engine).get_table_names() == []


@pytest.mark.parametrize("url", ["nonsense", "nosuch://host/db", "sqlite:////proc/nothing/a.db"])
def test_a_storage_that_cannot_be_used_is_one_sentence(url: str) -> None:
    with pytest.raises(UserError, match=r"cannot use the storage .*another --storage"):
        open_storage(url)


def test_one_process_writes(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "study.db")
    with (
        one_writer(url),
        pytest.raises(UserError, match=r"another search is writing"),
        one_writer(url),
    ):
        pass
    with one_writer(url):
        pass


@pytest.mark.parametrize("has_dashboard", [True, False])
def test_notes_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_dashboard: bool
) -> None:
    monkeypatch.setattr("studies.dashboard._has_dashboard", lambda: has_dashboard)
    search = toy_search(tmp_path, toy_settings())
    with local_workers(make_toy, processes=1) as workers:
        run_search(search, workers, budget=2)
    study = load_study("toy", search.storage_url)
    note_on_study(study, study_note(search.settings))
    note_on_trial(study, 1, "on the front")
    kept = str(study._storage.get_study_system_attrs(study._study_id)) + str(study.user_attrs)
    assert "--max-params" in kept
    assert "on the front" in kept


def test_settings_refuse_bad_values() -> None:
    with pytest.raises(UserError, match=r"unknown objective 'mac'.*Did you mean 'macs'"):
        StudySettings(space="", data="", objective="mac")
    with pytest.raises(UserError, match=r"unknown sampler 'cmaes'; known: gp, nsga2, random, tpe"):
        StudySettings(space="", data="", sampler="cmaes")
    with pytest.raises(ValueError, match=r"lookahead must be at least 1, got 0"):
        StudySettings(space="", data="", lookahead=0)
