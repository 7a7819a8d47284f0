"""Changes by operators: conditional on an etag, repeatable by a request id, at two instances."""

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import timedelta

import pytest

from eventstream import Database
from schedule.domain import EtagMismatch, Flight, FlightStatus, RequestIdReused
from schedule.service import CancelFlight, DelayFlight, Timetable
from schedule.store import SqlStore
from schedule.timetable import Airports
from schedule.window_store import SqlWindowStore, insert_flights
from tests.schedule.conftest import database
from tests.schedule.samples import NOW, FixedClock, sample

HOUR = timedelta(hours=1)


def timetables(airports: Airports, *databases: Database) -> list[Timetable]:
    """An instance's use cases on each database connection."""
    return [Timetable(SqlStore(db), airports.utc_offset, FixedClock().now) for db in databases]


async def winners(*changes: Awaitable[Flight]) -> Sequence[Flight]:
    """What the changes that were made returned; the others were refused for their etag."""
    results = await asyncio.gather(*changes, return_exceptions=True)
    refused = [r for r in results if not isinstance(r, Flight)]

    assert [type(r) for r in refused] == [EtagMismatch] * len(refused)
    return [r for r in results if isinstance(r, Flight)]


async def test_of_two_changes_of_one_state_one_wins(
    db: Database, database_url: str, airports: Airports
) -> None:
    """Two operators at two instances who looked at the same flight: exactly one changes it."""
    async with database(database_url) as other:
        here, there = timetables(airports, db, other)
        for number in range(1, 11):
            new = sample(number)
            await db.write(lambda connection, new=new: insert_flights(connection, [new], NOW))  # type: ignore[misc] # mypy can't type a lambda's default
            key = new.flight_id
            (seen,) = await here.flights([key])
            delay = DelayFlight(
                request_id=f"d{number}", flight_id=key, to=HOUR, reason="fog", etag=seen.etag
            )
            cancel = CancelFlight(request_id=f"c{number}", flight_id=key, etag=seen.etag)
            won = await winners(here.delay(delay), there.cancel(cancel))
            (after,) = await there.flights([key])

            assert list(won) == [after]
            assert after.version == seen.version + 1


async def test_seats_do_not_change_an_etag_and_times_do(db: Database, airports: Airports) -> None:
    """An etag that was given stays good until times or status change, and is never given again."""
    (timetable,) = timetables(airports, db)
    await db.write(lambda connection: insert_flights(connection, [sample()], NOW))
    key, etags = sample().flight_id, []
    for number, delay in enumerate((HOUR, timedelta(), HOUR)):
        (seen,) = await timetable.flights([key])
        etags.append(seen.etag)
        command = DelayFlight(request_id=f"d{number}", flight_id=key, to=delay, etag=seen.etag)
        await timetable.delay(command)

    assert len(set(etags)) == 3


async def test_a_request_id_stands_for_everything_that_was_sent(
    db: Database, airports: Airports
) -> None:
    """The same request is answered with the flight as it is now; any other content is refused."""
    (timetable,) = timetables(airports, db)
    await db.write(lambda connection: insert_flights(connection, [sample()], NOW))
    (seen,) = await timetable.flights([sample().flight_id])
    first = DelayFlight(
        request_id="r", flight_id=seen.flight_id, to=HOUR, reason="fog", etag=seen.etag
    )
    delayed = await timetable.delay(first)
    await timetable.delay(DelayFlight(request_id="s", flight_id=seen.flight_id, to=2 * HOUR))
    again = await timetable.delay(first)
    others: list[Awaitable[Flight]] = [
        timetable.delay(DelayFlight(request_id="r", flight_id=seen.flight_id, to=HOUR)),
        timetable.delay(
            DelayFlight(
                request_id="r", flight_id=seen.flight_id, to=HOUR, reason="fog", etag=delayed.etag
            )
        ),
        timetable.delay(
            DelayFlight(
                request_id="r",
                flight_id=seen.flight_id,
                to=seen.scheduled_departure_time + HOUR,
                reason="fog",
                etag=seen.etag,
            )
        ),
        timetable.cancel(
            CancelFlight(request_id="r", flight_id=seen.flight_id, reason="fog", etag=seen.etag)
        ),
    ]
    refused = await asyncio.gather(*others, return_exceptions=True)

    assert again.departure_time == delayed.departure_time + HOUR
    assert [type(r) for r in refused] == [RequestIdReused] * len(others)


async def test_a_refused_request_leaves_no_trace(db: Database, airports: Airports) -> None:
    """After ETAG_MISMATCH the same id may be used again, with the etag of now."""
    (timetable,) = timetables(airports, db)
    await db.write(lambda connection: insert_flights(connection, [sample()], NOW))
    (seen,) = await timetable.flights([sample().flight_id])
    wrong = CancelFlight(request_id="r", flight_id=seen.flight_id, etag="of-before")
    with pytest.raises(EtagMismatch):
        await timetable.cancel(wrong)
    right = CancelFlight(request_id="r", flight_id=seen.flight_id, etag=seen.etag)

    assert (await timetable.cancel(right)).status is FlightStatus.CANCELLED


async def test_a_flight_that_comes_back_goes_on(db: Database, airports: Airports) -> None:
    """Neither a version nor an etag of a flight is used again when it has left and come back."""
    (timetable,) = timetables(airports, db)
    key, before = sample().flight_id, []
    store = SqlWindowStore(db, lambda _: None)
    for number in range(3):
        await db.write(lambda connection: insert_flights(connection, [sample()], NOW))
        before += await timetable.flights([key])
        command = DelayFlight(request_id=f"d{number}", flight_id=key, to=HOUR)
        before.append(await timetable.delay(command))
        await store.remove_past(NOW + 100 * HOUR, NOW)
    versions = [flight.version for flight in before]

    assert versions == sorted(set(versions))
    assert len({flight.etag for flight in before}) == len(before)
