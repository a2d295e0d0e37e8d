"""The peak of activations: against the recursion that defines it, and against the real modules."""

from dataclasses import replace
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from objectives.memory import (
    best_order_peak,
    layout_peak,
    least_working_set,
    needs_search,
    peak_activation_bytes,
)
from objectives.operators import Layer, Operator, lay_out, whole_network
from search_spaces.architecture import Architecture, Head
from search_spaces.network import build
from search_spaces.space import SPACE
from search_spaces.supernet import covering_architectures
from tests.objectives.drawn_architectures import random_architectures


def make_layer(operators: list[Operator], *outputs: int) -> Layer:
    inputs = sum(not operator.inputs for operator in operators)
    return Layer(tuple(operators), inputs, outputs, params=0, macs=0)


def make_operator(
    inputs: tuple[int, ...], elements: int, *, over: tuple[int, ...] = ()
) -> Operator:
    return Operator("test", inputs, elements, overwrites=over)


# The definition, word for word, and all orders one by one.


def recursive_peak(layer: Layer) -> int:
    size = [operator.elements for operator in layer.operators]
    needs: list[frozenset[int]] = []
    for operator in layer.operators:
        needs.append(frozenset(operator.inputs).union(*(needs[i] for i in operator.inputs)))

    @cache
    def mem(held: frozenset[int]) -> int:
        made = [t for t in held if t >= layer.inputs]
        peaks = []
        for t in made:
            if any(t in needs[other] for other in held):
                continue
            operator, rest = layer.operators[t], held - {t}
            before = rest.union(operator.inputs)
            in_place = any(i not in rest for i in operator.overwrites)
            during = sum(size[i] for i in before) + (0 if in_place else size[t])
            peaks.append(max(mem(before), during))
        return min(peaks) if made else sum(size[i] for i in held)

    return mem(frozenset(layer.outputs))


def peak_of_order(layer: Layer, order: tuple[int, ...]) -> int:
    size = [operator.elements for operator in layer.operators]
    live = set(range(layer.inputs))
    peak = sum(size[i] for i in live)
    for position, t in enumerate(order):
        operator = layer.operators[t]
        later = {i for u in order[position + 1 :] for i in layer.operators[u].inputs}
        later |= set(layer.outputs)
        in_place = any(i not in later for i in operator.overwrites)
        peak = max(peak, sum(size[i] for i in live) + (0 if in_place else size[t]))
        live = {i for i in live | {t} if i in later}
    return peak


def peak_of_all_orders(layer: Layer) -> int:
    runs = range(layer.inputs, len(layer.operators))
    return min(
        peak_of_order(layer, order)
        for order in permutations(runs)
        if all(
            i < layer.inputs or order.index(i) < order.index(t)
            for t in order
            for i in layer.operators[t].inputs
        )
    )


def random_layer(generator: np.random.Generator, *, runs: int) -> Layer:
    """Operators on earlier ones, all of them used; some may write over an input."""
    operators = [make_operator((), int(generator.integers(1, 9)))]
    for t in range(1, runs + 1):
        count = int(generator.integers(1, min(t, 3) + 1))
        inputs = tuple(int(i) for i in generator.choice(t, count, replace=False))
        if generator.random() < 0.4:
            elements = max(operators[i].elements for i in inputs)
            over = tuple(i for i in inputs if operators[i].elements == elements)
            operators.append(make_operator(inputs, elements, over=over))
        else:
            operators.append(make_operator(inputs, int(generator.integers(1, 9))))
    read = {i for operator in operators for i in operator.inputs}
    return make_layer(operators, *(set(range(runs + 1)) - read))


def test_the_search_finds_what_trying_all_orders_finds() -> None:
    generator = np.random.default_rng(0)
    for _ in range(60):
        layer = random_layer(generator, runs=6)
        assert best_order_peak(layer) == recursive_peak(layer) == peak_of_all_orders(layer)


def test_the_search_solves_the_recursion_on_larger_graphs() -> None:
    generator = np.random.default_rng(1)
    for _ in range(150):
        layer = random_layer(generator, runs=13)
        peak = best_order_peak(layer)
        assert peak == recursive_peak(layer)
        assert peak >= least_working_set(layer)
        assert best_order_peak(layer, floor=peak + 3) == peak + 3
        assert best_order_peak(layer, kept=[0]) >= peak


# Worked out by hand.


def test_a_chain_needs_its_largest_input_and_output() -> None:
    chain = [
        make_operator((), 3),
        make_operator((0,), 8),
        make_operator((1,), 2),
        make_operator((2,), 8),
    ]
    assert best_order_peak(make_layer(chain, 3)) == 8 + 3


def test_a_residual_is_kept_while_its_branch_runs_and_is_added_in_place() -> None:
    branch = [make_operator((), 5), make_operator((0,), 20), make_operator((1,), 5)]
    in_place = [*branch, make_operator((0, 2), 5, over=(0, 2))]
    assert best_order_peak(make_layer(in_place, 3)) == 5 + 20 + 5
    assert best_order_peak(make_layer([*branch, make_operator((0, 2), 5)], 3)) == 30
    small = [make_operator((), 5), make_operator((0,), 5), make_operator((0, 1), 5, over=(0, 1))]
    assert best_order_peak(make_layer(small, 2)) == 10
    assert best_order_peak(make_layer([*small[:2], make_operator((0, 1), 5)], 2)) == 15


def test_of_a_diamond_the_branch_with_the_wide_middle_runs_first() -> None:
    # 2 -> 10 -> 1 on one side, 2 -> 6 on the other, then both together. Wide side first:
    # 2 + 10 + 1 = 13, then 2 + 1 + 6 = 9. The other side first: 2 + 6, then 2 + 6 + 10 = 18.
    diamond = [
        make_operator((), 2),
        make_operator((0,), 6),
        make_operator((0,), 10),
        make_operator((2,), 1),
        make_operator((1, 3), 1),
    ]
    layer = make_layer(diamond, 4)
    assert best_order_peak(layer) == 13
    assert peak_of_order(layer, (2, 3, 1, 4)) == 13
    assert peak_of_order(layer, (1, 2, 3, 4)) == 18


def test_an_input_that_is_read_again_is_not_written_over() -> None:
    operators = [
        make_operator((), 4),
        make_operator((0,), 4, over=(0,)),
        make_operator((0, 1), 4, over=(0, 1)),
    ]
    assert best_order_peak(make_layer(operators, 2)) == 8


# Whole networks.


def test_the_short_cut_gives_what_the_search_of_the_whole_network_gives() -> None:
    searched = 0
    for architecture in random_architectures(120, seed=2):
        layout = lay_out(architecture, image_size=640)
        assert layout_peak(layout) == best_order_peak(whole_network(layout)), architecture.key
    for architecture in random_architectures(3000, seed=3):
        layout = lay_out(architecture, image_size=640)
        if needs_search(layout):
            searched += 1
            assert layout_peak(layout) == best_order_peak(whole_network(layout)), architecture.key
    assert searched > 0


def test_it_does_so_where_the_neck_and_the_head_need_most() -> None:
    for architecture in random_architectures(25, seed=8):
        first = replace(architecture.stages[0], width=16, depth=1)
        head = Head("per_level", "depthwise", 1, 128, architecture.head.attention)
        topheavy = replace(
            architecture,
            stem_width=1,
            stages=(first, *architecture.stages[1:]),
            neck=replace(architecture.neck, width=256),
            head=head,
        )
        layout = lay_out(topheavy, image_size=640)
        assert needs_search(layout)
        assert layout_peak(layout) == best_order_peak(whole_network(layout)), topheavy.key


def test_every_layer_of_the_space_agrees_with_the_recursion() -> None:
    seen: set[Layer] = set()
    for architecture in covering_architectures(SPACE):
        seen.update(lay_out(architecture, image_size=64).layers)
    for layer in seen:
        assert best_order_peak(layer) == recursive_peak(layer)


IN_PLACE = {
    *("native_batch_norm", "_native_batch_norm_legit_no_training", "relu"),
    *("hardsigmoid", "sigmoid", "add", "sub", "mul", "div", "lerp"),
}
MAKING = {
    *("convolution", "bmm", "cat", "mean", "amax", "sum"),
    *("upsample_nearest2d", "max_pool2d_with_indices", "_softmax", "stack"),
}


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down the operators that torch runs; what shares its input's storage is a view."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = [make_operator((), image.numel())]
        self.positions = {self.storage(image): 0}
        self.alive: list[Any] = [image]  # so that no storage is used twice

    @staticmethod
    def storage(x: Tensor) -> int:
        return int(x.untyped_storage()._cdata)

    def find(self, tree: Any) -> tuple[int, ...]:
        """Operators whose tensors are among the values: not weights, nor what comes of them."""
        storages = [self.storage(x) for x in tree_leaves(tree) if isinstance(x, Tensor)]
        return tuple(dict.fromkeys(self.positions[x] for x in storages if x in self.positions))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = self.find([args, kwargs])
        y = result[0] if isinstance(result, tuple) else result  # no statistics, no indices
        if inputs and isinstance(y, Tensor) and self.storage(y) not in self.positions:
            kind = func.overloadpacket.__name__
            assert kind in IN_PLACE | MAKING, kind
            same = [i for i in inputs if self.operators[i].elements == y.numel()]
            over = tuple(same) if kind in IN_PLACE else ()
            self.positions[self.storage(y)] = len(self.operators)
            self.operators.append(make_operator(inputs, y.numel(), over=over))
        self.alive.append(result)
        return result


def recorded_layer(architecture: Architecture, image_size: int) -> Layer:
    """The operators of the real modules, none of them fused or left out."""
    with torch.device("meta" if image_size > 100 else "cpu"), torch.no_grad():
        model = build(architecture).eval()
        recorder = Recorder(torch.zeros(1, 3, image_size, image_size))
        with recorder:
            levels = model(recorder.alive[0])
    return make_layer(recorder.operators, *recorder.find(levels))


def test_the_real_modules_need_what_the_architecture_says() -> None:
    architectures = [*covering_architectures(SPACE), *random_architectures(60, seed=4)]
    for architecture in architectures:
        expected = peak_activation_bytes(architecture, image_size=64)
        assert 4 * best_order_peak(recorded_layer(architecture, 64)) == expected, architecture.key


def test_they_need_it_at_the_size_that_is_deployed_too() -> None:
    with_search = [
        architecture
        for architecture in random_architectures(1500, seed=5)
        if needs_search(lay_out(architecture, image_size=640))
    ]
    for architecture in [*with_search[:3], *random_architectures(3, seed=6)]:
        expected = peak_activation_bytes(architecture, image_size=640)
        assert 4 * best_order_peak(recorded_layer(architecture, 640)) == expected, architecture.key


def test_more_pixels_need_more_memory() -> None:
    for architecture in random_architectures(10, seed=6):
        sizes = (32, 64, 96, 320, 640)
        peaks = [peak_activation_bytes(architecture, image_size=size) for size in sizes]
        assert peaks == sorted(set(peaks))
        assert peaks[-1] >= 640 * 640 * 3 * 4


@pytest.mark.parametrize("image_size", [0, -32, 100])
def test_a_wrong_image_size_is_refused(image_size: int) -> None:
    with pytest.raises(ValueError, match="image_size must be a positive multiple of 32"):
        peak_activation_bytes(SPACE.corner(largest=False), image_size=image_size)
