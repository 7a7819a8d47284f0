import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

from consulmesh.wellknown import duration, timestamp
from eventstream import Follower
from flights.schedule.v1 import schedule_pb2 as pb
from schedule import messages
from schedule.domain import Flight
from schedule.tables import outbox
from schedule.window_store import SqlWindowStore
from streams.v1.stream_pb2 import Cursor
from tests.schedule.conftest import System
from tests.schedule.samples import NOW, sample
from tests.schedule.test_seats import confirm, hold, release

HOUR = timedelta(hours=1)


class Copy:
    """An inbox in memory: the newest state of each flight, and every change in order.

    State: also the position, what was not seen in a snapshot, and an event set at each change.
    """

    def __init__(self) -> None:
        self.flights: dict[str, pb.Flight] = {}
        self.changes: list[pb.FlightEvent] = []
        self._cursor: Cursor | None = None
        self._unseen: set[str] = set()
        self._moved = asyncio.Event()

    async def reach(self, seq: int) -> None:
        """Wait until everything up to that event is applied."""
        async with asyncio.timeout(30):
            while self._cursor is None or self._cursor.seq < seq:
                await self._moved.wait()

    async def position(self) -> Cursor | None:
        """Where it stands."""
        return self._cursor

    async def start_snapshot(self) -> None:
        """Nothing was seen yet."""
        self._unseen, self._cursor = set(self.flights), None

    async def apply(self, events: Sequence[pb.FlightEvent], cursor: Cursor | None) -> None:
        """Take what is not older."""
        for event in events:
            self._apply(event)
        if cursor is not None:
            self.changes.extend(events)
            self._move(cursor)

    async def complete_snapshot(self, cursor: Cursor) -> None:
        """Drop what was not seen."""
        for flight_id in self._unseen:
            del self.flights[flight_id]
        self._move(cursor)

    def _apply(self, event: pb.FlightEvent) -> None:
        if event.HasField("flight_removed"):
            self.flights.pop(event.flight_removed.flight_id, None)
            return
        flight = event.flight_changed
        self._unseen.discard(flight.flight_id)
        known = self.flights.get(flight.flight_id)
        if known is None or known.version <= flight.version:
            self.flights[flight.flight_id] = flight

    def _move(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._moved.set()
        self._moved = asyncio.Event()


@asynccontextmanager
async def following(system: System) -> AsyncIterator[Copy]:
    """A copy that has caught up and goes on following."""
    copy = Copy()

    def watch(cursor: Cursor | None) -> Any:
        return system.stub.WatchFlights(pb.WatchFlightsRequest(cursor=cursor))

    follower = Follower("schedule", watch, copy)
    task = asyncio.create_task(follower.run())
    try:
        await asyncio.wait_for(follower.caught_up.wait(), 30)
        yield copy
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def last_event(system: System) -> int:
    """The number of the newest event."""
    head = await system.db.read(outbox.head)
    return head.seq if head else 0


async def test_a_follower_has_what_the_store_has(system: System) -> None:
    """A snapshot of many batches, then changes of every kind, give exactly the store's state."""
    flights = [sample(n, in_hours=1 + n % 7) for n in range(1, 1201)]
    await system.add(*flights)
    async with following(system) as copy:
        snapshot = dict(copy.flights)
        await change(system, flights)
        await copy.reach(await last_event(system))
    stored = await system.flights()

    assert snapshot == {f.flight_id: messages.flight(f) for f in flights}
    assert len(stored) == 1200 - (171 - 3)  # three were delayed beyond the 8 hours
    assert copy.flights == {key: messages.flight(flight) for key, flight in stored.items()}


async def change(system: System, flights: Sequence[Flight]) -> None:
    """Hold, sell, release, delay, cancel, and remove what arrives within 8 hours."""
    bookings = [f"bkg_{n}" for n in range(40)]
    pairs = zip(bookings, flights, flights[40:], strict=False)
    await asyncio.gather(*(hold(system, key, first, then) for key, first, then in pairs))
    await asyncio.gather(*(confirm(system, key) for key in bookings[::2]))
    await asyncio.gather(*(release(system, key) for key in bookings[::5]))
    for flight in flights[100:120]:
        key = flight.flight_id
        await system.stub.UpdateFlight(
            pb.UpdateFlightRequest(request_id=f"u{key}", flight_id=key, delay=duration(9 * HOUR))
        )
    for flight in flights[110:130]:
        key = flight.flight_id
        await system.stub.CancelFlight(pb.CancelFlightRequest(request_id=f"c{key}", flight_id=key))
    store = SqlWindowStore(system.db, lambda _: None)
    await store.remove_past(NOW + 8 * HOUR, NOW)


async def test_a_delay_is_an_event(system: System) -> None:
    """A delay is one event with the flight's whole new state and when it happened."""
    flight = sample()
    await system.add(flight)
    async with following(system) as copy:
        response = await system.stub.UpdateFlight(
            pb.UpdateFlightRequest(request_id="r", flight_id=flight.flight_id, delay=duration(HOUR))
        )
        await copy.reach(await last_event(system))

    assert copy.changes == [
        pb.FlightEvent(event_time=timestamp(NOW), flight_changed=response.flight)
    ]


async def test_a_past_flight_leaves_by_an_event(system: System) -> None:
    """A removed flight is an event with its id and last version."""
    flight = sample()
    await system.add(flight)
    async with following(system) as copy:
        await SqlWindowStore(system.db, lambda _: None).remove_past(NOW + 60 * HOUR, NOW)
        await copy.reach(await last_event(system))
    removed = pb.FlightRemoved(flight_id=flight.flight_id, version=1)

    assert copy.changes == [pb.FlightEvent(event_time=timestamp(NOW), flight_removed=removed)]
    assert copy.flights == {}
