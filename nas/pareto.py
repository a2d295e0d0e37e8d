"""Choosing among networks by two objectives: a cost to lower and a precision to raise.

A point is (cost, precision). Only two objectives are known here: everything is exact and sorted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point beats, from the cheapest to the most precise.

    A point is beaten by one that costs no more and is at least as precise, and better in one of
    the two. Of equal points the first stays.

    Raises:
        ValueError: a number is not finite.
    """
    for index, point in enumerate(points):
        if not all(map(math.isfinite, point)):
            raise ValueError(f"points must be finite, got {point} at index {index}")
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def nearest_front(points: Sequence[Point], count: int) -> list[int]:
    """Indices of the front's points, then of the front of the others, and so on, count in all.

    Of the last of these fronts points are taken at even distances, both ends among them.
    """
    left, found = list(range(len(points))), list[int]()
    while left and len(found) < count:
        front = [left[i] for i in pareto_front([points[i] for i in left])]
        found += spread(front, count - len(found))
        left = [i for i in left if i not in front]
    return found


def spread(items: Sequence[int], count: int) -> list[int]:
    """At most count of the items, at even distances, both ends among them."""
    count = min(count, len(items))
    if count == 0:
        return []
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]


def extremes(points: Sequence[Point]) -> tuple[int, int]:
    """Indices of the cheapest and of the most precise point of the front.

    Raises:
        ValueError: there is no point.
    """
    front = pareto_front(points)
    if not front:
        raise ValueError("points must not be empty")
    return front[0], front[-1]


def knee(points: Sequence[Point]) -> int:
    """Index of the front's bend: the point farthest above the line between the front's ends.

    Both axes are scaled to 0..1 between the ends, and the cost enters by its logarithm, because
    halving a cost is worth the same wherever one starts; on a linear axis the bend of every front
    that spans a decade lies among its cheapest points. Only points between the ends are
    considered, also when all of them lie below the line; of equal ones the cheapest is taken. A
    front of one or two points has no bend: its most precise point is given.

    Source: Das, On characterizing the "knee" of the Pareto curve, Structural Optimization 18, 1999.

    Raises:
        ValueError: there is no point, or a cost of the front is not positive.
    """
    front = pareto_front(points)
    if not front:
        raise ValueError("points must not be empty")
    if points[front[0]][0] <= 0:
        raise ValueError(f"costs must be positive, got {points[front[0]][0]}")
    if len(front) <= 2:
        return front[-1]
    (cost_0, precision_0), (cost_1, precision_1) = points[front[0]], points[front[-1]]

    def height_above_line(index: int) -> float:
        cost, precision = points[index]
        along_cost = math.log(cost / cost_0) / math.log(cost_1 / cost_0)
        return (precision - precision_0) / (precision_1 - precision_0) - along_cost

    return max(front[1:-1], key=height_above_line)


def hypervolume(points: Sequence[Point], *, reference: Point) -> float:
    """Exact area that the points dominate, up to a reference of highest cost and least precision.

    Unit: cost times precision. Points that are not better than the reference in both add nothing.
    """
    highest_cost, precision = reference
    area = 0.0
    for cost, better in (points[index] for index in pareto_front(points)):
        if cost < highest_cost and better > precision:
            area += (highest_cost - cost) * (better - precision)
            precision = better
    return area


def anytime_hypervolume(points: Sequence[Point | None], *, reference: Point) -> list[float]:
    """The hypervolume of the first point, of the first two, and so on. None adds nothing."""
    front: list[Point] = []
    areas: list[float] = []
    for point in points:
        candidates = front if point is None else [*front, point]
        front = [candidates[i] for i in pareto_front(candidates)]
        areas.append(hypervolume(front, reference=reference))
    return areas


@dataclass(frozen=True, slots=True)
class Box:
    """What hypervolumes are shares of: log cost from the least to the highest, AP from 0 to 1.

    Points have logarithmic costs, `least` and `highest` are plain ones.
    """

    least: float
    highest: float

    def share(self, points: Sequence[Point]) -> float:
        """What the points dominate."""
        return self._part(hypervolume(points, reference=self._corner))

    def curve(self, points: Sequence[Point | None]) -> list[float]:
        """The share reached after each point."""
        return [self._part(area) for area in anytime_hypervolume(points, reference=self._corner)]

    @property
    def _corner(self) -> Point:
        return math.log(self.highest), 0.0

    def _part(self, area: float) -> float:
        width = math.log(self.highest / self.least)
        return area / width if width > 0 else 0.0
