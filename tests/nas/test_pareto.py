"""The front, its bend and its hypervolume, against their definitions."""

import itertools
import math

import numpy as np
import pytest

from nas.pareto import (
    Box,
    Point,
    anytime_hypervolume,
    extremes,
    hypervolume,
    knee,
    nearest_front,
    pareto_front,
    spread,
)


def random_points(seed: int, count: int = 40) -> list[Point]:
    """Points on a coarse grid, so that ties and duplicates occur."""
    generator = np.random.default_rng(seed)
    return [(float(c), float(a) / 10) for c, a in generator.integers(1, 15, (count, 2))]


def beats(a: Point, b: Point) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a != b


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_exactly_the_unbeaten_points(seed: int) -> None:
    points = random_points(seed)
    front = pareto_front(points)
    unbeaten = {p for p in points if not any(beats(other, p) for other in points)}
    assert {points[i] for i in front} == unbeaten
    assert len(front) == len(unbeaten), "of equal points one stays"
    assert all(points.index(points[i]) == i for i in front), "and it is the first"


@pytest.mark.parametrize("seed", range(5))
def test_nearest_the_front_is_one_front_after_another(seed: int) -> None:
    points = random_points(seed)
    first = pareto_front(points)
    others = [i for i in range(len(points)) if i not in first]
    second = [others[i] for i in pareto_front([points[i] for i in others])]
    assert nearest_front(points, len(first)) == first
    assert nearest_front(points, len(first) + len(second)) == [*first, *second]
    assert nearest_front(points, len(first) + 2) == [*first, second[0], second[-1]]
    assert sorted(nearest_front(points, 99)) == list(range(len(points)))
    assert nearest_front(points, 0) == nearest_front([], 3) == []


@pytest.mark.parametrize(
    ("count", "taken"),
    [(0, []), (1, [0]), (2, [0, 9]), (3, [0, 4, 9]), (9, [0, 1, 2, 3, 4, 6, 7, 8, 9])],
)
def test_spread_items_lie_at_even_distances(count: int, taken: list[int]) -> None:
    assert spread(range(10), count) == taken
    assert spread(range(2), 5) == [0, 1]


@pytest.mark.parametrize("seed", range(10))
def test_along_the_front_cost_and_precision_both_rise(seed: int) -> None:
    points = random_points(seed)
    front = [points[i] for i in pareto_front(points)]
    for (cost, precision), (next_cost, next_precision) in itertools.pairwise(front):
        assert next_cost > cost
        assert next_precision > precision


def test_an_empty_set_has_an_empty_front_and_no_knee() -> None:
    assert pareto_front([]) == []
    assert hypervolume([], reference=(1.0, 0.0)) == 0
    for choose in (extremes, knee):
        with pytest.raises(ValueError, match="empty"):
            choose([])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_cannot_be_ordered_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="index 1"):
        pareto_front([(1.0, 0.5), (bad, 0.5)])


def test_extremes_are_the_ends_of_the_front() -> None:
    points = [(5.0, 0.9), (1.0, 0.1), (9.0, 0.2), (1.0, 0.3)]
    assert extremes(points) == (3, 0)


def test_the_knee_is_where_the_front_bends() -> None:
    points = [(1.0, 0.1), (10.0, 0.8), (100.0, 0.85), (1000.0, 0.9)]
    assert knee(points) == 1
    assert knee([(c * 7, a) for c, a in points]) == 1, "the unit of cost does not matter"
    assert knee([(c, a * 0.3) for c, a in points]) == 1, "nor that of precision"


def test_a_short_front_bends_at_its_most_precise_point() -> None:
    assert knee([(1.0, 0.2)]) == 0
    assert knee([(2.0, 0.4), (1.0, 0.2)]) == 0


def test_a_front_that_sags_still_has_a_knee_between_its_ends() -> None:
    assert knee([(1.0, 0.1), (10.0, 0.15), (100.0, 0.2), (1000.0, 0.9)]) == 1


def test_costs_without_a_logarithm_are_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        knee([(0.0, 0.1), (1.0, 0.5), (2.0, 0.6)])


def test_hypervolume_of_rectangles_drawn_by_hand() -> None:
    # 2 x 0.5 up to the first precision, then 1 x 0.25 on top of it.
    assert hypervolume([(1.0, 0.5), (2.0, 0.75)], reference=(3.0, 0.0)) == 2 * 0.5 + 1 * 0.25
    assert hypervolume([(1.0, 0.5)], reference=(1.0, 0.0)) == 0
    assert hypervolume([(1.0, 0.5)], reference=(3.0, 0.5)) == 0


@pytest.mark.parametrize("seed", range(10))
def test_hypervolume_equals_the_count_of_dominated_grid_cells(seed: int) -> None:
    points = [(cost, round(precision * 10)) for cost, precision in random_points(seed)]
    cells = sum(
        any(cost <= x and precision >= y + 1 for cost, precision in points)
        for x in range(12)
        for y in range(2, 20)
    )
    assert hypervolume(points, reference=(12.0, 2.0)) == cells


@pytest.mark.parametrize("seed", range(10))
def test_hypervolume_ignores_order_and_never_falls(seed: int) -> None:
    points = random_points(seed)
    areas = [hypervolume(points[:n], reference=(20.0, 0.0)) for n in range(len(points) + 1)]
    assert areas == sorted(areas)
    assert hypervolume(points[::-1], reference=(20.0, 0.0)) == areas[-1]


def test_hypervolume_at_any_time_is_that_of_the_points_so_far() -> None:
    generator = np.random.default_rng(4)
    points: list[tuple[float, float] | None] = [
        None if i % 4 == 0 else (x, y) for i, (x, y) in enumerate(generator.random((30, 2)))
    ]
    curve = anytime_hypervolume(points, reference=(0.9, 0.1))
    for count in range(1, 31):
        so_far = [point for point in points[:count] if point is not None]
        assert curve[count - 1] == pytest.approx(hypervolume(so_far, reference=(0.9, 0.1)))
    assert curve == sorted(curve)
    assert anytime_hypervolume([], reference=(1.0, 0.0)) == []


def test_a_share_of_the_box_is_worked_out_on_a_logarithmic_scale() -> None:
    box = Box(least=1.0, highest=100.0)
    points = [None, (math.log(10.0), 0.4), (math.log(1.0), 0.1), None, (math.log(10.0), 0.2)]
    assert box.curve(points) == pytest.approx([0.0, 0.2, 0.25, 0.25, 0.25])
    assert Box(3.0, 3.0).curve([(math.log(3.0), 0.5)]) == [0.0]
