"""Limits that every candidate must keep, and how much of a space they leave open."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError
from data.progress import Progress, silent
from objectives.cost import Cost
from search_spaces.architecture import Architecture
from search_spaces.space import Space

CostFunction = Callable[[Architecture], Cost]

MEASURED_BY = {"max_params": "params", "max_macs": "macs", "max_memory_bytes": "peak_bytes"}
"""Limit -> the field of `Cost` that it limits. Only `max_params` is strict."""

QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)
SCARCE_SHARE = 0.001
OPEN_SHARE = 0.01
PROGRESS_STEP = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """What a network may cost at most.

    max_params: trainable weights, strictly under.
    max_macs: multiply-accumulates of one image of image_size x image_size pixels.
    max_memory_bytes: peak of the float32 activations of that image.
    image_size: pixels, a multiple of 32.

    Raises:
        ValueError: a limit is not positive or the image size no multiple of 32.
    """

    max_params: int = 285_000
    max_macs: int = 1_000_000_000
    max_memory_bytes: int = 16_000_000
    image_size: int = 640

    def __post_init__(self) -> None:
        for name in (*MEASURED_BY, "image_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.image_size % 32:
            raise ValueError(f"image_size must be a multiple of 32, got {self.image_size}")

    def violations(self, cost: Cost) -> dict[str, float]:
        """Broken limits only: name -> value / limit - 1. It is 0 for exactly max_params."""
        values = {name: getattr(cost, measure) for name, measure in MEASURED_BY.items()}
        return {
            name: value / getattr(self, name) - 1
            for name, value in values.items()
            if value > self.largest(name)
        }

    def allow(self, cost: Cost) -> bool:
        """Whether no limit is broken."""
        return not self.violations(cost)

    def largest(self, name: str) -> int:
        """The largest value that keeps the limit of this name."""
        limit: int = getattr(self, name)
        return limit - 1 if name == "max_params" else limit


@dataclass(frozen=True, slots=True)
class FeasibilityAudit:
    """What the limits do to random genotypes. All shares are 0..1 of the samples.

    broken: limit -> share that breaks it; broken_alone: share that breaks it and no other.
    quantiles: measure of `Cost` -> its values at `QUANTILES`.
    opening: the smallest change that would let about one in a hundred pass, as limit -> new
        value; empty when as many pass already.
    """

    samples: int
    share: float
    limits: Limits
    broken: Mapping[str, float]
    broken_alone: Mapping[str, float]
    quantiles: Mapping[str, tuple[float, ...]]
    opening: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def tightest(self) -> str:
        """The limit that the most samples break."""
        return max(self.broken, key=lambda name: (self.broken[name], self.broken_alone[name]))

    def check(self) -> None:
        """Nothing when the space is open.

        Raises:
            UserError: under one in a thousand samples keeps the limits.
        """
        if self.share >= SCARCE_SHARE:
            return
        name = self.tightest
        raise UserError(
            f"{self.share:.2%} of {self.samples:,} random architectures keep the limits: "
            f"{flag(name)} {getattr(self.limits, name)} is broken by {self.broken[name]:.1%}; "
            f"the smallest change that opens the space is {self._opening_text()}"
        )

    def to_json(self) -> dict[str, Any]:
        """The same as plain dicts, lists and numbers."""
        return {
            "samples": self.samples,
            "share": self.share,
            "limits": asdict(self.limits),
            "broken": dict(self.broken),
            "broken_alone": dict(self.broken_alone),
            "quantiles": {name: list(values) for name, values in self.quantiles.items()},
            "opening": dict(self.opening),
        }

    def summary_lines(self) -> tuple[str, ...]:
        """The audit for a person, a line a fact."""
        lines = [
            f"feasible: {self.share:.1%} of {self.samples:,} random architectures; "
            f"the limit that binds most is {flag(self.tightest)}"
        ]
        for name, measure in MEASURED_BY.items():
            values = ", ".join(
                f"{quantile:.0%} {value:,.0f}"
                for quantile, value in zip(QUANTILES, self.quantiles[measure], strict=True)
            )
            lines.append(
                f"{flag(name)} {getattr(self.limits, name):,}: broken by {self.broken[name]:.1%}, "
                f"alone by {self.broken_alone[name]:.1%}; {measure} at {values}"
            )
        if self.opening:
            lines.append(f"the smallest change that opens the space: {self._opening_text()}")
        return tuple(lines)

    def _opening_text(self) -> str:
        return " ".join(f"{flag(name)} {value}" for name, value in self.opening.items())


def flag(name: str) -> str:
    """The command line's name of a limit."""
    return {"max_memory_bytes": "--max-memory"}.get(name, "--" + name.replace("_", "-"))


@dataclass(frozen=True, slots=True, eq=False)
class SpaceSample:
    """Random genotypes of a space and what their architectures cost.

    genotypes: (samples, genes). costs: (samples, 3), columns in the order of `MEASURED_BY`.
    """

    space: Space
    genotypes: NDArray[np.int64]
    costs: NDArray[np.int64]

    def breaks(self, limits: Limits) -> NDArray[np.bool_]:
        """Which limits are broken; (samples, 3), columns in the order of `MEASURED_BY`."""
        return self.costs > self._largest(limits)

    def feasible(self, limits: Limits) -> NDArray[np.bool_]:
        """Which samples break no limit."""
        return np.asarray((self.costs <= self._largest(limits)).all(axis=1))

    @property
    def macs(self) -> NDArray[np.int64]:
        """The column of the costs that holds MACs."""
        return self.costs[:, list(MEASURED_BY).index("max_macs")]

    def _largest(self, limits: Limits) -> NDArray[np.int64]:
        return np.array([limits.largest(name) for name in MEASURED_BY])


def draw_sample(
    space: Space,
    cost: CostFunction,
    *,
    samples: int,
    seed: int,
    label: str = "feasibility audit",
    progress: Progress = silent,
) -> SpaceSample:
    """Cost of random genotypes, each gene drawn evenly.

    Raises:
        ValueError: samples is not positive.
    """
    if samples <= 0:
        raise ValueError(f"samples must be positive, got {samples}")
    generator = np.random.default_rng(seed)
    genotypes = np.empty((samples, len(space.genes)), dtype=np.int64)
    costs = np.empty((samples, len(MEASURED_BY)), dtype=np.int64)
    for row in range(samples):
        genotype = space.random_genotype(generator)
        found = cost(space.decode(genotype))
        genotypes[row] = genotype
        costs[row] = found.params, found.macs, found.peak_bytes
        if (row + 1) % PROGRESS_STEP == 0 or row + 1 == samples:
            progress(label, row + 1, samples)
    return SpaceSample(space, genotypes, costs)


def audit(sample: SpaceSample, limits: Limits) -> FeasibilityAudit:
    """What the limits leave of the sampled space."""
    costs, names = sample.costs, tuple(MEASURED_BY)
    broken = sample.breaks(limits)
    alone = broken & (broken.sum(axis=1, keepdims=True) == 1)
    feasible = sample.feasible(limits)
    quantiles = np.quantile(costs, QUANTILES, axis=0)
    is_open = feasible.mean() >= OPEN_SHARE
    return FeasibilityAudit(
        samples=len(costs),
        share=float(feasible.mean()),
        limits=limits,
        broken=dict(zip(names, map(float, broken.mean(axis=0)), strict=True)),
        broken_alone=dict(zip(names, map(float, alone.mean(axis=0)), strict=True)),
        quantiles={
            measured: tuple(map(float, quantiles[:, column]))
            for column, measured in enumerate(MEASURED_BY.values())
        },
        opening={} if is_open else _smallest_opening(costs, limits),
    )


def _smallest_opening(costs: NDArray[np.int64], limits: Limits) -> dict[str, int]:
    """The one limit that opens the space with the smallest relative change, or several.

    When no single limit does, the one sample in a hundred that breaks the limits least by its
    worst ratio says which values must change together.
    """
    wanted = math.ceil(len(costs) * OPEN_SHARE)
    largest = np.array([limits.largest(name) for name in MEASURED_BY])
    singles: dict[str, int] = {}
    for column, name in enumerate(MEASURED_BY):
        others = [c for c in range(len(largest)) if c != column]
        keeping = costs[(costs[:, others] <= largest[others]).all(axis=1), column]
        if len(keeping) >= wanted:
            singles[name] = _as_limit(name, int(np.partition(keeping, wanted - 1)[wanted - 1]))
    if singles:
        best = min(singles, key=lambda name: singles[name] / getattr(limits, name))
        return {best: singles[best]}
    worst = (costs / np.maximum(largest, 1)).max(axis=1)
    ratio = np.partition(worst, wanted - 1)[wanted - 1]
    opened = costs[worst <= ratio].max(axis=0)
    return {
        name: _as_limit(name, int(value))
        for name, value, now in zip(MEASURED_BY, opened, largest, strict=True)
        if value > now
    }


def _as_limit(name: str, value: int) -> int:
    """A limit of three leading digits, rounded up, that `value` keeps."""
    needed = value + 1 if name == "max_params" else value
    unit = int(10 ** max(0, len(str(needed)) - 3))
    return math.ceil(needed / unit) * unit
