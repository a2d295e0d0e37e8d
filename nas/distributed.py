"""Data-parallel training: several processes learn each step together, as one would alone.

Each takes its rows of the global batch, losses are divided by the positives of all rows,
gradients are added up, and batch norms see all rows. `torchrun` starts the processes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from data.loader import BatchSource, part_of_batch
from data.sample import Batch
from nas.team import Team

LONGEST_WAIT = timedelta(hours=2)
"""For another member: rank 0 validates while the others wait."""


@contextmanager
def torchrun_team(device: torch.device) -> Iterator[tuple[Team, torch.device]]:
    """This process's team and device, when `torchrun` started it; else alone, on the device given.

    On CUDA each process of a machine has a device of its own.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Team(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=LONGEST_WAIT)
    try:
        yield (
            Team(torch.distributed.get_rank(), torch.distributed.get_world_size()),
            device,
        )
    finally:
        torch.distributed.destroy_process_group()


class OwnRows:
    """A member's rows of every batch: equal shares, in order of rank.

    Raises:
        ValueError: the batch size is not a multiple of the team's.
    """

    def __init__(self, batches: BatchSource, team: Team) -> None:
        if batches.batch_size % team.size:
            raise ValueError(
                f"batch_size must be a multiple of the team's {team.size}, got {batches.batch_size}"
            )
        self._batches = batches
        self.batch_size = batches.batch_size // team.size
        self.image_size = batches.image_size
        self.batches_per_epoch = batches.batches_per_epoch
        self._first = team.rank * self.batch_size

    def batch(self, step: int) -> Batch:
        """This member's rows of the global batch of a step."""
        return self.part(step, range(self.batch_size))

    def part(self, step: int, rows: range) -> Batch:
        """Some of them."""
        first = self._first
        return part_of_batch(self._batches, step, range(first + rows.start, first + rows.stop))


def equal_start(network: nn.Module, team: Team) -> None:
    """Give every member rank 0's weights and statistics."""
    if team.size > 1:
        for value in network.state_dict().values():
            torch.distributed.broadcast(value, 0)


def same_for_all(value: float, team: Team, device: torch.device) -> float:
    """Rank 0's value, on every member."""
    shared = torch.tensor([value if team.rank == 0 else 0.0], dtype=torch.float64, device=device)
    team.add_up([shared])
    return float(shared)


class _SumOverTeam(torch.autograd.Function):
    """The sum of every member's tensor. Each member's gradient is the sum of all members'."""

    @staticmethod
    def forward(_context: Any, own: Tensor) -> Tensor:
        total = own.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total


def _sum_over_team(own: Tensor) -> Tensor:
    total: Tensor = _SumOverTeam.apply(own)  # type: ignore[no-untyped-call]
    return total


class SharedBatchNorm(nn.BatchNorm2d):
    """A batch norm whose batch is that of all members, on any device and backend.

    torch's SyncBatchNorm does the same on CUDA alone. Statistics are taken in float32.
    """

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            return super().forward(images)
        x = images.float()
        batch, _, height, width = x.shape
        count = torch.tensor([batch * height * width], dtype=x.dtype, device=x.device)
        sums = _sum_over_team(torch.cat([x.sum((0, 2, 3)), count]))
        number = sums[-1].detach()
        mean = (sums[:-1] / number)[:, None, None]
        variance = _sum_over_team((x - mean).square().sum((0, 2, 3))) / number
        self._remember(mean.detach().flatten(), variance.detach() * number / (number - 1))
        normal = (x - mean) * (variance + self.eps).rsqrt()[:, None, None]
        return (normal * self.weight[:, None, None] + self.bias[:, None, None]).to(images.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            raise ValueError("a shared batch norm must have running statistics with a momentum")
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1


@contextmanager
def shared_batch_norms(network: nn.Module, team: Team) -> Iterator[None]:
    """Inside, the network's batch norms see the rows of all members; its state is named as before.

    A team of one is left as it is.
    """
    if team.size == 1:
        yield
        return
    _exchange(network, nn.BatchNorm2d, SharedBatchNorm)
    try:
        yield
    finally:
        _exchange(network, SharedBatchNorm, nn.BatchNorm2d)


def _exchange(network: nn.Module, old: type[nn.BatchNorm2d], new: type[nn.BatchNorm2d]) -> None:
    """Put batch norms of another type, with the same tensors, in the places of the old ones."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is old:
                setattr(parent, name, _with_tensors_of(child, new))


def _with_tensors_of(norm: nn.BatchNorm2d, kind: type[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    twin = kind(norm.num_features, norm.eps, norm.momentum, device="meta")
    twin.weight, twin.bias = norm.weight, norm.bias
    twin.running_mean, twin.running_var = norm.running_mean, norm.running_var
    twin.num_batches_tracked = norm.num_batches_tracked
    return twin.train(norm.training)
