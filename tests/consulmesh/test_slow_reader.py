"""Readers of streams that stop reading."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from consulmesh.errors import Status
from consulmesh.logs import AccessRecord
from consulmesh.server import MeshServer
from consulmesh.testing import channel_to, running
from tests.consulmesh.echo import SERVICE, Context, EchoStub, add_echo, text
from tests.consulmesh.raw_reader import DATA, HEADERS, RawReader, raw_reader

PATH = f"/{SERVICE}/Spread"
PATIENCE = timedelta(milliseconds=400)
WINDOW = 65_535
MEGABYTE = 1_000_000


class Endless:
    """A stream without end, as a generator and as a coroutine; counts what it could write."""

    def __init__(self, size: int) -> None:
        self.message = text("x" * size)
        self.written = 0
        self.closed = asyncio.Event()

    async def generate(self, _request: object, _context: Context) -> AsyncIterator[StringValue]:
        """Yield for ever."""
        try:
            while True:
                yield self.message
                self.written += len(self.message.value)
        finally:
            self.closed.set()

    async def write(self, _request: object, context: Context) -> None:
        """Write for ever."""
        try:
            while True:
                await context.write(self.message)
                self.written += len(self.message.value)
        finally:
            self.closed.set()


async def to_the_end(reader: RawReader) -> tuple[int, bytes]:
    """Read on until the status: how many octets of data came, and the trailers."""
    reader.open_window(16 * MEGABYTE)
    octets = 0
    while (frame := await reader.frame()).kind == DATA:
        octets += len(frame.payload)
    assert frame.kind == HEADERS
    return octets, frame.payload


@pytest.mark.parametrize("size", [1_000, 100_000, 900_000])
@pytest.mark.parametrize("shape", ["generate", "write"])
async def test_a_reader_that_stops_is_cut(shape: str, size: int) -> None:
    """At most 1 MB waits for it; the handler ends after the patience; it learns why if it reads."""
    endless = Endless(size)
    log: list[AccessRecord] = []
    adding = add_echo(spread=getattr(endless, shape))
    async with (
        asyncio.timeout(20),
        running(adding, reader_patience=PATIENCE, access_log=log.append) as (server, port),
        raw_reader(port) as reader,
    ):
        reader.call(PATH)
        await endless.closed.wait()
        await gone(server)
        written = endless.written
        assert (await reader.frame()).kind == HEADERS
        octets, trailers = await to_the_end(reader)

    assert written - WINDOW <= MEGABYTE
    assert written <= octets <= MEGABYTE + WINDOW
    assert [(record.code, record.reason) for record in log] == [
        ("RESOURCE_EXHAUSTED", "SLOW_READER")
    ]
    assert b"grpc-status-details-bin" in trailers


async def gone(server: MeshServer) -> None:
    """Wait until no call is in flight."""
    while server.in_flight:  # noqa: ASYNC110 - a server tells nobody
        await asyncio.sleep(0.005)


async def test_others_do_not_notice_a_reader_that_stops() -> None:
    """Their streams go on beside it, and after it was cut."""
    endless = Endless(10_000)
    both = add_echo(spread=endless.generate, chat=chat)
    async with (
        asyncio.timeout(20),
        running(both, reader_patience=PATIENCE) as (_, port),
        channel_to(port) as channel,
        raw_reader(port) as reader,
    ):
        reader.call(PATH)
        answers = []
        while not endless.closed.is_set():
            answers.append(await chatted(EchoStub(channel)))
        beside = len(answers)
        answers.append(await chatted(EchoStub(channel)))

    assert beside > 1
    assert all(answer == ["a", "b"] for answer in answers)


async def chatted(stub: EchoStub) -> list[str]:
    """What a stream of two messages answers."""
    return [message.value async for message in stub.Chat(iter([text("a"), text("b")]))]


async def chat(
    requests: AsyncIterator[StringValue], _context: Context
) -> AsyncIterator[StringValue]:
    """Echo."""
    async for request in requests:
        yield request


async def test_a_reader_that_only_pauses_is_not_cut() -> None:
    """What counts is the time without any reading, not how slow it is."""
    endless = Endless(60_000)
    patience = timedelta(seconds=2)
    async with (
        asyncio.timeout(20),
        running(add_echo(spread=endless.generate), reader_patience=patience) as (_, port),
        raw_reader(port) as reader,
    ):
        reader.call(PATH)
        for _ in range(6):
            await asyncio.sleep(patience.total_seconds() / 5)
            reader.open_window(60_000)
        open_still = not endless.closed.is_set()

    assert open_still


async def test_a_reader_that_is_cut_and_leaves_is_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The connection that ends under an unread status is no error, and nothing is left of it."""
    endless = Endless(1_000)
    async with (
        asyncio.timeout(20),
        running(add_echo(spread=endless.generate), reader_patience=PATIENCE) as (server, port),
    ):
        before = len(asyncio.all_tasks())
        async with raw_reader(port) as reader:
            reader.call(PATH)
            await endless.closed.wait()
            await gone(server)
        while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110 - gRPC's own tasks
            await asyncio.sleep(0.005)

    assert server.in_flight == 0
    assert caplog.messages == []


async def test_a_client_of_grpc_that_reads_on_is_told() -> None:
    """The status comes after what was buffered: RESOURCE_EXHAUSTED, with a reason to branch on."""
    endless = Endless(100_000)
    async with (
        asyncio.timeout(20),
        running(add_echo(spread=endless.generate), reader_patience=PATIENCE) as (_, port),
        channel_to(port) as channel,
    ):
        call = EchoStub(channel).Spread(text(""))
        await call.initial_metadata()
        await endless.closed.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
    status = Status.of(caught.value)

    assert (status.code.name, status.reason) == ("RESOURCE_EXHAUSTED", "SLOW_READER")
