"""A supernet that was trained elsewhere, or for longer, in the place of one of the search's own."""

from pathlib import Path

from nas.weights import load_weights
from studies.given_weights import keep_copy, warn_of_other_crops
from studies.say import Say, unsaid
from studies.workspace import Workspace


def keep_supernet(
    workspace: Workspace, given: Path, *, data_hash: str, seed: int, say: Say = unsaid
) -> Path:
    """A copy of a supernet's file in the cache, named by its content, where the study finds it.

    given: a file that `load_supernet` accepts. data_hash, seed: of the study; of a supernet with
    others it is said that it may have seen what trials are judged on.

    Raises:
        UserError: the file is missing or damaged.
    """
    _, facts = load_weights(given)
    path = keep_copy(given, workspace.supernet)
    steps = facts.get("settings", {}).get("fit", {}).get("steps", "unknown")
    say(f"supernet {path.stem}: given, trained for {steps} steps")
    warn_of_other_crops("supernet", facts, data_hash=data_hash, seed=seed, say=say)
    return path
