"""Work on very many flights: in slices, nearest departures first, with quotes between."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from itertools import groupby
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from eventstream import Database, Step
from eventstream.backend import Backend
from eventstream.steps import UNNAMED
from flights.pricing.v1.pricing_pb2 import PriceEvent
from flights.schedule.v1 import schedule_pb2
from pricing import tables
from pricing.domain import fares
from pricing.domain.fares import Cabin
from pricing.service import AT_A_TIME, Pricing
from pricing.store import SqlStore
from pricing.upstreams import Timetable, schedule_inbox
from streams.v1.stream_pb2 import Cursor
from tests.pricing.timetable import NOW, Clock, changed, flight

_T = TypeVar("_T")
FLIGHTS = 5 * AT_A_TIME + 7
QUOTE = "pricing.create_quote"


class Noting(Database):
    """A database that notes its units in the order in which they are durable."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.done: list[str] = []

    async def write(self, unit: Callable[[Connection], _T], *, step: Step = UNNAMED) -> _T:
        """Notes the unit's step."""
        value = await super().write(unit, step=step)
        self.done.append(step.name)
        return value


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Noting]:
    """A new database, on each engine."""
    async with Noting.open(database_url, migrations="pricing:migrations") as opened:
        yield opened


class Busy:
    """Pricing with a route of many flights, whose departures are in no order of their ids."""

    def __init__(self, database: Noting) -> None:
        self.database = database
        self.clock = Clock()
        self.pricing = Pricing(SqlStore(database), self.clock)
        self.flights = [one_of_many(n) for n in range(FLIGHTS)]
        self.nearest_first = [
            each.flight_id for each in sorted(self.flights, key=lambda f: f.departure_time.seconds)
        ]

    async def load(self) -> None:
        """Let schedule have said so."""
        timetable, events = Timetable(self.clock), changed(*self.flights)
        await self.database.write(lambda connection: timetable.apply_many(connection, events))
        self.database.done.clear()

    async def changed_fare(self) -> None:
        """Another fare, and what follows from it."""
        await self.pricing.update_fare("r", "JFK", "LAX", Decimal(700), None)
        while await self.pricing.follow_fare():
            continue

    async def a_day_away(self) -> None:
        """What comes due while nobody re-prices, all at once."""
        self.clock.forward(timedelta(days=1))
        while await self.pricing.reprice():
            continue

    async def a_snapshot(self) -> None:
        """Schedule says everything anew, in the batches in which streams come."""
        inbox = schedule_inbox(self.database, self.clock)
        await inbox.position()
        await inbox.start_snapshot()
        events = changed(*self.flights)
        await inbox.apply(events, None)
        await inbox.complete_snapshot(Cursor(epoch="e", seq=1))

    async def told(self) -> list[str]:
        """The flights of all events since it was loaded, in the order of the stream."""
        stored = await self.database.read(lambda c: tables.outbox.after(c, FLIGHTS, 10 * FLIGHTS))
        return [PriceEvent.FromString(e.payload).prices_changed.flight_id for e in stored]


def one_of_many(number: int) -> schedule_pb2.Flight:
    """A flight that is due for another price within a day, at a time of its own."""
    minutes = number * 7919 % FLIGHTS * 1440 // FLIGHTS
    return flight(f"flt_{number:04}", days=3 + minutes / 1440)


@pytest.fixture
async def busy(database: Noting) -> Busy:
    """Pricing with a busy route."""
    world = Busy(database)
    await world.load()
    return world


JOBS: dict[str, Callable[[Busy], Awaitable[None]]] = {
    "a new fare": Busy.changed_fare,
    "a day away": Busy.a_day_away,
    "a snapshot": Busy.a_snapshot,
}


@pytest.mark.parametrize("job", JOBS)
async def test_quotes_are_answered_between_slices(busy: Busy, job: str) -> None:
    """One caller who asks again and again waits for two units at most, however many there are."""
    working = asyncio.ensure_future(JOBS[job](busy))
    count = 0
    while not working.done():
        await busy.pricing.create_quote(f"q{count}", [("flt_0001", Cabin.ECONOMY)], 1)
        count += 1
    await working
    waited = [
        len(list(run)) for of, run in groupby(busy.database.done, lambda n: n == QUOTE) if not of
    ]

    assert sum(waited) > FLIGHTS / AT_A_TIME
    assert max(waited) <= 2


@pytest.mark.parametrize("job", ["a new fare", "a day away"])
async def test_the_nearest_departures_are_told_first(busy: Busy, job: str) -> None:
    """Each flight once, in the order of departure, in slices."""
    await JOBS[job](busy)

    assert await busy.told() == busy.nearest_first
    assert Counter(busy.database.done)["pricing.reprice"] == FLIGHTS // AT_A_TIME + 1


async def test_a_fare_is_set_without_touching_its_flights(busy: Busy) -> None:
    """UpdateFare is one short unit on the busiest of routes; what is quoted then is not new yet."""
    before = await busy.pricing.prices(busy.nearest_first)
    await busy.pricing.update_fare("r", "JFK", "LAX", Decimal(700), None)

    assert await busy.pricing.prices(busy.nearest_first) == before
    assert await busy.told() == []


async def test_a_fare_that_changes_again_is_followed_from_the_start(busy: Busy) -> None:
    """Flights that had come to follow the first change follow the second, too."""
    await busy.pricing.update_fare("r", "JFK", "LAX", Decimal(700), None)
    await busy.pricing.follow_fare()
    await busy.pricing.update_fare("s", "JFK", "LAX", Decimal(800), None)
    while await busy.pricing.follow_fare():
        continue
    priced = await busy.pricing.prices(busy.nearest_first)

    assert await busy.told() == busy.nearest_first[:AT_A_TIME] + busy.nearest_first
    assert [p.prices for p in priced] == [p.repriced(800_00, NOW).prices for p in priced]


async def test_the_nearest_of_two_routes_goes_first(busy: Busy) -> None:
    """A fare set later does not wait until the last flight of another route is told."""
    other = flight("flt_other", origin="LAX", destination="JFK", days=3)
    timetable = Timetable(busy.clock)
    await busy.database.write(lambda c: timetable.apply_many(c, changed(other)))
    await busy.pricing.update_fare("r", "JFK", "LAX", Decimal(700), None)
    await busy.pricing.follow_fare()
    await busy.pricing.update_fare("s", "LAX", "JFK", Decimal(700), None)
    while await busy.pricing.follow_fare():
        continue

    assert (await busy.told())[1:].index("flt_other") == AT_A_TIME


@given(minutes=st.integers(-1440, 60 * 24 * 60))
def test_a_flight_is_due_at_its_own_time_of_day(minutes: int) -> None:
    """So what is due in a minute of a day is what departs in it, and never all at once."""
    departure = NOW + timedelta(minutes=minutes)
    change = fares.next_change(departure, NOW)

    if change is None:
        assert departure - NOW < timedelta(days=1)
    else:
        assert (departure + timedelta.resolution - change) % fares.DAY == timedelta()


async def test_a_day_of_changes_is_as_even_as_its_departures(busy: Busy) -> None:
    """Departures are spread over the day; no hour has more than its share of what comes due."""
    due = await busy.database.read(
        lambda c: c.execute(select(tables.flights.c.reprice_time)).scalars().all()
    )
    hours = Counter(at.hour for at in due if at is not None)

    assert len(hours) == 24
    assert max(hours.values()) <= FLIGHTS / 24 + 1
