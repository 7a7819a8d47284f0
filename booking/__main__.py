"""Runs one instance of the booking service: `python -m booking`."""

import os
from datetime import UTC, datetime, timedelta
from functools import partial

import consulmesh
from booking import __version__
from booking.changes import Changes
from booking.metrics import count_unfinished
from booking.participants import Participants
from booking.queries import snapshot
from booking.runner import DEFAULT_TERMS, SagaRunner, Terms
from booking.service import BookingService
from booking.servicer import STATUS_CODES, BookingServicer
from booking.store import BookingStore
from booking.tables import leases, outbox
from booking.timed_work import TimedWork
from booking.timetable import schedule_follower, schedule_inbox
from booking.upstreams import PricingQuotes, ScheduleSeats
from consulmesh import Member, Mesh, MeshConfig
from consulmesh.users import TokenVerifier
from eventstream import Database, Feed, Lease, add_inbox_service, database_url
from flights.booking.v1.booking_pb2 import BookingEvent
from flights.booking.v1.booking_pb2_grpc import add_BookingServiceServicer_to_server
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub

HOLD = timedelta(minutes=10)  # far longer than the terms of the runner
TAKEOVER = timedelta(seconds=4)  # how long a dead instance is waited for


async def main() -> None:
    """Join the mesh and serve. The database is closed last: sagas are handed back."""
    config = MeshConfig.from_env(os.environ, version=__version__)
    url = database_url(os.environ, "booking", config.state_dir)
    users = TokenVerifier.from_env(os.environ, config.state_dir)
    async with (
        Database.open(url, migrations="booking:migrations") as db,
        Mesh.join("booking", config) as mesh,
    ):
        await serve(mesh, db, users)


async def serve(
    mesh: Member,
    db: Database,
    users: TokenVerifier,
    *,
    terms: Terms = DEFAULT_TERMS,
    hold: timedelta = HOLD,
    takeover: timedelta = TAKEOVER,
) -> None:
    """Wire the service and serve until told to stop."""
    clock = partial(datetime.now, UTC)
    changes = Changes(db)
    store = BookingStore(db, changes)
    quotes = PricingQuotes(mesh.channel("pricing"))
    schedule = mesh.channel("schedule")
    participants = Participants(quotes, ScheduleSeats(schedule, hold), clock)
    inbox = schedule_inbox(db, clock)
    follower = schedule_follower(ScheduleServiceStub(schedule), inbox)
    work = TimedWork(db, inbox, follower, clock)
    lease = Lease(db, leases, "timed-work", mesh.instance_id, takeover)
    async with SagaRunner(
        store, participants, name=mesh.instance_id, clock=clock, terms=terms
    ) as runner:
        servicer = BookingServicer(
            BookingService(store, quotes, runner, changes, clock),
            Feed(db, outbox, event=BookingEvent, snapshot=snapshot),
            users,
            clock,
        )
        server = mesh.server(status_codes=STATUS_CODES)
        add_BookingServiceServicer_to_server(servicer, server)
        add_inbox_service(server, users, inbox)
        mesh.start(users.run(), name="keys of users")
        mesh.start(changes.run(), name="booking changes")
        mesh.start(runner.run(), name="saga runner")
        mesh.start(count_unfinished(store, clock), name="saga metrics")
        mesh.start(lease.lead(work.run), name="timed work")
        await mesh.serve(server)


if __name__ == "__main__":
    consulmesh.run(main)
