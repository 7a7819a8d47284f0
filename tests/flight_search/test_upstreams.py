import asyncio
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from structlog.testing import capture_logs

from flight_search.changes import FlightRemoved, PricesRemoved
from flight_search.metrics import REJECTED
from flight_search.read_model import PRICING, SCHEDULE, ReadModel
from flight_search.upstreams import ReadModelInbox, flight_change, price_change
from flights.pricing.v1.pricing_pb2 import PriceEvent
from flights.schedule.v1 import schedule_pb2
from flights.schedule.v1.schedule_pb2 import FlightEvent
from flights.type.v1 import cabin_pb2
from streams.v1.stream_pb2 import Cursor
from tests.flight_search.owners import (
    flight_event,
    flight_removed,
    price_event,
    prices_removed,
)
from tests.flight_search.timetables import DIRECTORY, DOLLAR, found, query


def flights(model: ReadModel) -> ReadModelInbox[FlightEvent]:
    """The inbox of schedule's events."""
    return ReadModelInbox(model, SCHEDULE, flight_change)


def fares(model: ReadModel) -> ReadModelInbox[PriceEvent]:
    """The inbox of pricing's events."""
    return ReadModelInbox(model, PRICING, price_change)


def test_a_price_is_the_fare_with_its_taxes() -> None:
    """Amounts are exact to the billionth, and absent cabins have none."""
    change = price_change(price_event("a", 180, cents=29))

    assert change == ("a", 1, 180 * DOLLAR + 290_000_000, None, None, None)


@pytest.mark.parametrize(
    ("status", "seats", "delayed"),
    [
        (schedule_pb2.FLIGHT_STATUS_SCHEDULED, 9, False),
        (schedule_pb2.FLIGHT_STATUS_DELAYED, 9, True),
        (schedule_pb2.FLIGHT_STATUS_CANCELLED, None, False),
        (99, None, False),
    ],
)
def test_only_flights_that_fly_have_seats(
    status: schedule_pb2.FlightStatus.ValueType,
    seats: int | None,
    delayed: bool,  # noqa: FBT001 - pytest gives it
) -> None:
    """Delayed flights are sold; cancelled ones, and those in a state not known yet, are not."""
    change = flight_change(flight_event("a", status=status))

    assert change is not None
    assert change[11:] == (delayed, seats, None, None, None)


def test_removals_carry_their_version() -> None:
    """What has left the timetable says up to which version."""
    assert flight_change(flight_removed("a", 3)) == FlightRemoved("a", 3)
    assert price_change(prices_removed("a", 4)) == PricesRemoved("a", 4)


async def test_what_makes_no_sense_is_left_out(model: ReadModel) -> None:
    """Events of an unknown kind or without sense are skipped, logged and counted; others apply."""
    timeless = flight_event("timeless")
    timeless.flight_changed.arrival_time.CopyFrom(Timestamp())
    news = flight_event("newer")
    news.flight_changed.cabins.add(cabin=99, available=5)
    inbox, pricing = flights(model), fares(model)
    counted = [REJECTED.labels(source)._value.get() for source in (SCHEDULE, PRICING)]
    with capture_logs() as logged:
        await inbox.start_snapshot()
        await inbox.apply([timeless, FlightEvent(), news, flight_event("")], None)
        await pricing.apply([price_event("a", currency="EUR"), price_event("newer")], None)

    assert found(model, query()) == [("newer",)]
    assert [line["event"] for line in logged] == ["event.rejected"] * 3
    assert [
        REJECTED.labels(source)._value.get() - before
        for source, before in zip((SCHEDULE, PRICING), counted, strict=True)
    ] == [2, 1]


async def test_the_position_moves_with_each_slice_of_a_batch(model: ReadModel) -> None:
    """A large batch is applied in slices between which others run, each with its position."""
    inbox = flights(model)
    await inbox.start_snapshot()
    await inbox.complete_snapshot(Cursor(epoch="e", seq=0))
    batch = asyncio.create_task(
        inbox.apply([flight_event(f"f{n}") for n in range(450)], Cursor(epoch="e", seq=450))
    )
    seen: list[tuple[int, int]] = []
    while not batch.done():
        await asyncio.sleep(0)
        position = await inbox.position()
        assert position is not None
        seen.append((model.count(0, 1000)[0], position.seq))
    await batch

    assert list(dict.fromkeys(seen)) == [(n, n) for n in range(50, 451, 50)]


async def test_a_first_snapshot_is_not_cut_into_turns(model: ReadModel) -> None:
    """Nobody is answered before it is whole, so a batch is one commit; later ones leave turns."""
    inbox, whole = flights(model), Cursor(epoch="e", seq=0)
    seen: list[int] = []
    for some in (range(450), range(450, 900)):
        await inbox.start_snapshot()
        batch = asyncio.create_task(inbox.apply([flight_event(f"f{n}") for n in some], None))
        while not batch.done():
            await asyncio.sleep(0)
            seen.append(model.count(0, 1000)[0])
        await batch
        if not model.has_been_complete(SCHEDULE):
            await inbox.complete_snapshot(whole)

    assert list(dict.fromkeys(seen)) == list(range(450, 901, 50))


async def test_a_snapshot_cut_off_is_forgotten(tmp_path: Path) -> None:
    """A process that dies in a snapshot has no position, and the next one sweeps what is gone."""
    path = tmp_path / "search.db"
    with ReadModel(path, DIRECTORY) as model:
        await fares(model).apply([price_event(f"f{n}") for n in range(5)], None)
        await flights(model).start_snapshot()
        await flights(model).apply([flight_event("f0"), flight_event("f1")], None)
    with ReadModel(path, DIRECTORY) as model:
        inbox = flights(model)
        before = await inbox.position()
        await inbox.start_snapshot()
        await inbox.apply([flight_event("f1"), flight_event("f2")], None)
        await inbox.complete_snapshot(Cursor(epoch="e", seq=2))
        after, left = await inbox.position(), found(model, query())

    assert before is None
    assert after == Cursor(epoch="e", seq=2)
    assert left == [("f1",), ("f2",)]


async def test_a_sweep_removes_everything_in_slices(model: ReadModel) -> None:
    """An empty snapshot empties the model, and others get their turn meanwhile."""
    inbox = flights(model)
    await inbox.start_snapshot()
    await inbox.apply([flight_event(f"f{n}") for n in range(1200)], None)
    await inbox.complete_snapshot(Cursor(epoch="e", seq=1200))
    await inbox.start_snapshot()
    sweep = asyncio.create_task(inbox.complete_snapshot(Cursor(epoch="new", seq=0)))
    left = []
    while not sweep.done():
        await asyncio.sleep(0)
        left.append(model.count(0, 2000)[0])
    await sweep

    assert list(dict.fromkeys(left)) == [700, 200, 0]
    assert model.served() == frozenset()


async def test_a_snapshot_of_prices_leaves_flights_alone(model: ReadModel) -> None:
    """Each source sweeps its own columns only."""
    for inbox in (flights(model), fares(model)):
        await inbox.start_snapshot()
    await flights(model).apply([flight_event("a"), flight_event("b")], None)
    await fares(model).apply([price_event("a"), price_event("b")], None)
    await fares(model).start_snapshot()
    await fares(model).apply([price_event("b", 50)], None)
    await fares(model).complete_snapshot(Cursor(epoch="e", seq=1))

    assert found(model, query()) == [("b",)]
    assert model.count(0, 10) == (2, 1, None)


def test_unknown_cabins_are_ignored() -> None:
    """A cabin of a later release does not disturb the others."""
    event = price_event("a")
    event.prices_changed.prices.add(cabin=77).fare.currency_code = "USD"
    event.prices_changed.prices[1].taxes.currency_code = "USD"

    assert price_change(event) == ("a", 1, 100 * DOLLAR, None, None, None)
    assert cabin_pb2.CABIN_FIRST == 4
