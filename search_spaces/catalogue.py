"""Every network that has a name: the reference architectures, and the space's by their keys."""

from collections.abc import Callable
from dataclasses import dataclass

from data.errors import unknown_name
from search_spaces.architecture import Architecture
from search_spaces.face_network import FaceNetwork
from search_spaces.network import build


@dataclass(frozen=True, slots=True)
class Reference:
    """A detector of the field. params: trainable weights of what `make` gives, to the last one."""

    make: Callable[[], FaceNetwork]
    params: int
    source: str


REFERENCES: dict[str, Reference] = {}
"""The reference architectures by name; each `make` gives a network whose key is that name."""


def build_network(key: str) -> FaceNetwork:
    """A freshly initialised network; its first weights come from torch's global generator.

    key: the name of a reference, or the key of an architecture of the space.

    Raises:
        UserError: it is neither.
    """
    if key in REFERENCES:
        return REFERENCES[key].make()
    try:
        architecture = Architecture.from_key(key)
    except ValueError as error:
        raise unknown_name("architecture", key, tuple(REFERENCES)) from error
    return build(architecture)
