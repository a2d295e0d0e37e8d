"""Parameters and MACs: three ways to one number, and what other counters make of it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from objectives.cost import (
    MAC_RULES,
    architecture_cost,
    count_macs,
    count_macs_by_torch,
    count_parameters,
    second_opinions,
)
from objectives.operators import (
    ATTENTION_OPERATORS,
    BLOCK_OPERATORS,
    CELL_OPERATORS,
    TOWER_OPERATORS,
    lay_out,
    whole_network,
)
from search_spaces.architecture import Architecture, Head
from search_spaces.attention import ATTENTION
from search_spaces.blocks import BLOCKS, EXPANDING
from search_spaces.catalogue import REFERENCES
from search_spaces.heads import HEAD_LAYERS
from search_spaces.necks import CELLS
from search_spaces.network import Detector, build
from search_spaces.space import SPACE
from search_spaces.supernet import covering_architectures
from tests.objectives.drawn_architectures import random_architectures

SMALLEST = SPACE.corner(largest=False)


def build_without_memory(architecture: Architecture) -> Detector:
    with torch.device("meta"):
        return build(architecture)


def with_blocks(block: str) -> Architecture:
    first, second, third = (
        replace(stage, block=block, expand_ratio=3 if block in EXPANDING else 1)
        for stage in SMALLEST.stages
    )
    return replace(SMALLEST, stages=(first, second, third))


def assert_all_agree(architecture: Architecture, model: Detector, image_size: int) -> None:
    cost = architecture_cost(architecture, image_size=image_size)
    macs = {
        "formula": cost.macs,
        "walk": count_macs(model, image_size=image_size),
        "torch": count_macs_by_torch(model, image_size=image_size),
    }
    assert len(set(macs.values())) == 1, (architecture.key, macs)
    assert cost.params == count_parameters(model) == sum(p.numel() for p in model.parameters())


def test_formula_walk_and_torch_agree_on_every_choice_of_the_space() -> None:
    for architecture in covering_architectures(SPACE):
        assert_all_agree(architecture, build(architecture), 64)


@pytest.mark.slow
def test_formula_walk_and_torch_agree_to_the_last_unit() -> None:
    for i, architecture in enumerate(random_architectures(200, seed=0)):
        assert_all_agree(architecture, build(architecture), (64, 96)[i % 2])


def test_they_agree_at_the_size_that_is_deployed() -> None:
    for architecture in random_architectures(4, seed=1):
        assert_all_agree(architecture, build_without_memory(architecture), 640)


def test_every_entry_of_the_catalogues_has_its_operators() -> None:
    assert BLOCK_OPERATORS.keys() == BLOCKS.keys()
    assert ATTENTION_OPERATORS.keys() == ATTENTION.keys()
    assert TOWER_OPERATORS.keys() == HEAD_LAYERS.keys()
    assert CELL_OPERATORS.keys() == CELLS.keys()


def test_costs_are_the_sums_over_the_operators() -> None:
    for architecture in random_architectures(20, seed=2):
        operators = whole_network(lay_out(architecture, image_size=96)).operators
        cost = architecture_cost(architecture, image_size=96)
        assert cost.params == sum(operator.params for operator in operators)
        assert cost.macs == sum(operator.macs for operator in operators)
        assert all(type(n) is int for n in (cost.params, cost.macs, cost.peak_bytes))


def test_a_stem_by_hand() -> None:
    stem = lay_out(SMALLEST, image_size=64).stem
    assert [layer.params for layer in stem] == [
        8 * 3 * 9 + 2 * 8,
        8 * 9 + 8 * 16 + 2 * 16,
    ]
    assert [layer.macs for layer in stem] == [8 * 3 * 9 * 32 * 32, (8 * 9 + 8 * 16) * 16 * 16]


def test_more_pixels_cost_more_macs_but_no_parameters() -> None:
    small, large = (architecture_cost(SMALLEST, image_size=size) for size in (64, 128))
    assert small.params == large.params
    assert large.macs == 4 * small.macs


def test_sharing_a_tower_saves_its_parameters_twice_and_no_macs() -> None:
    shared = replace(SMALLEST, head=Head("shared", "depthwise", 2, 32, "none"))
    split = replace(shared, head=replace(shared.head, sharing="per_level"))
    tower = lay_out(shared, image_size=64).towers[0].params
    one, three = (architecture_cost(a, image_size=64) for a in (shared, split))
    assert three.params - one.params == 2 * tower > 0
    assert three.macs == one.macs


def test_counting_gives_the_model_back_as_it_was() -> None:
    model = build(SMALLEST).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, image_size=64)
    count_macs_by_torch(model, image_size=64)
    second_opinions(model, 64)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def test_a_module_without_a_rule_is_refused_and_leaves_no_hooks() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Scale())
    with pytest.raises(ValueError, match=r"1 must be of a type in MAC_RULES, got .*Scale"):
        count_macs(model, image_size=32)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("image_size", [0, -32, 100])
def test_a_wrong_image_size_is_refused(image_size: int) -> None:
    model = build_without_memory(SMALLEST)
    for count in (count_macs, count_macs_by_torch):
        with pytest.raises(ValueError, match="image_size must be a positive multiple of 32"):
            count(model, image_size=image_size)
    with pytest.raises(ValueError, match="image_size must be a positive multiple of 32"):
        architecture_cost(SMALLEST, image_size=image_size)
    with pytest.raises(ValueError, match="image_size must be a positive multiple of 32"):
        second_opinions(model, image_size)


def batch_norm_numbers(model: nn.Module, image_size: int) -> int:
    """How many numbers come out of the batch norms."""
    seen = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _module, _inputs, y: seen.append(y.numel()))
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, image_size, image_size))
    return sum(seen)


@pytest.mark.parametrize("kind", ["linear_attention", "inverted", "bifpn"])
def test_second_opinions_differ_from_ours_by_their_blind_spots_alone(kind: str) -> None:
    bifpn = replace(SMALLEST, neck=replace(SMALLEST.neck, kind="bifpn"))
    architecture = bifpn if kind == "bifpn" else with_blocks(kind)
    model, width = build(architecture), architecture.neck.width
    opinions = second_opinions(model, 64)
    cost = architecture_cost(architecture, image_size=64)
    norm = batch_norm_numbers(model, 64)
    products = sum(
        operator.macs
        for operator in whole_network(lay_out(architecture, image_size=64)).operators
        if operator.name in ("v k^T", "(sum k) q", "(v k^T) q")
    )
    assert (products > 0) == (kind == "linear_attention")

    fvcore, thop = opinions["fvcore"], opinions["thop"]
    enlarged = width * (8 * 8 + 4 * 4)
    assert fvcore.macs_difference == fvcore.macs - cost.macs == 2 * norm + enlarged
    assert fvcore.params == cost.params
    assert any(f"adds {2 * norm} for batch_norm" in spot for spot in fvcore.blind_spots)
    assert thop.macs_difference == thop.macs - cost.macs == 4 * norm - products
    assert thop.params_difference == (-9 if kind == "bifpn" else 0)
    names = " ".join(thop.blind_spots)
    assert ("LinearAttention" in names, "WeightedSum" in names) == (
        kind == "linear_attention",
        kind == "bifpn",
    )


def test_second_opinions_say_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    second_opinions(build(SMALLEST), 32)
    assert capfd.readouterr() == ("", "")


def test_every_rule_counts_a_type_that_networks_use() -> None:
    networks: list[nn.Module] = [build_without_memory(a) for a in covering_architectures(SPACE)]
    with torch.device("meta"):
        networks += [reference.make() for reference in REFERENCES.values()]
    assert MAC_RULES.keys() <= {type(m) for network in networks for m in network.modules()}
