"""The process: `python -m pricing`."""

import os
from datetime import UTC, datetime, timedelta

import consulmesh
from consulmesh import Member, Mesh, MeshConfig
from consulmesh.users import TokenVerifier
from eventstream import Database, Feed, Lease, add_inbox_service, database_url
from flights.pricing.v1.pricing_pb2 import PriceEvent
from flights.pricing.v1.pricing_pb2_grpc import add_PricingServiceServicer_to_server
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from pricing import __version__, tables
from pricing.service import Pricing
from pricing.servicer import STATUS_CODES, PricingServicer
from pricing.store import SqlStore, snapshot
from pricing.timed_work import TimedWork
from pricing.upstreams import schedule_follower, schedule_inbox, whole

TAKEOVER = timedelta(seconds=4)  # how long a dead instance is waited for


def now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


async def main() -> None:
    """Join the mesh and serve. The database is closed last: jobs give their lease back."""
    config = MeshConfig.from_env(os.environ, version=__version__)
    url = database_url(os.environ, "pricing", config.state_dir)
    async with (
        Database.open(url, migrations="pricing:migrations") as database,
        Mesh.join("pricing", config) as mesh,
    ):
        await serve(mesh, database)


async def serve(mesh: Member, database: Database, *, takeover: timedelta = TAKEOVER) -> None:
    """Wire the service and serve until told to stop."""
    pricing = Pricing(SqlStore(database), now)
    feed = Feed(database, tables.outbox, event=PriceEvent, snapshot=snapshot)
    schedule = ScheduleServiceStub(mesh.channel("schedule"))
    inbox = schedule_inbox(database, now)
    work = TimedWork(database, pricing, inbox, schedule_follower(schedule, inbox), now)
    lease = Lease(database, tables.leases, "timed-work", mesh.instance_id, takeover)
    mesh.start(lease.lead(work.run), name="timed work")
    server = mesh.server(status_codes=STATUS_CODES)
    add_PricingServiceServicer_to_server(PricingServicer(pricing, feed), server)
    users = TokenVerifier.from_env(os.environ, mesh.config.state_dir)
    mesh.start(users.run(), name="keys of users")
    add_inbox_service(server, users, inbox)
    await mesh.serve(server, warm=lambda: whole(database))


if __name__ == "__main__":
    consulmesh.run(main)
