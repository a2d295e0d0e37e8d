"""Limits and the audit of what they leave."""

import pytest

from data.errors import UserError
from objectives.cost import Cost
from objectives.limits import MEASURED_BY, FeasibilityAudit, Limits, audit, draw_sample
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE

SAMPLES = 2000


def cost_of(architecture: Architecture) -> Cost:
    """Parameters by the stages, MACs by the neck, memory by the stem: independent of each other."""
    params = sum(stage.width * stage.depth for stage in architecture.stages)
    return Cost(params, architecture.neck.width, architecture.stem_width)


def audited(limits: Limits) -> FeasibilityAudit:
    return audit(draw_sample(SPACE, cost_of, samples=SAMPLES, seed=1), limits)


def test_parameters_are_strictly_under_and_the_others_at_most() -> None:
    limits = Limits(max_params=100, max_macs=200, max_memory_bytes=300)
    assert limits.allow(Cost(99, 200, 300))
    assert limits.violations(Cost(100, 200, 300)) == {"max_params": 0.0}
    assert limits.violations(Cost(99, 300, 600)) == {"max_macs": 0.5, "max_memory_bytes": 1.0}


def test_bad_limits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_macs must be positive, got 0"):
        Limits(max_macs=0)
    with pytest.raises(ValueError, match=r"image_size must be a multiple of 32, got 100"):
        Limits(image_size=100)


def test_shares_add_up_and_quantiles_rise() -> None:
    found = audited(Limits(max_params=400, max_macs=24, max_memory_bytes=16))
    assert 0 < found.share < 1
    for name, measure in MEASURED_BY.items():
        assert 0 <= found.broken_alone[name] <= found.broken[name] <= 1 - found.share
        assert list(found.quantiles[measure]) == sorted(found.quantiles[measure])
    assert found.broken["max_macs"] == pytest.approx(3 / 5, abs=0.05)
    assert found.broken["max_memory_bytes"] == pytest.approx(1 / 4, abs=0.05)
    assert found.opening == {}
    found.check()
    assert len(found.summary_lines()) == 4


def test_equal_seeds_give_equal_audits() -> None:
    assert audited(Limits(max_params=400)) == audited(Limits(max_params=400))


def test_the_smallest_change_really_opens_the_space() -> None:
    closed = audited(Limits(max_params=40))
    assert closed.share == 0
    (name,) = closed.opening
    assert name == "max_params"
    assert audited(Limits(max_params=closed.opening[name])).share >= 0.01
    with pytest.raises(
        UserError, match=rf"--max-params 40 is .* is --max-params {closed.opening[name]}"
    ):
        closed.check()


def test_limits_that_must_change_together_do_so() -> None:
    closed = audited(Limits(max_params=10, max_macs=5, max_memory_bytes=2))
    assert set(closed.opening) == set(MEASURED_BY)
    assert audited(Limits(**closed.opening)).share >= 0.01
    with pytest.raises(UserError, match=r"--max-params \d+ --max-macs \d+ --max-memory \d+"):
        closed.check()


def test_a_sample_holds_genotypes_with_their_costs() -> None:
    sample = draw_sample(SPACE, cost_of, samples=50, seed=2)
    limits = Limits(max_params=300, max_macs=32)
    assert len(sample.genotypes) == 50
    for genotype, costs, feasible in zip(
        sample.genotypes, sample.costs, sample.feasible(limits), strict=True
    ):
        cost = cost_of(SPACE.decode(tuple(map(int, genotype))))
        assert (cost.params, cost.macs, cost.peak_bytes) == tuple(costs)
        assert limits.allow(cost) == feasible
    assert sample.macs.max() == 64
    with pytest.raises(ValueError, match="samples must be positive, got 0"):
        draw_sample(SPACE, cost_of, samples=0, seed=2)


def test_progress_is_told() -> None:
    heard: list[tuple[str, int, int]] = []
    draw_sample(
        SPACE,
        cost_of,
        samples=1500,
        seed=0,
        progress=lambda label, done, total: heard.append((label, done, total)),
    )
    assert heard == [("feasibility audit", 1000, 1500), ("feasibility audit", 1500, 1500)]
