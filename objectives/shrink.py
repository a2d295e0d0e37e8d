"""A narrower space that keeps the good region under the limits, proposed from random samples.

Source: Lin et al., MCUNet, arXiv:2007.10319, section 3.1: of two spaces the better one is that
whose architectures within the limits have more MACs. Ours differs in two ways. It starts from
one large space and drops choices of it, one at a time; and as a front is wanted and not one
network, the light end of the feasible MACs has to stay as well as the heavy one.

Only numbers are dropped (widths, depths, kernels, ratios). What a kind of block, attention or
neck is worth, its cost does not tell.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.progress import Progress, silent
from objectives.limits import CostFunction, Limits, SpaceSample, draw_sample

TARGET_SHARE = 0.9
"""Feasible share of random architectures that needs no further narrowing."""

LEAST_KEPT = 0.5
"""Share of the feasible samples that the narrower space must still hold."""

MOSTLY = 0.5
"""A choice may go while less than this share of the samples that make it are feasible."""

DEVIATIONS = 2.0
"""How many standard deviations a choice's feasible samples must be fewer than is usual."""

ENDS = (0.1, 0.9)
"""Light and heavy end of the feasible samples, as quantiles of their MACs."""

TOLERANCE = 0.05
"""How much the light end may rise, and the heavy end fall, relatively."""

MACS_QUANTILES = (0.1, 0.5, 0.9)
FRESH_SHARE = 0.25
"""Samples that the narrower space is measured with, for each one of the whole space."""

MASKED = -1


@dataclass(frozen=True, slots=True)
class ShrinkProposal:
    """Choices to drop, and what that does. Shares are 0..1 of random genotypes.

    dropped: gene -> choices; empty when nothing is to be gained.
    kept: share of the whole space's feasible samples that the narrower one holds.
    macs: of feasible samples at `MACS_QUANTILES`; empty when there is none.
    share_after, macs_after: measured with samples that took no part in the choice.
    """

    dropped: Mapping[str, tuple[int | str, ...]]
    kept: float
    share_before: float
    share_after: float
    size_before: int
    size_after: int
    macs_before: tuple[float, ...]
    macs_after: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain dicts, lists and numbers."""
        return {
            "dropped": {name: list(choices) for name, choices in self.dropped.items()},
            "kept": self.kept,
            "share_before": self.share_before,
            "share_after": self.share_after,
            "size_before": self.size_before,
            "size_after": self.size_after,
            "macs_before": list(self.macs_before),
            "macs_after": list(self.macs_after),
        }

    def summary_lines(self) -> tuple[str, ...]:
        """The proposal for a person."""
        if not self.dropped:
            return ("narrower space: none, no choice is mostly in the way of the limits",)
        quantiles = ", ".join(f"{quantile:.0%}" for quantile in MACS_QUANTILES)
        return (
            f"narrower space: without {dropped_text(self.dropped)}",
            f"narrower space: {self.share_after:.1%} feasible, not {self.share_before:.1%}; "
            f"{self.size_after:.1e} architectures, not {self.size_before:.1e}; holds "
            f"{self.kept:.0%} of the feasible samples",
            f"narrower space: feasible MACs at {quantiles} are {_millions(self.macs_after)}, "
            f"not {_millions(self.macs_before)}",
        )


def dropped_text(dropped: Mapping[str, tuple[int | str, ...]]) -> str:
    """Dropped choices for a person: gene 1, 2; gene 3."""
    return "; ".join(f"{name} {', '.join(map(str, choices))}" for name, choices in dropped.items())


def propose_shrink(
    sample: SpaceSample,
    limits: Limits,
    *,
    cost: CostFunction,
    seed: int,
    progress: Progress = silent,
) -> ShrinkProposal:
    """The narrower space that the samples of a space speak for.

    Choices are dropped one at a time, that one first which raises the feasible share most for
    each feasible sample lost, while all of this holds: the share is under `TARGET_SHARE`; the
    choice breaks the limits mostly, and more often than chance would have it; `LEAST_KEPT` of
    the feasible samples stay; the ends of the feasible MACs stay within `TOLERANCE`.

    cost, seed: of the fresh samples that the narrower space is measured with; not the seed of
    `sample`.
    """
    evidence = _Evidence(sample, limits)
    dropped, kept = evidence.drop()
    space, before = sample.space, sample.feasible(limits)
    narrower = space.narrowed(dropped)
    fresh, after = sample, before
    if dropped:
        count = math.ceil(FRESH_SHARE * len(sample.costs))
        fresh = draw_sample(
            narrower, cost, samples=count, seed=seed, label="narrower space", progress=progress
        )
        after = fresh.feasible(limits)
    return ShrinkProposal(
        dropped=dropped,
        kept=kept,
        share_before=float(before.mean()),
        share_after=float(after.mean()),
        size_before=space.size,
        size_after=narrower.size,
        macs_before=_quantiles(sample.macs[before]),
        macs_after=_quantiles(fresh.macs[after]),
    )


@dataclass(frozen=True, slots=True)
class _Option:
    """A choice that might go, and the samples' weights without it."""

    gene: int
    choice: int
    weights: NDArray[np.float64]
    merit: float


class _Evidence:
    """Samples of a space, weighed as samples of a narrower one.

    A sample that makes a dropped choice weighs nothing. One that does not use the gene stays:
    its weight is the share of the gene's choices that are left, as so many fewer genotypes
    stand for it. The weights thus are those of even draws from the narrower space.
    """

    def __init__(self, sample: SpaceSample, limits: Limits) -> None:
        used = sample.space.used(sample.genotypes)
        self._made = np.where(used, sample.genotypes, MASKED)
        self._genes = sample.space.genes
        self._feasible = sample.feasible(limits)
        self._macs = sample.macs[self._feasible]

    def drop(self) -> tuple[dict[str, tuple[int | str, ...]], float]:
        """The dropped choices by gene, and the share of the feasible samples that stay."""
        weights = np.ones(len(self._made))
        if not self._feasible.any():
            return {}, 1.0
        ends = self._ends(weights)
        left = [list(range(len(gene.choices))) for gene in self._genes]
        while self._share(weights) < TARGET_SHARE:
            options = sorted(self._options(weights, left), key=lambda o: o.merit, reverse=True)
            best = next((o for o in options if self._keeps_the_good(o.weights, ends)), None)
            if best is None:
                break
            weights = best.weights
            left[best.gene].remove(best.choice)
        dropped = {
            gene.name: tuple(c for i, c in enumerate(gene.choices) if i not in stay)
            for gene, stay in zip(self._genes, left, strict=True)
            if len(stay) < len(gene.choices)
        }
        return dropped, self._kept(weights)

    def _options(self, weights: NDArray[np.float64], left: list[list[int]]) -> Iterator[_Option]:
        """Every number that is in the way of the limits, without which the share is higher."""
        share, kept = self._share(weights), self._kept(weights)
        for gene, choices in enumerate(left):
            if len(choices) < 2 or not isinstance(self._genes[gene].choices[0], int):
                continue
            made = self._made[:, gene]
            masked = np.where(made == MASKED, (len(choices) - 1) / len(choices), 1.0)
            usual = self._share(weights * (made != MASKED))
            for choice in choices:
                if not self._is_in_the_way(weights * (made == choice), usual):
                    continue
                without = np.where(made == choice, 0.0, weights * masked)
                if (after := self._share(without)) <= share:
                    continue
                lost = kept - self._kept(without)
                merit = math.log(after / share) / lost if lost else math.inf
                yield _Option(gene, choice, without, merit)

    def _is_in_the_way(self, making: NDArray[np.float64], usual: float) -> bool:
        """Whether the samples that make a choice are infeasible mostly, and beyond chance.

        usual: feasible share of the samples that use the gene.
        """
        feasible, expected = making[self._feasible].sum(), usual * making.sum()
        mostly_broken = feasible < MOSTLY * making.sum()
        return bool(mostly_broken and expected - feasible > DEVIATIONS * math.sqrt(expected))

    def _keeps_the_good(self, weights: NDArray[np.float64], ends: NDArray[np.float64]) -> bool:
        if self._kept(weights) < LEAST_KEPT:
            return False
        light, heavy = self._ends(weights) / ends
        return bool(light <= 1 + TOLERANCE and heavy >= 1 - TOLERANCE)

    def _share(self, weights: NDArray[np.float64]) -> float:
        total = weights.sum()
        return float(weights[self._feasible].sum() / total) if total else 0.0

    def _kept(self, weights: NDArray[np.float64]) -> float:
        return float((weights[self._feasible] > 0).mean())

    def _ends(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """MACs of the feasible samples at `ENDS`."""
        ends: NDArray[np.float64] = np.quantile(
            self._macs, ENDS, weights=weights[self._feasible], method="inverted_cdf"
        ).astype(np.float64)
        return ends


def _quantiles(macs: NDArray[np.int64]) -> tuple[float, ...]:
    return tuple(map(float, np.quantile(macs, MACS_QUANTILES))) if len(macs) else ()


def _millions(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value / 1e6:,.0f}M" for value in values)
