import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flight_search import read_model
from flight_search.changes import Change, FlightRemoved, PricesChanged, PricesRemoved
from flight_search.domain import (
    ItineraryQuery,
    Place,
    Position,
    SortOrder,
)
from flight_search.read_model import PRICING, SCHEDULE, ReadModel
from flight_search.service import ItinerarySearch
from tests.flight_search.timetables import (
    Oracle,
    direct,
    feed,
    flight,
    found,
    prices,
    query,
)
from tests.flight_search.worlds import Keys, World, all_pages, keys, keys_of, new_model, searching

EIGHT = datetime(2026, 3, 8, 13, tzinfo=UTC)
"""08:00 in New York, 09:00 daylight time."""


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 32), order=st.sampled_from(SortOrder), size=st.sampled_from([1, 3, 9])
)
def test_pages_are_what_brute_force_finds(seed: int, order: SortOrder, size: int) -> None:
    """All pages together are the brute-force result in its order, also after updates."""
    world, oracle = World(seed), Oracle()
    answers: list[tuple[list[Keys], list[Place]]] = []
    with new_model() as model:
        search = searching(model, world.now)
        for _ in range(2):
            changes = world.changes()
            feed(model, changes)
            for change in changes:
                oracle.hear(change)
            pages = asyncio.run(all_pages(search, world.asked, order, size))
            answers.append((pages, oracle.find(world.asked, order, world.now)))

    for pages, expected in answers:
        assert pages == [keys_of(place) for place in expected]


def test_the_oracle_has_something_to_find() -> None:
    """The random worlds hold many itineraries of each kind, so that the comparison says much."""
    kinds: Counter[str] = Counter()
    for seed in range(150):
        world, oracle = World(seed), Oracle()
        for change in world.changes():
            oracle.hear(change)
        for place in oracle.find(world.asked, SortOrder.PRICE, world.now):
            kinds[f"{len(keys_of(place)) - 1} stops"] += 1
            kinds["area"] += "NYC" in {world.asked.origin, world.asked.destination}
            kinds["carriers"] += bool(world.asked.carriers)
            kinds["clock"] += bool(world.asked.departs_from or world.asked.departs_before)

    assert all(kinds[kind] > 50 for kind in ("0 stops", "1 stops", "2 stops")), kinds
    assert all(kinds[kind] > 50 for kind in ("area", "carriers", "clock")), kinds


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_streaming_finds_what_pages_find(seed: int) -> None:
    """Direct flights and the connections airport by airport are the same set as the pages."""
    world = World(seed)
    with new_model() as model:
        feed(model, world.changes())
        search = searching(model, world.now)
        pages = asyncio.run(all_pages(search, world.asked, SortOrder.PRICE, 100))
        streamed = asyncio.run(everything(search, world.asked))

    assert sorted(streamed) == sorted(pages)
    assert [len(flights) for flights in streamed] == sorted(len(flights) for flights in streamed)


async def everything(search: ItinerarySearch, asked: ItineraryQuery) -> list[Keys]:
    """The flights of all itineraries, in the order in which they are streamed."""
    return [keys(each) async for batch in search.stream(asked) for each in batch.itineraries]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), order=st.sampled_from(SortOrder), size=st.sampled_from([1, 7]))
def test_round_trips_are_all_pairs_that_brute_force_makes(
    seed: int, order: SortOrder, size: int
) -> None:
    """All pages together are each way there with each way back that leaves an hour later."""
    world, oracle = World(seed, stops=[0, 1]), Oracle()
    asked, changes = world.asked, world.changes()
    for change in changes:
        oracle.hear(change)
    back = replace(
        asked,
        origin=asked.destination,
        destination=asked.origin,
        departure_date=world.return_day,
        departs_from=None,
        departs_before=None,
    )
    pairs = sorted(
        (there.value + (0 if order is SortOrder.DEPARTURE else here.value), there[1:], here[1:])
        for there in oracle.find(asked, order, world.now)
        for here in oracle.find(back, order, world.now)
        if here.departure >= oracle.arrival(there) + 3600
    )
    with new_model() as model:
        feed(model, changes)
        found = asyncio.run(all_trips(searching(model, world.now), world, order, size))

    expected = [(keys_of(Place(0, *there)), keys_of(Place(0, *here))) for _, there, here in pairs]
    assert found == expected


async def all_trips(
    search: ItinerarySearch, world: World, order: SortOrder, size: int
) -> list[tuple[Keys, Keys]]:
    """The flights of both ways on all pages, by way of page tokens."""
    trips: list[tuple[Keys, Keys]] = []
    token = ""
    while True:
        page = await search.round_trips(
            world.asked, world.return_day, order=order, page_size=size, token=token
        )
        trips += [(keys(there), keys(back)) for there, back in page.trips]
        if not (token := page.next_page_token):
            return trips


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
    feed(model, [flight("a", "JFK", "ORD", EIGHT), flight("b", "ORD", "LAX", onward)])
    feed(model, [prices("a"), prices("b")])
    before = found(model, query())
    late = EIGHT + timedelta(minutes=30)
    feed(model, [flight("a", "JFK", "ORD", late, version=2, delayed=True)])
    (itinerary,) = direct(model, query(destination="ORD"))

    assert before == [("a", "b")]
    assert found(model, query()) == []
    assert itinerary.segments[0].departure == late
    assert itinerary.segments[0].delayed


def test_a_changed_itinerary_is_a_new_object_and_an_unchanged_one_is_not(model: ReadModel) -> None:
    """Itineraries are shared until a flight or a price of theirs changes."""
    for source in (SCHEDULE, PRICING):
        complete(model, source)
    feed(model, [flight("a", "JFK", "LAX", EIGHT), prices("a")])
    (first,), (again,) = (direct(model, query()) for _ in range(2))
    feed(model, [prices("a", 120, version=2)])
    (dearer,) = direct(model, query())
    feed(model, [flight("a", "JFK", "LAX", EIGHT, seats=(3, None, 3, None), version=2)])
    (fuller,) = direct(model, query())

    assert first is again
    assert (dearer.price, dearer.segments[0]) == (Decimal(120), first.segments[0])
    assert fuller.segments[0].seats_available == 3


def test_all_flights_that_are_found_are_looked_up_at_once(
    model: ReadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One statement for those that are not kept and none for the others; the oldest give way."""
    monkeypatch.setattr(read_model, "KEPT_SEGMENTS", 4)
    for source in (SCHEDULE, PRICING):
        complete(model, source)
    keys = [f"to{n}" for n in range(4)], [f"from{n}" for n in range(4)]
    feed(model, [flight(key, "JFK", "LAX", EIGHT) for key in keys[0]])
    feed(model, [flight(key, "LAX", "JFK", EIGHT) for key in keys[1]])
    feed(model, [prices(key) for some in keys for key in some])
    there, back = query(), query("LAX", "JFK")
    statements: list[str] = []
    model._db.set_trace_callback(statements.append)
    looked_up = []
    for asked in (there, there, back, there):
        statements.clear()
        itineraries = direct(model, asked)
        looked_up.append(sum("json_each" in statement for statement in statements))

    assert looked_up == [1, 0, 1, 1]
    assert [itinerary.segments[0].flight_id for itinerary in itineraries] == keys[0]


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


def test_a_route_of_a_batch_that_failed_is_not_taken_for_known(model: ReadModel) -> None:
    """What was rolled back is put again by the next batch, so connections are found."""
    legs = [
        flight("a", "JFK", "ORD", EIGHT),
        flight("b", "ORD", "LAX", EIGHT + timedelta(hours=4)),
    ]
    broken = flight("c", "LAX", "FRA", EIGHT)._replace(carrier=object())  # type: ignore[arg-type]  # as above
    with pytest.raises(Exception, match="type"):
        model.apply(SCHEDULE, [*legs, broken], None)
    served = model.served()
    feed(model, [*legs, prices("a"), prices("b")])

    assert served == frozenset()
    assert model.served() == {"JFK", "ORD", "LAX"}
    assert found(model, query()) == [("a", "b")]


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
