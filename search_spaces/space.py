"""The search space: genes with static ranges, and the architecture that a genotype stands for."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import (
    NECKS,
    NO_LAYER,
    SHARING,
    STAGE_STRIDES,
    TOWER_LAYERS,
    Architecture,
    Head,
    Neck,
    Stage,
)
from search_spaces.attention import ATTENTION
from search_spaces.blocks import BLOCKS, EXPANDING

Genotype = tuple[int, ...]
"""One choice index per gene, in the order of `Space.genes`."""


@dataclass(frozen=True, slots=True)
class Gene:
    """A named choice. The same values at every point of the space, whether used or not."""

    name: str
    choices: tuple[int | str, ...]


_STAGE_WIDTHS = {8: (16, 32, 48, 64), 16: (16, 32, 48, 64, 96), 32: (16, 32, 48, 64, 96, 128)}


def _genes() -> tuple[Gene, ...]:
    genes = [Gene("stem_width", (8, 12, 16, 24)), Gene("stem_depth", (1, 2))]
    for stride in STAGE_STRIDES:
        genes += [
            Gene(f"stage{stride}_block", tuple(BLOCKS)),
            Gene(f"stage{stride}_depth", (1, 2, 3, 4)),
            Gene(f"stage{stride}_width", _STAGE_WIDTHS[stride]),
            Gene(f"stage{stride}_kernel_size", (3, 5)),
            Gene(f"stage{stride}_expand_ratio", (2, 3, 4)),
            Gene(f"stage{stride}_attention", tuple(ATTENTION)),
        ]
    return (
        *genes,
        Gene("neck_kind", NECKS),
        Gene("neck_width", (16, 24, 32, 48, 64)),
        Gene("neck_repeats", (1, 2)),
        Gene("head_sharing", SHARING),
        Gene("head_layer", TOWER_LAYERS),
        Gene("head_depth", (0, 1, 2)),
        Gene("head_width", (16, 32, 48, 64)),
        Gene("head_attention", tuple(ATTENTION)),
    )


GENES = _genes()
"""The usual genes, with all choices that networks can be built of."""


class Space:
    """All architectures that the genes can spell.

    A genotype has one index per gene, always the same number. A gene that its architecture does
    not use (the expansion of a block that has none, the width of a head without layers) is
    masked: `decode` ignores it and `encode` writes 0 there.

    genes: named and ordered as the usual ones; their choices may be fewer.
    """

    def __init__(self, genes: Sequence[Gene] = GENES) -> None:
        self.genes = tuple(genes)
        self._position = {gene.name: i for i, gene in enumerate(self.genes)}

    def __contains__(self, architecture: Architecture) -> bool:
        """Whether some genotype stands for this architecture."""
        try:
            self.encode(architecture)
        except ValueError:
            return False
        return True

    def narrowed(self, dropped: Mapping[str, Collection[int | str]]) -> "Space":
        """The space without some choices, given by the name of their gene.

        Raises:
            ValueError: there is no such gene or choice, or a gene would have none left.
        """
        for name, choices in dropped.items():
            if name not in self._position:
                raise ValueError(f"name must be that of a gene, got {name!r}")
            known = self.genes[self._position[name]].choices
            if unknown := [choice for choice in choices if choice not in known]:
                raise ValueError(f"choices of {name} must be of {known}, got {unknown}")
            if set(known) == set(choices):
                raise ValueError(f"{name} must keep a choice, got {list(choices)} to drop")
        return Space([_without(gene, dropped.get(gene.name, ())) for gene in self.genes])

    @property
    def size(self) -> int:
        """Number of different architectures, masked genes counted once."""
        of = {gene.name: gene.choices for gene in self.genes}
        free = [name for name in of if not name.endswith(("_block", "expand_ratio"))]
        free = [name for name in free if name not in ("head_layer", "head_depth", "head_width")]
        total = math.prod(len(of[name]) for name in free)
        layers = len(of["head_layer"]) * len(of["head_width"])
        total *= sum(layers if depth else 1 for depth in of["head_depth"])
        for stride in STAGE_STRIDES:
            ratios = len(of[f"stage{stride}_expand_ratio"])
            total *= sum(
                ratios if block in EXPANDING else 1 for block in of[f"stage{stride}_block"]
            )
        return total

    @property
    def fingerprint(self) -> str:
        """Hash of the genes: equal for equal spaces, on every machine."""
        text = json.dumps([[gene.name, gene.choices] for gene in self.genes])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def decode(self, genotype: Genotype) -> Architecture:
        """The architecture that a genotype stands for.

        Raises:
            ValueError: the genotype has another length or an index out of its gene's range.
        """
        if len(genotype) != len(self.genes):
            raise ValueError(f"genotype must have {len(self.genes)} indices, got {len(genotype)}")
        chosen: dict[str, int | str] = {}
        for gene, index in zip(self.genes, genotype, strict=True):
            if not 0 <= index < len(gene.choices):
                raise ValueError(
                    f"index of {gene.name} must be 0 to {len(gene.choices) - 1}, got {index}"
                )
            chosen[gene.name] = gene.choices[index]
        number = {name: value for name, value in chosen.items() if isinstance(value, int)}
        word = {name: value for name, value in chosen.items() if isinstance(value, str)}
        stage8, stage16, stage32 = (
            _decode_stage(f"stage{stride}", number, word) for stride in STAGE_STRIDES
        )
        head_depth = number["head_depth"]
        return Architecture(
            stem_width=number["stem_width"],
            stem_depth=number["stem_depth"],
            stages=(stage8, stage16, stage32),
            neck=Neck(word["neck_kind"], number["neck_width"], number["neck_repeats"]),
            head=Head(
                word["head_sharing"],
                word["head_layer"] if head_depth else NO_LAYER,
                head_depth,
                number["head_width"] if head_depth else 0,
                word["head_attention"],
            ),
        )

    def encode(self, architecture: Architecture) -> Genotype:
        """The canonical genotype: 0 at every masked gene.

        Raises:
            ValueError: a value of the architecture is not a choice of its gene.
        """
        chosen: dict[str, int | str] = {
            "stem_width": architecture.stem_width,
            "stem_depth": architecture.stem_depth,
            "neck_kind": architecture.neck.kind,
            "neck_width": architecture.neck.width,
            "neck_repeats": architecture.neck.repeats,
            "head_sharing": architecture.head.sharing,
            "head_depth": architecture.head.depth,
            "head_attention": architecture.head.attention,
        }
        if architecture.head.depth:
            chosen["head_layer"] = architecture.head.layer
            chosen["head_width"] = architecture.head.width
        for stride, stage in zip(STAGE_STRIDES, architecture.stages, strict=True):
            for field in ("block", "depth", "width", "kernel_size", "attention"):
                chosen[f"stage{stride}_{field}"] = getattr(stage, field)
            if stage.block in EXPANDING:
                chosen[f"stage{stride}_expand_ratio"] = stage.expand_ratio
        genotype = [0] * len(self.genes)
        for name, value in chosen.items():
            choices = self.genes[self._position[name]].choices
            if value not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {value!r}")
            genotype[self._position[name]] = choices.index(value)
        return tuple(genotype)

    def used(self, genotypes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which genes are not masked; both shapes (number of genotypes, number of genes)."""
        used = np.ones(genotypes.shape, dtype=np.bool_)
        for stride in STAGE_STRIDES:
            block = self._position[f"stage{stride}_block"]
            expands = np.isin(self.genes[block].choices, EXPANDING)
            used[:, self._position[f"stage{stride}_expand_ratio"]] = expands[genotypes[:, block]]
        depth = self._position["head_depth"]
        has_layers = np.array(self.genes[depth].choices) != 0
        for name in ("head_layer", "head_width"):
            used[:, self._position[name]] = has_layers[genotypes[:, depth]]
        return used

    def random_genotype(self, generator: np.random.Generator) -> Genotype:
        """A genotype with every gene drawn evenly."""
        return tuple(int(generator.integers(len(gene.choices))) for gene in self.genes)

    def corner(self, *, largest: bool) -> Architecture:
        """The architecture whose every number is its gene's largest, or smallest, choice.

        Its blocks expand where it is the largest, and do not where the smallest, if the space
        has such blocks.
        """
        pick = -1 if largest else 0
        chosen = []
        for gene in self.genes:
            if gene.name.endswith("_block"):
                expands = [block in EXPANDING for block in gene.choices]
                chosen.append(expands.index(largest) if largest in expands else 0)
            elif isinstance(gene.choices[0], int):
                chosen.append(pick % len(gene.choices))
            else:
                chosen.append(0)
        return self.decode(self.encode(self.decode(tuple(chosen))))


def _without(gene: Gene, dropped: Collection[int | str]) -> Gene:
    return Gene(gene.name, tuple(choice for choice in gene.choices if choice not in dropped))


def _decode_stage(prefix: str, number: dict[str, int], word: dict[str, str]) -> Stage:
    block = word[f"{prefix}_block"]
    return Stage(
        block=block,
        depth=number[f"{prefix}_depth"],
        width=number[f"{prefix}_width"],
        kernel_size=number[f"{prefix}_kernel_size"],
        expand_ratio=number[f"{prefix}_expand_ratio"] if block in EXPANDING else 1,
        attention=word[f"{prefix}_attention"],
    )


SPACE = Space()
"""The space that searches use."""
