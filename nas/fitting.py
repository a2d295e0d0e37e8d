"""Fitting one network to batches of faces: the loop that proxy fits and retraining share."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from data.errors import UserError
from data.loader import BatchSource, rows_of_batch
from data.sample import Batch
from nas.team import Team
from objectives.loss import Losses, LossSettings
from objectives.network_loss import network_loss
from search_spaces.face_network import FaceNetwork

BETAS = (0.9, 0.98)
"""AdamW's memory: with the usual 0.999 the large gradients of the first steps keep the rate down
for a thousand more. After 400 steps of batch 8 on real crops, AP was 0.029 with 0.999, 0.049 with
0.99 and 0.95 (one run each, the last two with an epsilon of 1e-6 beside it)."""

NetworkType = TypeVar("NetworkType", bound=FaceNetwork)
ModuleType = TypeVar("ModuleType", bound=nn.Module)

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "onecycle", "constant")

ONECYCLE_RISE = 25.0
ONECYCLE_FALL = 250_000.0
"""The highest rate of a one-cycle schedule over its first and over its last."""

ExtraLoss = Callable[[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]], Tensor]
"""(images, features, levels) -> a scalar that is added to a batch's detection loss. An nn.Module's
parameters that need a gradient are trained with the network's."""


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How a network is fitted.

    steps: optimizer steps. batch_size: images a step. image_size: side of an image, pixels.
    learning_rate: the optimizer's, at its highest: at the end of the warm-up.
    warmup_share: share of the steps in which the rate rises.
    weight_decay: of matrices and kernels.
    gradient_clip: largest L2 norm of all gradients together.
    average_decay: of the running average of weights that becomes the result; 0 for none.
    optimizer: "adamw", or "sgd" with Nesterov momentum. momentum: SGD's; AdamW has BETAS.
    schedule: "cosine", "onecycle" or "constant"; see `learning_rate_at`.
    """

    steps: int
    batch_size: int = 8
    image_size: int = 256
    learning_rate: float = 5e-3
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    gradient_clip: float = 10.0
    average_decay: float = 0.0
    optimizer: str = "adamw"
    momentum: float = 0.9
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        shares = ("warmup_share", "average_decay", "momentum")
        rules: list[tuple[str, Sequence[str], Callable[[Any], bool]]] = [
            ("at least 1", ("steps", "batch_size", "image_size"), lambda value: value >= 1),
            ("positive", ("learning_rate", "gradient_clip"), lambda value: value > 0),
            ("at least 0", ("weight_decay",), lambda value: value >= 0),
            ("in 0..1, 1 excluded", shares, lambda value: 0 <= value < 1),
            (f"one of {', '.join(OPTIMIZERS)}", ("optimizer",), OPTIMIZERS.__contains__),
            (f"one of {', '.join(SCHEDULES)}", ("schedule",), SCHEDULES.__contains__),
        ]
        for rule, names, is_kept in rules:
            for name in names:
                if not is_kept(getattr(self, name)):
                    raise ValueError(f"{name} must be {rule}, got {getattr(self, name)}")


def to_channels_last(network: ModuleType) -> ModuleType:
    """The same network with its kernels in the memory order that is fastest for small networks."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def learning_rate_at(step: int, settings: FitSettings) -> float:
    """The rate of a step, counted from 0; a function of the step alone.

    cosine: rises in a line from 0, then falls along half a cosine to 0 after the last step.
    constant: rises in a line from 0, then stays.
    onecycle: rises along half a cosine from 1/25 of the highest rate, and falls along another to
    1/250,000 (Smith and Topin, arXiv:1708.07120, with cosines for straight lines; momentum is
    not cycled).
    """
    highest, warmup = settings.learning_rate, settings.warmup_share * settings.steps
    done = (step - warmup) / max(1.0, settings.steps - warmup)
    if settings.schedule == "onecycle":
        if step < warmup:
            return _along_cosine(highest / ONECYCLE_RISE, highest, step / warmup)
        return _along_cosine(highest, highest / ONECYCLE_FALL, done)
    if step + 1 <= warmup:
        return highest * (step + 1) / warmup
    return highest if settings.schedule == "constant" else _along_cosine(highest, 0.0, done)


def _along_cosine(first: float, last: float, done: float) -> float:
    """From first, at done = 0 and before, to last, at done = 1 and after."""
    left = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
    return last + (first - last) * left


def half_type(device: torch.device) -> torch.dtype | None:
    """What networks are trained in: bfloat16 on CUDA where the hardware has it, else float16, which
    needs its gradients scaled; None on the CPU, where half precision is no faster."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def images_to_tensor(images: Any, device: torch.device) -> Tensor:
    """(B, S, S, 3) uint8, array or tensor -> (B, 3, S, S) float 0..255 in channels_last order."""
    return torch.as_tensor(images).to(device, non_blocking=True).permute(0, 3, 1, 2).float()


def targets_to_tensors(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(boxes_xyxy, wanted, ignore) of a batch, as `detection_loss` takes them."""
    boxes, wanted, ignore = (
        torch.from_numpy(array).to(device, non_blocking=True)
        for array in (batch.boxes_xyxy, batch.wanted, batch.ignore)
    )
    return boxes, wanted, ignore


def make_optimizer(
    parameters: Iterator[nn.Parameter], settings: FitSettings
) -> torch.optim.Optimizer:
    """The optimizer of the settings; it decays matrices and kernels, not biases, batch norms and
    fusion weights."""
    every = list(parameters)
    groups = [
        {"params": [p for p in every if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in every if p.dim() <= 1], "weight_decay": 0.0},
    ]
    rate = settings.learning_rate
    if settings.optimizer == "sgd":
        momentum = settings.momentum
        return torch.optim.SGD(
            groups, lr=rate, momentum=momentum, nesterov=momentum > 0, foreach=True
        )
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS, foreach=True)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step was like.

    loss: what was minimised, an extra loss included. classification, quality, box: the detection
    loss's parts, unweighted. positives: predictions that answer for a face. gradient_norm: L2,
    before clipping.
    """

    step: int
    loss: float
    classification: float
    quality: float
    box: float
    positives: int
    learning_rate: float
    gradient_norm: float


class NotFiniteError(UserError):
    """The loss became NaN or infinite; the network's weights are those before the step."""


class WeightAverage(Generic[NetworkType]):
    """A running average of a network's weights and of its batch norms' statistics.

    After step t, counted from 1, average = d * average + (1 - d) * weights with
    d = min(decay, t / (t + 9)): while it is young it forgets the initial weights fast.
    """

    def __init__(self, network: NetworkType, decay: float) -> None:
        self.network: NetworkType = copy.deepcopy(network).requires_grad_(requires_grad=False)
        self.decay = decay
        pairs = list(
            zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        )
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the network that the average was made of, which has just taken this step."""
        decay = min(self.decay, step / (step + 9))
        own, others = zip(*self._averaged, strict=True)
        torch._foreach_lerp_(own, others, 1 - decay)
        for count, other in self._copied:
            count.copy_(other)


class Trainer(Generic[NetworkType]):
    """One network in training. The same state and batches give the same steps.

    On CUDA the forward pass runs in bfloat16 where the hardware has it, else in float16 with a
    gradient scaler; on the CPU in float32.

    team: its members learn a step together, each from its own rows of the batch; weights must be
    equal at the start. compiled: run the network through `torch.compile`, which takes a minute.

    A batch too large for the device's memory is learned in 2, 4, 8, ... parts whose gradients are
    added up, from then on; `notes` says so. Batch norms then see the parts. With a team it is an
    error, as all members must split alike.
    """

    def __init__(
        self,
        network: NetworkType,
        settings: FitSettings,
        *,
        loss: LossSettings | None = None,
        extra_loss: ExtraLoss | None = None,
        team: Team | None = None,
        compiled: bool = False,
    ) -> None:
        self.settings = settings
        self.device = next(network.parameters()).device
        self.step_count = 0
        self.parts = 1
        self.notes: list[str] = []
        self.network = to_channels_last(network)
        self._loss = LossSettings() if loss is None else loss
        self._extra_loss = extra_loss
        self._team = Team() if team is None else team
        learned = [*network.parameters()]
        if isinstance(extra_loss, nn.Module):
            learned += [value for value in extra_loss.parameters() if value.requires_grad]
        self._learned = learned
        self.optimizer = make_optimizer(iter(learned), settings)
        self.average = (
            WeightAverage(self.network, settings.average_decay) if settings.average_decay else None
        )
        self._features = torch.compile(network.features) if compiled else network.features
        self._predict = torch.compile(network.predict) if compiled else network.predict
        self._half = half_type(self.device)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._half is torch.float16)

    def losses(self, batch: Batch) -> tuple[Losses, Tensor]:
        """The detection loss of a batch, and all that is minimised.

        The network runs in half precision on CUDA; its boxes are decoded in float32.
        """
        with torch.autocast(self.device.type, dtype=self._half, enabled=self._half is not None):
            images = images_to_tensor(batch.images, self.device)
            features = self._features(images)
            levels = self._predict(features)
            extra = None if self._extra_loss is None else self._extra_loss(images, features, levels)
        losses = network_loss(
            self.network.code,
            levels,
            *targets_to_tensors(batch, self.device),
            settings=self._loss,
        )
        return losses, losses.total if extra is None else losses.total + extra

    def step(self, batch: Batch) -> StepReport:
        """One optimizer step.

        Raises:
            NotFiniteError: the loss or a gradient is NaN or infinite.
            UserError: a single image is too large for the device's memory.
        """
        rate = learning_rate_at(self.step_count, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        numbers = self._learn(batch)
        self._scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._learned, self.settings.gradient_clip)
        values = torch.cat([numbers, norm[None]]).tolist()
        classification, quality, box, positives, total, norm_value = values
        if not math.isfinite(total):
            raise NotFiniteError(f"loss is {total} at step {self.step_count}")
        if not (math.isfinite(norm_value) or self._scaler.is_enabled()):
            raise NotFiniteError(f"gradient is {norm_value} at step {self.step_count}")
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.step_count += 1
        if self.average is not None:
            self.average.update(self.step_count)
        return StepReport(
            step=self.step_count,
            loss=total,
            classification=classification,
            quality=quality,
            box=box,
            positives=round(positives),
            learning_rate=rate,
            gradient_norm=norm_value,
        )

    def _learn(self, batch: Batch) -> Tensor:
        """Leave the gradients of a batch; class, quality and box loss, positives, total."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                if self.parts == 1 and self._team.size == 1:
                    return self._learn_whole(batch)
                return self._learn_parts(batch)
            except torch.OutOfMemoryError as error:
                self._split_further(len(batch.images), error)
            if self.device.type == "cuda":  # outside `except`, where the error holds the tensors
                torch.cuda.empty_cache()

    def _learn_whole(self, batch: Batch) -> Tensor:
        losses, total = self.losses(batch)
        self._scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        return _numbers(losses, total)

    def _learn_parts(self, batch: Batch) -> Tensor:
        """As `_learn_whole`, from parts of this process's rows and from all of the team.

        Losses are sums divided by the number of positives, at least 1 (see `network_loss`). A
        part's loss is multiplied by its own number, and in the end all by one over the whole
        batch's: that is the loss of the batch. (Counting positives in images keeps the products
        small enough for float16. An extra loss becomes the parts' mean by positives.)
        """
        images = len(batch.images)
        rows = -(-images // self.parts)
        numbers = torch.zeros(5, device=self.device)
        for first in range(0, images, rows):
            part = rows_of_batch(batch, range(first, min(first + rows, images)))
            losses, total = self.losses(part)
            weight = losses.positives.clamp(min=1) / images
            self._scaler.scale(total * weight).backward()  # type: ignore[no-untyped-call]
            weights = torch.stack([weight, weight, weight, weight.new_ones(()), weight])
            numbers += _numbers(losses, total) * weights
        gradients = [p.grad for p in self._learned if p.grad is not None]
        self._team.add_up([*gradients, numbers])
        share = images / numbers[3].clamp(min=1)
        torch._foreach_mul_(gradients, share)
        return torch.stack([*(numbers[:3] * share), numbers[3], numbers[4] * share])

    def _split_further(self, images: int, error: torch.OutOfMemoryError) -> None:
        if self._team.size > 1 or self.parts >= images:
            raise UserError(
                f"out of memory at step {self.step_count}; use a smaller batch_size or image_size"
            ) from error
        self.parts *= 2
        self.notes.append(
            f"out of memory at step {self.step_count}: batches of {images} images are learned in "
            f"{self.parts} parts from here on"
        )

    @property
    def result(self) -> NetworkType:
        """The network to use: the average of weights where one is kept."""
        return self.network if self.average is None else self.average.network

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on, in types that `weights_only` loading accepts."""
        extra = self._extra_loss
        return {
            "step_count": self.step_count,
            "parts": self.parts,
            "notes": list(self.notes),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": None if self.average is None else self.average.network.state_dict(),
            "extra_loss": extra.state_dict() if isinstance(extra, nn.Module) else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where another trainer of the same network and settings was."""
        self.step_count = state["step_count"]
        self.parts = state["parts"]
        self.notes = list(state["notes"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.network.load_state_dict(state["average"])
        if isinstance(self._extra_loss, nn.Module):
            self._extra_loss.load_state_dict(state["extra_loss"])


def _numbers(losses: Losses, total: Tensor) -> Tensor:
    """The parts of a loss, the positives and all that is minimised. Shape (5,)."""
    parts = (losses.classification, losses.quality, losses.box, losses.positives, total)
    return torch.stack([part.detach().float() for part in parts])


def fit_through(
    network: NetworkType,
    batches: BatchSource,
    settings: FitSettings,
    *,
    stops: Sequence[int],
    loss: LossSettings | None = None,
    extra_loss: ExtraLoss | None = None,
) -> Iterator[NetworkType]:
    """One fit, shown on its way: the result so far after each of these numbers of steps, rising.

    It may be looked at, and judged, but is trained on afterwards; who stops asking ends the fit.
    """
    trainer = Trainer(network, settings, loss=loss, extra_loss=extra_loss)
    for stop in stops:
        while trainer.step_count < stop:
            trainer.step(batches.batch(trainer.step_count))
        yield trainer.result


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initial weights drawn inside depend on the seed alone; the global generator is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
