"""How much memory a network's activations need at their peak, over the best operator order.

The peak is that of a runtime that keeps a tensor from the operator that makes it to the last
that reads it, and runs the operators in the order that needs least. Conventions: float32, one
image; weights are counted apart; the image counts until its last reader; the three levels are
results and stay to the end; a convolution's own scratch memory is not counted; what an operator
is, and what it may write over, is said in `objectives.operators`.

The best order is defined by a recursion over sets S of tensors in memory:

    mem(S) = min over t in S that no other member of S needs of
             max(mem(S - t + in(t)), size(S - t + in(t) + t))

where an elementwise t that may take the place of one of in(t) that is not in S - t adds no size
of its own. `best_order_peak` solves it exactly, walking the same sets from the image forwards.

Source: the recursion is that of Liberis and Lane, arXiv:1910.05110, section 4, and of uNAS,
arXiv:2010.14246.
"""

import heapq
import sys
from collections.abc import Collection
from functools import cache

from objectives.operators import Layer, Layout, after_first_stage, lay_out
from search_spaces.architecture import Architecture

FLOAT_BYTES = 4

NO_LIMIT = sys.maxsize


class Order:
    """The choices that remain while a layer's operators are being put in an order.

    A set of operators that have run is an integer with their bits set; it settles which tensors
    are in memory. By operator: `needs`, the set of its inputs; `readers`, what it is an input
    of, and `reader_set`, the same as a set. `kept`: those whose outputs stay to the end.
    """

    def __init__(self, layer: Layer, kept: Collection[int]) -> None:
        self.operators = layer.operators
        self.everything = (1 << len(layer.operators)) - 1
        self.kept = frozenset(kept)
        self.needs = [sum(1 << i for i in operator.inputs) for operator in layer.operators]
        self.readers: list[list[int]] = [[] for _ in layer.operators]
        for position, operator in enumerate(layer.operators):
            for i in operator.inputs:
                self.readers[i].append(position)
        self.reader_set = [sum(1 << i for i in readers) for readers in self.readers]

    def step(self, ran: int, live: int, t: int) -> tuple[int, int]:
        """Numbers in memory while t runs and after it, with `live` of them before."""
        operator = self.operators[t]
        unread = self.everything & ~(ran | 1 << t)
        dying = [
            i for i in operator.inputs if i not in self.kept and not self.reader_set[i] & unread
        ]
        during = live if any(i in operator.overwrites for i in dying) else live + operator.elements
        return during, live + operator.elements - sum(self.operators[i].elements for i in dying)

    def ready_after(self, ran: int, ready: tuple[int, ...], t: int) -> tuple[int, ...]:
        """What can run once t has, given what could before. `ran` has t in it."""
        new = [i for i in self.readers[t] if not self.needs[i] & ~ran]
        return (*(i for i in ready if i != t), *new)


def least_working_set(layer: Layer) -> int:
    """What no order avoids: the largest operator's inputs and output. Unit: numbers."""
    sizes = [operator.elements for operator in layer.operators]
    return max(
        sum(sizes[i] for i in operator.inputs) + (0 if operator.overwrites else operator.elements)
        for operator in layer.operators
    )


def best_order_peak(layer: Layer, *, kept: Collection[int] = (), floor: int = 0) -> int:
    """The least, over all orders, of the most numbers in memory at a time; at least `floor`.

    All inputs are there at the beginning; the outputs, and the operators `kept`, stay to the
    end.
    """
    return search_orders(layer, kept=kept, floor=floor)[0]


def search_orders(
    layer: Layer,
    *,
    kept: Collection[int] = (),
    floor: int = 0,
    below: int = NO_LIMIT,
    most_sets: int = NO_LIMIT,
) -> tuple[int, int]:
    """As `best_order_peak`, but `below` where no order needs less; and what no order avoids.

    The two are equal, unless the search would have to look at more than `most_sets` sets of
    operators: it is then given up, and the first is `below`.

    Exact: sets are visited in the order of the peak that reaching them takes (Dijkstra's
    algorithm, with a maximum where it has a sum), starting from a bound that no order avoids. One
    rule cuts the search down: an operator that stays within the peak reached so far and leaves
    no more in memory than it found can as well run at once, for everything that could run before
    it can still run after it, in no more memory.
    """
    order = Order(layer, {*layer.outputs, *kept})
    ran = (1 << layer.inputs) - 1
    live = sum(operator.elements for operator in layer.operators[: layer.inputs])
    ready = tuple(t for t in range(layer.inputs, len(layer.operators)) if not order.needs[t] & ~ran)
    peak = max(floor, live, least_working_set(layer))
    queue = [(peak, 0, ran, live, ready)]
    seen: set[int] = set()
    while queue and len(seen) < most_sets:
        peak, depth, ran, live, ready = heapq.heappop(queue)
        if ran == order.everything:
            return peak, peak
        if ran in seen:
            continue
        seen.add(ran)
        steps = [(t, *order.step(ran, live, t)) for t in ready]
        free = [step for step in steps if step[1] <= peak and step[2] <= live]
        for t, during, after in free[:1] or steps:
            if during < below:
                then = ran | 1 << t
                left = order.ready_after(then, ready, t)
                heapq.heappush(queue, (max(peak, during), depth - 1, then, after, left))
    return (below, peak) if queue else (below, below)


@cache
def _peak(layer: Layer) -> int:
    return best_order_peak(layer)


@cache
def _peak_keeping_inputs(layer: Layer) -> int:
    return best_order_peak(layer, kept=range(layer.inputs))


def _later_stages_bound(layout: Layout) -> int:
    """What one good order needs from the first stage's feature on: never less than the best.

    The backbone runs straight through, a lateral as soon as its feature is there if that makes
    the next stage cheaper, else after the backbone; then the cells; then the towers, the finest
    level first.
    """
    features = [lateral.operators[0].elements for lateral in layout.laterals]
    levels = [lateral.operators[1].elements for lateral in layout.laterals]
    peak, held = 0, 0
    growths = [(levels[-1] - features[-1], levels[-1])]  # of the laterals that wait
    for layers, feature, level in zip(layout.stages[1:], features, levels, strict=False):
        with_level = max([_peak(layer) for layer in layers]) + level
        with_feature = max(
            [_peak_keeping_inputs(layers[0]), *[_peak(layer) + feature for layer in layers[1:]]]
        )
        peak = max(peak, held + min(with_level, with_feature))
        if with_level < with_feature:
            held += level
        else:
            held += feature
            growths.append((level - feature, level))
    held += features[-1]
    for growth, level in sorted(growths):
        peak = max(peak, held + level)
        held += growth
    peak = max(peak, *[_peak(cell) for cell in layout.cells])
    for tower, level in zip(layout.towers, levels, strict=True):
        peak = max(peak, held - level + _peak(tower))
        held += tower.operators[-1].elements - level
    return peak


def needs_search(layout: Layout) -> bool:
    """Whether the peak may lie behind the first stage, where the order is a real choice."""
    return _later_stages_bound(layout) > _first_stage_peak(layout)


def _first_stage_peak(layout: Layout) -> int:
    """Exact up to the first stage's feature: a chain of layers, each behind the one before."""
    return max([_peak(layer) for layer in (*layout.stem, *layout.stages[0])])


def layout_peak(layout: Layout) -> int:
    """The peak of a network in numbers; exact.

    Everything after the first stage's feature depends on it, and everything before leads to it,
    so the peak is the larger of the two sides'. Where a good order of the second side stays
    within the first side's peak, nothing is left to search.
    """
    peak = _first_stage_peak(layout)
    if _later_stages_bound(layout) <= peak:
        return peak
    return best_order_peak(after_first_stage(layout), floor=peak)


def peak_activation_bytes(architecture: Architecture, *, image_size: int) -> int:
    """Peak activation memory of one square float32 image, without weights. Unit: bytes.

    Raises:
        ValueError: image_size, in pixels, is not a positive multiple of 32.
    """
    return FLOAT_BYTES * layout_peak(lay_out(architecture, image_size=image_size))
