"""Where the files of a study are."""

from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError


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

    @property
    def cache(self) -> Path:
        """Shards and supernets, by the hash of what they were made from."""
        return self.runs / ".cache"

    @property
    def shards(self) -> Path:
        """Folder of all shard sets."""
        return self.cache / "shards"

    def supernet(self, name: str) -> Path:
        """The file of a supernet, by its hash."""
        return self.cache / "supernets" / f"{name}.safetensors"

    def trial(self, number: int) -> Path:
        """The folder of one retrained trial."""
        return self.folder / f"trial-{number}"

    def file(self, name: str) -> Path:
        """A file of the study, such as front.json."""
        return self.folder / name
