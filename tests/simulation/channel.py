"""A `grpc.aio.Channel` whose calls go through the simulated network.

It is wrapped by `MeshChannel` as a real one is. A call that could not reach a server is tried once
more elsewhere, as gRPC core does by the policy that the mesh gives it.
"""

# ruff: noqa: D102 - the methods are those of gRPC's interfaces

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Final, Self

import grpc
from grpc import aio

from tests.simulation.exchange import UNREACHABLE, Exchange, Outcome, Request
from tests.simulation.network import Fate, Network

_ATTEMPTS: Final = 2
_BACKOFF: Final = 0.025  # seconds
_RECONNECT: Final = 0.1

_CANCELLED: Final = Outcome(code=grpc.StatusCode.CANCELLED, details="Locally cancelled")
_TOO_LATE: Final = Outcome(code=grpc.StatusCode.DEADLINE_EXCEEDED, details="Deadline Exceeded")


class SimulatedChannel(aio.Channel):
    """To the servers of one service that the network lists."""

    def __init__(self, network: Network, service: str) -> None:
        self._network = network
        self._service = service

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        pass

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's signature
        return grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await asyncio.Event().wait()

    async def channel_ready(self) -> None:
        pass

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        *_: Any,
        **__: Any,
    ) -> _UnaryUnary:
        return _UnaryUnary(
            self._network, self._service, method, request_serializer, response_deserializer
        )

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        *_: Any,
        **__: Any,
    ) -> _UnaryStream:
        return _UnaryStream(
            self._network, self._service, method, request_serializer, response_deserializer
        )

    def stream_unary(self, *_: Any, **__: Any) -> Any:
        return _absent

    def stream_stream(self, *_: Any, **__: Any) -> Any:
        return _absent


def _absent(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("no contract of the services streams requests")


class _Method:
    """What the calls of one method have in common."""

    def __init__(
        self,
        network: Network,
        service: str,
        method: str,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
    ) -> None:
        self._network = network
        self._service = service
        self._method = method
        self._encode = encode
        self._decode = decode

    def _request(self, message: Any, timeout: float | None, metadata: Any) -> Request:
        return Request(
            service=self._service,
            method=self._method,
            message=self._encode(message),
            metadata=tuple(metadata or ()),
            timeout=timeout,
        )


class _UnaryUnary(_Method, aio.UnaryUnaryMultiCallable[Any, Any]):
    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        wait_for_ready: bool | None = None,
        **_: Any,
    ) -> UnaryCall:
        call = UnaryCall(self._network, self._decode, waits=bool(wait_for_ready))
        call.start(self._request(request, timeout, metadata))
        return call


class _UnaryStream(_Method, aio.UnaryStreamMultiCallable[Any, Any]):
    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        wait_for_ready: bool | None = None,
        **_: Any,
    ) -> StreamCall:
        call = StreamCall(self._network, self._decode, waits=bool(wait_for_ready))
        call.start(self._request(request, timeout, metadata))
        return call


class _Call(aio.Call):
    """A call and its attempts.

    State: the exchange under way, how many there were, and the outcome once there is one.
    """

    def __init__(self, network: Network, decode: Callable[[bytes], Any], *, waits: bool) -> None:
        self._network = network
        self._decode = decode
        self._waits = waits
        self._attempts = 0
        self._exchange: Exchange | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._ended: asyncio.Future[Outcome] = network.loop.create_future()

    def start(self, request: Request) -> None:
        self._request = request
        if request.timeout is not None:
            self._deadline = self._network.loop.call_later(
                request.timeout, self._give_up, _TOO_LATE
            )
        self._attempt()

    def _attempt(self) -> None:
        if self.done():
            return
        network = self._network
        host: Any = network.pick(self._request.service)
        if host is None:
            again = self._attempt if self._waits else lambda: self._end(UNREACHABLE)
            network.loop.call_later(_RECONNECT if self._waits else network.delay(), again)
            return
        self._attempts += 1
        self._exchange = Exchange(
            network,
            self._request,
            host,
            self._fate(),
            take=self._take,
            end=self._answered,
        )
        self._exchange.start()

    def _fate(self) -> Fate:
        return self._network.fate()

    def _answered(self, outcome: Outcome) -> None:
        failed = outcome.code is grpc.StatusCode.UNAVAILABLE
        if failed and self._attempts < _ATTEMPTS and self._may_be_retried():
            self._network.loop.call_later(_BACKOFF, self._attempt)
        else:
            self._end(outcome)

    def _may_be_retried(self) -> bool:
        return True

    def _take(self, message: bytes) -> None:
        raise AssertionError("a message of a unary call")

    def _give_up(self, outcome: Outcome) -> None:
        if not self.done():
            if self._exchange is not None:
                self._exchange.give_up()
            self._end(outcome)

    def _end(self, outcome: Outcome) -> None:
        if self.done():
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._ended.set_result(outcome)

    def _error(self, outcome: Outcome) -> aio.AioRpcError:
        trailers = aio.Metadata(*outcome.trailers)
        return aio.AioRpcError(outcome.code, aio.Metadata(), trailers, details=outcome.details)

    async def _outcome(self) -> Outcome:
        return self._ended.result() if self.done() else await asyncio.shield(self._ended)

    def cancelled(self) -> bool:
        return self.done() and self._ended.result() is _CANCELLED

    def done(self) -> bool:
        return self._ended.done()

    def time_remaining(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline.when() - self._network.loop.time())

    def cancel(self) -> bool:
        was_running = not self.done()
        self._give_up(_CANCELLED)
        return was_running

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._ended.add_done_callback(lambda _: callback(self))

    async def initial_metadata(self) -> aio.Metadata:
        return aio.Metadata()

    async def trailing_metadata(self) -> aio.Metadata:
        return aio.Metadata(*(await self._outcome()).trailers)

    async def code(self) -> grpc.StatusCode:
        return (await self._outcome()).code

    async def details(self) -> str:
        return (await self._outcome()).details

    async def wait_for_connection(self) -> None:
        pass


class UnaryCall(_Call, aio.UnaryUnaryCall[Any, Any]):
    """Awaited for its answer; whoever waits and is cancelled cancels it."""

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response().__await__()

    async def _response(self) -> Any:
        try:
            outcome = await self._outcome()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if outcome is _CANCELLED:
            raise asyncio.CancelledError
        if outcome.code is not grpc.StatusCode.OK or outcome.message is None:
            raise self._error(outcome)
        return self._decode(outcome.message)


class StreamCall(_Call, aio.UnaryStreamCall[Any, Any]):
    """Iterated for its messages. Streams stand on one connection: only that can go wrong."""

    def __init__(self, network: Network, decode: Callable[[bytes], Any], *, waits: bool) -> None:
        super().__init__(network, decode, waits=waits)
        self._messages: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._ended.add_done_callback(lambda _: self._news.set())

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._all()

    async def read(self) -> Any:
        async for message in self._all():
            return message
        return aio.EOF

    async def _all(self) -> AsyncIterator[Any]:
        while True:
            while self._messages:
                yield self._decode(self._messages.popleft())
            if self.done():
                break
            self._news.clear()
            await self._news.wait()
        outcome = self._ended.result()
        if outcome is _CANCELLED:
            raise asyncio.CancelledError
        if outcome.code is not grpc.StatusCode.OK:
            raise self._error(outcome)

    def _take(self, message: bytes) -> None:
        self._messages.append(message)
        self._news.set()

    def _fate(self) -> Fate:
        return Fate.FINE

    def _may_be_retried(self) -> bool:
        return False
