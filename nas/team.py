"""A few processes that work on the same step and add up what they found.

Small networks leave a second thread waiting at every operator; a second process does not wait.
Every member runs the same program on its own share of the batch, so all stay equal.
"""

import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor

Job = TypeVar("Job")


class Team:
    """This process's place among `size` members; rank 0 is the one that reports and writes."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all members, in place; all must hold equal shapes."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(
            tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True
        ):
            tensor.copy_(part.view_as(tensor))


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch operators inside run on one thread of this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def work_together(
    work: Callable[[Team, Job], None], job: Job, *, size: int, lead: Callable[[Team], None]
) -> None:
    """Run `work(team, job)` in size - 1 new processes and `lead(team)`, as rank 0, in this one.

    work and job must be picklable. Members end with this process, whatever ends it.
    """
    if size == 1:
        lead(Team())
        return
    with tempfile.TemporaryDirectory() as folder, one_thread():
        store = Path(folder) / "store"
        context = get_context("spawn")
        members = [
            context.Process(target=_member, args=(work, job, rank, size, store), daemon=True)
            for rank in range(1, size)
        ]
        for process in members:
            process.start()
        _join(store, rank=0, size=size)
        try:
            lead(Team(0, size))
        finally:
            torch.distributed.destroy_process_group()
            for process in members:
                process.terminate()
                process.join()


def _member(work: Callable[[Team, Job], None], job: Job, rank: int, size: int, store: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the leader's affair
    torch.set_num_threads(1)
    _join(store, rank=rank, size=size)
    work(Team(rank, size), job)
    torch.distributed.destroy_process_group()


def _join(store: Path, *, rank: int, size: int) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size
    )
