"""How a server leaves: what it ends, what it lets finish, and that nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio
from grpc_health.v1 import (  # type: ignore[import-untyped]  # it has no stubs
    health_pb2,
    health_pb2_grpc,
)
from structlog.testing import capture_logs

from consulmesh.errors import Status
from consulmesh.logs import AccessRecord
from consulmesh.server import MeshServer
from consulmesh.testing import channel_to, running
from tests.consulmesh.echo import Context, EchoStub, add_echo, text, until


class Slow:
    """Handlers that go on until `finish` is set, or for good."""

    def __init__(self) -> None:
        self.entered = 0
        self.finish = asyncio.Event()
        self.closed = 0

    async def unary(self, request: StringValue, _context: Context) -> StringValue:
        """Waits."""
        self.entered += 1
        await self.finish.wait()
        return request

    async def spread(self, request: StringValue, _context: Context) -> AsyncIterator[StringValue]:
        """A watch: one message, then silence."""
        try:
            self.entered += 1
            yield request
            await self.finish.wait()
            yield text("last")
        finally:
            self.closed += 1

    async def chat(self, requests: AsyncIterator[StringValue], context: Context) -> None:
        """Echoes by writing."""
        try:
            self.entered += 1
            async for request in requests:
                await context.write(request)
        finally:
            self.closed += 1


class World:
    """A server that is about to leave, and a client of it."""

    def __init__(
        self, server: MeshServer, stub: EchoStub, slow: Slow, records: list[AccessRecord]
    ) -> None:
        self.server = server
        self.stub = stub
        self.slow = slow
        self.records = records

    async def entered(self, count: int) -> None:
        """Once so many handlers run."""
        await until(lambda: self.slow.entered == count)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """One for each test."""
    slow = Slow()
    records: list[AccessRecord] = []
    add = add_echo(unary=slow.unary, spread=slow.spread, chat=slow.chat)
    async with (
        running(add, access_log=records.append) as (server, port),
        channel_to(port) as channel,
    ):
        yield World(server, EchoStub(channel), slow, records)


async def refused(awaitable: Any) -> Status:
    """The status of what fails."""
    with pytest.raises(aio.AioRpcError) as caught:
        await awaitable
    assert dict(caught.value.trailing_metadata() or ())["mesh-instance"] == "tested-1/0.0.0"
    return Status.of(caught.value)


async def test_watches_end_while_a_call_with_a_deadline_finishes(world: World) -> None:
    """A watch is told that its server drains; the unary call is answered within the grace."""
    watch, chat = world.stub.Spread(text("x")), world.stub.Chat()
    await watch.read()
    await chat.write(text("a"))
    await chat.read()
    unary = world.stub.Unary(text("kept"), timeout=10)
    await world.entered(3)

    stopping = asyncio.create_task(world.server.stop(5))
    ended = [await refused(watch.read()), await refused(chat.read())]
    left = world.server.in_flight
    world.slow.finish.set()
    answer = await unary
    await stopping

    assert [(status.code, status.message) for status in ended] == [
        (grpc.StatusCode.UNAVAILABLE, "draining")
    ] * 2
    assert {status.reason for status in ended} == {"DRAINING"}
    assert left == 1
    assert answer.value == "kept"
    assert world.slow.closed == 2
    assert world.server.in_flight == 0
    assert sorted(record.code for record in world.records) == ["OK", "UNAVAILABLE", "UNAVAILABLE"]


async def test_a_stream_with_a_deadline_may_finish(world: World) -> None:
    """It ends by itself, so it is not ended."""
    call = world.stub.Spread(text("x"), timeout=10)
    await call.read()

    world.server.begin_drain()
    world.slow.finish.set()

    assert (await call.read()).value == "last"
    assert await call.read() is aio.EOF


async def test_a_draining_server_takes_calls_but_no_watches(world: World) -> None:
    """Until it stops it answers: not every client has heard that it leaves."""
    world.server.begin_drain()
    world.server.begin_drain()
    world.slow.finish.set()
    status = await refused(world.stub.Spread(text("x")).read())

    assert (status.code, status.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert (await world.stub.Unary(text("x"))).value == "x"


async def test_after_the_grace_calls_are_cut(world: World) -> None:
    """Stopping takes no longer than the grace, and cancels what still runs."""
    unary = asyncio.ensure_future(world.stub.Unary(text("x"), timeout=30))
    await world.entered(1)
    began = asyncio.get_running_loop().time()
    await world.server.stop(0.1)
    took = asyncio.get_running_loop().time() - began

    with pytest.raises(aio.AioRpcError) as caught:
        await unary

    assert took < 10  # of the 30 seconds that the call had
    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert world.server.in_flight == 0
    assert [record.code for record in world.records] == ["CANCELLED"]


async def test_stopping_waits_for_the_last_words_of_handlers(world: World) -> None:
    """What a handler does after its call is over is part of the call."""
    order: list[str] = []
    slow = world.slow

    async def thorough(_request: StringValue, _context: Context) -> StringValue:
        slow.entered += 1
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            order.append("cleaned up")
        return text("")

    async with running(add_echo(unary=thorough)) as (server, port), channel_to(port) as channel:
        call = EchoStub(channel).Unary(text("x"))
        await world.entered(1)
        await server.stop(None)
        order.append("stopped")
        call.cancel()

    assert order == ["cleaned up", "stopped"]


async def test_a_handler_that_does_not_end_is_named() -> None:
    """Stopping gives up on it after a second, and says so."""
    stubborn = asyncio.Event()
    entered = asyncio.Event()

    async def unary(_request: StringValue, _context: Context) -> StringValue:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            await stubborn.wait()
        return text("")

    with capture_logs() as logs:
        async with running(add_echo(unary=unary)) as (server, port), channel_to(port) as channel:
            call = EchoStub(channel).Unary(text("x"))
            await entered.wait()
            await server.stop(None)
            call.cancel()
            stubborn.set()
            await until(lambda: not server.in_flight)

    assert [(log["event"], log["count"]) for log in logs] == [("handlers_left_running", 1)]


async def test_a_drain_that_comes_too_late_does_not_swallow_the_answer() -> None:
    """A stream whose handler has nothing left to await when it is ended still ends well."""
    drain: list[Callable[[], None]] = []

    async def collect(_requests: object, _context: Context) -> StringValue:
        drain[0]()
        return text("done")

    async with running(add_echo(collect=collect)) as (server, port), channel_to(port) as channel:
        drain.append(server.begin_drain)
        answer = await asyncio.wait_for(EchoStub(channel).Collect(iter([])), 20)

    assert answer.value == "done"


async def test_leaving_is_for_good(world: World) -> None:
    """Once health says NOT_SERVING on the way out, nothing makes it say SERVING again."""
    await world.server.leave()
    await world.server.set_serving(serving=True)
    world.slow.finish.set()
    check = world.stub.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    answer = await check(health_pb2.HealthCheckRequest(service=""))

    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert (await world.stub.Unary(text("x"))).value == "x"


async def test_watchers_of_health_see_the_change_and_then_the_drain(world: World) -> None:
    """`Watch`, which writes to its context, is a stream without a deadline as any other."""
    call = health_pb2_grpc.HealthStub(world.stub.channel).Watch(
        health_pb2.HealthCheckRequest(service="")
    )
    first = await call.read()
    await world.server.leave()
    second = await call.read()
    world.server.begin_drain()
    status = await refused(call.read())

    assert (first.status, second.status) == (1, 2)
    assert status.reason == "DRAINING"


async def test_a_drained_server_leaves_no_tasks() -> None:
    """Streams, calls and the server's own tasks are all gone."""
    before = len(asyncio.all_tasks())
    slow = Slow()
    add = add_echo(unary=slow.unary, spread=slow.spread)
    async with running(add) as (server, port), channel_to(port) as channel:
        stub = EchoStub(channel)
        watches = [stub.Spread(text("x")) for _ in range(20)]
        calls = [stub.Unary(text("x"), timeout=30) for _ in range(20)]
        await until(lambda: slow.entered == 40)
        slow.finish.set()
        await server.stop(5)
        answers = await asyncio.gather(*calls)
        for watch in watches:
            watch.cancel()

    await until(lambda: len(asyncio.all_tasks()) <= before)
    assert len(answers) == 20
