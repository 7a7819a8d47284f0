"""What ends a process in order: signals, and background jobs that must not fail."""

import asyncio
import contextvars
import os
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import structlog

from consulmesh import logs

T = TypeVar("T")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger()


class JobFailedError(Exception):
    """A background job ended with an error, which is the cause of this one."""


class Jobs:
    """The background jobs of a process; the first that fails sets `draining`.

    All mutable state: the running tasks and the first failure. Each job runs in a context of its
    own: it must not inherit the deadline or the trace of the request that happened to start it.
    """

    def __init__(self, draining: asyncio.Event) -> None:
        self._draining = draining
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failure: JobFailedError | None = None

    def start(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run a coroutine until it ends or the process does."""
        task = asyncio.get_running_loop().create_task(
            coroutine, name=name, context=contextvars.Context()
        )
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def aclose(self) -> None:
        """Cancel what still runs and wait for it."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def check(self) -> None:
        """Raise JobFailedError if a job failed."""
        if self._failure:
            raise self._failure

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        log.error("job_failed", job=task.get_name(), exc_info=error)
        if self._failure is None:
            self._failure = JobFailedError(task.get_name())
            self._failure.__cause__ = error
        self._draining.set()


@contextmanager
def drained_by_signals(draining: asyncio.Event) -> Iterator[None]:
    """Let the first SIGTERM or SIGINT set `draining`, for the block; a second exits at once."""
    loop = asyncio.get_running_loop()
    received: list[str] = []

    def take(number: signal.Signals) -> None:
        received.append(number.name)
        if len(received) > 1:
            log.warning("exit_at_once", signals=received)
            logs.close()
            os._exit(128 + number)
        log.info("draining", signal=number.name)
        draining.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, take, number)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
