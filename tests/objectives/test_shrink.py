"""What is dropped is in the way of the limits, and what is good stays."""

import json
from functools import partial

import numpy as np
import pytest

from objectives.cost import Cost, architecture_cost
from objectives.limits import CostFunction, Limits, SpaceSample, draw_sample
from objectives.shrink import (
    ENDS,
    LEAST_KEPT,
    TARGET_SHARE,
    TOLERANCE,
    ShrinkProposal,
    propose_shrink,
)
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE

SAMPLES = 3000
LOOSE = Limits(max_params=100)


def proposed(sample: SpaceSample, limits: Limits, cost: CostFunction) -> ShrinkProposal:
    return propose_shrink(sample, limits, cost=cost, seed=1)


def by_neck(architecture: Architecture) -> Cost:
    """Necks of 48 and 64 channels break the limit of 48 parameters, others do not."""
    return Cost(architecture.neck.width, 1000 + architecture.stem_width, 1)


def by_expansion(architecture: Architecture) -> Cost:
    """Only blocks that expand by four in the first stage break the limits; MACs follow nothing."""
    return Cost(1000 if architecture.stages[0].expand_ratio == 4 else 1, 1000, 1)


@pytest.fixture(scope="module")
def real() -> SpaceSample:
    """Samples with their real costs at a small image."""
    return draw_sample(SPACE, partial(architecture_cost, image_size=64), samples=SAMPLES, seed=0)


def test_the_choice_that_breaks_the_limits_goes_and_nothing_else() -> None:
    sample = draw_sample(SPACE, by_neck, samples=SAMPLES, seed=0)
    found = proposed(sample, Limits(max_params=48), by_neck)
    assert found.dropped == {"neck_width": (48, 64)}
    assert found.share_before == pytest.approx(3 / 5, abs=0.03)
    assert (found.share_after, found.kept) == (1.0, 1.0)
    assert found.size_after == found.size_before * 3 // 5


def test_a_masked_gene_is_no_evidence() -> None:
    """Of blocks that do not expand none breaks the limits, whatever their masked ratio says."""
    sample = draw_sample(SPACE, by_expansion, samples=SAMPLES, seed=0)
    found = proposed(sample, LOOSE, by_expansion)
    assert found.share_before == pytest.approx(1 - 2 / 5 / 3, abs=0.02)
    assert found.dropped == {"stage8_expand_ratio": (4,)}
    assert (found.share_after, found.kept) == (1.0, 1.0)
    canonical = np.where(SPACE.used(sample.genotypes), sample.genotypes, 0)
    same = SpaceSample(SPACE, canonical, sample.costs)
    assert proposed(same, LOOSE, by_expansion) == found


def test_samples_weigh_as_draws_from_the_narrower_space_do() -> None:
    """Without the ratios 3 and 4, two blocks of five still expand and are feasible: 91 % in all.

    Weighed by the samples that are left, they would be 18 % and all together under 90 %, and the
    width, which is mostly in the way of the other blocks, would go as well.
    """

    def cost(architecture: Architecture) -> Cost:
        ratio = architecture.stages[0].expand_ratio
        wide = architecture.stages[2].width == 128 and architecture.head.attention != "se"
        return Cost(200 if ratio > 2 or (ratio == 1 and wide) else 1, 1000, 1)

    sample = draw_sample(SPACE, cost, samples=2 * SAMPLES, seed=0)
    found = proposed(sample, LOOSE, cost)
    assert found.dropped == {"stage8_expand_ratio": (3, 4)}
    assert found.share_after == pytest.approx(1 - 0.6 / 6 * 6 / 7, abs=0.02)


@pytest.mark.parametrize("limits", [Limits(image_size=64), Limits(60_000, 2_000_000, 160_000, 64)])
def test_more_is_feasible_and_the_good_region_stays(real: SpaceSample, limits: Limits) -> None:
    cost = partial(architecture_cost, image_size=64)
    found = proposed(real, limits, cost)
    assert found.dropped
    assert found.share_after > found.share_before
    assert found.size_after < found.size_before
    assert LEAST_KEPT <= found.kept < 1
    narrower = SPACE.narrowed(found.dropped)
    held = [
        SPACE.decode(tuple(map(int, genotype))) in narrower
        for genotype in real.genotypes[real.feasible(limits)]
    ]
    assert np.mean(held) == found.kept
    fresh = draw_sample(narrower, cost, samples=SAMPLES, seed=9)
    light, heavy = np.divide(
        *(np.quantile(sample.macs[sample.feasible(limits)], ENDS) for sample in (fresh, real))
    )
    noise = 0.05
    assert light <= 1 + TOLERANCE + noise
    assert heavy >= 1 - TOLERANCE - noise
    assert fresh.feasible(limits).mean() == pytest.approx(found.share_after, abs=0.06)


def test_only_numbers_are_dropped(real: SpaceSample) -> None:
    cost = partial(architecture_cost, image_size=64)
    limits = Limits(60_000, 2_000_000, 160_000, 64)
    for choices in proposed(real, limits, cost).dropped.values():
        assert all(isinstance(choice, int) for choice in choices)


def test_nothing_is_dropped_where_nothing_is_in_the_way() -> None:
    sample = draw_sample(SPACE, by_neck, samples=500, seed=0)
    for limits in (Limits(), Limits(max_params=2)):  # all are feasible, and none
        found = proposed(sample, limits, by_neck)
        assert found.dropped == {}
        assert found.kept == 1
        assert found.share_after == found.share_before in (0, 1)
        assert found.size_after == found.size_before
        assert found.macs_after == found.macs_before
        assert found.summary_lines() == (
            "narrower space: none, no choice is mostly in the way of the limits",
        )


@pytest.mark.parametrize(
    ("feasible_necks", "dropped"), [((16,), {"stem_width": (24,)}), ((16, 24), {})]
)
def test_the_heavy_end_stays_even_where_it_is_mostly_infeasible(
    feasible_necks: tuple[int, ...], dropped: dict[str, tuple[int, ...]]
) -> None:
    """The widest stem is heavy; it makes 6 % or 12 % of the feasible samples, the end is 10 %."""

    def cost(architecture: Architecture) -> Cost:
        wide = architecture.stem_width == 24
        breaks = wide and architecture.neck.width not in feasible_necks
        return Cost(200 if breaks else 1, 10_000 if wide else 1000, 1)

    sample = draw_sample(SPACE, cost, samples=SAMPLES, seed=0)
    assert sample.feasible(LOOSE).mean() < TARGET_SHARE
    assert proposed(sample, LOOSE, cost).dropped == dropped


def test_equal_seeds_give_equal_proposals_and_they_become_json(real: SpaceSample) -> None:
    cost = partial(architecture_cost, image_size=64)
    limits = Limits(60_000, 2_000_000, 160_000, 64)
    found = proposed(real, limits, cost)
    assert found == proposed(real, limits, cost)
    record = json.loads(json.dumps(found.to_json()))
    assert SPACE.narrowed(record["dropped"]).size == record["size_after"] == found.size_after
    assert len(found.summary_lines()) == 3
