"""Processes that work for this one and never outlive it."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any


class ProcessPool(ProcessPoolExecutor):
    """Spawned processes that end when their driver ends, also when it is killed.

    Each worker holds one end of a pipe. When the driver closes the other end, or is killed, so
    that the system closes it, the worker exits at once: no orphans are left. Ctrl-C does not
    reach the workers; it is the driver's affair.

    start: called with arguments once in each new process.
    """

    def __init__(
        self, processes: int, start: Callable[..., object], arguments: tuple[Any, ...] = ()
    ) -> None:
        context = get_context("spawn")
        self._held, self._lifeline = context.Pipe(duplex=False)
        super().__init__(
            processes,
            mp_context=context,
            initializer=_start_worker,
            initargs=(self._held, start, arguments),
        )

    def abandon(self) -> None:
        """End the workers now, in the middle of whatever they do."""
        self._lifeline.close()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """As in `ProcessPoolExecutor`; then the pipe is closed too."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._lifeline.close()
        self._held.close()


def _start_worker(
    lifeline: Connection, start: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_driver, args=(lifeline,), daemon=True).start()
    start(*arguments)


def _exit_with_driver(lifeline: Connection) -> None:
    lifeline.poll(None)  # nothing is ever sent: it returns when the other end is closed
    os._exit(1)
