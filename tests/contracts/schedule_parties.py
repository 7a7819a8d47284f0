"""Who must keep booking's contract with schedule: the fake, and schedule on a real database."""
# ruff: noqa: D102 - the protocol says what each method brings about

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

from consulmesh.testing import serving
from eventstream import Database, Feed
from flights.schedule.v1 import schedule_pb2 as pb
from flights.schedule.v1.schedule_pb2_grpc import (
    ScheduleServiceStub,
    add_ScheduleServiceServicer_to_server,
)
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY
from schedule.service import Seats, Timetable
from schedule.servicer import STATUS_CODES, ScheduleServicer
from schedule.store import SqlStore, snapshot
from schedule.tables import outbox
from schedule.timetable import Airports
from schedule.window_store import insert_flights
from tests.fakes import faults
from tests.fakes.schedule import FakeSchedule
from tests.schedule.samples import NOW, FixedClock, sample


class ScheduleParty(Protocol):
    """Schedule behind a stub, and what a test must be able to bring about."""

    stub: ScheduleServiceStub

    async def flight(self, seats: int) -> str:
        """Put a flight with so many seats in economy into the timetable."""
        ...

    async def cancel(self, flight_id: str) -> None:
        """Cancel a flight."""
        ...

    async def depart(self, flight_id: str) -> None:
        """Let a flight have left."""
        ...

    async def expire(self, booking_id: str) -> None:
        """Let the hold of a booking have run out."""
        ...

    async def available(self, flight_id: str) -> int:
        """Seats in economy that can be held."""
        ...


class FakeParty:
    """The fake."""

    def __init__(self, fake: FakeSchedule, stub: ScheduleServiceStub) -> None:
        self._fake = fake
        self.stub = stub

    async def flight(self, seats: int) -> str:
        flight_id = f"flt_{len(self._fake.capacity)}"
        self._fake.capacity[flight_id, CABIN_ECONOMY] = seats
        return flight_id

    async def cancel(self, flight_id: str) -> None:
        self._fake.cancel(flight_id)

    async def depart(self, flight_id: str) -> None:
        self._fake.departed.add(flight_id)

    async def expire(self, booking_id: str) -> None:
        self._fake.expire(booking_id)

    async def available(self, flight_id: str) -> int:
        seat = (flight_id, CABIN_ECONOMY)
        return self._fake.capacity[seat] - self._fake.taken()[seat]


class RealParty:
    """Schedule as its process wires it, with a clock of the test's."""

    def __init__(
        self, db: Database, seats: Seats, clock: FixedClock, stub: ScheduleServiceStub
    ) -> None:
        self._db = db
        self._seats = seats
        self._clock = clock
        self._flights = 0
        self.stub = stub

    async def flight(self, seats: int) -> str:
        self._flights += 1
        flight = sample(self._flights, economy=seats)
        await self._db.write(lambda connection: insert_flights(connection, [flight], NOW))
        return flight.flight_id

    async def cancel(self, flight_id: str) -> None:
        request = pb.CancelFlightRequest(request_id=flight_id, flight_id=flight_id, reason="crew")
        await self.stub.CancelFlight(request)

    async def depart(self, flight_id: str) -> None:
        flight = (await self.stub.GetFlight(pb.GetFlightRequest(flight_id=flight_id))).flight
        departure = flight.departure_time.ToDatetime(NOW.tzinfo)
        self._clock.advance(departure - self._clock.now())

    async def expire(self, booking_id: str) -> None:
        self._clock.advance(timedelta(minutes=31))
        await self._seats.expire(booking_id)

    async def available(self, flight_id: str) -> int:
        flight = (await self.stub.GetFlight(pb.GetFlightRequest(flight_id=flight_id))).flight
        return flight.cabins[0].available


@asynccontextmanager
async def fake_schedule(_folder: Path) -> AsyncIterator[ScheduleParty]:
    """The fake, served."""
    fake = FakeSchedule({})  # type: ignore[abstract]  # it says UNIMPLEMENTED
    add = partial(add_ScheduleServiceServicer_to_server, fake)
    async with serving(add, status_codes=faults.STATUS_CODES, service="schedule") as channel:
        yield FakeParty(fake, ScheduleServiceStub(channel))


@asynccontextmanager
async def real_schedule(folder: Path) -> AsyncIterator[ScheduleParty]:
    """Schedule, served."""
    url = f"sqlite:///{folder}/schedule.db"
    async with Database.open(url, migrations="schedule:migrations") as db:
        await db.write(outbox.start_epoch)
        clock = FixedClock()
        store = SqlStore(db)
        seats = Seats(store, clock.now)
        timetable = Timetable(store, Airports.load().utc_offset, clock.now)
        feed = Feed(db, outbox, event=pb.FlightEvent, snapshot=snapshot)
        servicer = ScheduleServicer(timetable, seats, feed)
        add = partial(add_ScheduleServiceServicer_to_server, servicer)
        async with serving(add, status_codes=STATUS_CODES, service="schedule") as channel:
            yield RealParty(db, seats, clock, ScheduleServiceStub(channel))
