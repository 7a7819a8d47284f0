import asyncio
from datetime import timedelta
from decimal import Decimal

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, func, select

from consulmesh.testing import serving
from eventstream import Database
from flights.pricing.v1.pricing_pb2 import PriceEvent
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from pricing import tables
from pricing.domain.fares import Cabin
from pricing.domain.flights import PricedFlight
from pricing.service import Pricing
from pricing.store import SqlStore, snapshot
from pricing.timed_work import TimedWork
from pricing.upstreams import schedule_follower, schedule_inbox, whole
from tests.pricing.conftest import World
from tests.pricing.timetable import Clock, ScriptedSchedule, changed, flight, removed


async def test_pricing_follows_schedule_and_reprices_in_time(database: Database) -> None:
    """A snapshot is priced whole, and a flight is re-priced when its day comes, unasked."""
    clock, schedule = Clock(), ScriptedSchedule()
    schedule.snapshot(flight("flt_a", days=28), flight("flt_b", days=28))
    pricing = Pricing(SqlStore(database), clock)
    async with serving(schedule.add_to, service="schedule") as channel:
        inbox = schedule_inbox(database, clock)
        follower = schedule_follower(ScheduleServiceStub(channel), inbox)
        work = TimedWork(database, pricing, inbox, follower, clock)
        running = asyncio.create_task(work.run())
        try:
            await whole(database)
            before = await pricing.prices(["flt_a"])
            clock.forward(timedelta(seconds=1))
            schedule.send(removed("flt_b"))
            after = await until_version(database, pricing, "flt_a", 2)
        finally:
            running.cancel()
            await asyncio.wait([running])

    assert before[0].version == 1
    assert after.prices[0].price.fare > before[0].prices[0].price.fare


async def until_version(
    database: Database, pricing: Pricing, flight_id: str, version: int
) -> PricedFlight:
    """The flight, once its prices have this version."""
    while True:
        seen = database.version
        flight = (await pricing.prices([flight_id]))[0]
        if flight.version >= version:
            return flight
        await database.changed(seen)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
@given(
    versions=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    sizes=st.integers(1, 4),
)
async def test_an_older_word_of_schedule_never_overwrites_a_newer_one(
    world: World, versions: list[int], sizes: int
) -> None:
    """In whatever order and batches events come, the newest version stands at the end."""
    await world.apply(removed("flt_a"))
    events = changed(*(flight(version=v, available=10 * v) for v in versions))
    kept: list[int] = []
    for at in range(0, len(events), sizes):
        await world.apply(*events[at : at + sizes])
        kept.append((await world.pricing.prices(["flt_a"]))[0].state.version)
    flights = await world.pricing.prices(["flt_a"])

    assert flights[0].state.version == max(versions)
    assert flights[0].state.cabins[0].available == 10 * max(versions)
    assert kept == sorted(kept)


async def test_a_snapshot_tells_of_a_price_what_its_event_told(world: World) -> None:
    """Whoever reads the rows, and whoever reads the changes, has the same messages."""
    await world.fly(flight("flt_a", days=3), flight("flt_b", days=28, available=7))
    stored = await world.database.read(lambda c: tables.outbox.after(c, 0, 10))
    rows = await world.database.read(lambda c: snapshot(c, None, 10))

    assert [event for _, event in rows] == [PriceEvent.FromString(e.payload) for e in stored]
    assert [key for key, _ in rows] == ["flt_a", "flt_b"]


async def test_prices_follow_a_flight_that_is_delayed(world: World) -> None:
    """Readers are told of another departure at the same price, not of seats that change none."""
    await world.fly(flight(days=30))
    await world.fly(flight(days=30, version=2, available=99))
    await world.fly(flight(days=30.01, version=3))
    stored = await world.database.read(lambda c: tables.outbox.after(c, 0, 10))
    first, second = [PriceEvent.FromString(event.payload).prices_changed for event in stored]

    assert second.prices == first.prices
    assert second.version == first.version + 1
    assert second.departure_time == flight(days=30.01).departure_time


async def test_what_a_snapshot_does_not_contain_is_gone(world: World) -> None:
    """Mark, apply, sweep: a flight that left while nobody listened is not sold any more."""
    await world.fly(flight("flt_a"), flight("flt_b"))
    await world.snapshot_starts()
    await world.fly(flight("flt_b"))
    await world.snapshot_ends()
    known = await world.database.read(lambda c: set(c.execute(tables.flights.select()).scalars()))

    assert known == {"flt_b"}


async def test_what_is_no_longer_needed_is_forgotten(world: World) -> None:
    """Unclaimed quotes go soon after they ran out, claimed ones late, request ids in a week."""
    await world.fly(flight())
    await world.pricing.create_quote("a", [("flt_a", Cabin.ECONOMY)], 1)
    used = await world.pricing.create_quote("b", [("flt_a", Cabin.ECONOMY)], 1)
    await world.pricing.redeem(used.quote_id, "bkg_1", 1, world.clock())
    await world.pricing.update_fare("c", "JFK", "LAX", Decimal(100), None)
    inbox = schedule_inbox(world.database, world.clock)
    follower = schedule_follower(None, inbox)  # type: ignore[arg-type] # never followed
    work = TimedWork(world.database, world.pricing, inbox, follower, world.clock)
    forgotten, left = [], []
    for days in (1, 2, 5, 60):
        world.clock.forward(timedelta(days=days))
        forgotten.append(await work.tidy())
        left.append(await world.database.read(rows_left))

    assert forgotten == [0, 1, 0, 1]
    assert left == [(2, 1, 1), (1, 1, 1), (1, 1, 0), (0, 0, 0)]


def rows_left(connection: Connection) -> tuple[int, ...]:
    """How many quotes, claims and request ids of fares there are."""
    kept = (tables.quotes, tables.claims, tables.fare_requests)
    return tuple(
        connection.execute(select(func.count()).select_from(table)).scalar_one() for table in kept
    )


async def test_migrations_make_the_tables_that_the_code_uses(database: Database) -> None:
    """Alembic finds no difference between the migrated database and the metadata."""

    def compare(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, tables.metadata))

    differences = await database.read(compare)

    assert differences == []
