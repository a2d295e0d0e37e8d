"""What any face network costs: its operators are written down while it runs on shapes alone.

Counted is the network as published, landmark branches included, though an export, which never
reads them, leaves them out. Parameters and MACs are those of `objectives.cost`; interpolating
between pixels, as deformable convolution does, has no MACs. The peak follows the rules of
`objectives.memory` and `objectives.operators`:

- What shares the storage of its input is a view and no operator.
- An elementwise operator, and a batch norm, which folds into the convolution before it, may
  write over an input of its own size and memory order that nobody reads any more.
- Everything else makes a new tensor: also the copy that brings a transposed map in order, as in
  a channel shuffle. Numbers that are not float32, such as indices, take the bytes they have.
- What depends on weights and shapes alone is known before the image comes.

For networks of the space this gives, to the byte, what their formula gives.

Large networks with parallel branches have too many orders to look at all: `bottleneck_peak` gives
one order's peak and a bound that no order beats, and nearly always the two are equal. Where they
are not, a search looks between them; where it does not end in time, the peak is called an upper
bound.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from objectives.cost import Cost, architecture_cost, count_macs_by_torch, count_parameters
from objectives.memory import FLOAT_BYTES, Order, search_orders
from objectives.operators import Layer, Operator, check_image_size
from search_spaces.face_network import FaceNetwork
from search_spaces.network import Detector

UNTAGGED_ELEMENTWISE = frozenset(
    {
        *("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"),
        *("hardswish", "hardswish_", "_prelu_kernel", "_to_copy", "copy_"),
    }
)
"""Elementwise operators, or foldable into one, that torch's own tag does not name."""

MOST_SETS = 50_000
"""Sets of operators that the search for a better order looks at: a few seconds."""

UNLIMITED = 2**31 - 1
"""A capacity that no flow fills: scipy's flows are of 32 bits."""


class UpperBoundWarning(UserWarning):
    """A peak is that of a good order of operators; the best order may need less."""


@dataclass(frozen=True, slots=True)
class ActivationPeak:
    """Peak activation memory of one float32 image over the best operator order, without weights.

    peak_bytes: what some order needs. least_bytes: what no order avoids.
    """

    peak_bytes: int
    least_bytes: int

    @property
    def is_exact(self) -> bool:
        """Whether peak_bytes is the best order's, and not only an upper bound."""
        return self.peak_bytes == self.least_bytes


def network_cost(network: FaceNetwork, *, image_size: int) -> Cost:
    """What a network costs on square images; it is left as it was.

    A Detector costs what the formula says of its architecture, which knows no landmarks. Warns
    with UpperBoundWarning where the peak is only an upper bound.

    Raises:
        ValueError: image_size, in pixels, is not a positive multiple of 32.
    """
    if isinstance(network, Detector):
        return architecture_cost(network.architecture, image_size=image_size)
    shaped = _without_numbers(network)
    macs = count_macs_by_torch(shaped, image_size=image_size)
    peak = traced_peak(shaped, image_size=image_size)
    if not peak.is_exact:
        warnings.warn(
            f"{network.key} at {image_size} px: {peak.peak_bytes} bytes are an upper bound of its "
            f"peak memory; no order of operators needs less than {peak.least_bytes}",
            UpperBoundWarning,
            stacklevel=2,
        )
    return Cost(count_parameters(shaped), macs, peak.peak_bytes)


def activation_peak(network: FaceNetwork, *, image_size: int) -> ActivationPeak:
    """The peak that `network_cost` gives, with what is known of it.

    Raises:
        ValueError: image_size, in pixels, is not a positive multiple of 32.
    """
    if isinstance(network, Detector):
        peak_bytes = architecture_cost(network.architecture, image_size=image_size).peak_bytes
        return ActivationPeak(peak_bytes, peak_bytes)
    return traced_peak(network, image_size=image_size)


def traced_peak(network: FaceNetwork, *, image_size: int) -> ActivationPeak:
    """The peak of a network as it runs on one square image.

    Raises:
        ValueError: image_size, in pixels, is not a positive multiple of 32.
    """
    peak, least = best_peak(trace_operators(network, image_size=image_size))
    return ActivationPeak(FLOAT_BYTES * peak, FLOAT_BYTES * least)


# The graph.


def trace_operators(network: FaceNetwork, *, image_size: int) -> Layer:
    """Everything from one square image to the levels, in the order it runs.

    Sizes are in numbers of FLOAT_BYTES. The layer's params and macs are left at 0.

    Raises:
        ValueError: image_size, in pixels, is not a positive multiple of 32.
        NotImplementedError: the network reads a second result of an operator.
    """
    check_image_size(image_size)
    shaped = _without_numbers(network)
    with torch.no_grad():
        image = torch.empty(1, 3, image_size, image_size, device="meta")
        recorder = _Recorder(image)
        with recorder:
            levels = shaped(image)
    outputs = recorder.find(levels)
    return Layer(tuple(recorder.operators), inputs=1, outputs=outputs, params=0, macs=0)


def _without_numbers(network: FaceNetwork) -> FaceNetwork:
    """The network in eval mode on torch's meta device, where tensors have shapes alone."""
    if not network.training and all(p.is_meta for p in network.parameters()):
        return network
    shaped = copy.deepcopy(network).to("meta").eval()
    return shaped.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload,no-any-return]


def _storage(x: Tensor) -> int:
    """Names the memory of a tensor; a view has that of what it looks at."""
    return int(x.untyped_storage()._cdata)


def _size(x: Tensor) -> int:
    """How many numbers of FLOAT_BYTES fill the memory of a tensor."""
    return -(-x.untyped_storage().nbytes() // FLOAT_BYTES)


def _fits(x: Tensor, y: Tensor) -> bool:
    """Whether y can be written number by number over all the memory of x."""
    whole = x.numel() * x.element_size() == x.untyped_storage().nbytes()
    return whole and (x.dtype, x.shape, x.stride()) == (y.dtype, y.shape, y.stride())


class _Recorder(TorchDispatchMode):
    """Writes down the operators that torch runs while it is entered."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = [Operator("input", (), _size(image))]
        self._positions = {_storage(image): 0}
        self._secondary: dict[int, str] = {}
        self._alive: list[Any] = [image]  # so that no storage is used twice

    def find(self, tree: Any) -> tuple[int, ...]:
        """Operators whose tensors are among the values: not weights, nor what comes of them."""
        storages = [_storage(x) for x in tree_leaves(tree) if isinstance(x, Tensor)]
        for storage in storages:
            if storage in self._secondary:
                name = self._secondary[storage]
                raise NotImplementedError(f"only the first result of {name} can be followed")
        found = [self._positions[s] for s in storages if s in self._positions]
        return tuple(dict.fromkeys(found))

    def __torch_dispatch__(
        self,
        func: OpOverload[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        tree = [args, kwargs or {}]
        inputs = self.find(tree)
        result = func(*args, **(kwargs or {}))
        self._alive.append(result)
        tensors = [y for y in tree_leaves(result) if isinstance(y, Tensor)]
        if not func._schema.is_mutable:
            tensors = [y for y in tensors if _storage(y) not in self._positions]
        if inputs and tensors:
            first, *others = tensors
            self._write_down(func, tree, inputs, first)
            name = func.overloadpacket.__name__
            self._secondary |= {_storage(y): name for y in others if y.numel()}
        return result

    def _write_down(
        self, func: OpOverload[..., Any], tree: Any, inputs: tuple[int, ...], y: Tensor
    ) -> None:
        """One more operator. One that changes a tensor in place makes a new one: it takes the old
        one's memory once that has no other reader left."""
        name, storage = func.overloadpacket.__name__, _storage(y)
        overwrites: tuple[int, ...] = ()
        if torch.Tag.pointwise in func.tags or name in UNTAGGED_ELEMENTWISE:
            tensors = [x for x in tree_leaves(tree) if isinstance(x, Tensor)]
            overwrites = self.find([x for x in tensors if _fits(x, y)])
        if storage in self._positions:
            overwrites = tuple({*overwrites, self._positions[storage]})
        self._positions[storage] = len(self.operators)
        self.operators.append(Operator(name, inputs, _size(y), overwrites=overwrites))


# The order.


def best_peak(layer: Layer, *, most_sets: int = MOST_SETS) -> tuple[int, int]:
    """The peak of the best order found, and what no order avoids, in numbers.

    Equal, unless the search would have to look at more than `most_sets` sets of operators.
    """
    peak, least = bottleneck_peak(layer)
    if peak == least:
        return peak, least
    return search_orders(layer, floor=least, below=peak, most_sets=most_sets)


def bottleneck_peak(layer: Layer) -> tuple[int, int]:
    """The peak of one good order of a layer's operators, and what no order avoids, in numbers.

    An operator needs least memory when what ran before it leaves least behind: a minimum cut of
    the graph. The largest of these needs is what no order avoids. The order starts as the written
    one; while it needs more, its most demanding operator is put where it needs least, and the
    operators before and after it are looked at by themselves.
    """
    cuts = _Cuts(layer)
    start, end = (1 << layer.inputs) - 1, (1 << len(layer.operators)) - 1
    written = sorted(cuts.needs_of_written_order(start, end), reverse=True)
    least = 0
    for need, t in written:
        if need <= least:
            break
        least = max(least, cuts.least_need(t, start, end)[0])
    peak, segments = 0, [(start, end)]
    while segments:
        before, after = segments.pop()
        need, t = max(cuts.needs_of_written_order(before, after), default=(0, 0))
        if need > least:
            best, ran = cuts.least_need(t, before, after)
            if best < need:
                segments += [(before, ran), (ran | 1 << t, after)]
                need = cuts.need(t, ran)
        peak = max(peak, need)
    return min(peak, written[0][0]), least


class _Cuts:
    """What operators need at best, by minimum cuts of their graph.

    Sets of operators that have run are integers with their bits set. In the network of flow,
    operator t is node t; what its output takes is the capacity from t to node n + t, which
    stands for the output being kept; the last two nodes are the source and the sink. A cut
    leaves on the source's side what has run.
    """

    def __init__(self, layer: Layer) -> None:
        self.order = Order(layer, layer.outputs)
        self.count = n = len(layer.operators)
        self.edges = [(t, n + t, operator.elements) for t, operator in enumerate(layer.operators)]
        for t, readers in enumerate(self.order.readers):
            for reader in readers:
                self.edges += [(n + t, reader, UNLIMITED), (reader, t, UNLIMITED)]
        self.edges += [(n + t, 2 * n + 1, UNLIMITED) for t in layer.outputs]

    def held(self, ran: int) -> int:
        """Numbers in memory when `ran` has run."""
        order = self.order
        return sum(
            operator.elements
            for t, operator in enumerate(order.operators)
            if ran >> t & 1 and (t in order.kept or order.reader_set[t] & ~ran)
        )

    def need(self, t: int, ran: int) -> int:
        """Numbers in memory while t runs after `ran`."""
        return self.order.step(ran, self.held(ran), t)[0]

    def needs_of_written_order(self, before: int, after: int) -> list[tuple[int, int]]:
        """(need, t) of every t of `after` that is not in `before`, as they run one by one."""
        needs, ran, live = [], before, self.held(before)
        for t in range(self.count):
            if (after & ~before) >> t & 1:
                need, live = self.order.step(ran, live, t)
                needs.append((need, t))
                ran |= 1 << t
        return needs

    def least_need(self, t: int, before: int, after: int) -> tuple[int, int]:
        """The least need of t over all that can have run, from `before` to `after`; and what."""
        operator, source = self.order.operators[t], 2 * self.count
        must, may = before | self.order.needs[t], after & ~(1 << t)
        everything = range(self.count)
        edges = [(source, i, UNLIMITED) for i in everything if must >> i & 1]
        edges += [(i, source + 1, UNLIMITED) for i in everything if not may >> i & 1]
        rows, columns, capacities = np.array(self.edges + edges, np.int32).T
        shape = (source + 2, source + 2)
        graph = csr_array((capacities, (rows, columns)), shape=shape)
        flow = maximum_flow(graph, source, source + 1)
        left = csr_array(graph - flow.flow)
        left.eliminate_zeros()
        reached = breadth_first_order(left, source, return_predecessors=False)
        ran = sum(1 << int(i) for i in reached if i < self.count)
        return int(flow.flow_value) + (0 if operator.overwrites else operator.elements), ran
