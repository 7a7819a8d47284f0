"""A gRPC channel that carries the current call's context to the upstream.

A thin wrapper of the multi-callables: a client interceptor would cost a task for each call. Each
call gets the least of its own timeout, its route's, and what is left of the current deadline; one
that has no time left is not sent, nor are most of those that the upstream would refuse for its
load. Servers learn the trace, the request id, the criticality and the caller, and where asked for
the end user's token. What a caller puts into `metadata` itself wins over what would be added.
"""

# ruff: noqa: D102 - the methods are those of gRPC's interfaces

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
from grpc import aio

from consulmesh.calls import OwnedStreamStreamCall, OwnedStreamUnaryCall, OwnedUnaryStreamCall
from consulmesh.hedging import Hedge, HedgedCall, is_read
from consulmesh.metrics import RpcMetrics, rpc_metrics
from consulmesh.outgoing import UNARY_TIMEOUT, Metadata, Outgoing, RouteTimeouts
from consulmesh.propagation import NO_RETRY
from consulmesh.throttling import RetryBudget, throttles

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    # a peer that went away without a word is noticed within 13 s, also on an idle watch; a frozen
    # one, whose TCP still answers, within 20
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)


class MeshChannel(aio.Channel):
    """Wraps a channel to one upstream. `caller` is the name that we give ourselves.

    With a `choice`, which says how many instances there are, late reads are hedged: unary methods
    that their proto declares to have no side effects.
    """

    def __init__(
        self,
        channel: aio.Channel,
        *,
        upstream: str,
        caller: str,
        relay_token: bool = False,
        route_timeouts: RouteTimeouts | None = None,
        choice: Callable[[], int] | None = None,
        metrics: RpcMetrics | None = None,
    ) -> None:
        self._channel = channel
        self._upstream = upstream
        self._caller = caller
        self._relay_token = relay_token
        self._route_timeouts = route_timeouts
        self._choice = choice
        self._metrics = metrics or rpc_metrics()
        self._throttles = throttles()
        self._retries = RetryBudget()

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

    def unary_unary(
        self, method: str, *args: Any, **kwargs: Any
    ) -> aio.UnaryUnaryMultiCallable[Any, Any]:
        inner = self._channel.unary_unary(method, *args, **kwargs)
        plain = _UnaryUnary(inner, self._outgoing(method, UNARY_TIMEOUT))
        if self._choice is None or not is_read(method):
            return plain
        metrics = self._metrics.hedged(self._upstream, method.lstrip("/"))
        return _Hedged(plain, Hedge(choice=self._choice, metrics=metrics))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> _UnaryStream[Any, Any]:
        inner = self._channel.unary_stream(method, *args, **kwargs)
        return _UnaryStream(inner, self._outgoing(method, None))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> _StreamUnary[Any, Any]:
        inner = self._channel.stream_unary(method, *args, **kwargs)
        return _StreamUnary(inner, self._outgoing(method, None))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> _StreamStream[Any, Any]:
        inner = self._channel.stream_stream(method, *args, **kwargs)
        return _StreamStream(inner, self._outgoing(method, None))

    def _outgoing(self, method: str, default_timeout: float | None) -> Outgoing:
        return Outgoing(
            method,
            default_timeout,
            upstream=self._upstream,
            route_timeouts=self._route_timeouts,
            caller=self._caller,
            relay_token=self._relay_token,
            metrics=self._metrics.made(self._upstream, method.lstrip("/")),
            throttles=self._throttles,
            retries=self._retries,
        )


class _UnaryUnary(aio.UnaryUnaryMultiCallable[_Request, _Response]):
    def __init__(
        self, inner: aio.UnaryUnaryMultiCallable[_Request, _Response], outgoing: Outgoing
    ) -> None:
        self._inner = inner
        self._outgoing = outgoing

    def __call__(
        self,
        request: _Request,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
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


class _Hedged(aio.UnaryUnaryMultiCallable[_Request, _Response]):
    def __init__(self, plain: _UnaryUnary[_Request, _Response], hedge: Hedge) -> None:
        self._plain = plain
        self._hedge = hedge

    def __call__(
        self,
        request: _Request,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> aio.UnaryUnaryCall[_Request, _Response]:
        again: Metadata = (*(metadata or ()), (NO_RETRY, "1"))

        def begin(left: float | None) -> aio.UnaryUnaryCall[_Request, _Response]:
            return self._plain(
                request,
                timeout=timeout if left is None else left,
                metadata=metadata if left is None else again,
                credentials=credentials,
                wait_for_ready=wait_for_ready,
                compression=compression,
            )

        return HedgedCall(begin, self._hedge)


class _UnaryStream(aio.UnaryStreamMultiCallable[_Request, _Response]):
    def __init__(
        self, inner: aio.UnaryStreamMultiCallable[_Request, _Response], outgoing: Outgoing
    ) -> None:
        self._inner = inner
        self._outgoing = outgoing

    def __call__(
        self,
        request: _Request,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
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
        self, inner: aio.StreamUnaryMultiCallable[_Request, _Response], outgoing: Outgoing
    ) -> None:
        self._inner = inner
        self._outgoing = outgoing

    def __call__(
        self,
        request_iterator: AsyncIterator[_Request] | Iterator[_Request] | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
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
        self, inner: aio.StreamStreamMultiCallable[_Request, _Response], outgoing: Outgoing
    ) -> None:
        self._inner = inner
        self._outgoing = outgoing

    def __call__(
        self,
        request_iterator: AsyncIterator[_Request] | Iterator[_Request] | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
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
