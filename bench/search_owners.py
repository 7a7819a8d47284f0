"""Schedule and pricing of a benchmark: the streams of an invented timetable, and changes of it.

One process. It serves what search follows and nothing else, as fast as search takes it, and keeps
no database: what is measured is search.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, Final

import grpc

from consulmesh.server import SERVER_OPTIONS
from consulmesh.wellknown import money, timestamp
from flights.pricing.v1 import pricing_pb2
from flights.schedule.v1 import schedule_pb2
from schedule import messages
from schedule.sources import source_of
from schedule.timetable import Airports, window
from schedule.window import DAYS, HOME
from streams.v1 import stream_pb2
from streams.v1.stream_pb2 import Cursor

EPOCH: Final = "bench"
BATCH: Final = 500  # events of a snapshot
TICKS: Final = 100  # a second: changes come in batches, as commits do
BOOKMARKS: Final = 1.0  # seconds
TAXES: Final = Decimal(17)
SEATS: Final = 0.80  # of the changes
PRICES: Final = 0.17  # the rest are changed times


Batch = tuple[str, int, bytes]
"""Whose changes, the position after them, and the message that says them."""


class World:
    """Every flight as an event, by its number."""

    def __init__(self, source: str, seed: int = 1) -> None:
        self.draw = random.Random(seed)
        days = window(datetime.now(HOME).date(), DAYS)
        now = datetime.now(UTC)
        self.flights: list[bytes] = [
            messages.flight_changed(flight, now).SerializeToString()
            for _, flights in source_of(source, Airports.load())(days)
            for flight in flights
        ]
        self.versions = [1] * len(self.flights)

    def flight(self, number: int) -> schedule_pb2.FlightEvent:
        """A flight."""
        return schedule_pb2.FlightEvent.FromString(self.flights[number])

    def prices(self, number: int) -> pricing_pb2.PriceEvent:
        """The prices of a flight: another one each time."""
        flight = self.flight(number).flight_changed
        fare = 40 + flight.distance_km // 20 + self.draw.randrange(60)
        return pricing_pb2.PriceEvent(
            prices_changed=pricing_pb2.FlightPrices(
                flight_id=flight.flight_id,
                version=self.versions[number],
                origin=flight.origin,
                destination=flight.destination,
                departure_time=flight.departure_time,
                prices=[
                    pricing_pb2.Price(
                        cabin=cabin.cabin,
                        fare=money(Decimal(fare * cabin.cabin), "USD"),
                        taxes=money(TAXES, "USD"),
                    )
                    for cabin in flight.cabins
                ],
            )
        )

    def changed(self) -> tuple[str, Any]:
        """One flight's seats, prices or times are others; whose event it is, and the event."""
        number = self.draw.randrange(len(self.flights))
        self.versions[number] += 1
        kind = self.draw.random()
        if SEATS <= kind < SEATS + PRICES:
            return "pricing", self.prices(number)
        event = self.flight(number)
        flight = event.flight_changed
        flight.version = self.versions[number]
        if kind < SEATS:
            cabin = self.draw.choice(flight.cabins)
            cabin.available = self.draw.randrange(cabin.capacity + 1)
        else:
            flight.departure_time.seconds += 60 * self.draw.randrange(5)
        self.flights[number] = event.SerializeToString()
        return "schedule", event


class Stream:
    """One owner's stream: a snapshot to whoever has nothing, then batches as they come."""

    def __init__(self, response: Any) -> None:
        self.seq = 0
        self._response = response
        self._readers: set[asyncio.Queue[bytes]] = set()

    def batch(self, events: list[Any], after: int) -> tuple[int, bytes]:
        """Changes behind a position as they are sent, and the position after them."""
        seq = after + len(events)
        return seq, self._message(stream_pb2.PHASE_EVENTS, seq, events=events)

    def say(self, seq: int, message: bytes) -> None:
        """Changes, to all who read."""
        self.seq = seq
        self._tell(message)

    def bookmark(self) -> None:
        """That there is nothing else."""
        read_time = timestamp(datetime.now(UTC))
        self._tell(self._message(stream_pb2.PHASE_BOOKMARK, self.seq, read_time=read_time))

    async def read(self, rows: Iterator[Any], *, whole: bool) -> AsyncIterator[bytes]:
        """What one reader is told."""
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        seq = self.seq
        self._readers.add(queue)
        try:
            if whole:
                yield self._message(stream_pb2.PHASE_SNAPSHOT_STARTED, seq)
                while batch := list(islice(rows, BATCH)):
                    response = self._response(phase=stream_pb2.PHASE_SNAPSHOT, events=batch)
                    yield response.SerializeToString()
                yield self._message(stream_pb2.PHASE_SNAPSHOT_COMPLETED, seq)
            while True:
                yield await queue.get()
        finally:
            self._readers.discard(queue)

    def _message(self, phase: int, seq: int, **fields: Any) -> bytes:
        cursor = Cursor(epoch=EPOCH, seq=seq)
        message: bytes = self._response(phase=phase, cursor=cursor, **fields).SerializeToString()
        return message

    def _tell(self, message: bytes) -> None:
        for queue in self._readers:
            queue.put_nowait(message)


class Owners:
    """Both services, as far as search sees them: one method each.

    Changes come in batches, `ticks` times a second.
    """

    def __init__(self, world: World, ticks: int = TICKS) -> None:
        self.world = world
        self._ticks = ticks
        self.streams = {
            "schedule": Stream(schedule_pb2.WatchFlightsResponse),
            "pricing": Stream(pricing_pb2.WatchPricesResponse),
        }

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds both methods."""
        for service, method, request, handler in (
            (
                "flights.schedule.v1.ScheduleService",
                "WatchFlights",
                schedule_pb2.WatchFlightsRequest,
                self._watch_flights,
            ),
            (
                "flights.pricing.v1.PricingService",
                "WatchPrices",
                pricing_pb2.WatchPricesRequest,
                self._watch_prices,
            ),
        ):
            stream: Any = grpc.unary_stream_rpc_method_handler(
                handler,
                request_deserializer=request.FromString,
                response_serializer=bytes,
            )
            added = grpc.method_handlers_generic_handler(service, {method: stream})
            server.add_generic_rpc_handlers((added,))

    async def _watch_flights(self, request: Any, _context: object) -> AsyncIterator[Any]:
        rows = map(self.world.flight, range(len(self.world.flights)))
        async for each in self.streams["schedule"].read(rows, whole=not request.HasField("cursor")):
            yield each

    async def _watch_prices(self, request: Any, _context: object) -> AsyncIterator[Any]:
        rows = map(self.world.prices, range(len(self.world.flights)))
        async for each in self.streams["pricing"].read(rows, whole=not request.HasField("cursor")):
            yield each

    def prepare(self, per_second: int, seconds: float) -> list[list[Batch]]:
        """Changes for a while, ready to be sent: making them takes a core that others need."""
        seqs = {source: stream.seq for source, stream in self.streams.items()}
        size = per_second // self._ticks
        return [self._batches(size, seqs) for _ in range(int(seconds * self._ticks))]

    async def change(self, ticks: list[list[Batch]]) -> None:
        """Send what was prepared, tick by tick; what falls behind is made up for."""
        clock = asyncio.get_running_loop().time
        began = clock()
        for number, batches in enumerate(ticks):
            await asyncio.sleep(max(began + number / self._ticks - clock(), 0))
            for source, seq, message in batches:
                self.streams[source].say(seq, message)

    def now(self) -> dict[str, int]:
        """The positions; what was said last may still be on its way."""
        return {source: stream.seq for source, stream in self.streams.items()}

    def _batches(self, number: int, seqs: dict[str, int]) -> list[Batch]:
        """So many changes at once behind these positions, which move."""
        events: dict[str, list[Any]] = {source: [] for source in self.streams}
        for _ in range(number):
            source, event = self.world.changed()
            events[source].append(event)
        batches: list[Batch] = []
        for source, stream in self.streams.items():
            if events[source]:
                seqs[source], message = stream.batch(events[source], seqs[source])
                batches.append((source, seqs[source], message))
        return batches

    async def mark(self) -> None:
        """Bookmarks for ever."""
        while True:
            await asyncio.sleep(BOOKMARKS)
            for stream in self.streams.values():
                stream.bookmark()


async def run_owners(parent: Connection, source: str) -> None:
    """The process: says its address and how many flights there are, then does what it is told.

    A pair is so many changes a second for so many seconds: prepared, then begun and answered.
    "stop" ends them before. "now" is answered by the time, the positions that it has just reached,
    and whether changes go on.
    """
    owners = Owners(World(source))
    server = grpc.aio.server(options=SERVER_OPTIONS)
    owners.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    parent.send((f"127.0.0.1:{port}", len(owners.world.flights)))
    marking, changing = asyncio.create_task(owners.mark()), asyncio.create_task(owners.change([]))
    while (told := await asyncio.to_thread(parent.recv)) is not None:
        if told == "now":
            parent.send((time.monotonic(), owners.now(), not changing.done()))
        elif told == "stop":
            changing.cancel()
            parent.send("stopped")
        else:
            ticks = await asyncio.to_thread(owners.prepare, *told)
            changing = asyncio.create_task(owners.change(ticks))
            parent.send("begun")
    for job in (marking, changing):
        job.cancel()
    await server.stop(None)
