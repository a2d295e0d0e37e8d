"""Costs read off a running network: against the formula, the exact search, and by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from objectives import traced_cost
from objectives.cost import Cost, architecture_cost, count_macs_by_torch
from objectives.memory import best_order_peak, needs_search
from objectives.operators import Layer, Operator, lay_out, whole_network
from objectives.traced_cost import (
    ActivationPeak,
    UpperBoundWarning,
    best_peak,
    bottleneck_peak,
    network_cost,
    trace_operators,
    traced_peak,
)
from search_spaces.architecture import Architecture, Head
from search_spaces.codes import AnchorFreeCode
from search_spaces.face_network import FaceNetwork
from search_spaces.network import Detector, build
from search_spaces.space import SPACE
from search_spaces.supernet import covering_architectures
from tests.objectives.drawn_architectures import random_architectures

SMALLEST = SPACE.corner(largest=False)


def build_without_memory(architecture: Architecture) -> Detector:
    with torch.device("meta"):
        return build(architecture)


class Sketch(FaceNetwork):
    """A network of one function, and of modules that it may use."""

    def __init__(self, function: Callable[[Tensor], Any], *modules: nn.Module) -> None:
        super().__init__("sketch", AnchorFreeCode())
        self.function = function
        self.parts = nn.ModuleList(modules)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.function(images),)

    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return features


def convolution(c_in: int, c_out: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)


def planes_of(function: Callable[[Tensor], Any], *modules: nn.Module) -> float:
    """The peak in planes of 32 x 32 numbers; the image has three."""
    peak = traced_peak(Sketch(function, *modules), image_size=32)
    assert peak.is_exact
    return peak.peak_bytes / (4 * 32 * 32)


# Against the formula.


def assert_equal_to_the_formula(architecture: Architecture, image_size: int) -> None:
    network = build_without_memory(architecture)
    expected = architecture_cost(architecture, image_size=image_size)
    assert network_cost(network, image_size=image_size) == expected
    peak = traced_peak(network, image_size=image_size)
    assert peak == ActivationPeak(expected.peak_bytes, expected.peak_bytes), architecture.key
    assert count_macs_by_torch(network, image_size=image_size) == expected.macs


def test_networks_of_the_space_need_what_their_formula_says() -> None:
    for architecture in random_architectures(12, seed=11):
        assert_equal_to_the_formula(architecture, 640)


@pytest.mark.slow
def test_they_do_so_with_every_choice_of_the_space() -> None:
    for architecture in covering_architectures(SPACE):
        assert_equal_to_the_formula(architecture, 64)


def test_they_do_so_where_the_neck_and_the_head_need_most() -> None:
    searched = 0
    for architecture in random_architectures(4, seed=12):
        topheavy = replace(
            architecture,
            stem_width=1,
            stages=(replace(architecture.stages[0], width=16, depth=1), *architecture.stages[1:]),
            neck=replace(architecture.neck, width=256),
            head=Head("per_level", "depthwise", 1, 128, architecture.head.attention),
        )
        searched += needs_search(lay_out(topheavy, image_size=320))
        assert_equal_to_the_formula(topheavy, 320)
    assert searched > 0


# Against the exact search.


def random_layer(generator: np.random.Generator, *, runs: int) -> Layer:
    """Operators on earlier ones, all of them used; a few may write over an input."""
    operators = [Operator("input", (), int(generator.integers(1, 9)))]
    for t in range(1, runs + 1):
        count = int(generator.integers(1, min(t, 3) + 1))
        inputs = tuple(int(i) for i in generator.choice(t, count, replace=False))
        elements = int(generator.integers(1, 9))
        over = tuple(i for i in inputs if operators[i].elements == elements)
        operators.append(Operator("test", inputs, elements, overwrites=over))
    read = {i for operator in operators for i in operator.inputs}
    outputs = tuple({*range(runs + 1)} - read)
    return Layer(tuple(operators), inputs=1, outputs=outputs, params=0, macs=0)


def test_the_best_order_lies_between_the_bound_and_the_order_found() -> None:
    generator = np.random.default_rng(0)
    exact = 0
    for _ in range(150):
        layer = random_layer(generator, runs=12)
        best = best_order_peak(layer)
        peak, least = bottleneck_peak(layer)
        assert least <= best <= peak
        exact += peak == least
        assert best_peak(layer) == (best, best)
    assert 30 < exact < 150, "the bound is worth something, and not all"


def test_a_search_that_is_given_up_says_what_it_knows() -> None:
    generator = np.random.default_rng(1)
    given_up = 0
    for _ in range(50):
        layer = random_layer(generator, runs=12)
        peak, least = best_peak(layer, most_sets=3)
        assert least <= best_order_peak(layer) <= peak
        given_up += least < peak
    assert given_up > 0


def test_the_bound_is_reached_on_networks_that_need_a_search() -> None:
    searched = [
        layout
        for architecture in random_architectures(1500, seed=13)
        if needs_search(layout := lay_out(architecture, image_size=640))
    ]
    assert searched
    for layout in searched:
        layer = whole_network(layout)
        assert bottleneck_peak(layer) == (best_order_peak(layer),) * 2


def test_a_better_order_than_the_written_one_is_found() -> None:
    # 2 -> 6 on one side, 2 -> 10 -> 1 on the other, then both: 18 as written, 13 at best.
    operators = (
        Operator("input", (), 2),
        Operator("narrow", (0,), 6),
        Operator("wide", (0,), 10),
        Operator("reduce", (2,), 1),
        Operator("join", (1, 3), 1),
    )
    layer = Layer(operators, inputs=1, outputs=(4,), params=0, macs=0)
    assert bottleneck_peak(layer) == (13, 13)


# By hand.


def test_folded_norms_and_activations_cost_nothing() -> None:
    plain = convolution(3, 8)
    assert planes_of(plain, plain) == 3 + 8
    for activation in (nn.ReLU(), nn.ReLU(inplace=True), nn.Hardswish(), nn.PReLU(), nn.SiLU()):
        stack = nn.Sequential(convolution(3, 8), nn.BatchNorm2d(8), activation)
        assert planes_of(stack, stack) == 3 + 8
    scaled = nn.Sequential(convolution(3, 8))
    assert planes_of(lambda x: scaled((x - 127.5) / 64), scaled) == 3 + 8


def test_an_addition_takes_the_place_of_what_nobody_reads_again() -> None:
    first, second = convolution(3, 8), convolution(8, 8)

    def residual(x: Tensor) -> Any:
        y = first(x)
        return y + second(y)

    def in_place(x: Tensor) -> Any:
        y = second(first(x))
        return y.add_(1)

    def read_again(x: Tensor) -> Any:
        y = first(x)
        z = y + 1
        return y * second(z)

    assert planes_of(residual, first, second) == 8 + 8
    assert planes_of(in_place, first, second) == 8 + 8
    assert planes_of(read_again, first, second) == 8 + 8 + 8


def test_an_addition_in_place_reads_both_its_terms() -> None:
    first, second = convolution(3, 8), convolution(3, 8)

    def added(x: Tensor) -> Tensor:
        y: Tensor = first(x)
        y += second(x)
        return y

    layer = trace_operators(Sketch(added, first, second), image_size=32)
    assert layer.operators[layer.outputs[0]].inputs == (1, 2)
    assert planes_of(added, first, second) == 3 + 8 + 8


def test_views_are_free_and_copies_are_not() -> None:
    first = convolution(3, 8)

    def viewed(x: Tensor) -> Any:
        return first(x).flatten(2).unflatten(2, (16, 64))[:, :4].transpose(1, 2)

    def shuffled(x: Tensor) -> Any:
        return first(x).unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)

    assert planes_of(viewed, first) == 3 + 8
    assert planes_of(shuffled, first) == 8 + 8


def test_concatenating_and_resizing_make_new_tensors() -> None:
    narrow = convolution(3, 4)
    assert planes_of(lambda x: torch.cat([x, narrow(x)], 1), narrow) == 3 + 4 + 7
    assert planes_of(lambda x: functional.interpolate(x, scale_factor=2.0)) == 3 + 12
    assert planes_of(lambda x: functional.max_pool2d(x, 2)) == 3 + 0.75


def test_indices_take_eight_bytes_and_what_depends_on_shapes_nothing() -> None:
    assert planes_of(lambda x: x.argmax(1, keepdim=True)) == 3 + 2
    assert planes_of(lambda x: x + torch.arange(32, device=x.device)) == 3


def test_a_second_result_that_is_read_is_refused() -> None:
    sketch = Sketch(lambda x: x.max(1, keepdim=True)[1])
    with pytest.raises(NotImplementedError, match="only the first result of max"):
        traced_peak(sketch, image_size=32)


def test_the_cost_of_a_network_by_hand() -> None:
    first, landmark = convolution(3, 8, stride=2), convolution(8, 10)
    cost = network_cost(Sketch(lambda x: landmark(first(x)), first, landmark), image_size=64)
    weights = 9 * (3 * 8 + 8 * 10)
    assert cost == Cost(weights, weights * 32 * 32, 4 * 32 * 32 * (8 + 12))


# What a caller sees.


def test_a_network_is_left_as_it_was() -> None:
    first = nn.Sequential(convolution(3, 8), nn.BatchNorm2d(8))
    sketch = Sketch(first, first).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = {name: value.clone() for name, value in sketch.state_dict().items()}
    network_cost(sketch.train(), image_size=64)
    assert sketch.training
    for name, value in sketch.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.stride() == before[name].stride()


def test_a_peak_that_may_not_be_the_least_is_called_an_upper_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traced_cost, "best_peak", lambda _layer: (10, 8))
    sketch = Sketch(first := convolution(3, 8), first)
    with pytest.warns(UpperBoundWarning, match=r"sketch at 64 px: 40 bytes are an upper bound"):
        assert network_cost(sketch, image_size=64).peak_bytes == 40
    assert not traced_peak(sketch, image_size=64).is_exact


@pytest.mark.parametrize("image_size", [0, -32, 100])
def test_a_wrong_image_size_is_refused(image_size: int) -> None:
    for network in (build_without_memory(SMALLEST), Sketch(first := convolution(3, 8), first)):
        with pytest.raises(ValueError, match="image_size must be a positive multiple of 32"):
            network_cost(network, image_size=image_size)
        with pytest.raises(ValueError, match="image_size must be a positive multiple of 32"):
            traced_peak(network, image_size=image_size)
