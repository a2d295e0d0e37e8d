"""What a network costs before it is trained: exact counts, the same on every machine.

Units: a parameter is one trainable weight (buffers such as batch-norm means are not counted); a
MAC is one multiply and one add together, for one image. Counted are convolutions and matrix
products, those of linear attention included. Not counted: batch norm (it folds into the
convolution before it when the model is exported), activations, gates, means, resizing, and
decoding. Many papers print MACs under the name FLOPs.

Three ways lead to the same numbers: `architecture_cost` by formula, the walk over a network's
modules, and PyTorch's own counter. fvcore and thop are asked for a second opinion.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from objectives.memory import FLOAT_BYTES, layout_peak
from objectives.operators import check_image_size, lay_out
from search_spaces.architecture import Architecture
from search_spaces.blocks import HEAD_CHANNELS, LinearAttention
from search_spaces.necks import WeightedSum
from search_spaces.zoo.deformable import DeformableConvolution


@dataclass(frozen=True, slots=True)
class Cost:
    """params: weights. macs: of one image. peak_bytes: activations, see `objectives.memory`."""

    params: int
    macs: int
    peak_bytes: int


def architecture_cost(architecture: Architecture, *, image_size: int) -> Cost:
    """The cost of an architecture on square images, without building its network.

    Raises:
        ValueError: image_size, in pixels, is not a positive multiple of 32.
    """
    layout = lay_out(architecture, image_size=image_size)
    return Cost(layout.params, layout.macs, FLOAT_BYTES * layout_peak(layout))


def count_parameters(model: nn.Module) -> int:
    """Trainable weights; one that several modules share counts once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; the mode the model came in is put back."""
    was_training = model.training
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _blank_image(model: nn.Module, image_size: int) -> Tensor:
    check_image_size(image_size)
    return torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)


def _convolution_macs(module: nn.Module, x: Tensor, y: Tensor) -> int:  # noqa: ARG001
    assert isinstance(module.weight, Tensor)
    return module.weight.numel() * y[0, 0].numel() * y.shape[0]


def _attention_macs(module: nn.Module, x: Tensor, y: Tensor) -> int:  # noqa: ARG001
    """The three products of linear attention; its convolutions count themselves."""
    return x.numel() * (2 * HEAD_CHANNELS + 1)


def _no_macs(module: nn.Module, x: Tensor, y: Tensor) -> int:  # noqa: ARG001
    return 0


MAC_RULES: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor], int]] = {
    nn.Conv1d: _convolution_macs,
    nn.Conv2d: _convolution_macs,
    DeformableConvolution: _convolution_macs,
    LinearAttention: _attention_macs,
    nn.BatchNorm2d: _no_macs,
    WeightedSum: _no_macs,
}
"""MACs that a module adds to those of the modules inside it: (module, input, output)."""


def count_macs(model: nn.Module, *, image_size: int) -> int:
    """MACs of one square image, by a walk over the modules as the model runs once.

    The model stays on its device (`meta` will do) and gets its mode back.

    Raises:
        ValueError: image_size is not a positive multiple of 32, or a module has weights of its
            own and no rule in MAC_RULES says what it counts.
    """
    image = _blank_image(model, image_size)
    macs = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        macs += MAC_RULES[type(module)](module, inputs[0], output)

    handles = []
    try:
        for name, module in model.named_modules():
            if type(module) in MAC_RULES:
                handles.append(module.register_forward_hook(count))
            elif any(True for _ in module.parameters(recurse=False)):
                raise ValueError(f"{name} must be of a type in MAC_RULES, got {type(module)}")
        with _evaluating(model):
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return macs


def count_macs_by_torch(model: nn.Module, *, image_size: int) -> int:
    """MACs of one square image, by PyTorch's FlopCounterMode, which sees every operator.

    Raises:
        ValueError: image_size is not a positive multiple of 32.
    """
    image = _blank_image(model, image_size)
    counter = FlopCounterMode(display=False)
    with _evaluating(model), counter:
        model(image)
    return counter.get_total_flops() // 2  # PyTorch counts a multiply and an add as two


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """What another counter says of a network.

    macs_difference, params_difference: its number less ours. blind_spots: what it counts that we
    do not, and what it does not see, with numbers where it gives them.
    """

    macs: int
    params: int
    macs_difference: int
    params_difference: int
    blind_spots: tuple[str, ...]


def second_opinions(model: nn.Module, image_size: int) -> dict[str, SecondOpinion]:
    """What fvcore and thop count, on the CPU, for one square image.

    Measured: fvcore agrees on convolutions and matrix products, and adds batch norm (2 a number)
    and resizing to them. thop looks at module types only: it adds 4 for each number out of a
    batch norm, and sees neither the products of linear attention nor the weights of a module
    that is not torch's.

    Raises:
        ValueError: image_size is not a positive multiple of 32.
    """
    image = _blank_image(nn.Conv2d(3, 1, 1), image_size)
    model = copy.deepcopy(model).cpu()
    with warnings.catch_warnings(), _evaluating(model):
        warnings.simplefilter("ignore")  # both use what torch and Python no longer like
        counted = {"fvcore": _ask_fvcore(model, image), "thop": _ask_thop(model, image)}
    macs, params = count_macs(model, image_size=image_size), count_parameters(model)
    return {
        name: SecondOpinion(theirs[0], theirs[1], theirs[0] - macs, theirs[1] - params, theirs[2])
        for name, theirs in counted.items()
    }


def _ask_fvcore(model: nn.Module, image: Tensor) -> tuple[int, int, tuple[str, ...]]:
    from fvcore.nn import FlopCountAnalysis, parameter_count

    analysis = FlopCountAnalysis(model, image)
    analysis.unsupported_ops_warnings(enabled=False)
    analysis.uncalled_modules_warnings(enabled=False)
    analysis.tracer_warnings("none")
    extra = [
        f"adds {int(count)} for {name}"
        for name, count in sorted(analysis.by_operator().items())
        if name not in ("conv", "matmul", "bmm")
    ]
    unseen = [
        f"does not count {name} ({calls} calls)"
        for name, calls in sorted(analysis.unsupported_ops().items())
    ]
    return int(analysis.total()), int(parameter_count(model)[""]), (*extra, *unseen)


def _ask_thop(model: nn.Module, image: Tensor) -> tuple[int, int, tuple[str, ...]]:
    import thop

    copied = copy.deepcopy(model)  # thop leaves buffers behind in the modules
    macs, params = thop.profile(copied, inputs=(image,), verbose=False)
    kinds = {type(module) for module in model.modules()}
    spots = ["adds 4 for each number out of a batch norm"]
    if LinearAttention in kinds:
        spots.append("does not see the matrix products of LinearAttention")
    if WeightedSum in kinds:
        spots.append("does not see the weights of WeightedSum")
    return int(macs), int(params), tuple(spots)
