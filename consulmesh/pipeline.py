"""What every call that a server answers goes through, in this order.

context (deadline, trace, request id, criticality, caller, token) → admission → authorization →
decoding → the handler → errors → access log and metrics.

Handlers are wrapped when they are registered, so that nothing is looked up for each call. All four
kinds of RPC are served; a streaming handler is an async generator or a coroutine that writes to its
context. Each answer carries the trailer `mesh-instance`, but for those that gRPC core gives itself.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Protocol, cast

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc import aio

from consulmesh.context import CURRENT, CallContext
from consulmesh.errors import InvalidArgument
from consulmesh.logs import AccessRecord
from consulmesh.metrics import UNKNOWN_METHOD, MethodMetrics, RpcMetrics
from consulmesh.propagation import INSTANCE, extract
from consulmesh.translation import Answer, Draining, Translation, UnknownMethod

Handler = Callable[[Any, Any], Any]
Metadata = tuple[tuple[str, str | bytes], ...]


class Peer(Protocol):
    """What is used of gRPC's servicer context, typed as it behaves."""

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Metadata) -> None:
        """Sends an error, and raises."""

    async def write(self, message: Any) -> None:
        """Sends a message of a stream."""

    def invocation_metadata(self) -> Metadata | None:
        """What the client sent."""

    def time_remaining(self) -> float | None:
        """Seconds; None without a deadline."""

    def trailing_metadata(self) -> Metadata:
        """What was set last."""

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Sets what is sent with the status."""

    def code(self) -> grpc.StatusCode | None:
        """What the handler set, if it did."""


_log = structlog.get_logger()

_OK: Final = grpc.StatusCode.OK
_QUIET: Final = "grpc.health.v1.Health/"  # asked every second: worth a line only when it fails
# A cancellation this near to the deadline is its doing: gRPC rounds deadlines on the wire.
_NEAR_SECONDS: Final = 0.02
_NEAR_SHARE: Final = 0.01


class Admission(Protocol):
    """Decides whether a call may start, by how much work there is already."""

    def admit(self, method: str, call: CallContext) -> None:
        """Returns, or raises an error that the server's translation knows."""


class Authorization(Protocol):
    """Decides whether this peer may call this method."""

    def authorize(self, method: str, call: CallContext, peer: Peer) -> None:
        """Returns, or raises PermissionDenied or Unauthenticated."""


class AdmitAll:
    """Never refuses."""

    def admit(self, method: str, call: CallContext) -> None:
        """Returns."""


class AuthorizeAll:
    """Never refuses."""

    def authorize(self, method: str, call: CallContext, peer: Peer) -> None:
        """Returns."""


class Pipeline:
    """Wraps handlers, and knows the calls that are in flight."""

    def __init__(
        self,
        *,
        translation: Translation,
        instance: str,
        admission: Admission,
        authorization: Authorization,
        access_log: Callable[[AccessRecord], None],
        metrics: RpcMetrics,
    ) -> None:
        self.translation = translation
        self.trailer = ((INSTANCE, instance),)
        self.access_log = access_log
        self.calls: set[Call] = set()
        self.draining = False
        self._admission = admission
        self._authorization = authorization
        self._metrics = metrics
        self._idle = asyncio.Event()

    def drain(self) -> None:
        """Ends the streams that have no deadline, and lets no more of them begin."""
        self.draining = True
        for call in tuple(self.calls):
            call.drain()

    async def idle(self) -> None:
        """Returns once no call is in flight; calls that come later are not waited for."""
        while self.calls:
            self._idle.clear()
            await self._idle.wait()

    def enter(self, call: Call) -> None:
        """Admission and authorization."""
        if self.draining and call.endless:
            raise Draining
        if not call.method.quiet:
            self._admission.admit(call.method.name, call.context)
        self._authorization.authorize(call.method.name, call.context, call.peer)

    def left(self, call: Call) -> None:
        """Called by each call at its end."""
        self.calls.discard(call)
        if not self.calls:
            self._idle.set()

    def wrap(self, path: str, handler: grpc.RpcMethodHandler[Any, Any]) -> Any:
        """The handler that gRPC is to have in place of this one."""
        name = path.lstrip("/")
        method = Method(name, self._metrics.served(name))
        shape = (handler.request_streaming, handler.response_streaming)
        return _WRAPPERS[shape](self, method, handler)

    def unknown(self, path: str) -> Any:
        """A handler that answers UNIMPLEMENTED to whatever kind of call this is."""

        async def refuse(_requests: object, _peer: Peer) -> None:
            raise UnknownMethod(f"There is no method {path[:200]}.")

        method = Method(path.lstrip("/")[:200], self._metrics.served(UNKNOWN_METHOD))
        return _stream_stream(self, method, grpc.stream_stream_rpc_method_handler(refuse))


class Method:
    """What the calls of one method have in common."""

    __slots__ = ("metrics", "name", "quiet")

    def __init__(self, name: str, metrics: MethodMetrics) -> None:
        self.name = name
        self.metrics = metrics
        self.quiet = name.startswith(_QUIET)


class Call:
    """One call from its context to its line in the log."""

    __slots__ = (
        "_drained",
        "_pipeline",
        "_started",
        "_task",
        "context",
        "endless",
        "method",
        "peer",
    )

    def __init__(self, pipeline: Pipeline, method: Method, peer: Peer, *, streaming: bool) -> None:
        self._started = time.monotonic()
        self._pipeline = pipeline
        self._task = asyncio.current_task()
        self._drained = False
        self.method = method
        self.peer = peer
        self.context = extract(peer.invocation_metadata() or (), peer.time_remaining())
        self.endless = streaming and self.context.deadline is None
        CURRENT.set(self.context)  # in the context of the call's own task
        peer.set_trailing_metadata(pipeline.trailer)
        method.metrics.started()
        pipeline.calls.add(self)

    def drain(self) -> None:
        """Ends the call if it would not end by itself."""
        if self.endless and not self._drained and self._task is not None:
            self._drained = True
            self._task.cancel()

    async def succeeded(self) -> None:
        """The handler returned."""
        if self._drained:
            await self._outlive_drain()
        trailers = self.peer.trailing_metadata()
        if trailers is not self._pipeline.trailer:
            self.peer.set_trailing_metadata((*trailers, *self._pipeline.trailer))
        self._ended((self.peer.code() or _OK).name, None)

    async def failed(self, error: BaseException) -> None:
        """The handler raised; raises what gRPC is to see in its place."""
        answer = self._answer(error)
        if answer is None:
            raise error
        self._ended(answer.status.code.name, answer.status.reason)
        await self.peer.abort(
            answer.status.code,
            answer.status.message,
            (*answer.trailers, *self._pipeline.trailer),
        )

    def _answer(self, error: BaseException) -> Answer | None:
        """What to say; None when it has been said, or nobody is there to hear it."""
        if isinstance(error, asyncio.CancelledError):
            return self._cancelled(error)
        if isinstance(error, aio.AbortError):
            self._ended((self.peer.code() or grpc.StatusCode.UNKNOWN).name, None)
            return None
        if not isinstance(error, Exception) or (
            isinstance(error, aio.BaseError) and not isinstance(error, aio.UsageError)
        ):
            self._ended(grpc.StatusCode.CANCELLED.name, None)
            return None
        return self._translated(error)

    def _translated(self, error: BaseException) -> Answer:
        answer = self._pipeline.translation.answer(error)
        if not answer.expected:
            _log.error("handler_failed", method=self.method.name, exc_info=error)
        return answer

    def _cancelled(self, error: asyncio.CancelledError) -> Answer | None:
        if self._drained and self._task is not None:
            self._task.uncancel()
            return self._translated(Draining())
        if self._task is not None and self._task.cancelling():
            self._ended(self._why_cancelled().name, None)
            return None
        # Something that the handler awaited was cancelled, not the call. gRPC would take it for the
        # latter and never answer.
        return self._translated(Draining() if self._pipeline.draining else error)

    def _why_cancelled(self) -> grpc.StatusCode:
        deadline = self.context.deadline
        if deadline is not None:
            near = max(_NEAR_SECONDS, (deadline - self._started) * _NEAR_SHARE)
            if deadline - time.monotonic() <= near:
                return grpc.StatusCode.DEADLINE_EXCEEDED
        return grpc.StatusCode.CANCELLED

    async def _outlive_drain(self) -> None:
        """Takes the cancellation that came when the handler had nothing left to await."""
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if self._task is None or self._task.uncancel():
                raise

    def _ended(self, code: str, reason: str | None) -> None:
        seconds = time.monotonic() - self._started
        self._pipeline.left(self)
        self.method.metrics.ended(code, seconds)
        if self.method.quiet and code == _OK.name:
            return
        context = self.context
        self._pipeline.access_log(
            AccessRecord(
                time.time(),
                self.method.name,
                code,
                seconds,
                context.trace.trace_id,
                context.trace.span_id,
                context.request_id,
                context.caller,
                reason,
            )
        )


def _unary_unary(
    pipeline: Pipeline, method: Method, handler: grpc.RpcMethodHandler[Any, Any]
) -> Any:
    serve = _coroutine(cast("Handler", handler.unary_unary))
    decode = _strict(handler.request_deserializer)
    encode = _encoder(handler.response_serializer)

    async def unary_unary(raw: bytes, peer: Peer) -> bytes:
        call = Call(pipeline, method, peer, streaming=False)
        try:
            pipeline.enter(call)
            response = encode(await serve(decode(raw), peer), peer)
        except BaseException as error:
            await call.failed(error)
            raise
        await call.succeeded()
        return response

    return grpc.unary_unary_rpc_method_handler(unary_unary)


def _stream_unary(
    pipeline: Pipeline, method: Method, handler: grpc.RpcMethodHandler[Any, Any]
) -> Any:
    serve = _coroutine(cast("Handler", handler.stream_unary))
    encode = _encoder(handler.response_serializer)

    async def stream_unary(requests: AsyncIterator[Any], peer: Peer) -> bytes:
        call = Call(pipeline, method, peer, streaming=True)
        try:
            pipeline.enter(call)
            response = encode(await serve(requests, peer), peer)
        except BaseException as error:
            await call.failed(error)
            raise
        await call.succeeded()
        return response

    return grpc.stream_unary_rpc_method_handler(
        stream_unary, request_deserializer=_strict(handler.request_deserializer)
    )


def _unary_stream(
    pipeline: Pipeline, method: Method, handler: grpc.RpcMethodHandler[Any, Any]
) -> Any:
    serve = _writer(cast("Handler", handler.unary_stream))
    decode = _strict(handler.request_deserializer)

    async def unary_stream(raw: bytes, peer: Peer) -> None:
        call = Call(pipeline, method, peer, streaming=True)
        try:
            pipeline.enter(call)
            await serve(decode(raw), peer)
        except BaseException as error:
            await call.failed(error)
            raise
        await call.succeeded()

    return grpc.unary_stream_rpc_method_handler(
        unary_stream, response_serializer=handler.response_serializer
    )


def _stream_stream(
    pipeline: Pipeline, method: Method, handler: grpc.RpcMethodHandler[Any, Any]
) -> Any:
    serve = _writer(cast("Handler", handler.stream_stream))

    async def stream_stream(requests: AsyncIterator[Any], peer: Peer) -> None:
        call = Call(pipeline, method, peer, streaming=True)
        try:
            pipeline.enter(call)
            await serve(requests, peer)
        except BaseException as error:
            await call.failed(error)
            raise
        await call.succeeded()

    return grpc.stream_stream_rpc_method_handler(
        stream_stream,
        request_deserializer=_strict(handler.request_deserializer),
        response_serializer=handler.response_serializer,
    )


_WRAPPERS: Final = {
    (False, False): _unary_unary,
    (True, False): _stream_unary,
    (False, True): _unary_stream,
    (True, True): _stream_stream,
}


def _coroutine(handler: Handler) -> Callable[[Any, Any], Awaitable[Any]]:
    if inspect.iscoroutinefunction(handler):
        return handler

    async def serve(request: Any, peer: Peer) -> Any:
        response = handler(request, peer)
        return await response if inspect.isawaitable(response) else response

    return serve


def _writer(handler: Handler) -> Callable[[Any, Any], Awaitable[None]]:
    """The handler as a coroutine that writes to its context."""
    if inspect.iscoroutinefunction(handler):
        return handler

    async def serve(request: Any, peer: Peer) -> None:
        messages = handler(request, peer)
        try:
            async for message in messages:
                await peer.write(message)
        finally:
            # at once, not when it is collected: it may hold what others wait for
            await messages.aclose()

    return serve


def _strict(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    def decoded(raw: bytes) -> Any:
        try:
            return raw if decode is None else decode(raw)
        except (DecodeError, ValueError):
            raise InvalidArgument(
                reason="MALFORMED_REQUEST", message="The request could not be decoded."
            ) from None

    return decoded


def _encoder(encode: Callable[[Any], bytes] | None) -> Callable[[Any, Peer], bytes]:
    def encoded(response: Any, peer: Peer) -> bytes:
        if peer.code() not in {None, _OK}:
            return b""  # gRPC sends the status that the handler set, and no message
        return response if encode is None else encode(response)

    return encoded
