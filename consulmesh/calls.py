"""Streaming calls that end when their owner lets go of them.

Since gRPC 1.83 the tasks behind a call keep it alive, so that a stream whose reader just stops
(`break` in an `async for`) goes on until the channel is closed (grpc/grpc#43462). What the channel
hands out is therefore a thin handle: when it is collected, the call is cancelled.
"""

# ruff: noqa: D102 - the methods are those of gRPC's interfaces

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, TypeVar

import grpc
from grpc import aio

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


def code_of(call: aio.Call) -> grpc.StatusCode:
    """The code of a call that is over: then its coroutine returns without ever waiting."""
    asking = call.code()
    try:
        asking.send(None)
    except StopIteration as answer:
        code: grpc.StatusCode = answer.value
        return code
    asking.close()
    return grpc.StatusCode.UNKNOWN


class _Owned(aio.Call):
    """Everything about a call but its messages."""

    def __init__(self, call: aio.Call) -> None:
        self._call = call

    def __del__(self) -> None:
        self._call.cancel()  # does nothing to a call that is over

    def cancelled(self) -> bool:
        return self._call.cancelled()

    def done(self) -> bool:
        return self._call.done()

    def time_remaining(self) -> float | None:
        return self._call.time_remaining()

    def cancel(self) -> bool:
        return self._call.cancel()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._call.add_done_callback(callback)

    async def initial_metadata(self) -> aio.Metadata:
        return await self._call.initial_metadata()

    async def trailing_metadata(self) -> aio.Metadata:
        return await self._call.trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        return await self._call.code()

    async def details(self) -> str:
        return await self._call.details()

    async def wait_for_connection(self) -> None:
        await self._call.wait_for_connection()


class _Messages(AsyncIterator[_Response]):
    """Iterates over a call's messages, and keeps its handle while somebody does."""

    __slots__ = ("_handle", "_messages")

    def __init__(self, handle: _Owned, messages: AsyncIterator[_Response]) -> None:
        self._handle = handle
        self._messages = messages

    def __anext__(self) -> Awaitable[_Response]:
        return self._messages.__anext__()


class OwnedUnaryStreamCall(_Owned, aio.UnaryStreamCall[_Request, _Response]):
    """Handle of a server-streaming call."""

    def __init__(self, call: aio.UnaryStreamCall[_Request, _Response]) -> None:
        super().__init__(call)
        self._stream = call

    def __aiter__(self) -> AsyncIterator[_Response]:
        return _Messages(self, self._stream.__aiter__())

    async def read(self) -> object | _Response:
        return await self._stream.read()


class OwnedStreamUnaryCall(_Owned, aio.StreamUnaryCall[_Request, _Response]):
    """Handle of a client-streaming call."""

    def __init__(self, call: aio.StreamUnaryCall[_Request, _Response]) -> None:
        super().__init__(call)
        self._stream = call

    def __await__(self) -> Generator[None, None, _Response]:
        # not the inner call's own generator: the awaiting frame has to keep this handle
        return (yield from self._stream.__await__())

    async def write(self, request: _Request) -> None:
        await self._stream.write(request)

    async def done_writing(self) -> None:
        await self._stream.done_writing()


class OwnedStreamStreamCall(_Owned, aio.StreamStreamCall[_Request, _Response]):
    """Handle of a bidirectional call."""

    def __init__(self, call: aio.StreamStreamCall[_Request, _Response]) -> None:
        super().__init__(call)
        self._stream = call

    def __aiter__(self) -> AsyncIterator[_Response]:
        return _Messages(self, self._stream.__aiter__())

    async def read(self) -> object | _Response:
        return await self._stream.read()

    async def write(self, request: _Request) -> None:
        await self._stream.write(request)

    async def done_writing(self) -> None:
        await self._stream.done_writing()
