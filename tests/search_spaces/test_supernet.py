"""The supernet runs every architecture as that architecture's own network would run.

The reference here shares no code with it: the widest network of the same types and depths holds
all the weights, and everything that the candidate does not have is set to zero.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from search_spaces.architecture import Architecture, Stage
from search_spaces.attention import CbamPlus, ConvolutionalBlockAttention
from search_spaces.blocks import EXPANDING
from search_spaces.network import Detector, build
from search_spaces.space import SPACE
from search_spaces.supernet import Supernet, covering_architectures
from tests.search_spaces.contracts import noise, noise_images, random_architectures

ARCHITECTURES = random_architectures(20, seed=0)

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.key)


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    """With every weight off its initial value, so that none is one or zero by chance."""
    supernet = Supernet(SPACE, seed=0)
    with torch.no_grad():
        for i, weight in enumerate(supernet.weights.values()):
            weight.add_(noise(*weight.shape, seed=i) * 0.1)
    return supernet


def assert_levels_close(ours: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Equal within 1e-5 of the largest number of the level."""
    for a, b in zip(ours, expected, strict=True):
        scale = max(1.0, b.detach().abs().max().item())
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * scale)


@every_architecture
def test_supernet_equals_its_extracts_and_candidates(
    supernet: Supernet, architecture: Architecture
) -> None:
    images = noise_images(2, 64, 64)
    with torch.no_grad():
        ours = supernet(images, architecture)
        assert_levels_close(ours, supernet.extract(architecture).train()(images))
        assert_levels_close(ours, supernet.candidate(architecture)(images))


# The masked reference.


def widest(architecture: Architecture) -> Architecture:
    """The same types and depths, every width, kernel and expansion the largest."""
    largest = SPACE.corner(largest=True)
    ratio = largest.stages[0].expand_ratio

    def widen(stage: Stage, big: Stage) -> Stage:
        return replace(
            stage,
            width=big.width,
            kernel_size=big.kernel_size,
            expand_ratio=ratio if stage.block in EXPANDING else 1,
        )

    stage8, stage16, stage32 = map(widen, architecture.stages, largest.stages)
    head = architecture.head
    return Architecture(
        stem_width=largest.stem_width,
        stem_depth=architecture.stem_depth,
        stages=(stage8, stage16, stage32),
        neck=replace(architecture.neck, width=largest.neck.width),
        head=replace(head, width=largest.head.width if head.depth else 0),
    )


def own_part(shape: torch.Size, own: torch.Size) -> Tensor:
    """True at the first channels of a tensor, and at the centre of its kernel."""
    mask = torch.ones(shape, dtype=torch.bool)
    for dimension, (size, kept) in enumerate(zip(shape, own, strict=True)):
        index = torch.arange(size)
        start = (size - kept) / 2 if dimension >= 2 else 0
        inside = (index >= start) & (index < start + kept)
        mask &= inside.reshape([-1 if d == dimension else 1 for d in range(len(shape))])
    return mask


def channel_maps(x: Tensor, channels: int) -> Tensor:
    """Mean and maximum over the first channels at each position: (B, 2, H, W).

    Here a channel of zeros is not as good as none.
    """
    there = torch.arange(x.shape[1]) < channels
    mean = x.sum(1) / channels
    peak = x.masked_fill(~there[:, None, None], -torch.inf).max(1).values
    return torch.stack([mean, peak], 1)


class MaskedConvolutionalBlockAttention(nn.Module):
    """CBAM of a wide network whose channels from `channels` on are not there."""

    def __init__(self, wide: ConvolutionalBlockAttention, channels: int) -> None:
        super().__init__()
        self.wide = wide
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        def logits(pooled: Tensor) -> Tensor:
            hidden = torch.relu(
                torch.einsum("hc,bc->bh", self.wide.squeeze.weight[..., 0, 0], pooled)
            )
            return torch.einsum("ch,bh->bc", self.wide.excite.weight[..., 0, 0], hidden)

        gate = torch.sigmoid(logits(x.mean((2, 3))) + logits(x.flatten(2).max(2).values))
        x = x * gate[:, :, None, None]
        return x * torch.sigmoid(self.wide.spatial(channel_maps(x, self.channels)))


class MaskedCbamPlus(nn.Module):
    """CBAM++ of a wide network whose channels from `channels` on are not there."""

    def __init__(self, wide: CbamPlus, channels: int) -> None:
        super().__init__()
        self.wide = wide
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.stack([x.mean((2, 3)), x.amax((2, 3))], 1)
        x = x * torch.sigmoid(self.wide.mix(pooled))[:, 0, :, None, None]
        return x * torch.sigmoid(self.wide.spatial(channel_maps(x, self.channels)))


def width_of_part(architecture: Architecture, name: str) -> int:
    """Channels of the stage or tower that a module of this name stands in."""
    for stride, stage in zip((8, 16, 32), architecture.stages, strict=True):
        if f"stage{stride}." in name:
            return stage.width
    return architecture.head.width or architecture.neck.width


def masked_reference(supernet: Supernet, architecture: Architecture) -> Detector:
    """The widest network with the supernet's weights, all but the candidate's set to zero."""
    network, candidate = build(widest(architecture)).double(), build(architecture)
    own_shapes = {name: p.shape for name, p in candidate.named_parameters()}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            shared = supernet.weights[name.replace(".", "/")]
            assert parameter.shape == shared.shape, name
            parameter.copy_(shared * own_part(shared.shape, own_shapes[name]))
    for name, module in list(network.named_modules()):
        parent, _, child = name.rpartition(".")
        if isinstance(module, ConvolutionalBlockAttention):
            channels = own_shapes[f"{name}.excite.weight"][0]
            masked: nn.Module = MaskedConvolutionalBlockAttention(module, channels)
        elif isinstance(module, CbamPlus):
            masked = MaskedCbamPlus(module, width_of_part(architecture, name))
        else:
            continue
        network.get_submodule(parent).register_module(child, masked)
    return network.train()


@every_architecture
def test_supernet_equals_the_masked_widest_network(
    supernet: Supernet, architecture: Architecture
) -> None:
    """In float64: the two sum in other orders, and batch norm over few values magnifies that."""
    exact = copy.deepcopy(supernet).double()
    images = noise_images(2, 64, 64).double()
    with torch.no_grad():
        expected = masked_reference(exact, architecture)(images)
        assert_levels_close(exact(images, architecture), expected)


def test_the_reference_has_met_every_choice() -> None:
    choices = {(gene.name, choice) for gene in SPACE.genes for choice in gene.choices}
    met: set[tuple[str, int | str]] = set()
    for architecture in ARCHITECTURES:
        for gene, index in zip(SPACE.genes, SPACE.encode(architecture), strict=True):
            met.add((gene.name, gene.choices[index]))
    assert {name for name, _ in choices} == {name for name, _ in met}
    assert len(met) > 0.9 * len(choices)


# Sharing.


def own_parts(supernet: Supernet, architecture: Architecture) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the supernet by slot, and where in it the architecture's own part is."""
    own = {n.replace(".", "/"): p.shape for n, p in build(architecture).named_parameters()}
    for slot, weight in supernet.weights.items():
        none = torch.zeros(weight.shape, dtype=torch.bool)
        yield slot, own_part(weight.shape, own[slot]) if slot in own else none


@pytest.mark.parametrize("architecture", ARCHITECTURES[:4], ids=lambda a: a.key)
def test_training_a_candidate_changes_its_own_parts_alone(architecture: Architecture) -> None:
    supernet = Supernet(SPACE, seed=1)
    before = {slot: weight.detach().clone() for slot, weight in supernet.weights.items()}
    candidate = supernet.candidate(architecture)
    optimizer = torch.optim.SGD(candidate.parameters(), lr=0.1)
    levels = candidate(noise_images(2, 64, 64))
    loss = torch.stack([(y * noise(*y.shape)).sum() for y in levels]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for slot, inside in own_parts(supernet, architecture):
        changed = supernet.weights[slot].detach() != before[slot]
        assert not changed[~inside].any(), slot
        assert changed.any() == inside.any(), slot
        assert torch.isfinite(supernet.weights[slot]).all(), slot


def test_shared_weights_are_views_and_extracts_are_copies(supernet: Supernet) -> None:
    architecture = ARCHITECTURES[0]
    views = supernet.shared_weights(architecture)
    network = supernet.extract(architecture)
    for name, parameter in network.named_parameters():
        shared = supernet.weights[name.replace(".", "/")]
        assert views[name].untyped_storage().data_ptr() == shared.untyped_storage().data_ptr()
        assert parameter.untyped_storage().data_ptr() != shared.untyped_storage().data_ptr()
        assert torch.equal(parameter, views[name])


def test_running_a_candidate_leaves_no_trace(supernet: Supernet) -> None:
    """Neither statistics nor another candidate in between change what comes out."""
    images = noise_images(2, 64, 64)
    first, second = ARCHITECTURES[:2]
    with torch.no_grad():
        before = supernet(images, first)
        supernet(images * 0.5, first)
        supernet(images, second)
        after = supernet.eval()(images, first)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not list(supernet.buffers())


@pytest.mark.slow
def test_every_random_architecture_is_covered(supernet: Supernet) -> None:
    for architecture in random_architectures(300, seed=2):
        assert supernet.shared_weights(architecture)


def test_every_weight_is_of_use(supernet: Supernet) -> None:
    """The covering architectures use each shared tensor at its whole size."""
    used: dict[str, torch.Size] = {}
    for architecture in covering_architectures(SPACE):
        used |= {n.replace(".", "/"): p.shape for n, p in build(architecture).named_parameters()}
    assert used == {slot: weight.shape for slot, weight in supernet.weights.items()}


def test_architectures_of_a_larger_space_are_refused(supernet: Supernet) -> None:
    base = ARCHITECTURES[0]
    with pytest.raises(
        ValueError, match=r"shape must fit inside \(24, 3, 3, 3\), got \(32, 3, 3, 3\)"
    ):
        supernet.shared_weights(replace(base, stem_width=32))


def test_weights_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    same = Supernet(SPACE, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    again, other = Supernet(SPACE, seed=3).state_dict(), Supernet(SPACE, seed=4).state_dict()
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert not all(torch.equal(same[name], other[name]) for name in same)
