"""The one error that is shown to a person without a traceback."""

import difflib


class UserError(Exception):
    """Something the user can put right: the message says what, where and what to do next.

    The command line prints it as one sentence and ends with exit status 2.
    """


def unknown_name(kind: str, name: str, known: list[str] | tuple[str, ...]) -> UserError:
    """A UserError for a name that does not exist: lists the known ones and the nearest."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return UserError(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}.{hint}")
