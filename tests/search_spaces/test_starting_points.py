from functools import partial

import pytest

from objectives.cost import architecture_cost
from objectives.limits import Limits
from objectives.traced_cost import network_cost
from search_spaces.architecture import Architecture
from search_spaces.blocks import BLOCKS
from search_spaces.catalogue import REFERENCES
from search_spaces.space import SPACE
from search_spaces.starting_points import NEAREST, starting_points

POINTS = starting_points(SPACE)


def test_starting_points_are_spelled_by_the_space() -> None:
    for point in POINTS:
        assert SPACE.decode(SPACE.encode(point)) == point
        assert Architecture.from_key(point.key) == point


def test_starting_points_differ_and_begin_with_the_smallest() -> None:
    assert len(set(POINTS)) == len(POINTS) >= 4
    costs = [architecture_cost(point, image_size=640) for point in POINTS]
    assert POINTS[0] == SPACE.corner(largest=False)
    assert min(costs, key=lambda cost: cost.params) == costs[0]


def test_those_that_a_narrowed_space_does_not_spell_are_left_out() -> None:
    narrowed = SPACE.narrowed({"stem_width": (8,)})
    points = starting_points(narrowed)
    assert points[0] == narrowed.corner(largest=False) != POINTS[0]
    assert set(points[1:]) == {point for point in POINTS if point.stem_width > 8}


def test_every_block_is_tried() -> None:
    blocks = {stage.block for point in POINTS for stage in point.stages}
    assert blocks == set(BLOCKS)


def test_starting_points_keep_the_usual_limits() -> None:
    limits = Limits()
    for cost in map(partial(architecture_cost, image_size=640), POINTS):
        assert limits.violations(cost) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_every_reference_that_keeps_the_limits_has_its_nearest(name: str) -> None:
    cost = network_cost(REFERENCES[name].make(), image_size=640)
    assert (name in NEAREST) == Limits().allow(cost)


@pytest.mark.parametrize("name", NEAREST)
def test_the_nearest_cost_about_as_much(name: str) -> None:
    """Parameters without those of the larger heads that some references have."""
    ours = architecture_cost(NEAREST[name](), image_size=640)
    assert 0.3 < ours.params / REFERENCES[name].params < 1.5
