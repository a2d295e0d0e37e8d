"""What every module of the search space must keep, and architectures to try it on."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from search_spaces.architecture import Architecture, Head, Neck, Stage
from search_spaces.space import SPACE

Features = Tensor | Sequence[Tensor]
"""What goes into a module or comes out: one tensor, or one for each level."""


Module = TypeVar("Module", bound=nn.Module)


def seeded(make: Callable[[], Module]) -> Module:
    """What `make` gives, with weights that are the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def macs_of(module: nn.Module, *inputs: Features) -> int:
    """MACs of one call, as torch counts them."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module.eval()(*inputs)
    return counter.get_total_flops() // 2


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noise_images(count: int, height: int, width: int, *, seed: int = 0) -> Tensor:
    """Images (count, 3, height, width) of even noise from 0 to 255."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((count, 3, height, width), generator=generator) * 255


def pyramid(width: int, *, batch: int = 2, sides: tuple[int, int] = (8, 12)) -> list[Tensor]:
    """Features of three strides; `sides` are the height and width of the largest."""
    height, breadth = sides
    return [noise(batch, width, height >> i, breadth >> i, seed=i) for i in range(3)]


def random_architectures(count: int, *, seed: int) -> list[Architecture]:
    """Architectures of the space, each gene drawn evenly."""
    generator = np.random.default_rng(seed)
    return [SPACE.decode(SPACE.random_genotype(generator)) for _ in range(count)]


def example_architecture() -> Architecture:
    """A small one in which all stages differ."""
    return Architecture(
        stem_width=8,
        stem_depth=1,
        stages=(
            Stage("depthwise", 1, 16, 3, 1, "none"),
            Stage("inverted", 2, 32, 5, 3, "se"),
            Stage("linear_attention", 1, 48, 3, 2, "cbam"),
        ),
        neck=Neck("pan", 24, 1),
        head=Head("per_level", "depthwise", 1, 32, "eca"),
    )


def as_list(features: Features) -> list[Tensor]:
    """The tensors of a module's input or output."""
    return [features] if isinstance(features, Tensor) else list(features)


def shapes(features: Features) -> list[tuple[int, ...]]:
    """The shape of every tensor."""
    return [tuple(x.shape) for x in as_list(features)]


def assert_batched_equals_single(module: nn.Module, features: Features) -> None:
    """In evaluation mode, an image's result does not depend on the others of its batch."""
    module.eval()
    with torch.no_grad():
        together = as_list(module(features))
        for i in range(len(together[0])):
            own: Features = (
                features[i : i + 1]
                if isinstance(features, Tensor)
                else [x[i : i + 1] for x in features]
            )
            for whole, single in zip(together, as_list(module(own)), strict=True):
                torch.testing.assert_close(whole[i : i + 1], single, rtol=1e-4, atol=1e-5)


def assert_gradient_reaches_every_parameter(module: nn.Module, features: Features) -> None:
    """In training mode, the output depends on every parameter tensor."""
    module.train()
    outputs = as_list(module(features))
    loss = torch.stack([(y * noise(*y.shape, seed=7)).sum() for y in outputs]).sum()
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
