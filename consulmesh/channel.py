"""A gRPC channel that carries the current call's context to the upstream.

A thin wrapper of the multi-callables: a client interceptor would cost a task for each call. Each
call gets the least of its own timeout, its route's, and what is left of the current deadline; one
that has no time left is not sent. Servers learn the trace, the request id, the criticality and
the caller, and where asked for the end user's token. What a caller puts into `metadata` itself
wins over what would be added.
"""

# ruff: noqa: D102 - the methods are those of gRPC's interfaces

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
from grpc import aio

from consulmesh.calls import OwnedStreamStreamCall, OwnedStreamUnaryCall, OwnedUnaryStreamCall
from consulmesh.context import current
from consulmesh.metrics import MethodMetrics, RpcMetrics, rpc_metrics
from consulmesh.propagation import inject

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Metadata = aio.Metadata | Sequence[tuple[str, str | bytes]]
RouteTimeouts = Callable[[str], float | None]
"""Seconds that the upstream's routes allow a method ("/package.Service/Method"), if they say so."""

UNARY_TIMEOUT: Final = 5.0  # seconds, when neither caller, route nor deadline says anything
# What the answer needs to get back. gRPC rounds timeouts up by as much as a hundredth on the wire:
# with less, the innermost call would not be the first to time out.
_MARGIN_LEAST: Final = 0.005
_MARGIN_SHARE: Final = 0.01

CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    # a peer that went away without a word is noticed within 13 s, also on an idle watch
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
)


class MeshChannel(aio.Channel):
    """Wraps a channel to one upstream. `caller` is the name that we give ourselves."""

    def __init__(
        self,
        channel: aio.Channel,
        *,
        upstream: str,
        caller: str,
        relay_token: bool = False,
        route_timeouts: RouteTimeouts | None = None,
        metrics: RpcMetrics | None = None,
    ) -> None:
        self._channel = channel
        self._upstream = upstream
        self._caller = caller
        self._relay_token = relay_token
        self._route_timeouts = route_timeouts
        self._metrics = metrics or rpc_metrics()

    def __repr__(self) -> str:
        return f"<MeshChannel {self._caller} -> {self._upstream}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's signature
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> _UnaryUnary[Any, Any]:
        inner = self._channel.unary_unary(method, *args, **kwargs)
        return _UnaryUnary(inner, self._outgoing(method, UNARY_TIMEOUT))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> _UnaryStream[Any, Any]:
        inner = self._channel.unary_stream(method, *args, **kwargs)
        return _UnaryStream(inner, self._outgoing(method, None))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> _StreamUnary[Any, Any]:
        inner = self._channel.stream_unary(method, *args, **kwargs)
        return _StreamUnary(inner, self._outgoing(method, None))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> _StreamStream[Any, Any]:
        inner = self._channel.stream_stream(method, *args, **kwargs)
        return _StreamStream(inner, self._outgoing(method, None))

    def _outgoing(self, method: str, default_timeout: float | None) -> _Outgoing:
        return _Outgoing(
            method,
            default_timeout,
            route_timeouts=self._route_timeouts,
            caller=self._caller,
            relay_token=self._relay_token,
            metrics=self._metrics.made(self._upstream, method.lstrip("/")),
        )


class _Pairs(aio.Metadata):
    """Metadata that gRPC only iterates over; to build its own would cost more than the pairs."""

    def __init__(self, pairs: tuple[tuple[str, str | bytes], ...]) -> None:
        self._pairs = pairs

    def __iter__(self) -> Iterator[tuple[str, str | bytes]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)


class _Outgoing:
    """What the calls of one method have in common."""

    __slots__ = ("_caller", "_default", "_method", "_metrics", "_relay_token", "_route_timeouts")

    def __init__(
        self,
        method: str,
        default_timeout: float | None,
        *,
        route_timeouts: RouteTimeouts | None,
        caller: str,
        relay_token: bool,
        metrics: MethodMetrics,
    ) -> None:
        self._method = method
        self._default = default_timeout
        self._route_timeouts = route_timeouts
        self._caller = caller
        self._relay_token = relay_token
        self._metrics = metrics

    def prepare(
        self, timeout: float | None, metadata: _Metadata | None
    ) -> tuple[float | None, aio.Metadata]:
        """Timeout and metadata of a call that is to be made now."""
        context = current()
        timeout = self._timeout(timeout, context.deadline)
        if timeout is not None and timeout <= 0:
            raise self._no_time_left()
        pairs = inject(context, caller=self._caller, relay_token=self._relay_token)
        if not metadata:
            return timeout, _Pairs(pairs)
        own = tuple(metadata)
        keys = {key for key, _ in own}
        return timeout, _Pairs((*own, *(pair for pair in pairs if pair[0] not in keys)))

    def watch(self, call: aio.Call) -> None:
        """Measures a call that was just made."""
        self._metrics.started()
        call.add_done_callback(partial(_measure, self._metrics, time.perf_counter()))

    def _timeout(self, explicit: float | None, deadline: float | None) -> float | None:
        route = self._route_timeouts(self._method) if self._route_timeouts else None
        limits = [limit for limit in (explicit, route) if limit is not None]
        if deadline is not None:
            left = deadline - time.monotonic()
            limits.append(left - max(_MARGIN_LEAST, left * _MARGIN_SHARE))
        return min(limits, default=self._default)

    def _no_time_left(self) -> aio.AioRpcError:
        self._metrics.started()
        self._metrics.ended(grpc.StatusCode.DEADLINE_EXCEEDED.name, 0.0)
        return aio.AioRpcError(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            aio.Metadata(),
            aio.Metadata(),
            details=f"No time is left to call {self._method}.",
        )


def _measure(metrics: MethodMetrics, started: float, call: aio.Call) -> None:
    metrics.ended(_code(call).name, time.perf_counter() - started)


def _code(call: aio.Call) -> grpc.StatusCode:
    """The code of a call that is over: then its coroutine returns without ever waiting."""
    asking = call.code()
    try:
        asking.send(None)
    except StopIteration as answer:
        code: grpc.StatusCode = answer.value
        return code
    asking.close()
    return grpc.StatusCode.UNKNOWN


class _UnaryUnary(aio.UnaryUnaryMultiCallable[_Request, _Response]):
    def __init__(
        self, inner: aio.UnaryUnaryMultiCallable[_Request, _Response], outgoing: _Outgoing
    ) -> None:
        self._inner = inner
        self._outgoing = outgoing

    def __call__(
        self,
        request: _Request,
        *,
        timeout: float | None = None,
        metadata: _Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> aio.UnaryUnaryCall[_Request, _Response]:
        timeout, pairs = self._outgoing.prepare(timeout, metadata)
        call = self._inner(
            request,
            timeout=timeout,
            metadata=pairs,
            credentials=credentials,
            wait_for_ready=wait_for_ready,
            compression=compression,
        )
        self._outgoing.watch(call)
        return call


class _UnaryStream(aio.UnaryStreamMultiCallable[_Request, _Response]):
    def __init__(
        self, inner: aio.UnaryStreamMultiCallable[_Request, _Response], outgoing: _Outgoing
    ) -> None:
        self._inner = inner
        self._outgoing = outgoing

    def __call__(
        self,
        request: _Request,
        *,
        timeout: float | None = None,
        metadata: _Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> aio.UnaryStreamCall[_Request, _Response]:
        timeout, pairs = self._outgoing.prepare(timeout, metadata)
        call = self._inner(
            request,
            timeout=timeout,
            metadata=pairs,
            credentials=credentials,
            wait_for_ready=wait_for_ready,
            compression=compression,
        )
        self._outgoing.watch(call)
        return OwnedUnaryStreamCall(call)


class _StreamUnary(aio.StreamUnaryMultiCallable[_Request, _Response]):
    def __init__(
        self, inner: aio.StreamUnaryMultiCallable[_Request, _Response], outgoing: _Outgoing
    ) -> None:
        self._inner = inner
        self._outgoing = outgoing

    def __call__(
        self,
        request_iterator: AsyncIterator[_Request] | Iterator[_Request] | None = None,
        timeout: float | None = None,
        metadata: _Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,  # noqa: FBT001 - gRPC's signature
        compression: grpc.Compression | None = None,
    ) -> aio.StreamUnaryCall[_Request, _Response]:
        timeout, pairs = self._outgoing.prepare(timeout, metadata)
        call = self._inner(
            request_iterator, timeout, pairs, credentials, wait_for_ready, compression
        )
        self._outgoing.watch(call)
        return OwnedStreamUnaryCall(call)


class _StreamStream(aio.StreamStreamMultiCallable[_Request, _Response]):
    def __init__(
        self, inner: aio.StreamStreamMultiCallable[_Request, _Response], outgoing: _Outgoing
    ) -> None:
        self._inner = inner
        self._outgoing = outgoing

    def __call__(
        self,
        request_iterator: AsyncIterator[_Request] | Iterator[_Request] | None = None,
        timeout: float | None = None,
        metadata: _Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,  # noqa: FBT001 - gRPC's signature
        compression: grpc.Compression | None = None,
    ) -> aio.StreamStreamCall[_Request, _Response]:
        timeout, pairs = self._outgoing.prepare(timeout, metadata)
        call = self._inner(
            request_iterator, timeout, pairs, credentials, wait_for_ready, compression
        )
        self._outgoing.watch(call)
        return OwnedStreamStreamCall(call)
