"""StreamItineraries: everything as it is found, at its reader's pace, until it is over."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from flight_search.domain import ItineraryQuery, Journey, Position, SortOrder
from flight_search.service import VIAS_PER_TURN, Found, ItinerarySearch
from flights.search.v1 import search_pb2 as pb
from tests.consulmesh.raw_reader import DATA, HEADERS, RawReader, raw_reader
from tests.flight_search.owners import flight_event, price_event
from tests.flight_search.systems import System, asking, flights_of, running_search

EIGHT = datetime(2026, 3, 8, 13, tzinfo=UTC)
REQUEST = pb.StreamItinerariesRequest(query=asking())
PATH = "/flights.search.v1.SearchService/StreamItineraries"
AIRPORTS, EACH_WAY = 300, 4
CONNECTIONS = AIRPORTS * EACH_WAY * EACH_WAY
WINDOW = 65_535


class Watched(ItinerarySearch):
    """Counts the airports at which connections were looked for, and what streams gave out.

    Where told to, a stream waits for ever after so many batches.
    """

    def __init__(self, *parts: Any, **others: Any) -> None:
        super().__init__(*parts, **others)
        self.ended = asyncio.Event()
        self.looked_at = 0
        self.given = 0
        self.waits_after = 0
        find = self._timetable.find

        def counted(journey: Journey, order: SortOrder, stops: int, **where: Any) -> Any:
            self.looked_at += stops
            return find(journey, order, stops, **where)

        self._timetable.find = counted  # type: ignore[method-assign]  # a spy

    async def stream(
        self, query: ItineraryQuery, *, at_least: Sequence[Position] = ()
    ) -> AsyncGenerator[Found, None]:
        """As it is, but counted."""
        batches = 0
        try:
            async for found in super().stream(query, at_least=at_least):
                self.given += len(found.itineraries)
                yield found
                batches += 1
                if batches == self.waits_after:
                    await asyncio.Event().wait()
        finally:
            self.ended.set()


@asynccontextmanager
async def many_connections(folder: Path) -> AsyncIterator[tuple[System, Watched]]:
    """A search that finds a megabyte, all of it by connections at 300 airports."""
    airports = [f"{n:03}" for n in range(AIRPORTS)]
    later = EIGHT + timedelta(hours=3)
    legs = range(EACH_WAY)
    flights = [flight_event(f"to{a}/{i}", "JFK", a) for a in airports for i in legs]
    flights += [flight_event(f"on{a}/{i}", a, "LAX", later) for a in airports for i in legs]
    keys = [event.flight_changed.flight_id for event in flights]
    async with running_search(folder / "search.db", Watched) as system:
        assert isinstance(system.search, Watched)
        await system.first_snapshots(flights=flights, prices=[price_event(key) for key in keys])
        yield system, system.search


async def test_a_stream_gives_direct_flights_first_and_then_all_others(tmp_path: Path) -> None:
    """The first response has the direct flights and the positions, later ones the connections."""
    async with running_search(tmp_path / "search.db") as system:
        await system.first_snapshots(
            flights=[
                flight_event("direct"),
                *(flight_event(f"to{n}", "JFK", f"X{n:02}") for n in range(20)),
                *(
                    flight_event(f"on{n}", f"X{n:02}", "LAX", EIGHT + timedelta(hours=3))
                    for n in range(20)
                ),
            ],
            prices=[
                price_event(key)
                for key in ["direct", *(f"{leg}{n}" for n in range(20) for leg in ("to", "on"))]
            ],
        )
        responses = [r async for r in system.stub.StreamItineraries(REQUEST, timeout=30)]
        direct = pb.StreamItinerariesRequest(query=asking(max_stops=0))
        (only,) = [r async for r in system.stub.StreamItineraries(direct, timeout=30)]

    assert flights_of(responses[0].itineraries) == [["direct"]]
    assert [p.source for p in responses[0].positions] == ["schedule", "pricing"]
    assert [len(r.itineraries) for r in responses[1:]] == [8, 8, 4]
    assert len({i.itinerary_id for r in responses for i in r.itineraries}) == 21
    assert flights_of(only.itineraries) == [["direct"]]


async def test_a_slow_reader_holds_the_search_back(tmp_path: Path) -> None:
    """Nothing is looked for ahead of what gRPC buffers, and all is found once the reader goes on.

    The reader's window is 64 KiB; gRPC takes a write while it has no more than that to send.
    """
    async with many_connections(tmp_path) as (system, search), raw_reader(system.port) as reader:
        reader.call(PATH, REQUEST.SerializeToString())
        assert (await reader.frame()).kind == HEADERS
        octets = 0
        while octets < WINDOW:
            octets += len((await reader.frame()).payload)
        given = await at_rest(search)
        looked_at = search.looked_at
        reader.open_window(16 * 1024 * 1024)
        octets += await to_the_end(reader)
    size = octets / CONNECTIONS
    turn = VIAS_PER_TURN[1] * EACH_WAY * EACH_WAY

    assert octets > 15 * WINDOW
    assert given * size < 2 * WINDOW + 2 * turn * size
    assert looked_at < AIRPORTS / 4
    assert (search.given, search.looked_at) == (CONNECTIONS, AIRPORTS)


async def at_rest(search: Watched) -> int:
    """How many itineraries were given out, once there are no more."""
    given = -1
    while given < search.given:
        given = search.given
        await asyncio.sleep(0.1)
    return given


async def to_the_end(reader: RawReader) -> int:
    """How many more octets there are before the status."""
    octets = 0
    while (frame := await reader.frame()).kind == DATA:
        octets += len(frame.payload)
    assert frame.kind == HEADERS
    return octets


async def test_the_deadline_ends_a_stream_with_what_was_found_so_far(tmp_path: Path) -> None:
    """What was found before it has arrived; then the status says so, and nothing is looked for."""
    async with many_connections(tmp_path) as (system, search):
        search.waits_after = 3
        call = system.stub.StreamItineraries(REQUEST, timeout=3)
        found: list[list[str]] = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(call, found)
        await asyncio.wait_for(search.ended.wait(), 30)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(found) == 2 * VIAS_PER_TURN[1] * EACH_WAY * EACH_WAY
    assert search.looked_at == 2 * VIAS_PER_TURN[1]


async def read(call: AsyncIterable[pb.StreamItinerariesResponse], found: list[list[str]]) -> None:
    """Note the flights of all itineraries that come."""
    async for response in call:
        found += flights_of(response.itineraries)


async def test_a_stream_stops_when_its_reader_goes_away(tmp_path: Path) -> None:
    """Cancelling after the first response ends the search long before its end."""
    async with many_connections(tmp_path) as (system, search):
        call = system.stub.StreamItineraries(REQUEST)
        first = await anext(aiter(call))
        call.cancel()
        await asyncio.wait_for(search.ended.wait(), 30)

    assert first.itineraries == []
    assert search.looked_at < AIRPORTS / 2


async def test_a_cancelled_stream_ends_where_it_waits(tmp_path: Path) -> None:
    """Whatever it awaits, it does not take another turn."""
    async with many_connections(tmp_path) as (system, search):
        search.waits_after = 2
        call = system.stub.StreamItineraries(REQUEST)
        responses = aiter(call)
        found = [flights_of((await anext(responses)).itineraries) for _ in range(2)]
        call.cancel()
        await asyncio.wait_for(search.ended.wait(), 30)

    assert [len(flights) for flights in found] == [0, VIAS_PER_TURN[1] * EACH_WAY * EACH_WAY]
    assert search.looked_at == VIAS_PER_TURN[1]
