"""The service on a real database, served over real HTTP/2."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from sqlalchemy import select

from consulmesh.testing import serving
from eventstream import Database, Feed
from flights.schedule.v1.schedule_pb2 import FlightEvent
from flights.schedule.v1.schedule_pb2_grpc import (
    ScheduleServiceStub,
    add_ScheduleServiceServicer_to_server,
)
from schedule.domain import Flight
from schedule.service import Seats, Timetable
from schedule.servicer import STATUS_CODES, ScheduleServicer
from schedule.store import SqlStore, snapshot
from schedule.tables import flight, outbox
from schedule.timetable import Airports
from schedule.window_store import insert_flights
from tests.schedule.samples import NOW, FixedClock


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """The parts of the service, and a stub that calls it."""

    db: Database
    clock: FixedClock
    store: SqlStore
    timetable: Timetable
    seats: Seats
    stub: ScheduleServiceStub

    async def add(self, *flights: Flight) -> None:
        """Put flights into the timetable."""
        await self.db.write(lambda connection: insert_flights(connection, flights, NOW))

    async def flights(self) -> Mapping[str, Flight]:
        """All flights, by id."""
        found = await self.db.read(lambda c: c.execute(select(flight.c.flight_id)).scalars().all())
        return await self.store.read(lambda records: records.flights(found))


@pytest.fixture(scope="session")
def airports() -> Airports:
    """All airports, once."""
    return Airports.load()


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """An empty database of schedule, its history begun, on each engine."""
    async with database(database_url) as opened:
        await opened.write(outbox.start_epoch)
        yield opened


@asynccontextmanager
async def database(url: str) -> AsyncIterator[Database]:
    """The database at a URL, migrated."""
    async with Database.open(url, migrations="schedule:migrations") as opened:
        yield opened


@pytest.fixture
async def system(db: Database, airports: Airports) -> AsyncIterator[System]:
    """The service with an empty timetable."""
    clock = FixedClock()
    store = SqlStore(db)
    timetable = Timetable(store, airports.utc_offset, clock.now)
    seats = Seats(store, clock.now)
    feed = Feed(db, outbox, event=FlightEvent, snapshot=snapshot)
    servicer = ScheduleServicer(timetable, seats, feed)
    async with serving(
        lambda server: add_ScheduleServiceServicer_to_server(servicer, server),
        status_codes=STATUS_CODES,
        service="schedule",
    ) as channel:
        yield System(
            db=db,
            clock=clock,
            store=store,
            timetable=timetable,
            seats=seats,
            stub=ScheduleServiceStub(channel),
        )
