"""Trained weights that a person gives to a search: keeping them, and what is said of them."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data.files import sha256_of, whole_file
from studies.say import Say

HASH_DIGITS = 16
"""Of the content of a given file, which names it in the cache."""


def keep_copy(given: Path, place: Callable[[str], Path]) -> Path:
    """A copy of a file, at the place of the name that its content gives it."""
    path = place(sha256_of(given)[:HASH_DIGITS])
    if not path.is_file():
        with whole_file(path) as temporary:
            shutil.copyfile(given, temporary)
    return path


def warn_of_other_crops(
    what: str, facts: Mapping[str, Any], *, data_hash: str, seed: int, say: Say
) -> None:
    """Says of a network that was not trained on a study's own crops, split as they are there, that
    it may have seen what trials are judged on. facts: of its file. data_hash, seed: the study's."""
    if (facts.get("data_hash"), facts.get("seed")) != (data_hash, seed):
        say(
            f"the {what} was trained on other crops or another split: it may have seen images that "
            "trials are judged on, and their AP may be too high; fits alone and finals do without "
            "it and are not touched"
        )
