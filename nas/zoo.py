"""What the reference architectures cost: the rows that `zoo` lists."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from objectives.traced_cost import network_cost
from search_spaces.catalogue import REFERENCES


@dataclass(frozen=True, slots=True)
class ZooRow:
    """A reference architecture. macs, peak_bytes: of one square image, see `objectives.cost`."""

    name: str
    params: int
    macs: int
    peak_bytes: int
    source: str

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def zoo_rows(image_size: int = 640) -> list[ZooRow]:
    """Every reference architecture with its measured costs, in the order of the catalogue.

    Raises:
        ValueError: image_size, in pixels, is not a positive multiple of 32.
    """
    rows = []
    for name, reference in REFERENCES.items():
        with torch.device("meta"):
            network = reference.make()
        cost = network_cost(network, image_size=image_size)
        rows.append(ZooRow(name, cost.params, cost.macs, cost.peak_bytes, reference.source))
    return rows
