"""What an untrained network promises: scores of its first weights, without any training.

They say nothing of faces. Each is there to be compared with what training gives; the number of
parameters and MACs is the control that a score has to beat.

Shape letters: B images, H height, W width.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from search_spaces.face_network import FaceNetwork

FEWEST_IMAGES = 2
WHITE = 255.0
PERTURBATION = 0.01
"""Of the images in `zen`, in parts of their standard deviation; as in the paper's section 4."""

_ATEN = torch.ops.aten
RECTIFIERS = frozenset(
    {
        _ATEN.relu,
        _ATEN.relu_,
        _ATEN.leaky_relu,
        _ATEN.leaky_relu_,
        _ATEN.prelu,
        _ATEN._prelu_kernel,
        _ATEN.hardswish,
        _ATEN.hardswish_,
        _ATEN.silu,
        _ATEN.silu_,
    }
)
"""Activations that let positive inputs pass and hold negative ones back."""


def zero_cost_scores(network: FaceNetwork, images: Tensor, *, seed: int) -> dict[str, float]:
    """Every score of ZERO_COST_SCORES; higher is said to be better. The network stays as it is.

    images: (B, 3, H, W) float, BGR from 0 to 255, on the network's device.

    Raises:
        ValueError: there are fewer than FEWEST_IMAGES images.
    """
    if len(images) < FEWEST_IMAGES:
        raise ValueError(f"images must be at least {FEWEST_IMAGES}, got {len(images)}")
    return {
        name: score(copy.deepcopy(network), images, seed)
        for name, score in ZERO_COST_SCORES.items()
    }


class _SignAgreement(TorchDispatchMode):
    """Counts, for each pair of images, the activations that are on or off for both.

    Sees the operators themselves, because networks call activations as modules and as functions.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._count = len(images)
        self.kernel = images.new_zeros((self._count, self._count), dtype=torch.float64)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.overloadpacket in RECTIFIERS:
            self._compare(args[0])
        return func(*args, **(kwargs or {}))

    def _compare(self, x: Tensor) -> None:
        if x.dim() == 1 or len(x) != self._count:
            return  # a weight, not a map of the images
        signs = (x > 0).flatten(1).float() * 2 - 1
        self.kernel += (signs @ signs.T + signs.shape[1]).double() / 2


@torch.no_grad()
def naswot(network: FaceNetwork, images: Tensor, seed: int) -> float:  # noqa: ARG001
    """How differently the network's activations switch for different images.

    log det(K + I), where K counts for each pair of images the activations of equal sign. It is
    lowest, and with I still finite, when all images switch alike.

    Source: Mellor et al., Neural Architecture Search without Training, arXiv:2006.04647,
    section 3; there without I, and for ReLUs only.
    """
    network.train()  # batch statistics: an untrained network has no others
    with _SignAgreement(images) as agreement:
        network(images)
    kernel = agreement.kernel
    return float(torch.linalg.slogdet(kernel + torch.eye(len(kernel)).to(kernel)).logabsdet)


class _StayDouble(TorchFunctionMode):
    """Leaves float64 as it is where a network asks for float32, which would overflow."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.float and args[0].dtype is torch.float64:
            return args[0]
        return func(*args, **(kwargs or {}))


def synflow(network: FaceNetwork, images: Tensor, seed: int) -> float:  # noqa: ARG001
    """log of the sum of |w * dL/dw|, where L sums what the network makes of a white image.

    All weights are made positive and batch norms let their input pass, so that every path from
    image to output counts and none cancels another.

    Source: Tanaka et al., SynFlow, arXiv:2006.05467, equation 2 and algorithm 1. There the image
    is all ones; here it is white, as each network normalises its input, which must stay positive.
    """
    network.eval().double()
    for norm in _batch_norms(network):
        norm.register_forward_hook(lambda _norm, inputs, _output: inputs[0])
    with torch.no_grad():
        for weight in network.parameters():
            weight.abs_()
    with _StayDouble(), torch.enable_grad():
        levels = network(torch.full_like(images[:1], WHITE, dtype=torch.float64))
        torch.stack([level.sum() for level in levels]).sum().backward()  # type: ignore[no-untyped-call]
    flows = [(w * w.grad).abs().sum() for w in network.parameters() if w.grad is not None]
    return torch.stack(flows).sum().log().item()


@torch.no_grad()
def zen(network: FaceNetwork, images: Tensor, seed: int) -> float:
    """How strongly the features change with the images: log of the change for a small one of the
    images, plus the log standard deviations that the batch norms divided away.

    Weights and the perturbation are drawn from a normal distribution; weights of a usual first
    draw, scaled down by their number, would hide how many there are.

    Source: Lin et al., Zen-NAS, arXiv:2102.01063, algorithm 1. There the images are drawn too and
    skip connections are cut; here both are left as they are.
    """
    network.train()
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        if weight.dim() > 1:
            weight.copy_(torch.randn(weight.shape, generator=generator))
    noise = torch.randn(images.shape, generator=generator).to(images)
    spreads: list[Tensor] = []

    def note_spread(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        variance = inputs[0].double().var((0, 2, 3), correction=0).mean()
        spreads.append((variance + norm.eps).log() / 2)

    changed = _flat(network.features(images + PERTURBATION * images.std() * noise))
    for norm in _batch_norms(network):
        norm.register_forward_pre_hook(note_spread)
    change = (changed - _flat(network.features(images))).norm(dim=1).mean() / PERTURBATION
    return float(change.clamp(min=torch.finfo(change.dtype).tiny).log() + sum(spreads))


def _flat(features: tuple[Tensor, ...]) -> Tensor:
    """All maps of an image in a row, (B, numbers), float64."""
    return torch.cat([level.flatten(1).double() for level in features], 1)


def _batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


ZERO_COST_SCORES: dict[str, Callable[[FaceNetwork, Tensor, int], float]] = {
    "naswot": naswot,
    "synflow": synflow,
    "zen": zen,
}
"""Every score by its name: (network, images, seed), the network being the function's to change."""
