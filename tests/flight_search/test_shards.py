"""Shards: each answers for its days as one process that knows everything would."""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import grpc
import pytest
from google.type.date_pb2 import Date
from hypothesis import example, given
from hypothesis import strategies as st

from consulmesh import ConfigError
from consulmesh.errors import Status
from flight_search.__main__ import shard_from_env
from flight_search.domain import WHOLE, Cabin, ItineraryQuery, Shard, SortOrder
from flight_search.domain.shards import BLOCK_DAYS, LONGEST_FLIGHT
from flight_search.read_model import PRICING, SCHEDULE, ReadModel
from flight_search.upstreams import ReadModelInbox, flight_change, price_change
from flights.pricing.v1.pricing_pb2 import PriceEvent
from flights.schedule.v1.schedule_pb2 import FlightEvent
from flights.search.v1 import search_pb2 as pb
from gateway_bff import shards as gateway
from tests.flight_search.owners import flight_event, flight_removed, price_event, prices_removed
from tests.flight_search.systems import NOW, asking, running_search
from tests.flight_search.timetables import DIRECTORY, ZONES, query
from tests.flight_search.worlds import WESTWARD, all_pages, searching

counts = st.integers(1, 9)
days = st.dates(date(2020, 1, 1), date(2060, 1, 1))
BORDER = date(2026, 3, 12)
"""The first day of a block."""


@given(days, counts)
def test_each_day_is_of_one_shard(day: date, count: int) -> None:
    """And the gateway knows of which."""
    shards = [Shard(number, count) for number in range(count)]
    (answers,) = [shard for shard in shards if shard.answers(day)]

    assert gateway.headers(day, count) == (
        () if count == 1 else (("search-shard", str(answers.number)),)
    )


@given(
    days,
    counts,
    st.integers(-12 * 60, 14 * 60),
    st.times(),
    st.timedeltas(timedelta(), 2 * (LONGEST_FLIGHT + timedelta(hours=6))),
)
@example(BORDER, 2, 14 * 60, time.min, timedelta())
@example(BORDER - timedelta(days=1), 2, -12 * 60, time.max, 2 * timedelta(hours=28))
def test_a_shard_keeps_what_a_journey_of_its_days_may_need(
    day: date, count: int, offset: int, clock: time, later: timedelta
) -> None:
    """From the first departure anywhere on Earth to the last after two long flights."""
    local = datetime.combine(day, clock, UTC)
    departure = local - timedelta(minutes=offset) + later

    assert Shard(Shard(0, count).of(day), count).keeps(int(departure.timestamp()))


def test_a_quarter_of_the_flights_is_kept_twice() -> None:
    """What shards of two weeks cost beside one that has everything."""
    hours = range(26 * BLOCK_DAYS * 24)
    start = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    kept = sum(Shard(n, 13).keeps(start + hour * 3600) for n in range(13) for hour in hours)

    assert kept / len(hours) == pytest.approx(1.244, abs=0.001)


@pytest.mark.parametrize("text", ["2/2", "-1/2", "0/0", "1", "a/b", "0/2/3", "/", "0 / 2"])
def test_what_is_no_shard_stops_the_start(text: str) -> None:
    """By the name of the variable."""
    with pytest.raises(ConfigError, match="SEARCH_SHARD: "):
        shard_from_env({"SEARCH_SHARD": text})


def test_without_a_word_an_instance_is_all_of_it() -> None:
    """As it is for most."""
    assert shard_from_env({}) == shard_from_env({"SEARCH_SHARD": " "}) == WHOLE


class World:
    """Flights around the border of two blocks that are delayed over it, removed and priced."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        line = self.draw.sample(range(len(WESTWARD)), 4)
        self.stops = [WESTWARD[n] for n in sorted(line, reverse=self.draw.random() < 0.5)]
        midnight = datetime.combine(BORDER, time.min, ZONES[self.stops[0]])
        self.start = midnight.astimezone(UTC) - timedelta(hours=20)
        ways = [(a, b) for n, a in enumerate(self.stops) for b in self.stops[n + 1 :]]
        self.ways = {f"flt_{number:04}": self.draw.choice(ways) for number in range(60)}
        self.versions = dict.fromkeys(self.ways, 0)

    def asked(self) -> ItineraryQuery:
        """A question about one of the days beside the border."""
        return query(
            self.stops[0],
            self.stops[-1],
            BORDER - timedelta(days=self.draw.randint(0, 1)),
            cabin=Cabin.ECONOMY,
            max_stops=2,
        )

    def news(self) -> tuple[list[FlightEvent], list[PriceEvent]]:
        """Schedule's and pricing's next events: each flight's in order, both of the same time."""
        flights: list[FlightEvent] = []
        prices: list[PriceEvent] = []
        for key in self.draw.choices(list(self.ways), k=80):
            self.versions[key] = version = self.versions[key] + 1
            if self.draw.random() < 0.1:
                flights.append(flight_removed(key, version))
                prices.append(prices_removed(key, version))
                continue
            departure = self.start + timedelta(minutes=20 * self.draw.randrange(40 * 3))
            minutes = self.draw.choice([45, 90, 180])
            flights.append(flight_event(key, *self.ways[key], departure, minutes, version=version))
            dollars = self.draw.choice([100, 100, 150, 220])
            prices.append(price_event(key, dollars, version=version, departure=departure))
        return flights, prices


@contextmanager
def models(folder: Path, shards: Sequence[Shard]) -> Iterator[list[ReadModel]]:
    """A read model of each shard."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(ReadModel(folder / f"{n}.db", DIRECTORY, shard))
            for n, shard in enumerate(shards)
        ]


async def tell(
    model: ReadModel, shard: Shard, flights: list[FlightEvent], prices: list[PriceEvent]
) -> None:
    """Apply events as a shard does."""
    schedule: ReadModelInbox[FlightEvent] = ReadModelInbox(
        model, SCHEDULE, lambda e: flight_change(e, shard=shard)
    )
    pricing: ReadModelInbox[PriceEvent] = ReadModelInbox(
        model, PRICING, lambda e: price_change(e, shard=shard)
    )
    await schedule.apply(flights, None)
    await pricing.apply(prices, None)


@pytest.mark.parametrize("seed", range(20))
async def test_a_shard_answers_as_one_that_has_everything(tmp_path: Path, seed: int) -> None:
    """With up to two stops, beside the border, while flights are delayed over it."""
    world = World(seed)
    two = [Shard(0, 2), Shard(1, 2)]
    now = world.start - timedelta(days=1)
    with models(tmp_path, [WHOLE, *two]) as (whole, *parts):
        for _ in range(5):
            flights, prices = world.news()
            for model, shard in zip([whole, *parts], [WHOLE, *two], strict=True):
                await tell(model, shard, flights, prices)
            asked = world.asked()
            assert asked.departure_date
            part = parts[two[0].of(asked.departure_date)]
            order = world.draw.choice(list(SortOrder))
            expected, there = [
                await all_pages(searching(model, now), asked, order, 50) for model in (whole, part)
            ]
            assert there == expected
        sizes = [model.count(0, 1_000)[0] for model in (whole, *parts)]

    assert expected, "nothing was compared"
    assert max(map(len, expected)) > 1
    assert sizes[0] <= sizes[1] + sizes[2] <= 2 * sizes[0]


async def test_a_flight_that_leaves_a_shard_is_forgotten(tmp_path: Path) -> None:
    """Delayed by weeks, it is the other shard's, with its price, and no longer this one's."""
    departure = datetime(2026, 3, 8, 13, tzinfo=UTC)
    shard = Shard(0, 2) if Shard(0, 2).keeps(int(departure.timestamp())) else Shard(1, 2)
    late = departure + timedelta(days=BLOCK_DAYS)
    with models(tmp_path, [shard]) as (model,):
        await tell(model, shard, [flight_event("a")], [price_event("a", departure=departure)])
        before = model.count(0, 100)
        moved = flight_event("a", departure=late, version=2)
        await tell(model, shard, [moved], [price_event("a", departure=late, version=2)])
        after = model.count(0, 100)

    assert before == (1, 1, None)
    assert after == (0, 0, None)


def test_prices_that_do_not_say_when_are_kept() -> None:
    """Events of before shards carry no departure."""
    for number in (0, 1):
        assert price_change(price_event("a"), shard=Shard(number, 2)) == price_change(
            price_event("a")
        )


def test_a_file_of_another_shard_is_not_used(tmp_path: Path) -> None:
    """An instance that becomes another shard asks the owners anew."""
    file = tmp_path / "search.db"
    with ReadModel(file, DIRECTORY, Shard(0, 2)) as model:
        model.start_snapshot(SCHEDULE)
    with ReadModel(file, DIRECTORY, Shard(0, 2)) as again:
        kept = again.has_been_complete("nobody"), again._generations
    with ReadModel(file, DIRECTORY, Shard(1, 2)) as other:
        lost = other._generations

    assert kept == (False, {SCHEDULE: 1})
    assert lost == {}


async def test_what_another_shard_knows_is_told_as_such(tmp_path: Path) -> None:
    """Asked for its days it answers; for others it says who does, and a month has gaps."""
    day = NOW.date() + timedelta(days=2)
    shard = Shard(Shard(0, 2).of(day), 2)
    elsewhere = day + timedelta(days=BLOCK_DAYS)
    async with running_search(tmp_path / "search.db", shard=shard) as system:
        await system.first_snapshots(flights=[flight_event("a")], prices=[price_event("a")])
        here = await system.stub.SearchItineraries(
            pb.SearchItinerariesRequest(query=asking(departure_date=day))
        )
        refused = []
        for call in (
            system.stub.SearchItineraries(
                pb.SearchItinerariesRequest(query=asking(departure_date=elsewhere))
            ),
            system.stub.SearchRoundTrips(
                pb.SearchRoundTripsRequest(
                    query=asking(departure_date=day), return_date=message(elsewhere)
                )
            ),
            system.stub.StreamItineraries(
                pb.StreamItinerariesRequest(query=asking(departure_date=elsewhere))
            ).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            refused.append(Status.of(caught.value))
        calendar = await system.stub.SearchFareCalendar(
            pb.SearchFareCalendarRequest(query=asking(departure_date=day))
        )

    other = str(1 - shard.number)
    assert len(here.itineraries) == 1
    assert {status.code for status in refused} == {grpc.StatusCode.FAILED_PRECONDITION}
    assert {status.reason for status in refused} == {"OTHER_SHARD"}
    assert [status.metadata for status in refused] == [{"shard": other, "shards": "2"}] * 3
    assert [each.date.day for each in calendar.days] == [day.day]
    assert {each.day for each in calendar.unreachable} == {
        number for number in range(NOW.day, 32) if not shard.answers(date(2026, 3, number))
    }


def message(day: date) -> Date:
    """A date as messages have it."""
    return Date(year=day.year, month=day.month, day=day.day)
