"""Blocking queries that follow one answer of Consul for as long as the process lives.

The rules of https://developer.hashicorp.com/consul/api-docs/features/blocking: ask without an
index first; an index that went backwards, or is 0, is forgotten; a return is not a change. Beyond
them: after any error ask without an index, because an agent that lost its state lets an old index
block for the full wait; and a Consul that misbehaves is asked at most once a second, while a
healthy one is followed as fast as it changes.
"""

import asyncio
import contextvars
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Never

import structlog

from consulmesh.consul_api import Answer, ConsulApi, ConsulError, Query

WAIT = timedelta(seconds=30)
MIN_GAP = 0.02  # seconds between requests while news keep coming
PACE = 1.0  # seconds between requests that bring nothing
MAX_PACE = 3.0  # an agent that comes back must be noticed within 5 s, jitter included
FORGIVEN = 5.0  # wake-ups without a change that a healthy Consul may do in a row

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A new answer.

    `resumed_at` is when (monotonic seconds) Consul answered again after the last interruption, an
    error or a lost index; -inf if there never was one.
    """

    data: Any
    resumed_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchState:
    """A watch as seen from outside; `error` is the last one, while it lasts."""

    query: str
    index: int
    requests: int
    changes: int
    errors: int
    callback_errors: int
    error: str | None
    answered_at: float | None


class Pace:
    """Decides how long to pause before the next request; all times in seconds.

    State: when the current request began, errors in a row, and forgiven wake-ups left.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._began = clock()
        self._failures = 0
        self._forgiven = FORGIVEN
        self._forgiven_at = self._began

    def begin(self) -> None:
        """A request starts now."""
        self._began = self._clock()

    def progress(self) -> float:
        """Pause after an answer that was worth asking for."""
        self._failures = 0
        return self._until(MIN_GAP)

    def nothing(self, *, advanced: bool) -> float:
        """Pause after an early answer without a change; forgiven a few times if the index grew."""
        self._failures = 0
        now = self._clock()
        self._forgiven = min(FORGIVEN, self._forgiven + (now - self._forgiven_at) / PACE)
        self._forgiven_at = now
        if advanced and self._forgiven >= 1:
            self._forgiven -= 1
            return self._until(MIN_GAP)
        return self._until(PACE)

    def nonsense(self) -> float:
        """Pause after an answer whose index cannot be followed, whatever it said."""
        self._failures = 0
        return self._until(PACE)

    def failure(self) -> float:
        """Pause after an error: longer each time, never the same for two processes."""
        self._failures += 1
        longest = min(MAX_PACE, PACE * 1.5 ** (self._failures - 1))
        return self._until(longest * self._jitter(1.0, 1.3))

    def _until(self, gap: float) -> float:
        return max(0.0, self._began + gap - self._clock())


class Watch:
    """Follows one query and calls `on_change` for the first answer and for every other one.

    All mutable state: the index, the last data, when and how the last interruption ended, and the
    counters of `state`. A callback that raises is reported and counted; the watch goes on.
    """

    def __init__(
        self,
        consul: ConsulApi,
        query: Query,
        on_change: Callable[[Change], None],
        *,
        wait: timedelta = WAIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._consul = consul
        self._query = query
        self._on_change = on_change
        self._wait = wait
        self._clock = clock
        self._pace = Pace(clock)
        self._index = 0
        self._data: Any = _NOTHING
        self._task: asyncio.Task[Never] | None = None
        self._error: str | None = None
        self._answered_at: float | None = None
        self._requests = self._changes = self._errors = self._callback_errors = 0
        self.resumed_at = float("-inf")

    def __repr__(self) -> str:
        return f"Watch({self._query}, index={self._index}, error={self._error!r})"

    @property
    def failing(self) -> bool:
        """Whether the last request failed."""
        return self._error is not None

    @property
    def state(self) -> WatchState:
        """A snapshot for debugging and metrics."""
        return WatchState(
            query=str(self._query),
            index=self._index,
            requests=self._requests,
            changes=self._changes,
            errors=self._errors,
            callback_errors=self._callback_errors,
            error=self._error,
            answered_at=self._answered_at,
        )

    def start(self) -> None:
        """Follow in a task of its own, free of the context of the call that started it."""
        self._task = asyncio.create_task(
            self.run(), name=f"watch {self._query}", context=contextvars.Context()
        )
        self._task.add_done_callback(self._ended)

    def stop(self) -> None:
        """Stop following; the callback is not called again. May be called twice."""
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        """Stop, and wait until the request in flight is gone."""
        self.stop()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def run(self) -> Never:
        """Follow until cancelled."""
        while True:
            self._pace.begin()
            self._requests += 1
            began = self._clock()
            try:
                answer = await self._consul.ask(self._query, index=self._index, wait=self._wait)
            except ConsulError as error:
                pause = self._failed(error)
            else:
                pause = self._answered(answer, self._clock() - began)
            await asyncio.sleep(pause)

    def _ended(self, task: asyncio.Task[Never]) -> None:
        if not task.cancelled() and (error := task.exception()):
            log.error("consul_watch_died", query=str(self._query), exc_info=error)

    def _failed(self, error: ConsulError) -> float:
        if not self.failing:
            log.warning("consul_watch_interrupted", query=str(self._query), error=str(error))
        self._errors += 1
        self._error = str(error)
        self._index = 0
        return self._pace.failure()

    def _answered(self, answer: Answer, waited: float) -> float:
        lost = answer.index < max(self._index, 1)
        if self.failing or lost:
            self._resumed(lost=lost)
        advanced = answer.index > self._index > 0
        self._index = 0 if lost else answer.index
        self._answered_at = self._clock()
        changed = answer.data != self._data
        if changed:
            self._changed(answer.data)
        if lost:
            return self._pace.nonsense()
        if changed or waited >= self._wait.total_seconds():
            return self._pace.progress()
        return self._pace.nothing(advanced=advanced)

    def _resumed(self, *, lost: bool) -> None:
        if self.failing:
            log.info("consul_watch_resumed", query=str(self._query))
        if lost:
            log.debug("consul_watch_index_lost", query=str(self._query), index=self._index)
        self.resumed_at = self._clock()
        self._error = None

    def _changed(self, data: Any) -> None:
        self._data = data
        self._changes += 1
        try:
            self._on_change(Change(data=data, resumed_at=self.resumed_at))
        except Exception:
            self._callback_errors += 1
            log.exception("consul_watch_callback_failed", query=str(self._query))


_NOTHING = object()  # no answer yet; None is one, it stands for 404
