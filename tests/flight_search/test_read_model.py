import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flight_search.changes import Change, FlightRemoved, PricesChanged, PricesRemoved
from flight_search.domain import Cabin, ItineraryQuery, Position, SortOrder
from flight_search.paging import page_start, page_token
from flight_search.read_model import PRICING, SCHEDULE, ReadModel
from tests.flight_search.timetables import (
    ZONES,
    Found,
    Oracle,
    feed,
    flight,
    found,
    journey,
    prices,
    query,
)

EIGHT = datetime(2026, 3, 8, 13, tzinfo=UTC)
"""08:00 in New York, 09:00 daylight time."""
DAYS = [
    date(2026, 3, 8),  # 23 hours long in the USA
    date(2026, 3, 29),  # 23 hours long in Germany
    date(2026, 4, 5),  # 25 hours long in Sydney
    date(2026, 11, 1),  # 25 hours long in the USA
]
KEYS = [f"flt_{number:04}" for number in range(60)]


SEATS = [(9, None, 9, None)] * 3 + [(2, None, 1, None), (1, None, 0, None), (None,) * 4]


class World:
    """A random query, and what two sources say around its day: dense, repetitive, contradictory."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.day = self.random.choice(DAYS)
        origin, destination, *others = self.random.sample(list(ZONES), 5)
        self.asked = query(
            origin,
            destination,
            self.day,
            passengers=self.random.choice([1, 1, 2, 3]),
            cabin=self.random.choice([Cabin.ECONOMY, Cabin.BUSINESS]),
            max_stops=self.random.choice([0, 1, 1, 1]),
        )
        midnight = datetime.combine(self.day, time.min, ZONES[origin]).astimezone(UTC)
        self.now = midnight + timedelta(hours=self.random.choice([-24, -1, 0, 5, 12]))
        self._start = midnight - timedelta(hours=3)
        ways = [(origin, destination), (destination, origin), (others[2], origin)]
        ways += [way for via in others[:2] for way in [(origin, via), (via, destination)] * 2]
        self._routes = {key: self.random.choice(ways) for key in KEYS}

    def changes(self) -> list[Change]:
        """Some more changes."""
        return [change for _ in range(120) for change in self._some()]

    def _some(self) -> list[Change]:
        key, version = self.random.choice(KEYS), self.random.randint(1, 4)
        kind = self.random.randrange(20)
        if kind == 0:
            return [FlightRemoved(key, version)]
        if kind == 1:
            return [PricesRemoved(key, version)]
        origin, destination = self._routes[key]
        departure = self._start + timedelta(minutes=15 * self.random.randrange(30 * 4))
        minutes, seats = self.random.choice([45, 75, 300, 600]), self.random.choice(SEATS)
        dollars = self.random.choice([100, 100, 150, 220])
        return [
            flight(key, origin, destination, departure, minutes, seats=seats, version=version),
            prices(key, dollars, version=version),
        ]


@contextmanager
def new_model() -> Iterator[ReadModel]:
    """An empty read model in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, ReadModel(Path(folder) / "search.db") as model:
        yield model


def all_pages(
    model: ReadModel, asked: ItineraryQuery, order: SortOrder, now: datetime, size: int
) -> list[tuple[str, str]]:
    """The flights of all pages one after the other, by way of page tokens."""
    flights: list[tuple[str, str]] = []
    token = ""
    while True:
        after = page_start(token, asked, order)
        page, last = model.page(journey(asked, now), order, after, size)
        flights += [
            (i.segments[0].flight_id, i.segments[1].flight_id if len(i.segments) > 1 else "")
            for i in page
        ]
        if last is None:
            return flights
        token = page_token(last, asked, order)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 1 << 32), order=st.sampled_from(SortOrder), size=st.sampled_from([1, 3, 9])
)
def test_pages_are_what_brute_force_finds(seed: int, order: SortOrder, size: int) -> None:
    """All pages together are the brute-force result in its order, also after updates."""
    world, oracle = World(seed), Oracle()
    answers: list[tuple[list[tuple[str, str]], list[Found]]] = []
    with new_model() as model:
        for _ in range(2):
            changes = world.changes()
            feed(model, changes)
            for change in changes:
                oracle.hear(change)
            pages = all_pages(model, world.asked, order, world.now, size)
            answers.append((pages, oracle.find(world.asked, order, world.now)))

    for pages, expected in answers:
        assert pages == [(first, second) for _, _, first, second in expected]


def test_the_oracle_has_something_to_find() -> None:
    """The random worlds hold many itineraries of both kinds, so that the comparison says much."""
    direct, connecting = [], []
    for seed in range(50):
        world, oracle = World(seed), Oracle()
        for change in world.changes():
            oracle.hear(change)
        found_there = oracle.find(world.asked, SortOrder.PRICE, world.now)
        direct += [found for found in found_there if not found[3]]
        connecting += [found for found in found_there if found[3]]

    assert len(direct) > 50
    assert len(connecting) > 50


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_streaming_finds_what_pages_find(seed: int) -> None:
    """Direct flights and the connections airport by airport are the same set as the pages."""
    world = World(seed)
    way = journey(world.asked, world.now)
    with new_model() as model:
        feed(model, world.changes())
        pages = all_pages(model, world.asked, SortOrder.PRICE, world.now, 1000)
        streamed = model.direct(way)
        if way.max_stops:
            for airport in model.connections(way):
                streamed += model.connecting(way, airport)

    flights = [[s.flight_id for s in itinerary.segments] for itinerary in streamed]
    assert sorted(flights) == sorted([key for key in pair if key] for pair in pages)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_the_order_of_the_two_sources_does_not_matter(seed: int) -> None:
    """Any interleaving of the two streams gives one state."""
    world = World(seed)
    changes = world.changes()
    pricing: list[Change] = [c for c in changes if isinstance(c, PricesChanged | PricesRemoved)]
    schedule: list[Change] = [c for c in changes if c not in pricing]
    streams, mixed = [list(schedule), list(pricing)], []
    while any(streams):
        stream = world.random.choice([stream for stream in streams if stream])
        mixed.append(stream.pop(0))
    states = []
    for order in (mixed, schedule + pricing, pricing + schedule):
        with new_model() as model:
            feed(model, order)
            states.append(dump(model))

    assert states[0] == states[1] == states[2]


def dump(model: ReadModel) -> list[tuple[object, ...]]:
    """Everything the model knows of flights, without row ids, and its routes."""
    rows = model._db.execute("SELECT * FROM flight ORDER BY key").fetchall()
    routes = model._db.execute("SELECT * FROM route ORDER BY 1, 2").fetchall()
    return [row[1:] for row in rows] + routes


def complete(model: ReadModel, source: str, seq: int = 0) -> None:
    """Brings a source behind its first snapshot."""
    model.start_snapshot(source)
    model.apply(source, (), Position(source=source, epoch="e", seq=seq))


def test_an_older_version_changes_nothing(model: ReadModel) -> None:
    """Older flights, prices and removals leave what is newer alone."""
    feed(model, [flight("a", "JFK", "LAX", EIGHT, version=7), prices("a", 100, version=7)])
    before = dump(model)
    feed(
        model,
        [
            flight("a", "JFK", "LAX", EIGHT + timedelta(days=9), version=6),
            prices("a", 999, version=6),
            FlightRemoved("a", 6),
            PricesRemoved("a", 6),
        ],
    )

    assert dump(model) == before


def test_a_flight_is_sold_once_both_sources_have_spoken(model: ReadModel) -> None:
    """A price may come before its flight, and neither is enough alone."""
    feed(model, [prices("early"), flight("late", "JFK", "LAX", EIGHT)])
    before = found(model, query())
    feed(model, [flight("early", "JFK", "LAX", EIGHT), prices("late", 50)])

    assert before == []
    assert found(model, query()) == [("late",), ("early",)]


def test_a_flight_that_both_sources_have_dropped_leaves_no_trace(model: ReadModel) -> None:
    """Removals by both sources, in either order, leave no row and no served airport."""
    feed(model, [flight("a", "JFK", "LAX", EIGHT), prices("a")])
    feed(model, [flight("b", "LAX", "FRA", EIGHT), prices("b")])
    feed(model, [FlightRemoved("a", 1), PricesRemoved("a", 1)])
    feed(model, [PricesRemoved("b", 1), FlightRemoved("b", 1)])

    assert dump(model) == []
    assert model.served() == frozenset()


def test_served_airports_follow_the_flights(model: ReadModel) -> None:
    """An airport is served while a flight uses it."""
    feed(model, [flight("a", "JFK", "LAX", EIGHT), flight("b", "JFK", "FRA", EIGHT)])
    both = model.served()
    feed(model, [FlightRemoved("b", 1)])

    assert both == {"JFK", "LAX", "FRA"}
    assert model.served() == {"JFK", "LAX"}


def test_a_delay_moves_a_flight_and_its_connections(model: ReadModel) -> None:
    """A delayed flight shows its new time, and a connection it no longer makes is gone."""
    onward = EIGHT + timedelta(hours=3)
    feed(model, [flight("a", "JFK", "FRA", EIGHT), flight("b", "FRA", "LAX", onward)])
    feed(model, [prices("a"), prices("b")])
    before = found(model, query())
    late = EIGHT + timedelta(minutes=30)
    feed(model, [flight("a", "JFK", "FRA", late, version=2, delayed=True)])
    (itinerary,) = model.direct(journey(query(destination="FRA")))

    assert before == [("a", "b")]
    assert found(model, query()) == []
    assert itinerary.segments[0].departure == late
    assert itinerary.segments[0].delayed


def test_a_changed_itinerary_is_a_new_object_and_an_unchanged_one_is_not(model: ReadModel) -> None:
    """Itineraries are shared until a flight or a price of theirs changes."""
    for source in (SCHEDULE, PRICING):
        complete(model, source)
    feed(model, [flight("a", "JFK", "LAX", EIGHT), prices("a")])
    (first,), (again,) = (model.direct(journey(query())) for _ in range(2))
    feed(model, [prices("a", 120, version=2)])
    (dearer,) = model.direct(journey(query()))
    feed(model, [flight("a", "JFK", "LAX", EIGHT, seats=(3, None, 3, None), version=2)])
    (fuller,) = model.direct(journey(query()))

    assert first is again
    assert (dearer.price, dearer.segments[0]) == (Decimal(120), first.segments[0])
    assert fuller.segments[0].seats_available == 3


@pytest.mark.parametrize("source", [SCHEDULE, PRICING])
def test_a_batch_and_its_position_are_one(model: ReadModel, source: str) -> None:
    """A batch that fails leaves neither its changes nor its position behind."""
    complete(model, source, seq=3)
    broken = flight("b", "JFK", "LAX", EIGHT)._replace(origin=object())  # type: ignore[arg-type]  # what SQLite cannot store
    with pytest.raises(Exception, match="type"):
        model.apply(
            source,
            [flight("a", "JFK", "LAX", EIGHT), broken],
            Position(source=source, epoch="e", seq=5),
        )

    assert dump(model) == []
    assert model.position(source) == Position(source=source, epoch="e", seq=3)


def test_a_snapshot_replaces_what_was_known(model: ReadModel) -> None:
    """A snapshot of a history that went back overwrites newer versions and sweeps the rest."""
    model.start_snapshot(SCHEDULE)
    feed(model, [prices(key) for key in ("a", "b", "c")])
    feed(model, [flight(key, "JFK", "LAX", EIGHT, version=9) for key in ("a", "b")])
    model.apply(SCHEDULE, (), Position(source=SCHEDULE, epoch="old", seq=9))
    model.start_snapshot(SCHEDULE)
    during = (model.position(SCHEDULE), found(model, query()))
    changes = [flight("b", "JFK", "FRA", EIGHT), flight("c", "JFK", "LAX", EIGHT)]
    model.apply(SCHEDULE, changes, None)
    assert model.sweep(SCHEDULE, 0) is None
    model.apply(SCHEDULE, (), Position(source=SCHEDULE, epoch="new", seq=2))

    assert during == (None, [("a",), ("b",)])
    assert found(model, query()) == [("c",)]
    assert found(model, query(destination="FRA")) == [("b",)]


def test_counting_goes_slice_by_slice(model: ReadModel) -> None:
    """Counts of slices add up to all flights and priced cabins."""
    feed(model, [flight(f"f{n}", "JFK", "LAX", EIGHT) for n in range(10)])
    feed(model, [prices(f"f{n}") for n in range(5, 12)])
    counts = []
    start: int | None = 0
    while start is not None:
        flights, offers, start = model.count(start, 4)
        counts.append((flights, offers))

    assert tuple(map(sum, zip(*counts, strict=True))) == (10, 14)
    assert len(counts) == 3
