"""Hedged reads: a second attempt of a call that is late, so that one instance delays nobody.

An instance that is frozen, or that lost its disk, accepts calls and answers none: until a health
check or an ejection takes it out, each call that goes there waits for its deadline. A late read is
asked again, and gRPC core's next pick is most often another instance; the first answer counts, the
other attempts are cancelled.

Late is what few calls are when all is well, so that little is asked twice then ("The Tail at
Scale", CACM 56, 2); a budget bounds it when all is late. gRFC A6 describes hedging with a fixed
delay, which gRPC core does not have.
"""

# ruff: noqa: D102 - the methods are those of gRPC's interface

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Final, TypeVar

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc import aio

from consulmesh.calls import code_of
from consulmesh.metrics import HedgeMetrics

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
Begin = Callable[[float | None], "aio.UnaryUnaryCall[_Request, _Response]"]
"""Makes the first attempt (None) or another, given the seconds that are left for it; raises
AioRpcError if it must not be made."""

ATTEMPTS: Final = 5
"""Under load picks are near to random: with one of two instances frozen, one call in 32 finds no
other within as many attempts."""
_FIRST_DELAY: Final = 0.1  # seconds, before anything is known
_LEAST_DELAY: Final = 0.01  # a busy event loop alone is as late
_LATE: Final = 0.98  # of answers are earlier than what is late
_REMEMBERED: Final = 256  # answers
_LOOKED_AT_EVERY: Final = 32
_SHARE: Final = 0.02  # of calls may be asked again
_SAVED_SECONDS: Final = 5.0
"""So much of what is not used is saved: as long as a frozen instance stays in, each call may be
asked again."""
_LEAST_SAVED: Final = 100.0  # also of a process that has just begun: so few hurt nobody

_OF_THE_ATTEMPT: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""What says nothing of the call itself: another attempt that is under way may still answer."""


def is_read(method: str) -> bool:
    """Say whether the proto of a method ("/package.Service/Method") says NO_SIDE_EFFECTS.

    That is known of protos that this process has imported, as any with generated stubs.
    """
    name = method.lstrip("/").replace("/", ".")
    try:
        found = descriptor_pool.Default().FindMethodByName(name)
    except KeyError:
        return False
    level: object = found.GetOptions().idempotency_level
    return level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS


class Hedge:
    """When calls of one method are late, and how many may be asked again.

    `choice` says how many instances there are: with one, nothing is asked again.

    State: the last answers' latencies and the delay that follows from them, the calls since then,
    the rate of calls, and the tokens.
    """

    __slots__ = (
        "_answers",
        "_choice",
        "_clock",
        "_looked_at",
        "_metrics",
        "_rate",
        "_since",
        "_tokens",
        "delay",
    )

    def __init__(
        self,
        *,
        choice: Callable[[], int],
        metrics: HedgeMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._choice = choice
        self._metrics = metrics
        self._clock = clock
        self._answers: deque[float] = deque(maxlen=_REMEMBERED)
        self._since = 0
        self._looked_at = clock()
        self._rate = 0.0
        self._tokens = _LEAST_SAVED
        self.delay = _FIRST_DELAY

    def __repr__(self) -> str:
        return f"<Hedge delay={self.delay:.3f} s tokens={self._tokens:.1f}>"

    def allows(self) -> bool:
        """Whether a late call may be asked again; then that is counted."""
        if self._tokens < 1 or self._choice() < 2:  # noqa: PLR2004 - another one
            return False
        self._tokens -= 1
        self._metrics.made += 1
        return True

    def ended(self) -> None:
        """A call is over, whether it was asked again or not."""
        saved = max(_LEAST_SAVED, self._rate * _SAVED_SECONDS)
        self._tokens = min(saved, self._tokens + _SHARE)

    def answered(self, seconds: float, *, again: bool) -> None:
        """A call has an answer after so many seconds; `again`: of a later attempt."""
        self._metrics.won += again
        self._answers.append(seconds)
        self._since += 1
        if self._since >= _LOOKED_AT_EVERY:
            self._look()

    def _look(self) -> None:
        now = self._clock()
        self._rate = self._since / max(now - self._looked_at, 0.001)
        self._since, self._looked_at = 0, now
        ordered = sorted(self._answers)
        self.delay = max(_LEAST_DELAY, ordered[int(_LATE * len(ordered))])


class HedgedCall(aio.UnaryUnaryCall[_Request, _Response]):
    """A call of one attempt or several: the one that answers first stands for all.

    State: the attempts, the timer of the next one, and the future of the one that counts.
    """

    def __init__(self, begin: Begin[_Request, _Response], hedge: Hedge) -> None:
        self._begin = begin
        self._hedge = hedge
        self._started = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._counts: asyncio.Future[aio.UnaryUnaryCall[_Request, _Response]] = (
            self._loop.create_future()
        )
        self._attempts: list[aio.UnaryUnaryCall[_Request, _Response]] = []
        self._attempt(None)
        self._timer = self._loop.call_later(hedge.delay, self._late)

    def __repr__(self) -> str:
        return f"<HedgedCall attempts={len(self._attempts)} done={self.done()}>"

    def __await__(self) -> Generator[Any, None, _Response]:
        try:
            counts = yield from asyncio.shield(self._counts).__await__()
        except asyncio.CancelledError:
            self.cancel()
            raise
        return (yield from counts.__await__())

    def cancel(self) -> bool:
        self._timer.cancel()
        cancelled = [attempt.cancel() for attempt in self._attempts]
        return any(cancelled)

    def cancelled(self) -> bool:
        return self._counts.done() and self._counts.result().cancelled()

    def done(self) -> bool:
        return self._counts.done()

    def time_remaining(self) -> float | None:
        return self._attempts[0].time_remaining()

    def add_done_callback(self, callback: Any) -> None:
        self._counts.add_done_callback(lambda _counts: callback(self))

    async def initial_metadata(self) -> aio.Metadata:
        return await (await self._one()).initial_metadata()

    async def trailing_metadata(self) -> aio.Metadata:
        return await (await self._one()).trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        return await (await self._one()).code()

    async def details(self) -> str:
        return await (await self._one()).details()

    async def wait_for_connection(self) -> None:
        await self._attempts[0].wait_for_connection()

    async def _one(self) -> aio.UnaryUnaryCall[_Request, _Response]:
        return await asyncio.shield(self._counts)

    def _attempt(self, left: float | None) -> None:
        attempt = self._begin(left)
        self._attempts.append(attempt)
        attempt.add_done_callback(self._over)

    def _late(self) -> None:
        if self._counts.done() or len(self._attempts) >= ATTEMPTS or not self._hedge.allows():
            return
        try:
            self._attempt(self.time_remaining())
        except aio.AioRpcError:
            return  # no time is left, or the upstream is to be spared: the first attempt goes on
        self._timer = self._loop.call_later(self._hedge.delay, self._late)

    def _over(self, attempt: aio.UnaryUnaryCall[_Request, _Response]) -> None:
        if self._counts.done():
            return
        others = [each for each in self._attempts if each is not attempt and not each.done()]
        answered = code_of(attempt) not in _OF_THE_ATTEMPT
        if others and not answered:
            return
        self._timer.cancel()
        self._counts.set_result(attempt)
        for other in others:
            other.cancel()
        self._hedge.ended()
        if answered:
            seconds = time.monotonic() - self._started
            self._hedge.answered(seconds, again=attempt is not self._attempts[0])
