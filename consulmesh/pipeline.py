"""What every call that a server answers goes through, in this order.

context (deadline, trace, request id, criticality, caller, token) → admission → authorization →
decoding → the handler → errors → access log and metrics.

Each answer carries the trailer `mesh-instance`, but for those that gRPC core gives itself, and
those of a handler that aborts with trailers of its own.

A stream's reader that takes nothing is cut. gRPC buffers 64 KiB and one message for it; the status
goes behind them, so the reader learns of it if it ever reads on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

import grpc
import structlog
from grpc import aio

from consulmesh.context import CURRENT
from consulmesh.load import SERVICE as LOAD_SERVICE
from consulmesh.load import Load
from consulmesh.logs import AccessRecord
from consulmesh.metrics import MethodMetrics, RpcMetrics
from consulmesh.policies import Admission, Authorization, Metadata, Peer
from consulmesh.propagation import INSTANCE, Incoming
from consulmesh.translation import Answer, Draining, SlowReader, Translation

_log = structlog.get_logger()

READER_PATIENCE: Final = timedelta(seconds=30)
"""How long a stream's client may take no message before the stream is cut. Far more than a consumer
needs for a batch, so only one that has stopped is met."""

_OK: Final = grpc.StatusCode.OK.name
_CANCELLED: Final = grpc.StatusCode.CANCELLED.name
_QUIET: Final = ("grpc.health.v1.Health/", f"{LOAD_SERVICE}/")
"""What checks and balancers ask by themselves: worth a line only when it fails."""
# A cancellation this near to the deadline is its doing: gRPC rounds deadlines on the wire.
_NEAR_SECONDS: Final = 0.02
_NEAR_SHARE: Final = 0.01


class Pipeline:
    """What the calls of a server share.

    All mutable state: the number of calls in flight, the endless ones among them (streams without a
    deadline), whether the server drains, and the event that says that no call is left.
    """

    def __init__(
        self,
        *,
        translation: Translation,
        instance: str,
        admission: Admission | None,
        authorization: Authorization | None,
        access_log: Callable[[AccessRecord], None],
        metrics: RpcMetrics,
        reader_patience: timedelta = READER_PATIENCE,
    ) -> None:
        self.translation = translation
        self.reader_patience = reader_patience.total_seconds()
        self.trailer = ((INSTANCE, instance),)
        self.access_log = access_log
        self.metrics = metrics
        self.in_flight = 0
        self.load = Load()
        self.draining = False
        self._admission = admission
        self._authorization = authorization
        self._endless: set[Call] = set()
        self._empty = asyncio.Event()

    def method(self, name: str, metrics: MethodMetrics | None = None) -> Method:
        """What the calls of one method share ("package.Service/Method")."""
        return Method(name, metrics or self.metrics.served(name))

    def drain(self) -> None:
        """Ends the endless calls, and lets no more of them begin."""
        self.draining = True
        for call in tuple(self._endless):
            call.drain()

    async def empty(self) -> None:
        """Returns once no call is in flight."""
        while self.in_flight:
            self._empty.clear()
            await self._empty.wait()

    def enter(self, call: Call) -> None:
        """Admission and authorization; health and streams without an end are always admitted.

        Who calls is found out first, for the log of what is not admitted.
        """
        method = call.method
        if self._authorization is not None:
            call.caller = self._authorization.identify(call.peer)
        if call.endless:
            if self.draining:
                raise Draining
            self._endless.add(call)
        elif self._admission is not None and not method.quiet:
            self._admission.admit(method.name, call.source)
        if self._authorization is not None:
            self._authorization.authorize(method.name, call.caller or "", call.source, call.peer)

    def leave(self, call: Call, code: str, now: float) -> None:
        """Each call's last step."""
        self.in_flight -= 1
        if not self.in_flight:
            self._empty.set()
        if call.endless:
            self._endless.discard(call)
        else:
            self.load.ended(now, code)


class Method:
    """What the calls of one method share."""

    __slots__ = ("metrics", "name", "quiet")

    def __init__(self, name: str, metrics: MethodMetrics) -> None:
        self.name = name
        self.metrics = metrics
        self.quiet = name.startswith(_QUIET)


class Call:
    """One call, from its context to its line in the log."""

    __slots__ = (
        "_begun",
        "_pipeline",
        "_started",
        "_task",
        "caller",
        "drained",
        "endless",
        "method",
        "peer",
        "source",
    )

    def __init__(self, pipeline: Pipeline, method: Method, peer: Peer, *, streaming: bool) -> None:
        self._started = now = time.monotonic()
        self._pipeline = pipeline
        self.method = method
        self.peer = peer
        self.caller: str | None = None
        remaining = peer.time_remaining()
        self.source = source = Incoming(peer.invocation_metadata() or (), remaining, now)
        CURRENT.set(source)  # in the context of the call's own task, which ends with it
        self._begun = False
        self.drained = False
        self.endless = streaming and remaining is None
        self._task: asyncio.Task[object] | None = asyncio.current_task() if self.endless else None
        peer.set_trailing_metadata(pipeline.trailer)
        method.metrics.started()
        pipeline.in_flight += 1
        if not self.endless:
            pipeline.load.began(now, source.waited)

    async def write(self, message: object) -> None:
        """Sends a message of a stream; raises SlowReader where the client does not take it."""
        if not self._begun:
            await self._begin()
        longest = self._pipeline.reader_patience
        try:
            async with asyncio.timeout(longest) as patience:
                await self.peer.write(message)
        except TimeoutError:
            if not patience.expired():
                raise
            raise SlowReader(longest) from None

    async def _begin(self) -> None:
        """Sends the headers apart from the first message.

        gRPC would send them again with the status while that message is stuck, and so fail to.
        """
        self._begun = True
        with suppress(aio.UsageError):  # the handler has sent some
            await self.peer.send_initial_metadata(())

    def drain(self) -> None:
        """Cancels the handler; what it raises becomes UNAVAILABLE (DRAINING)."""
        if self._task is not None:
            self.drained = True
            self._task.cancel()

    def succeeded(self, code: grpc.StatusCode | None) -> None:
        """The handler returned; `code` is what it set, if it did."""
        trailers, own = self.peer.trailing_metadata(), self._pipeline.trailer
        if trailers is not own:  # the handler has set some
            self.peer.set_trailing_metadata((*trailers, *own))
        self._ended(_OK if code is None else code.name)

    async def failed(self, error: BaseException) -> None:
        """The handler raised, and so does this, as gRPC wants it."""
        answer = self._answer(error)
        if answer is None:
            if isinstance(error, aio.AbortError) or not _peer_is_gone(error):
                raise error
            raise asyncio.CancelledError from None  # core would call it the service's error
        status = answer.status
        self._ended(status.code.name, status.reason)
        trailers: Metadata = (*answer.trailers, *self._pipeline.trailer)
        try:
            await self.peer.abort(status.code, status.message, trailers)
        except aio.InternalError:  # the client left before it could be told
            raise asyncio.CancelledError from None

    def _answer(self, error: BaseException) -> Answer | None:
        """What to say; None when it has been said already, or nobody is there to hear it."""
        if isinstance(error, asyncio.CancelledError):
            return self._cancelled(error)
        if isinstance(error, aio.AbortError):
            code = self.peer.code()
            self._ended(_CANCELLED if code is None else code.name)
            return None
        if not isinstance(error, Exception) or _peer_is_gone(error):
            self._ended(_CANCELLED)
            return None
        return self._translated(error)

    def _translated(self, error: BaseException) -> Answer:
        answer = self._pipeline.translation.answer(error)
        if not answer.expected:
            _log.error("handler_failed", method=self.method.name, exc_info=error)
        return answer

    def _cancelled(self, error: asyncio.CancelledError) -> Answer | None:
        task = asyncio.current_task()
        if self.drained and task is not None:
            task.uncancel()
            return self._translated(Draining())
        if task is not None and task.cancelling():
            self._ended(self._why_cancelled())
            return None
        # Something that the handler awaited was cancelled, not the call. gRPC would take it for the
        # latter, and the client would never get an answer.
        return self._translated(Draining() if self._pipeline.draining else error)

    def _why_cancelled(self) -> str:
        deadline = self.source.deadline
        if deadline is not None:
            near = max(_NEAR_SECONDS, (deadline - self._started) * _NEAR_SHARE)
            if deadline - time.monotonic() <= near:
                return grpc.StatusCode.DEADLINE_EXCEEDED.name
        return _CANCELLED

    async def outlive_drain(self) -> None:
        """Takes the cancellation that came when the handler had nothing left to await."""
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if self._task is None or self._task.uncancel():
                raise  # it was not only ours

    def _ended(self, code: str, reason: str | None = None) -> None:
        now = time.monotonic()
        seconds = now - self._started
        self._pipeline.leave(self, code, now)
        self.method.metrics.ended(code, seconds)
        if self.method.quiet and code == _OK:
            return
        record = AccessRecord(
            time.time(), self.method.name, code, seconds, self.source, reason, self.caller
        )
        self._pipeline.access_log(record)


def _peer_is_gone(error: BaseException) -> bool:
    """Errors of gRPC itself say so, but for the one that says that it was used wrongly."""
    return isinstance(error, aio.BaseError) and not isinstance(error, aio.UsageError)
