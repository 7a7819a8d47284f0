"""A reader of a durable stream at 0 B/s beside others (L7)."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from typing import Any, Final

import grpc
import pytest
from sqlalchemy import Connection, select

from consulmesh.pipeline import READER_PATIENCE
from consulmesh.testing import channel_to, running
from eventstream import Database, Follower
from flights.schedule.v1.schedule_pb2 import WatchFlightsRequest, WatchFlightsResponse
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from tests.chaos.figures import LONG, figure
from tests.chaos.stream_parties import load
from tests.consulmesh.raw_reader import raw_reader
from tests.databases import ON_SQLITE, Databases
from tests.eventstream import mirror
from tests.eventstream.test_follower import equal, following

PATIENCE: Final = READER_PATIENCE if LONG else timedelta(seconds=2)
ROWS: Final = 20_000
WINDOW: Final = 65_535  # octets that the reader has room for, as HTTP/2 says
MEGABYTE: Final = 1_000_000
PATH: Final = "/flights.schedule.v1.ScheduleService/WatchFlights"

pytestmark = pytest.mark.timeout(600)


class Stream:
    """The flights of a source, served as schedule serves its own.

    State: the octets that were made for each reader, in the order in which they came, and
    whether one has gone.
    """

    def __init__(self, source: Database) -> None:
        self._feed = mirror.feed(source)
        self.sent: list[int] = []
        self.gone = asyncio.Event()

    async def watch(
        self, request: WatchFlightsRequest, _context: object
    ) -> AsyncIterator[WatchFlightsResponse]:
        """Send what follows the reader's cursor."""
        number = len(self.sent)
        self.sent.append(0)
        cursor = request.cursor if request.HasField("cursor") else None
        try:
            async with aclosing(self._feed.watch(cursor)) as batches:
                async for batch in batches:
                    answer = mirror.answer(batch)
                    self.sent[number] += answer.ByteSize()
                    yield answer
        finally:
            self.gone.set()

    def add_to(self, server: Any) -> None:
        """Add the one method."""
        method = grpc.unary_stream_rpc_method_handler(
            self.watch,
            request_deserializer=WatchFlightsRequest.FromString,
            response_serializer=WatchFlightsResponse.SerializeToString,
        )
        service, name = PATH.strip("/").split("/")
        server.add_registered_method_handlers(service, {name: method})


@ON_SQLITE
async def test_l7_a_reader_that_stops_is_cut_and_others_go_on(databases: Databases) -> None:
    """At most 1 MB waits for it until it is cut; a follower beside it sees every change at once.

    Its connection is well: the one of a reader that answers no ping either ends sooner.
    """
    async with mirror.source(databases("source")) as source, mirror.copy(databases("copy")) as copy:
        await load(source, ROWS)
        stream = Stream(source)
        async with (
            running(stream.add_to, reader_patience=PATIENCE) as (_, port),
            raw_reader(port) as reader,
            channel_to(port) as channel,
        ):
            watch = partial(_watch, ScheduleServiceStub(channel))
            inbox = mirror.inbox(copy, apply_many=mirror.apply_many)
            async with following(Follower("flights", watch, inbox)) as follower:
                await follower.caught_up.wait()
                reader.call(PATH)
                began = time.monotonic()
                answering = asyncio.create_task(reader.only_answer())
                delays = await _delays_until(stream.gone, source, copy)
                seconds = time.monotonic() - began
                assert answering.cancel()  # its connection stood to the end
                same = await equal(source, copy)
    waiting = stream.sent[-1] - WINDOW
    delays.sort()
    figure(
        "L7",
        f"reader at 0 B/s cut after {seconds:.1f} s, {max(waiting, 0):,} octets waited for it; "
        f"{len(delays)} changes reached the reader beside it, median "
        f"{delays[len(delays) // 2] * 1e3:.0f} ms, longest {delays[-1] * 1e3:.0f} ms",
    )

    assert waiting <= MEGABYTE
    assert seconds >= PATIENCE.total_seconds()
    assert same


def _watch(
    stub: ScheduleServiceStub, cursor: Any
) -> "grpc.aio.UnaryStreamCall[WatchFlightsRequest, WatchFlightsResponse]":
    return stub.WatchFlights(WatchFlightsRequest(cursor=cursor))


async def _delays_until(end: asyncio.Event, source: Database, copy: Database) -> list[float]:
    """Change one flight after another until the end; how long each took to the copy, in seconds."""
    delays: list[float] = []
    while not end.is_set():
        changed = time.monotonic()
        await source.write(partial(mirror.put, flight_id="f0000001", distance_km=len(delays)))
        seen = copy.version
        while await copy.read(_distance) != len(delays):
            seen = await copy.changed(seen)
        delays.append(time.monotonic() - changed)
    return delays


def _distance(connection: Connection) -> int | None:
    mine = mirror.COPIES.c.flight_id == "f0000001"
    return connection.scalar(select(mirror.COPIES.c.distance_km).where(mine))
