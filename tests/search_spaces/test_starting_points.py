from functools import partial

from objectives.cost import architecture_cost
from objectives.limits import Limits
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from search_spaces.starting_points import starting_points

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


def test_three_blocks_are_tried() -> None:
    blocks = {stage.block for point in POINTS for stage in point.stages}
    assert blocks == {"depthwise", "inverted", "linear_attention"}


def test_starting_points_keep_the_usual_limits() -> None:
    limits = Limits()
    for cost in map(partial(architecture_cost, image_size=640), POINTS):
        assert limits.violations(cost) == {}
