"""Where studies are kept: opening, creating and reading them."""

import contextlib
import sqlite3
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url

from data.errors import UserError, unknown_name
from studies.settings import StudySettings, require_same

Score = float | int | str | list[float] | list[list[float]] | dict[str, list[float]]

SETTINGS = "settings"
"""User attribute of a study that holds its settings."""

COSTS = ("params", "macs", "peak_bytes")
LOCK_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A completed trial. score: the value that the study raises, by which trials are compared.
    scores: all that its evaluation returned, `ap` among it."""

    trial: int
    key: str
    ap: float
    score: float
    macs: int
    params: int
    peak_bytes: int
    scores: Mapping[str, Score]


def sqlite_url(path: Path) -> str:
    """The storage URL of a file."""
    return f"sqlite:///{path}"


def open_storage(url: str) -> RDBStorage:
    """A database made for one writer and many readers.

    SQLite is opened with a write-ahead log, so that readers do not block the writer, and with
    one flush a checkpoint instead of one a commit: a killed process loses nothing, a power cut
    may lose the last trials, which are then made again.

    Raises:
        UserError: the URL names no database, or the database cannot be opened.
    """
    is_sqlite = url.startswith("sqlite")
    with storage_trouble(url):
        if is_sqlite and (database := make_url(url).database):
            Path(database).parent.mkdir(parents=True, exist_ok=True)
        waits = {"connect_args": {"timeout": LOCK_TIMEOUT_S}} if is_sqlite else {}
        storage = RDBStorage(url, engine_kwargs=waits)
        if is_sqlite:
            sqlalchemy.event.listen(storage.engine, "connect", _tune_sqlite)
            storage.engine.dispose()  # the next connections are tuned ones
    return storage


def _tune_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


@contextlib.contextmanager
def storage_trouble(url: str) -> Iterator[None]:
    """Turns the errors of a database that a person can put right into a UserError."""
    try:
        yield
    except (
        StorageInternalError,
        OSError,
        ImportError,
        sqlalchemy.exc.ArgumentError,
        sqlalchemy.exc.DBAPIError,
    ) as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise UserError(
            f"cannot use the storage {url}: {cause}; "
            "free some space, check the rights, or give another --storage"
        ) from error


@contextlib.contextmanager
def one_writer(url: str) -> Iterator[None]:
    """Keeps a SQLite file to one writing process; a killed process gives it free.

    Other databases, and Windows, are not guarded.

    Raises:
        UserError: another process writes to it.
    """
    database = make_url(url).database if url.startswith("sqlite") else None
    if database is None or sys.platform == "win32":
        yield
        return
    import fcntl

    path = Path(f"{database}.lock")
    with storage_trouble(url):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another search is writing to {database}; wait for it or stop it"
            ) from error
        yield


def open_study(name: str, storage_url: str, settings: StudySettings) -> Study:
    """The study of this name, made now if there is none.

    Raises:
        UserError: it was made with other settings (says which), or not by this program.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(storage_url)
    with storage_trouble(storage_url):
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=[StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE],
            load_if_exists=True,
        )
        saved = study.user_attrs.get(SETTINGS)
        if saved is not None:
            require_same(name, saved=saved, wanted=settings)
            return study
        if study.get_trials(deepcopy=False):
            raise UserError(
                f"study {name!r} in {storage_url} was not made by this program; "
                "choose another --study name"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(settings.metric_names))
        study.set_user_attr(SETTINGS, settings.to_json())  # last: it says the study is whole
    return study


def load_study(name: str, storage_url: str) -> Study:
    """A study to read.

    Raises:
        UserError: there is no such study; names those there are.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if (missing := _missing_file(storage_url)) is not None:
        raise UserError(f"no study {name!r}: there is no file {missing}; run a search first")
    known = _study_names(storage_url)
    if not known:
        raise UserError(f"no study {name!r}: {storage_url} holds none; run a search first")
    if name not in known:
        raise unknown_name("study", name, known)
    study = optuna.load_study(study_name=name, storage=open_storage(storage_url))
    if SETTINGS not in study.user_attrs:
        raise UserError(
            f"study {name!r} in {storage_url} was not made by this program; it knows its settings "
            "only of studies that its search made"
        )
    return study


def _missing_file(storage_url: str) -> str | None:
    """The file of a SQLite storage that is not there; connecting would make it."""
    database = make_url_or_fail(storage_url).database
    if storage_url.startswith("sqlite") and database and not Path(database).is_file():
        return database
    return None


def _study_names(storage_url: str) -> list[str]:
    """The studies of a database.

    Optuna makes missing tables as it opens a database. A reader must not: it may come while a
    search is making them, and the search would find them there and fail.
    """
    with storage_trouble(storage_url):
        engine = sqlalchemy.create_engine(storage_url)
        try:
            if not sqlalchemy.inspect(engine).has_table("studies"):
                return []
            with engine.connect() as connection:
                names = sqlalchemy.text("SELECT study_name FROM studies ORDER BY study_id")
                return list(connection.execute(names).scalars())
        finally:
            engine.dispose()


def make_url_or_fail(storage_url: str) -> sqlalchemy.engine.URL:
    """The parts of a storage URL.

    Raises:
        UserError: it is none.
    """
    with storage_trouble(storage_url):
        return make_url(storage_url)


def completed_trials(study: Study) -> tuple[TrialRow, ...]:
    """The completed trials in order of their numbers."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return tuple(_row(trial) for trial in trials)


def find_trial(study: Study, number: int) -> TrialRow:
    """The completed trial of this number.

    Raises:
        UserError: there is none.
    """
    rows = {row.trial: row for row in completed_trials(study)}
    if number not in rows:
        raise UserError(
            f"study {study.study_name!r} has no completed trial {number}; "
            f"completed: {_ranges(sorted(rows)) or 'none yet'}"
        )
    return rows[number]


def _row(trial: FrozenTrial) -> TrialRow:
    attributes: dict[str, Any] = trial.user_attrs
    not_scores = {"key", *COSTS}
    return TrialRow(
        trial=trial.number,
        key=attributes["key"],
        ap=attributes["ap"],
        score=trial.values[0],
        macs=attributes["macs"],
        params=attributes["params"],
        peak_bytes=attributes["peak_bytes"],
        scores={name: value for name, value in attributes.items() if name not in not_scores},
    )


def _ranges(numbers: list[int]) -> str:
    """Sorted numbers as "0-3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def saved_settings(name: str, storage_url: str) -> dict[str, Any] | None:
    """The settings that a study was made with; None when there is no such study yet."""
    if _missing_file(storage_url) is not None or name not in _study_names(storage_url):
        return None
    study = optuna.load_study(study_name=name, storage=open_storage(storage_url))
    settings: dict[str, Any] | None = study.user_attrs.get(SETTINGS)
    return settings
