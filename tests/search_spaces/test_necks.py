"""Every fusion cell keeps the shapes and lets the levels know of one another."""

import pytest
import torch
from torch import nn

from search_spaces.architecture import NECKS, Neck
from search_spaces.necks import (
    CELLS,
    AdaptiveSum,
    CrossScaleAttention,
    FusionNeck,
    WeightedSum,
    enlarge,
)
from tests.search_spaces.contracts import (
    assert_batched_equals_single,
    assert_gradient_reaches_every_parameter,
    noise,
    pyramid,
    seeded,
    shapes,
)

WIDTH = 16

every_cell = pytest.mark.parametrize("kind", CELLS)


def make(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return CELLS[kind](WIDTH)


def test_every_kind_has_a_cell() -> None:
    assert tuple(CELLS) == NECKS


@every_cell
@pytest.mark.parametrize("sides", [(8, 12), (4, 4), (20, 28)])
def test_shapes_are_kept(kind: str, sides: tuple[int, int]) -> None:
    """Sides of the largest level are multiples of 4; the smallest may then be odd."""
    levels = pyramid(WIDTH, sides=sides)
    assert shapes(make(kind)(levels)) == shapes(levels)


@every_cell
def test_gradient_reaches_every_parameter(kind: str) -> None:
    assert_gradient_reaches_every_parameter(make(kind), pyramid(WIDTH))


@every_cell
def test_batched_equals_single(kind: str) -> None:
    assert_batched_equals_single(make(kind), pyramid(WIDTH, batch=3))


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        # known[i][j]: does output i depend on input j
        ("fpn", [[True, True, True], [False, True, True], [False, False, True]]),
        ("pan", [[True, True, True]] * 3),
        ("bifpn", [[True, True, True]] * 3),
    ],
)
def test_which_levels_know_of_which(kind: str, known: list[list[bool]]) -> None:
    cell, levels = make(kind).eval(), pyramid(WIDTH)
    with torch.no_grad():
        before = cell(levels)
        for j in range(3):
            moved = [x + noise(*x.shape, seed=9) * (i == j) for i, x in enumerate(levels)]
            depends = [not torch.equal(a, b) for a, b in zip(before, cell(moved), strict=True)]
            assert depends == [row[j] for row in known]


@every_cell
@pytest.mark.parametrize("repeats", [1, 2])
def test_neck_brings_all_levels_to_one_width(kind: str, repeats: int) -> None:
    torch.manual_seed(0)
    neck = FusionNeck((8, 16, 24), Neck(kind, WIDTH, repeats))
    features = [noise(2, c, 8 >> i, 12 >> i) for i, c in enumerate((8, 16, 24))]
    assert shapes(neck(features)) == shapes(pyramid(WIDTH))
    assert_gradient_reaches_every_parameter(neck, features)
    assert_batched_equals_single(neck, features)


def test_weighted_sum_of_equal_terms_is_the_term() -> None:
    term = noise(1, 2, 3, 3)
    total = WeightedSum(3)
    torch.testing.assert_close(total(term, term, term), term, rtol=1e-4, atol=1e-6)


def test_weighted_sum_takes_shares_and_never_subtracts() -> None:
    first, second = noise(1, 2, 3, 3), noise(1, 2, 3, 3, seed=1)
    total = WeightedSum(2)
    with torch.no_grad():
        total.weight.copy_(torch.tensor([3.0, 1.0]))
        expected = 0.75 * first + 0.25 * second
        torch.testing.assert_close(total(first, second), expected, rtol=1e-3, atol=1e-3)
        total.weight.copy_(torch.tensor([2.0, -5.0]))
        torch.testing.assert_close(total(first, second), first, rtol=1e-3, atol=1e-3)


def test_enlarging_repeats_pixels() -> None:
    x = torch.tensor([[[[1.0, 2.0]]]])
    assert enlarge(x).tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]


def test_a_change_of_one_level_reaches_all_levels() -> None:
    attention = seeded(lambda: CrossScaleAttention(32, 16)).eval()
    levels = pyramid(32)
    changed = [*levels[:2], levels[2] + noise(*levels[2].shape, seed=9)]
    assert shapes(attention(levels)) == shapes(levels)
    for before, after in zip(attention(levels), attention(changed), strict=True):
        assert not torch.allclose(before, after, atol=1e-6)


def test_one_level_alone_attends_like_a_block() -> None:
    across = CrossScaleAttention(32, 16).eval()
    x = noise(2, 32, 6, 5)
    torch.testing.assert_close(across([x])[0], across.attend(x))


def test_adaptive_shares_add_up_to_one_and_follow_the_scores() -> None:
    total = AdaptiveSum(8, 3)
    x = noise(2, 8, 4, 5)
    torch.testing.assert_close(total(x, x, x), x)
    with torch.no_grad():
        for name, value in total.named_parameters():
            value.fill_(50.0 if name == "score.1.bias" else 0.0)
    torch.testing.assert_close(total(x, x + 1, x - 1), x + 1)
