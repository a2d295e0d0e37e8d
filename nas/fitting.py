"""Fitting one network to batches of faces: the loop that proxy fits and retraining share."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from data.errors import UserError
from data.loader import BatchSource
from data.progress import Progress, silent
from data.sample import Batch
from objectives.loss import Losses, detection_loss

BETAS = (0.9, 0.98)
"""AdamW's memory: with the usual 0.999 the large gradients of the first steps keep the rate down
for a thousand more. After 400 steps of batch 8 on real crops, AP was 0.029 with 0.999, 0.049 with
0.99 and 0.95 (one run each, the last two with an epsilon of 1e-6 beside it)."""

NetworkType = TypeVar("NetworkType", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How a network is fitted.

    steps: optimizer steps. batch_size: images a step. image_size: side of an image, pixels.
    learning_rate: AdamW's, at the end of the warm-up; it falls to 0 along a cosine.
    warmup_share: share of the steps in which the rate rises from 0.
    gradient_clip: largest L2 norm of all gradients together.
    average_decay: of the running average of weights that becomes the result; 0 for none.
    """

    steps: int
    batch_size: int = 8
    image_size: int = 256
    learning_rate: float = 5e-3
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    gradient_clip: float = 10.0
    average_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup_share", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in 0..1, 1 excluded, got {getattr(self, name)}")


def to_channels_last(network: NetworkType) -> NetworkType:
    """The same network with its kernels in the memory order that is fastest for small networks."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def learning_rate_at(step: int, settings: FitSettings) -> float:
    """The rate of a step: linear warm-up, then half a cosine down to 0 after the last step."""
    warmup = settings.warmup_share * settings.steps
    if step + 1 <= warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1.0, settings.steps - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))


def images_to_tensor(images: Any, device: torch.device) -> Tensor:
    """(B, S, S, 3) uint8 array -> (B, 3, S, S) float 0..255 in channels_last order, no copy."""
    return torch.from_numpy(images).to(device, non_blocking=True).permute(0, 3, 1, 2).float()


def targets_to_tensors(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(boxes_xyxy, wanted, ignore) of a batch, as `detection_loss` takes them."""
    boxes, wanted, ignore = (
        torch.from_numpy(array).to(device, non_blocking=True)
        for array in (batch.boxes_xyxy, batch.wanted, batch.ignore)
    )
    return boxes, wanted, ignore


def make_optimizer(parameters: Iterator[nn.Parameter], settings: FitSettings) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels, not biases, batch norms and fusion weights."""
    every = list(parameters)
    groups = [
        {"params": [p for p in every if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in every if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=BETAS, foreach=True)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step was like."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float


class NotFiniteError(UserError):
    """The loss became NaN or infinite; the network's weights are those before the step."""


class Trainer(Generic[NetworkType]):
    """One network in training. The same state and batches give the same steps.

    On CUDA the forward pass runs in bfloat16 where the hardware has it, else in float16 with a
    gradient scaler; on the CPU in float32.
    """

    def __init__(self, network: NetworkType, settings: FitSettings) -> None:
        self.settings = settings
        self.device = next(network.parameters()).device
        self.step_count = 0
        self.network = to_channels_last(network)
        self.optimizer = make_optimizer(network.parameters(), settings)
        self.average = (
            torch.optim.swa_utils.AveragedModel(
                self.network,
                multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(  # type: ignore[no-untyped-call]
                    settings.average_decay
                ),
                use_buffers=True,
            )
            if settings.average_decay
            else None
        )
        self._half = self._half_type()
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._half is torch.float16)

    def _half_type(self) -> torch.dtype | None:
        if self.device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16

    def losses(self, batch: Batch) -> Losses:
        """The detection loss of a batch; its boxes are decoded in float32."""
        with torch.autocast(self.device.type, dtype=self._half, enabled=self._half is not None):
            levels = self.network(images_to_tensor(batch.images, self.device))
        return detection_loss(levels, *targets_to_tensors(batch, self.device))

    def step(self, batch: Batch) -> StepReport:
        """One optimizer step.

        Raises:
            NotFiniteError: the loss is NaN or infinite.
        """
        rate = learning_rate_at(self.step_count, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        loss = self.losses(batch).total
        value = loss.item()
        if not math.isfinite(value):
            raise NotFiniteError(f"loss is {value} at step {self.step_count}")
        self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.gradient_clip)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.step_count += 1
        return StepReport(self.step_count, value, rate, float(norm))

    @property
    def result(self) -> NetworkType:
        """The network to use: the average of weights where one is kept."""
        if self.average is None:
            return self.network
        return cast(NetworkType, self.average.module)

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on, in types that `weights_only` loading accepts."""
        return {
            "step_count": self.step_count,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where another trainer of the same network and settings was."""
        self.step_count = state["step_count"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def fit(
    network: NetworkType,
    batches: BatchSource,
    settings: FitSettings,
    *,
    progress: Progress = silent,
) -> NetworkType:
    """Fit a network, where it is, for `settings.steps` steps and return the result."""
    trainer = Trainer(network, settings)
    for step in range(settings.steps):
        trainer.step(batches.batch(step))
        progress("fit", step + 1, settings.steps)
    return trainer.result


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initial weights drawn inside depend on the seed alone; the global generator is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
