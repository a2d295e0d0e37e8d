"""A table of architectures that nobody fitted."""

from dataclasses import asdict
from typing import Any

import numpy as np

from objectives.limits import CostFunction, Limits
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE


def made_up_ap(architecture: Architecture) -> float:
    """Under 0.4: a function of genes and size that a search can learn."""
    widths = sum(stage.width for stage in architecture.stages)
    depths = sum(stage.depth for stage in architecture.stages)
    root = 0.1 + 0.06 * np.log2(widths / 48) + 0.01 * depths
    root += 0.15 * (architecture.neck.kind == "pan") + 0.05 * architecture.head.depth
    return float(root**2)


def made_up_rows(
    limits: Limits, cost: CostFunction, *, count: int = 60, noise: float = 0.01
) -> dict[str, Any]:
    """What a table's file holds. noise: standard deviation of root AP."""
    generator = np.random.default_rng(0)
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < count:
        architecture = SPACE.decode(SPACE.random_genotype(generator))
        found = cost(architecture)
        if limits.allow(found):
            root = made_up_ap(architecture) ** 0.5 + noise * generator.standard_normal()
            key = architecture.key
            rows[key] = {"key": key, **asdict(found), "ap": round(max(0.0, root) ** 2, 6)}
    return {"data_hash": "none", "limits": asdict(limits), "rows": list(rows.values())}
