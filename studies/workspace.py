"""Where the files of a study are."""

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from search_spaces.catalogue import REFERENCES

RUNS = Path("runs")
"""The folder of all studies where no other is named, as on the command line."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One network that is trained by itself, and the folder of what belongs to it.

    name: for people. options: what names it on the command line.
    """

    folder: Path
    name: str
    options: str

    @property
    def weights(self) -> Path:
        """What training wrote."""
        return self.folder / "weights.safetensors"

    @property
    def onnx(self) -> Path:
        """What `export` wrote."""
        return self.folder / "model.onnx"


def architecture_subject(runs: Path, architecture: str) -> Subject:
    """A network outside of any study. architecture: a reference's name or a key of the space."""
    digest = hashlib.sha256(architecture.encode()).hexdigest()[:12]
    folder = architecture if architecture in REFERENCES else f"architecture-{digest}"
    options = shlex.join(("--arch", architecture, *_of_runs(runs)))
    return Subject(runs / "architectures" / folder, architecture, options)


def _of_runs(runs: Path) -> tuple[str, ...]:
    return () if runs == RUNS else ("--runs", str(runs))


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder of one study, and the cache that all studies of `runs` share."""

    runs: Path
    study: str

    def __post_init__(self) -> None:
        if not self.study or self.study.startswith(".") or "/" in self.study:
            raise UserError(
                f"a study's name is its folder's: no '/', no leading dot, got {self.study!r}"
            )

    @property
    def folder(self) -> Path:
        """Holds everything below but the cache."""
        return self.runs / self.study

    @property
    def database(self) -> Path:
        """The study's own SQLite file."""
        return self.folder / "study.db"

    @property
    def storage_url(self) -> str:
        """The database as SQLAlchemy and optuna-dashboard name it."""
        return f"sqlite:///{self.database}"

    def options(self, storage_url: str | None = None) -> str:
        """What names the study on the command line. storage_url: where it is in another one."""
        storage = () if storage_url is None else ("--storage", storage_url)
        return shlex.join(("--study", self.study, *storage, *_of_runs(self.runs)))

    @property
    def cache(self) -> Path:
        """Shards, supernets and teachers, by the hash of what they were made from."""
        return self.runs / ".cache"

    @property
    def shards(self) -> Path:
        """Folder of all shard sets."""
        return self.cache / "shards"

    def supernet(self, name: str) -> Path:
        """The file of a supernet, by its hash."""
        return self.cache / "supernets" / f"{name}.safetensors"

    def teacher(self, name: str) -> Path:
        """The folder of a network that trials learn from, by its hash."""
        return self.cache / "teachers" / name

    def find_supernet(self, name: str | None, *, advice: str) -> Path | None:
        """The file of the study's supernet, by its hash; None for a study that has none.

        Raises:
            UserError: the file is gone; ends with the advice.
        """
        if name is None:
            return None
        path = self.supernet(name)
        if not path.is_file():
            raise UserError(f"the supernet {path} of study {self.study!r} is gone; {advice}")
        return path

    def trial(self, number: int) -> Path:
        """The folder of one retrained trial."""
        return self.folder / f"trial-{number}"

    def subject(self, number: int) -> Subject:
        """A trial as a network that is trained by itself."""
        return Subject(
            self.trial(number),
            f"trial {number} of study {self.study!r}",
            shlex.join(("--study", self.study, "--trial", str(number), *_of_runs(self.runs))),
        )

    @property
    def latency_table(self) -> Path:
        """The table that the trials of a study that lowers latency were summed from."""
        return self.file("latency_table.json")

    def file(self, name: str) -> Path:
        """A file of the study, such as front.json."""
        return self.folder / name


@dataclass(frozen=True, slots=True)
class Choice:
    """The network that a command is about: a trial of a study, or an architecture by itself.

    Raises:
        UserError: it is neither, or both.
    """

    runs: Path
    study: str | None = None
    trial: int | None = None
    architecture: str | None = None

    def __post_init__(self) -> None:
        is_trial = self.study is not None and self.trial is not None
        is_partly_trial = self.study is not None or self.trial is not None
        if not is_trial if self.architecture is None else is_partly_trial:
            raise UserError("say which network: --study NAME --trial NUMBER, or --arch NAME")

    @property
    def workspace(self) -> Workspace | None:
        """The study's, None for an architecture by itself."""
        return None if self.study is None else Workspace(self.runs, self.study)

    @property
    def subject(self) -> Subject:
        """Where its files are; whether there is such a trial is not looked up."""
        if self.study is not None and self.trial is not None:
            return Workspace(self.runs, self.study).subject(self.trial)
        return architecture_subject(self.runs, str(self.architecture))
