import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from random import Random
from typing import Any, cast

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from consulmesh.channel import MeshChannel
from consulmesh.context import remaining
from consulmesh.errors import Status
from tests.consulmesh.echo import SERVICE, EchoStub, add_echo, text
from tests.simulation.channel import SimulatedChannel
from tests.simulation.loop import Process, VirtualLoop
from tests.simulation.network import Network, Weather
from tests.simulation.sealed import sealed
from tests.simulation.server import SimulatedServer
from tests.simulation.trace import Trace

Talk = Callable[[EchoStub], Coroutine[Any, Any, Any]]


class Full(Exception):  # noqa: N818 - named after what is wrong
    """An error of the service's domain."""


class Place:
    """A server in a process of its own, and a client in the world."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.process = Process("echo-1")
        self.network = Network(loop, Random(1), Trace(loop))
        self.served: list[str] = []
        self.stub = EchoStub(
            MeshChannel(SimulatedChannel(self.network, "echo"), upstream="echo", caller="test")
        )

    def serve(self, **handlers: Callable[[Any, Any], Any]) -> None:
        """Let the server serve."""
        codes: dict[type[Exception], grpc.StatusCode] = {Full: grpc.StatusCode.RESOURCE_EXHAUSTED}
        server = SimulatedServer(self.loop, self.process, service="echo", status_codes=codes)
        add_echo(**handlers)(cast("Any", server))
        self.network.list("echo", server)

    async def echo(self, request: StringValue, _context: object) -> StringValue:
        """Answer what was asked."""
        self.served.append(request.value)
        return request

    def run(self, talk: Talk) -> Any:
        """Let the client talk to the server."""
        with sealed(self.loop, Random(2)):
            return self.loop.run_until_complete(talk(self.stub))


@pytest.fixture
def place() -> Iterator[Place]:
    """A place that is closed in the end."""
    loop = VirtualLoop()
    yield Place(loop)
    loop.close()


async def _failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    error: grpc.aio.AioRpcError = failed.value
    return error


def test_a_call_is_answered_through_the_real_pipeline(place: Place) -> None:
    """Errors arrive as the codes and details that a server of the mesh sends."""

    async def full(_request: StringValue, _context: object) -> StringValue:
        raise Full("no room")

    place.serve(unary=full)
    error = place.run(lambda stub: _failure(stub.Unary(text("a"), timeout=1)))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert Status.of(error).reason == "FULL"
    assert dict(error.trailing_metadata() or ())["mesh-instance"] == "echo-1/0.0.0"


def test_a_lost_message_is_waited_for_until_the_deadline(place: Place) -> None:
    """In simulated time, to the microsecond."""
    place.serve(unary=place.echo)
    place.network.weather = Weather(lost=1.0)
    error = place.run(lambda stub: _failure(stub.Unary(text("a"), timeout=3)))

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert place.loop.time() == pytest.approx(3)


def test_a_broken_connection_is_tried_once_more(place: Place) -> None:
    """Nobody knows how often the work was done: at most by each of two attempts."""
    place.serve(unary=place.echo)
    place.network.weather = Weather(reset=1.0)
    error = place.run(lambda stub: _failure(stub.Unary(text("a"), timeout=3)))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert len(place.served) <= 2


def test_a_request_may_arrive_twice(place: Place) -> None:
    """The second time when the caller has its answer already."""
    place.serve(unary=place.echo)
    place.network.weather = Weather(twice=1.0)

    async def talk(stub: EchoStub) -> str:
        answer: StringValue = await stub.Unary(text("a"), timeout=3)
        await asyncio.sleep(20)
        return answer.value

    answer = place.run(talk)

    assert answer == "a"
    assert place.served == ["a", "a"]


def test_who_asks_of_a_server_that_dies_hears_of_it(place: Place) -> None:
    """By a reset, or by silence that keepalive notices; never by waiting for ever."""

    async def never(_request: StringValue, _context: object) -> StringValue:
        await asyncio.Event().wait()
        raise AssertionError

    place.serve(unary=never)

    async def talk(stub: EchoStub) -> grpc.aio.AioRpcError:
        call = stub.Unary(text("a"), timeout=60)
        await asyncio.sleep(1)
        place.loop.kill(place.process)
        place.network.lost(place.process)
        return await _failure(call)

    error = place.run(talk)

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert place.loop.time() < 20


def test_a_caller_that_goes_away_cancels_the_handler(place: Place) -> None:
    """And the handler knew how long the caller would wait."""
    left: list[float | None] = []
    cancelled = asyncio.Event()

    async def slow(request: StringValue, _context: object) -> StringValue:
        left.append(remaining())
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return request

    place.serve(unary=slow)

    async def talk(stub: EchoStub) -> None:
        call = stub.Unary(text("a"), timeout=30)
        await asyncio.sleep(1)
        call.cancel()
        await cancelled.wait()

    place.run(talk)

    assert left == [pytest.approx(30, abs=0.1)]
    assert place.loop.time() < 2


def test_messages_of_a_stream_keep_their_order(place: Place) -> None:
    """However long each of them takes; a broken one ends without a gap."""

    async def spread(request: StringValue, _context: object) -> AsyncIterator[StringValue]:
        for number in range(50):
            yield text(f"{request.value}{number}")

    place.serve(spread=spread)
    place.network.weather = Weather(delay=0.5)

    async def talk(stub: EchoStub) -> list[str]:
        return [message.value async for message in stub.Spread(text("n"))]

    messages = place.run(talk)

    assert messages == [f"n{number}" for number in range(50)]


def test_a_service_that_nobody_serves_is_unavailable(place: Place) -> None:
    """At once, unless the caller waits for it."""

    async def talk(stub: EchoStub) -> str:
        error = await _failure(stub.Unary(text("a"), timeout=3))
        waiting = stub.Unary(text("b"), timeout=3, wait_for_ready=True)
        await asyncio.sleep(0.5)
        place.serve(unary=place.echo)
        answer: StringValue = await waiting
        return f"{error.code().name} {answer.value} {SERVICE}"

    said = place.run(talk)

    assert said == f"UNAVAILABLE b {SERVICE}"
