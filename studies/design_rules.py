"""What a search may build, and what each of its proposals is known to cost before it is trained."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution

from objectives.cost import Cost
from objectives.latency_table import LatencyTable
from objectives.limits import CostFunction, Limits
from search_spaces.architecture import Architecture
from search_spaces.space import Genotype, Space

REDRAWN_GENES = (1, 2, 3)
"""How many genes of an architecture are drawn again for a relative of it."""


def relative(parent: Genotype, stranger: Genotype, generator: np.random.Generator) -> Genotype:
    """The parent with a few genes, drawn by the generator, of a stranger's."""
    genes = generator.permutation(len(parent))[: int(generator.choice(REDRAWN_GENES))]
    child = list(parent)
    for i in genes.tolist():
        child[i] = stranger[i]
    return tuple(child)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An architecture with its key, its canonical genotype and its cost."""

    key: str
    genotype: Genotype
    architecture: Architecture
    cost: Cost


CostOf = Callable[[Candidate], float]
"""The value that the trials of a study lower, of any architecture."""


def by_macs(candidate: Candidate) -> float:
    """The usual cost to lower."""
    return candidate.cost.macs


def by_latency(table: LatencyTable) -> CostOf:
    """Milliseconds, summed from a table."""
    return lambda candidate: table.latency_us(candidate.architecture) / 1000


@dataclass(frozen=True, slots=True)
class DesignRules:
    """What may be built: a space, what its members cost, and the limits on that."""

    space: Space
    cost: CostFunction
    limits: Limits
    _seen: dict[str, Candidate] = field(default_factory=dict, repr=False, compare=False)

    def candidate(self, genotype: Genotype) -> Candidate:
        """The candidate that a genotype, canonical or not, stands for; remembered."""
        architecture = self.space.decode(genotype)
        if architecture.key not in self._seen:
            self._seen[architecture.key] = self._describe(architecture)
        return self._seen[architecture.key]

    def glance(self, genotype: Genotype) -> Candidate:
        """The same, forgotten again: for the many that are only looked at."""
        return self._describe(self.space.decode(genotype))

    def _describe(self, architecture: Architecture) -> Candidate:
        canonical = self.space.encode(architecture)
        return Candidate(architecture.key, canonical, architecture, self.cost(architecture))

    @property
    def distributions(self) -> dict[str, CategoricalDistribution]:
        """Every gene as an Optuna parameter with a static range."""
        return {gene.name: CategoricalDistribution(gene.choices) for gene in self.space.genes}

    def parameters(self, genotype: Genotype) -> dict[str, int | str]:
        """Gene name -> chosen value."""
        genes = zip(self.space.genes, genotype, strict=True)
        return {gene.name: gene.choices[index] for gene, index in genes}

    def genotype(self, parameters: Mapping[str, Any]) -> Genotype:
        """The genotype of Optuna parameters.

        Raises:
            KeyError: a gene has no value.
        """
        return tuple(gene.choices.index(parameters[gene.name]) for gene in self.space.genes)
