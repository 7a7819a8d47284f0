"""Puts the pipeline around handlers, once, when they are registered.

All four kinds of RPC. A streaming handler is an async generator or a coroutine that writes to its
context. Requests are decoded here, and not by gRPC, which calls what it cannot decode INTERNAL.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, cast

import grpc
from google.protobuf.message import DecodeError

from consulmesh.errors import InvalidArgument
from consulmesh.metrics import UNKNOWN_METHOD
from consulmesh.pipeline import Call, Method, Pipeline
from consulmesh.policies import Peer
from consulmesh.translation import UnknownMethod

_Handler = Callable[[Any, Any], Any]
_LONGEST_NAME: Final = 200
_NOTHING: Final = b""  # beside a status that the handler has set, gRPC sends no message


def wrap(pipeline: Pipeline, path: str, handler: grpc.RpcMethodHandler[Any, Any]) -> Any:
    """The handler that gRPC is to have in place of this one ("/package.Service/Method")."""
    shape = (handler.request_streaming, handler.response_streaming)
    return _WRAPPERS[shape](pipeline, pipeline.method(path.lstrip("/")), handler)


def unknown(pipeline: Pipeline, path: str) -> Any:
    """A handler that answers UNIMPLEMENTED, whatever kind of call this is."""

    async def refuse(_requests: object, _peer: Peer) -> None:
        raise UnknownMethod(f"There is no method {path[:_LONGEST_NAME]}.")

    # a client may invent names without end: they share one time series
    metrics = pipeline.metrics.served(UNKNOWN_METHOD)
    method = pipeline.method(path.lstrip("/")[:_LONGEST_NAME], metrics)
    return _stream_stream(
        pipeline, method, grpc.stream_stream_rpc_method_handler(cast("Any", refuse))
    )


def _unary_unary(pipeline: Pipeline, method: Method, handler: Any) -> Any:
    serve = _coroutine(handler.unary_unary)
    decode, encode = _strict(handler.request_deserializer), handler.response_serializer or _as_it_is

    async def unary_unary(raw: bytes, peer: Peer) -> bytes:
        call = Call(pipeline, method, peer, streaming=False)
        try:
            pipeline.enter(call)
            response = await serve(decode(raw), peer)
            code = peer.code()
            encoded = encode(response) if code is None else _NOTHING
        except BaseException as error:
            await call.failed(error)
            raise
        call.succeeded(code)
        return encoded

    return grpc.unary_unary_rpc_method_handler(cast("Any", unary_unary))


def _stream_unary(pipeline: Pipeline, method: Method, handler: Any) -> Any:
    serve = _coroutine(handler.stream_unary)
    decode, encode = _strict(handler.request_deserializer), handler.response_serializer or _as_it_is

    async def stream_unary(requests: AsyncIterator[Any], peer: Peer) -> bytes:
        call = Call(pipeline, method, peer, streaming=True)
        try:
            pipeline.enter(call)
            response = await serve(requests, peer)
            code = peer.code()
            encoded = encode(response) if code is None else _NOTHING
        except BaseException as error:
            await call.failed(error)
            raise
        if call.drained:
            await call.outlive_drain()
        call.succeeded(code)
        return encoded

    return grpc.stream_unary_rpc_method_handler(
        cast("Any", stream_unary), request_deserializer=decode
    )


def _unary_stream(pipeline: Pipeline, method: Method, handler: Any) -> Any:
    serve = _writer(handler.unary_stream)
    decode, encode = _strict(handler.request_deserializer), handler.response_serializer

    async def unary_stream(raw: bytes, peer: Peer) -> None:
        call = Call(pipeline, method, peer, streaming=True)
        try:
            pipeline.enter(call)
            await serve(decode(raw), call)
        except BaseException as error:
            await call.failed(error)
            raise
        if call.drained:
            await call.outlive_drain()
        call.succeeded(peer.code())

    return grpc.unary_stream_rpc_method_handler(
        cast("Any", unary_stream), response_serializer=encode
    )


def _stream_stream(pipeline: Pipeline, method: Method, handler: Any) -> Any:
    serve = _writer(handler.stream_stream)
    decode, encode = _strict(handler.request_deserializer), handler.response_serializer

    async def stream_stream(requests: AsyncIterator[Any], peer: Peer) -> None:
        call = Call(pipeline, method, peer, streaming=True)
        try:
            pipeline.enter(call)
            await serve(requests, call)
        except BaseException as error:
            await call.failed(error)
            raise
        if call.drained:
            await call.outlive_drain()
        call.succeeded(peer.code())

    return grpc.stream_stream_rpc_method_handler(
        cast("Any", stream_stream), request_deserializer=decode, response_serializer=encode
    )


_WRAPPERS: Final = {
    (False, False): _unary_unary,
    (True, False): _stream_unary,
    (False, True): _unary_stream,
    (True, True): _stream_stream,
}


def _coroutine(handler: _Handler) -> Callable[[Any, Any], Awaitable[Any]]:
    """The handler as a coroutine: what generated code has for an RPC that nobody wrote is none."""
    if inspect.iscoroutinefunction(handler):
        return handler

    async def serve(request: Any, peer: Peer) -> Any:
        response = handler(request, peer)
        return await response if inspect.isawaitable(response) else response

    return serve


def _writer(handler: _Handler) -> Callable[[Any, Call], Awaitable[None]]:
    """The handler as a coroutine that writes to its call."""
    if inspect.iscoroutinefunction(handler):

        async def serve_by_writing(request: Any, call: Call) -> None:
            await handler(request, _Writing(call))

        return serve_by_writing

    async def serve(request: Any, call: Call) -> None:
        messages = handler(request, call.peer)
        try:
            async for message in messages:
                await call.write(message)
        finally:
            # at once, not when it is collected: it may hold what others wait for
            await messages.aclose()

    return serve


class _Writing:
    """gRPC's context, but for what is written through it."""

    def __init__(self, call: Call) -> None:
        self.write = call.write
        self._peer = call.peer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._peer, name)


def _strict(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """The deserializer with errors that say whose fault it was."""
    if decode is None:
        return _as_it_is

    def decoded(raw: bytes) -> Any:
        try:
            return decode(raw)
        except (DecodeError, ValueError):
            raise InvalidArgument(
                reason="MALFORMED_REQUEST", message="The request could not be decoded."
            ) from None

    return decoded


def _as_it_is(message: Any) -> Any:
    return message
