"""Where architectures are evaluated: in this process, or in processes of their own.

Anything with the interface of `concurrent.futures.Executor`, such as a cluster's, fits too: give
`Workers` a function that opens one.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from data.processes import ProcessPool
from nas.stop_rule import NEVER, StopRule
from search_spaces.architecture import Architecture
from studies.storage import Score

Evaluate = Callable[[Architecture, int, StopRule], Mapping[str, Score]]
"""(architecture, trial number, when to stop it) -> scores by name, `ap` among them, and
`nas.stop_rule.STOPPED_AT` where it was stopped."""

MakeEvaluate = Callable[[], Evaluate]
"""Prepares an evaluation, loading what it needs. For processes it must be picklable."""

T = TypeVar("T")


class WorkerDied(Exception):  # noqa: N818 - an event, not a fault of this program
    """A worker process ended in the middle of an evaluation, twice."""


@dataclass(slots=True)
class _Job:
    architecture: Architecture
    rule: StopRule
    future: Future[Mapping[str, Score]] | None = None
    """None when the executor broke before it took the job."""

    @property
    def is_lost(self) -> bool:
        """Whether a dead worker took this job with it."""
        if self.future is None:
            return True
        return self.future.done() and isinstance(self.future.exception(), BrokenExecutor)


class Workers:
    """Evaluates architectures in an executor, and opens a new one when a worker dies.

    Use it as a context manager. When the block ends by an error or by Ctrl-C, running evaluations
    are dropped at once.
    """

    def __init__(self, open_executor: Callable[[], Executor], evaluate: Evaluate) -> None:
        self._open_executor = open_executor
        self._evaluate = evaluate
        self._executor = open_executor()
        self._jobs: dict[int, _Job] = {}

    def submit(self, architecture: Architecture, trial: int, rule: StopRule = NEVER) -> None:
        """Queue the evaluation of a trial."""
        self._jobs[trial] = _Job(architecture, rule)
        self._start(trial)

    def result(self, trial: int) -> Mapping[str, Score]:
        """The scores of a queued trial, waiting for them.

        When a worker died, the trial is tried once more, alone in a new executor, so that the
        blame never falls on a trial that merely ran beside the guilty one.

        Raises:
            WorkerDied: its worker died again.
        """
        job = self._jobs[trial]
        try:
            if job.future is not None:
                return job.future.result()
        except BrokenExecutor:
            pass
        finally:
            if not job.is_lost:
                del self._jobs[trial]
        return self._retry_alone(trial)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and isinstance(self._executor, ProcessPool):
            self._executor.abandon()
        self._executor.shutdown(cancel_futures=True)

    def _start(self, trial: int) -> None:
        job = self._jobs[trial]
        try:
            job.future = self._executor.submit(self._evaluate, job.architecture, trial, job.rule)
        except BrokenExecutor:
            job.future = None

    def _renew(self) -> None:
        self._executor.shutdown(cancel_futures=True)
        self._executor = self._open_executor()

    def _retry_alone(self, trial: int) -> Mapping[str, Score]:
        self._renew()
        job = self._jobs.pop(trial)
        try:
            future = self._executor.submit(self._evaluate, job.architecture, trial, job.rule)
            return future.result()
        except BrokenExecutor as error:
            self._renew()
            raise WorkerDied(
                f"the worker that evaluated trial {trial} died twice, the second time alone"
            ) from error
        finally:
            for other, lost in self._jobs.items():
                if lost.is_lost:
                    self._start(other)


def local_workers(make_evaluate: MakeEvaluate, *, processes: int) -> Workers:
    """Workers on this machine: with one process, this one; else as many more.

    Raises:
        ValueError: processes is not positive.
    """
    if processes < 1:
        raise ValueError(f"processes must be positive, got {processes}")
    if processes == 1:
        return Workers(InProcess, make_evaluate())
    return Workers(
        lambda: ProcessPool(processes, _start_worker, (make_evaluate,)), _evaluate_in_worker
    )


class _LazyFuture(Future[T]):
    """Computes its result in the thread that first asks for it."""

    def __init__(self, compute: Callable[[], T]) -> None:
        super().__init__()
        self._compute = compute

    def result(self, timeout: float | None = None) -> T:
        if not self.done():
            self.set_result(self._compute())
        return super().result(timeout)


class InProcess(Executor):
    """Evaluates in the caller's own thread, when a result is asked for: one after another."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """A future that calls `fn` when its result is asked for. Its errors pass through."""
        return _LazyFuture(lambda: fn(*args, **kwargs))


_make_evaluate: MakeEvaluate | None = None
_evaluate: Evaluate | None = None


def _start_worker(make_evaluate: MakeEvaluate) -> None:
    """Set up a worker process of one torch thread. The evaluation is prepared with the first
    job, so that an error in it reaches the driver as it is."""
    global _make_evaluate
    import torch

    torch.set_num_threads(1)
    _make_evaluate = make_evaluate


def _evaluate_in_worker(
    architecture: Architecture, trial: int, rule: StopRule
) -> Mapping[str, Score]:
    global _evaluate
    if _evaluate is None:
        if _make_evaluate is None:
            raise RuntimeError("the worker was not set up")
        _evaluate = _make_evaluate()
    return _evaluate(architecture, trial, rule)
