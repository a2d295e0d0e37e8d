"""How long work tells a person, line by line, what it decided and why."""

from collections.abc import Callable

Say = Callable[[str], None]
"""Called with one line of text."""


def unsaid(line: str) -> None:
    """A watcher that is not there."""
