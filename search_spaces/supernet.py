"""One set of weights for every architecture of a space.

A candidate's network is described once, in `network`. The supernet holds, for every parameter
name that any candidate uses, one tensor of the largest shape; a candidate's own parameter is
the leading part of it in every dimension (elastic width and, because layers are numbered,
depth) and the centre of a larger kernel. Block, attention and neck types have names of their
own and so lie side by side. The parts are views: training a candidate trains the supernet.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.func import functional_call

from search_spaces.architecture import NECKS, SHARING, TOWER_LAYERS, Architecture
from search_spaces.attention import ATTENTION
from search_spaces.blocks import BLOCKS, EXPANDING
from search_spaces.network import Detector, build
from search_spaces.space import Space


def covering_architectures(space: Space) -> Iterator[Architecture]:
    """Largest architectures that together use every parameter name at its largest shape."""
    largest = space.corner(largest=True)
    variants = itertools.zip_longest(
        itertools.product(BLOCKS, ATTENTION),
        itertools.product(SHARING, TOWER_LAYERS, ATTENTION),
        NECKS,
    )
    expand_ratio = max(stage.expand_ratio for stage in largest.stages)
    first = next(iter(BLOCKS)), next(iter(ATTENTION))
    for layer, tower, neck in variants:
        block, attention = layer or first
        sharing, tower_layer, head_attention = tower or (SHARING[0], TOWER_LAYERS[0], first[1])
        stage8, stage16, stage32 = (
            replace(
                stage,
                block=block,
                attention=attention,
                expand_ratio=expand_ratio if block in EXPANDING else 1,
            )
            for stage in largest.stages
        )
        yield replace(
            largest,
            stages=(stage8, stage16, stage32),
            neck=replace(largest.neck, kind=neck or NECKS[0]),
            head=replace(
                largest.head, sharing=sharing, layer=tower_layer, attention=head_attention
            ),
        )


def _slot(name: str) -> str:
    """A dictionary key for a parameter name: torch allows no dots in one."""
    return name.replace(".", "/")


def _leading_part(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The view of `shape` inside `tensor`: centred in a kernel's two dimensions, else leading.

    Raises:
        ValueError: the shape does not fit inside the tensor.
    """
    if tensor.dim() != len(shape) or any(s > t for s, t in zip(shape, tensor.shape, strict=True)):
        raise ValueError(f"shape must fit inside {tuple(tensor.shape)}, got {tuple(shape)}")
    for dimension, size in enumerate(shape):
        spare = tensor.shape[dimension] - size
        if spare:
            start = spare // 2 if dimension >= 2 else 0
            tensor = tensor.narrow(dimension, start, size)
    return tensor


@lru_cache(maxsize=512)
def _skeleton(architecture: Architecture) -> Detector:
    """A network without memory for weights, to be called with somebody else's; its batch norms keep
    no statistics."""
    with torch.device("meta"):
        network = build(architecture)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    return network


class Supernet(nn.Module):
    """The shared weights of every architecture of a space.

    Batch-norm statistics are not shared: a candidate normalises by its batch while it trains,
    and `extract` gives it statistics to recalibrate.

    seed: of the initial weights.
    """

    def __init__(self, space: Space, *, seed: int = 0) -> None:
        super().__init__()
        self.space_fingerprint = space.fingerprint
        self.weights = nn.ParameterDict()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for architecture in covering_architectures(space):
                self._hold(build(architecture))

    def _hold(self, network: nn.Module) -> None:
        for name, value in network.named_parameters():
            slot = _slot(name)
            if slot not in self.weights:
                self.weights[slot] = nn.Parameter(value.detach().clone())
            elif self.weights[slot].shape != value.shape:
                raise ValueError(
                    f"covering architectures must agree on {name}, "
                    f"got {tuple(self.weights[slot].shape)} and {tuple(value.shape)}"
                )

    def shared_weights(self, architecture: Architecture) -> dict[str, Tensor]:
        """Views of the weights that this architecture uses, by its own parameter names."""
        return {
            name: _leading_part(self.weights[_slot(name)], value.shape)
            for name, value in _skeleton(architecture).named_parameters()
        }

    def forward(self, images: Tensor, architecture: Architecture) -> tuple[Tensor, ...]:
        """Run one architecture on the shared weights; shapes as `Detector`'s.

        Batch norm normalises by the batch, in training and in evaluation mode alike.
        """
        levels: tuple[Tensor, ...] = functional_call(
            _skeleton(architecture), self.shared_weights(architecture), (images,)
        )
        return levels

    def candidate(self, architecture: Architecture) -> "Candidate":
        """The architecture as a module that shares this supernet's weights."""
        return Candidate(self, architecture)

    def extract(self, architecture: Architecture) -> Detector:
        """A stand-alone network with copied weights and fresh batch-norm statistics."""
        network = build(architecture)
        own = dict(network.named_parameters())
        with torch.no_grad():
            for name, value in self.shared_weights(architecture).items():
                own[name].copy_(value)
        return network.to(next(iter(self.weights.values())).device)


class Candidate(nn.Module):
    """One architecture of a supernet, with the supernet's own weights."""

    def __init__(self, supernet: Supernet, architecture: Architecture) -> None:
        super().__init__()
        self.supernet = supernet
        self.architecture = architecture

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        levels: tuple[Tensor, ...] = self.supernet(images, self.architecture)
        return levels
