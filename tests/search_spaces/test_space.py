"""The space is counted rightly, and every network has one genotype of its own."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search_spaces.architecture import NECKS, SHARING, TOWER_LAYERS, Architecture
from search_spaces.attention import ATTENTION
from search_spaces.blocks import BLOCKS, EXPANDING
from search_spaces.space import SPACE, Gene, Space
from tests.search_spaces.contracts import example_architecture, random_architectures

ROOT = Path(__file__).parents[2]


def reduced_space(**choices: tuple[int | str, ...]) -> Space:
    """A space of few choices: those given, the first alone of every other gene."""
    return Space([Gene(g.name, choices.get(g.name, g.choices[:1])) for g in SPACE.genes])


REDUCED = [
    reduced_space(),
    reduced_space(head_depth=(0, 1, 2), head_width=(16, 32), neck_kind=NECKS),
    reduced_space(head_depth=(1, 2), head_width=(16, 32)),
    reduced_space(
        stage8_block=("depthwise", "inverted"),
        stage8_expand_ratio=(2, 3),
        stage16_block=tuple(BLOCKS),
        stage16_expand_ratio=(2, 3, 4),
        stage16_kernel_size=(3, 5),
        stage32_expand_ratio=(2, 3),
        head_layer=TOWER_LAYERS,
        head_depth=(0, 2),
        head_width=(16, 32, 48),
    ),
]


DROPPED: dict[str, tuple[int | str, ...]] = {
    "stem_width": (8, 16),
    "stage8_block": ("depthwise", "inverted"),
    "stage16_block": EXPANDING,
    "stage32_expand_ratio": (2, 3),
    "head_layer": ("depthwise",),
    "head_depth": (0,),
}
NARROWED = SPACE.narrowed(DROPPED)


@pytest.mark.parametrize("space", REDUCED)
def test_size_is_the_number_of_distinct_keys(space: Space) -> None:
    genotypes = itertools.product(*(range(len(gene.choices)) for gene in space.genes))
    assert len({space.decode(genotype).key for genotype in genotypes}) == space.size


def test_the_whole_space_is_large() -> None:
    """Counted here from the tables of choices by hand: stem, stages, neck, head."""
    stem = 4 * 2
    block_forms = 3 * len(EXPANDING) + len(BLOCKS) - len(EXPANDING)
    stages = [block_forms * 4 * widths * 2 * len(ATTENTION) for widths in (4, 5, 6)]
    neck = len(NECKS) * 5 * 2
    head = len(SHARING) * (1 + len(TOWER_LAYERS) * 2 * 4) * len(ATTENTION)
    assert SPACE.size == stem * stages[0] * stages[1] * stages[2] * neck * head
    assert SPACE.size > 10**9


def test_gene_names_are_distinct_and_no_choice_is_twice() -> None:
    assert len({gene.name for gene in SPACE.genes}) == len(SPACE.genes)
    for gene in SPACE.genes:
        assert len(set(gene.choices)) == len(gene.choices), gene.name
        assert len({type(choice) for choice in gene.choices}) == 1, gene.name


def test_genotypes_are_canonical() -> None:
    generator = np.random.default_rng(0)
    for _ in range(500):
        genotype = SPACE.random_genotype(generator)
        architecture = SPACE.decode(genotype)
        canonical = SPACE.encode(architecture)
        assert SPACE.decode(canonical) == architecture
        assert SPACE.encode(SPACE.decode(canonical)) == canonical
        assert all(c in (0, g) for c, g in zip(canonical, genotype, strict=True))


def test_genotypes_are_equal_where_keys_are() -> None:
    """Over a space so small that many genotypes meet."""
    space = REDUCED[-1]
    pairs = set()
    for genotype in itertools.product(*(range(len(gene.choices)) for gene in space.genes)):
        architecture = space.decode(genotype)
        pairs.add((architecture.key, space.encode(architecture)))
    assert len(pairs) == len({key for key, _ in pairs}) == len({g for _, g in pairs})


def is_masked(name: str, chosen: dict[str, int | str]) -> bool:
    if name in ("head_layer", "head_width"):
        return chosen["head_depth"] == 0
    if name.endswith("_expand_ratio"):
        return chosen[name.replace("expand_ratio", "block")] not in EXPANDING
    return False


def test_exactly_the_masked_genes_do_not_matter() -> None:
    generator = np.random.default_rng(1)
    masked_seen = 0
    for _ in range(50):
        genotype = SPACE.random_genotype(generator)
        chosen = {g.name: g.choices[i] for g, i in zip(SPACE.genes, genotype, strict=True)}
        for position, gene in enumerate(SPACE.genes):
            other = (genotype[position] + 1) % len(gene.choices)
            moved = (*genotype[:position], other, *genotype[position + 1 :])
            same = SPACE.decode(moved) == SPACE.decode(genotype)
            assert same == is_masked(gene.name, chosen), gene.name
            masked_seen += same
    assert masked_seen > 20


def test_used_genes_are_those_that_are_not_masked() -> None:
    generator = np.random.default_rng(2)
    for space in (SPACE, NARROWED, REDUCED[-1]):
        genotypes = np.array([space.random_genotype(generator) for _ in range(100)])
        for genotype, used in zip(genotypes, space.used(genotypes), strict=True):
            chosen = {g.name: g.choices[i] for g, i in zip(space.genes, genotype, strict=True)}
            assert [not is_masked(gene.name, chosen) for gene in space.genes] == used.tolist()


def test_random_genotypes_follow_the_seed() -> None:
    def draw(seed: int) -> list[tuple[int, ...]]:
        generator = np.random.default_rng(seed)
        return [SPACE.random_genotype(generator) for _ in range(20)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    assert all(type(index) is int for genotype in draw(3) for index in genotype)


def test_random_genotypes_make_every_choice_evenly() -> None:
    generator = np.random.default_rng(5)
    drawn = np.array([SPACE.random_genotype(generator) for _ in range(3000)])
    for column, gene in zip(drawn.T, SPACE.genes, strict=True):
        share = np.bincount(column, minlength=len(gene.choices)) / len(column)
        assert share == pytest.approx(1 / len(gene.choices), abs=0.05), gene.name


def test_a_narrowed_space_holds_the_same_networks_without_the_dropped_choices() -> None:
    generator = np.random.default_rng(8)
    for _ in range(300):
        architecture = NARROWED.decode(NARROWED.random_genotype(generator))
        canonical = NARROWED.encode(architecture)
        assert NARROWED.decode(canonical) == architecture
        assert architecture in NARROWED
        assert SPACE.decode(SPACE.encode(architecture)).key == architecture.key
        assert architecture.stem_width in (12, 24)
        assert architecture.stages[1].block not in EXPANDING
        assert architecture.stages[2].expand_ratio in (1, 4)
        assert architecture.head.depth


def test_an_architecture_is_in_a_narrowed_space_where_it_makes_no_dropped_choice() -> None:
    seen = set()
    for architecture in random_architectures(2000, seed=7):
        genotype = np.array([SPACE.encode(architecture)])
        made = {
            gene.name: gene.choices[index]
            for gene, index, used in zip(SPACE.genes, *genotype, *SPACE.used(genotype), strict=True)
            if used
        }
        held = all(value not in DROPPED.get(name, ()) for name, value in made.items())
        assert (architecture in NARROWED) == held
        seen.add(held)
    assert seen == {True, False}


def test_narrowing_can_be_done_in_steps_and_undone_by_nothing() -> None:
    stepwise = SPACE
    for name, choices in DROPPED.items():
        stepwise = stepwise.narrowed({name: list(choices)})
    assert stepwise.fingerprint == NARROWED.fingerprint != SPACE.fingerprint
    assert SPACE.narrowed({}).fingerprint == SPACE.fingerprint
    assert NARROWED.size < SPACE.size


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        ({"stem": (8,)}, "name must be that of a gene, got 'stem'"),
        ({"stem_width": (8, 9)}, r"choices of stem_width must be of \(8, .*\), got \[9\]"),
        ({"stem_depth": (2, 1)}, r"stem_depth must keep a choice, got \[2, 1\] to drop"),
    ],
)
def test_bad_narrowings_are_refused(
    dropped: dict[str, tuple[int | str, ...]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SPACE.narrowed(dropped)


def numbers(architecture: Architecture) -> list[int]:
    """All that can be larger or smaller."""
    stages = [(s.depth, s.width, s.kernel_size, s.expand_ratio) for s in architecture.stages]
    head, neck = architecture.head, architecture.neck
    stem = (architecture.stem_width, architecture.stem_depth)
    return [*stem, *itertools.chain(*stages), neck.width, neck.repeats, head.depth, head.width]


def test_corners_hold_every_number_between_them() -> None:
    smallest, largest = SPACE.corner(largest=False), SPACE.corner(largest=True)
    for architecture in random_architectures(200, seed=6):
        between = zip(numbers(smallest), numbers(architecture), numbers(largest), strict=True)
        assert all(low <= number <= high for low, number, high in between)
    assert all(stage.block == "depthwise" for stage in smallest.stages)
    assert all(stage.block == "inverted" for stage in largest.stages)
    for corner in (smallest, largest):
        assert SPACE.decode(SPACE.encode(corner)) == corner


def test_corners_of_a_narrowed_space_are_in_it() -> None:
    smallest, largest = NARROWED.corner(largest=False), NARROWED.corner(largest=True)
    assert smallest in NARROWED
    assert largest in NARROWED
    assert (smallest.stem_width, largest.stem_width) == (12, 24)
    assert smallest.stages[0].block not in EXPANDING
    assert largest.stages[1].block not in EXPANDING
    only = SPACE.narrowed({"stage8_block": [b for b in BLOCKS if b not in EXPANDING]})
    assert only.corner(largest=False).stages[0].block in EXPANDING


def test_fingerprint_tells_spaces_apart() -> None:
    base = SPACE.fingerprint
    assert Space().fingerprint == base
    first, *rest = SPACE.genes
    changed = [
        (replace(first, name="other"), *rest),
        (replace(first, choices=(*first.choices, 32)), *rest),
        (replace(first, choices=first.choices[::-1]), *rest),
        (replace(first, choices=tuple(map(str, first.choices))), *rest),
        (*rest, first),
        tuple(rest),
    ]
    seen = {base}
    for genes in changed:
        seen.add(Space(genes).fingerprint)
    assert len(seen) == 1 + len(changed)


def test_fingerprint_and_draws_are_the_same_in_another_process() -> None:
    program = (
        "import json, numpy; from search_spaces.space import SPACE; "
        "g = SPACE.random_genotype(numpy.random.default_rng(9)); "
        "print(json.dumps([SPACE.fingerprint, g]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    genotype = SPACE.random_genotype(np.random.default_rng(9))
    assert json.loads(done.stdout) == [SPACE.fingerprint, list(genotype)]


def test_decode_refuses_what_is_no_genotype() -> None:
    genotype = SPACE.encode(example_architecture())
    count = len(genotype)
    with pytest.raises(ValueError, match=f"genotype must have {count} indices, got {count - 1}"):
        SPACE.decode(genotype[1:])
    for index in (4, -1):
        with pytest.raises(ValueError, match=f"index of stem_width must be 0 to 3, got {index}"):
            SPACE.decode((index, *genotype[1:]))


def test_encode_refuses_architectures_of_other_spaces() -> None:
    base = example_architecture()
    with pytest.raises(ValueError, match=r"stem_width must be one of \(8, .*\), got 10"):
        SPACE.encode(replace(base, stem_width=10))
    wide = replace(base.stages[0], width=256)
    with pytest.raises(ValueError, match=r"stage8_width must be one of \(16, .*\), got 256"):
        SPACE.encode(replace(base, stages=(wide, *base.stages[1:])))
    with pytest.raises(ValueError, match=r"head_width must be one of \(16, .*\), got 40"):
        SPACE.encode(replace(base, head=replace(base.head, width=40)))
