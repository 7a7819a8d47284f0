"""Composition root of the schedule service: `python -m schedule`."""

import asyncio
import os
from datetime import timedelta

import consulmesh
from consulmesh import Member, Mesh, MeshConfig
from consulmesh.config import ConfigError
from eventstream import Database, Feed, Lease, Retention, database_url, trim_forever
from flights.schedule.v1.schedule_pb2 import FlightEvent
from flights.schedule.v1.schedule_pb2_grpc import add_ScheduleServiceServicer_to_server
from schedule import __version__
from schedule.clock import SystemClock
from schedule.expiry import Sweeper
from schedule.service import Seats, Timetable
from schedule.servicer import STATUS_CODES, ScheduleServicer
from schedule.sources import DEFAULT, UnknownSourceError, source_of
from schedule.store import SqlDueHolds, SqlStore, snapshot
from schedule.tables import leases, outbox
from schedule.timetable import Airports
from schedule.window import FlightsOf, Window
from schedule.window_store import WINDOW_LEASE, SqlWindowStore, loaded, source_in

TAKEOVER = timedelta(seconds=4)  # how long a dead instance is waited for


async def main() -> None:
    """Join the mesh and serve. The database is closed last: jobs give their leases back."""
    config = MeshConfig.from_env(os.environ, version=__version__)
    url = database_url(os.environ, "schedule", config.state_dir)
    async with (
        Database.open(url, migrations="schedule:migrations") as db,
        Mesh.join("schedule", config) as mesh,
    ):
        airports = await asyncio.to_thread(Airports.load)
        source = await source_of_service(db, os.environ.get("MESH_TIMETABLE"))
        try:
            flights_of = source_of(source, airports)
        except UnknownSourceError as error:
            raise ConfigError(f"MESH_TIMETABLE: {error}") from error
        await serve(mesh, db, airports, flights_of, source=source)


async def source_of_service(db: Database, asked: str | None) -> str:
    """Where flights come from: from where those come that are there, else as asked.

    Raises ConfigError where both are known and differ.
    """
    stored = await source_in(db)
    if asked and stored and asked != stored:
        raise ConfigError(f"MESH_TIMETABLE is {asked!r}, but the database has {stored!r}")
    return stored or asked or DEFAULT


async def serve(
    mesh: Member,
    db: Database,
    airports: Airports,
    flights_of: FlightsOf,
    *,
    source: str = DEFAULT,
    takeover: timedelta = TAKEOVER,
) -> None:
    """Wire the service and serve until told to stop."""
    clock = SystemClock()
    store = SqlStore(db)
    seats = Seats(store, clock.now)
    timetable = Timetable(store, airports.utc_offset, clock.now)

    rolling = Lease(db, leases, WINDOW_LEASE, mesh.instance_id, takeover)
    window = Window(SqlWindowStore(db, rolling.check, source), flights_of, clock)
    sweeping = Lease(db, leases, "hold-expiry", mesh.instance_id, takeover)
    sweeper = Sweeper(SqlDueHolds(db), seats.expire, clock)
    mesh.start(rolling.lead(window.keep), name="timetable-window")
    mesh.start(sweeping.lead(sweeper.sweep_forever), name="hold-expiry")
    mesh.start(trim_forever(db, outbox, Retention()), name="outbox-trim")

    feed = Feed(db, outbox, event=FlightEvent, snapshot=snapshot)
    server = mesh.server(status_codes=STATUS_CODES)
    add_ScheduleServiceServicer_to_server(ScheduleServicer(timetable, seats, feed), server)
    await mesh.serve(server, warm=lambda: loaded(db))


if __name__ == "__main__":
    consulmesh.run(main)
