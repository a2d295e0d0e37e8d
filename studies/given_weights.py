"""What is said of trained weights that a person gives to a search."""

from collections.abc import Mapping
from typing import Any

from studies.say import Say

HASH_DIGITS = 16
"""Of the content of a given file, which names it in the cache."""


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
