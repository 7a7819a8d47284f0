"""Two instances of pricing on one database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from decimal import Decimal

from consulmesh.testing import serving
from eventstream import Database, DatabaseClosedError, Lease
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from pricing import tables
from pricing.domain.errors import EtagMismatch, QuoteRedeemed, RequestIdReused
from pricing.domain.fares import Cabin
from pricing.domain.quotes import Quote
from pricing.service import Fare, Pricing
from pricing.store import SqlStore
from pricing.timed_work import TimedWork
from pricing.upstreams import schedule_follower, schedule_inbox
from tests.pricing.conftest import World
from tests.pricing.timetable import Clock, ScriptedSchedule, flight

TTL = timedelta(seconds=1)


@asynccontextmanager
async def another(world: World, url: str) -> AsyncIterator[Pricing]:
    """A second instance."""
    async with Database.open(url, migrations="pricing:migrations") as database:
        yield Pricing(SqlStore(database), world.clock)


async def test_of_two_changes_of_one_fare_one_wins(world: World, database_url: str) -> None:
    """Two operators at two instances who looked at the same fare: exactly one sets it."""
    await world.fly(flight())
    async with another(world, database_url) as there:
        for etag in range(10):
            results = await asyncio.gather(
                world.pricing.update_fare(f"a{etag}", "JFK", "LAX", Decimal(100 + etag), etag),
                there.update_fare(f"b{etag}", "JFK", "LAX", Decimal(200 + etag), etag),
                return_exceptions=True,
            )
            won = [r for r in results if isinstance(r, Fare)]

            assert [fare.version for fare in won] == [etag + 1]
            assert sum(isinstance(r, EtagMismatch) for r in results) == 1


async def test_a_request_id_stands_for_everything_that_was_sent(world: World) -> None:
    """The same change is answered with the fare as it is now; another etag or base is refused."""
    await world.fly(flight())
    first = ("r", "JFK", "LAX", Decimal(100))
    await world.pricing.update_fare(*first, None)
    await world.pricing.update_fare("s", "JFK", "LAX", Decimal(150), None)
    again = await world.pricing.update_fare(*first, None)
    others = [
        world.pricing.update_fare(*first, 2),
        world.pricing.update_fare("r", "JFK", "LAX", Decimal(101), None),
        world.pricing.update_fare("r", "LAX", "JFK", Decimal(100), None),
    ]
    refused = await asyncio.gather(*others, return_exceptions=True)

    assert (again.base, again.version) == (Decimal(150), 2)
    assert [type(r) for r in refused] == [RequestIdReused] * 3


async def test_one_quote_at_two_instances_is_bound_once(world: World, database_url: str) -> None:
    """Twenty bookings at two instances want ten quotes, each twice: each quote has one booking."""
    await world.fly(flight())
    async with another(world, database_url) as there:
        quotes = [
            await world.pricing.create_quote(f"q{n}", [("flt_a", Cabin.ECONOMY)], 1)
            for n in range(10)
        ]
        now = world.clock()
        results = await asyncio.gather(
            *(
                part.redeem(quote.quote_id, f"bkg_{who}_{n}", 1, now)
                for n, quote in enumerate(quotes)
                for who, part in enumerate((world.pricing, there))
                for _ in range(2)
            ),
            return_exceptions=True,
        )
    won = {(r.quote_id, r.booking_id) for r in results if isinstance(r, Quote)}

    assert len(won) == len({quote_id for quote_id, _ in won}) == 10
    assert sum(isinstance(r, Quote) for r in results) == 20
    assert sum(isinstance(r, QuoteRedeemed) for r in results) == 20


async def test_another_instance_follows_when_the_first_is_gone(
    database: Database, database_url: str
) -> None:
    """One applies schedule's stream; the other goes on where it was, without giving back."""
    clock, schedule = Clock(), ScriptedSchedule()
    pricing = Pricing(SqlStore(database), clock)
    async with (
        Database.open(database_url, migrations="pricing:migrations") as first,
        serving(schedule.add_to, service="schedule") as channel,
    ):
        stub = ScheduleServiceStub(channel)
        schedule.snapshot(flight("flt_a"))
        one = asyncio.create_task(follow(first, "one", stub, clock))
        await until(database, "flt_a")
        two = asyncio.create_task(follow(database, "two", stub, clock))
        await first.aclose()
        await asyncio.wait([one])
        await schedule.left.wait()
        schedule.snapshot(flight("flt_a"), flight("flt_b"))
        await until(database, "flt_b")
        for job in (one, two):
            job.cancel()
        await asyncio.wait([one, two])

    assert [f.version for f in await pricing.prices(["flt_a"])] == [1]


async def follow(
    database: Database, holder: str, schedule: ScheduleServiceStub, clock: Clock
) -> None:
    """Do the timed work under the lease, as the service does."""
    inbox = schedule_inbox(database, clock)
    pricing = Pricing(SqlStore(database), clock)
    work = TimedWork(database, pricing, inbox, schedule_follower(schedule, inbox), clock)
    lease = Lease(database, tables.leases, "timed-work", holder, TTL)
    await ended(lease.lead(work.run))


async def ended(job: Awaitable[object]) -> None:
    """Do a job until its database goes away."""
    with suppress(DatabaseClosedError, ExceptionGroup):
        await job


async def until(database: Database, flight_id: str) -> None:
    """Wait until a flight is priced."""
    async with asyncio.timeout(30):
        seen = database.version
        while not await database.read(
            lambda c: c.execute(
                tables.flights.select().where(tables.flights.c.flight_id == flight_id)
            ).all()
        ):
            seen = await database.changed(seen)
