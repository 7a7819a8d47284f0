"""Two instances of schedule on one database."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from eventstream import Database, DatabaseClosedError, Lease
from schedule.domain import Cabin, Flight, Hold, HoldState, Segment
from schedule.expiry import Sweeper
from schedule.service import HoldSeats, Seats
from schedule.store import SqlDueHolds, SqlStore
from schedule.tables import leases
from schedule.window import DAYS, Window
from schedule.window_store import SqlWindowStore, insert_flights, loaded
from tests.schedule.conftest import database
from tests.schedule.samples import NOW, Daily, FixedClock, sample
from tests.schedule.test_window import count, running

TTL = timedelta(seconds=1)


def asked(booking: str, flight: Flight, epoch: int = 1, seats: int = 1) -> HoldSeats:
    """A request for seats in economy."""
    segment = Segment(flight_id=flight.flight_id, cabin=Cabin.ECONOMY, seats=seats)
    return HoldSeats(booking_id=booking, saga_epoch=epoch, segments=(segment,))


async def seats_of(db: Database, flight: Flight) -> tuple[int, int]:
    """Seats held and sold in economy."""
    found = await SqlStore(db).read(lambda records: records.flights([flight.flight_id]))
    cabin = found[flight.flight_id].cabins[0]
    return cabin.held, cabin.sold


async def test_one_booking_at_two_instances_holds_once(db: Database, database_url: str) -> None:
    """Duplicates of every step at both instances at once have one effect and one answer."""
    flight = sample(economy=200)
    await db.write(lambda connection: insert_flights(connection, [flight], NOW))
    async with database(database_url) as other:
        parts = [Seats(SqlStore(each), FixedClock().now) for each in (db, other)]
        seen, answers = [], []
        for step in ("hold", "confirm", "release"):
            calls = [
                part.hold(asked(f"bkg_{n}", flight))
                if step == "hold"
                else getattr(part, step)(f"bkg_{n}", 1)
                for n in range(10)
                for part in (*parts, *parts)
            ]
            answers.append(await asyncio.gather(*calls))
            seen.append(await seats_of(db, flight))

    assert seen == [(10, 0), (0, 10), (0, 0)]
    assert all(len(set(each)) == 10 for each in answers)


async def test_confirm_release_and_expiry_at_once_leave_seats_right(
    db: Database, database_url: str
) -> None:
    """Whichever of them comes first, seats are sold, or free, and exactly once."""
    flight = sample(economy=60)
    await db.write(lambda connection: insert_flights(connection, [flight], NOW))
    clock = FixedClock()
    async with database(database_url) as other:
        here, there = (Seats(SqlStore(each), clock.now) for each in (db, other))
        for n in range(20):
            await here.hold(asked(f"bkg_{n}", flight, seats=3))
        clock.advance(timedelta(minutes=11))
        steps: list[Any] = [
            step
            for n in range(20)
            for step in (
                here.confirm(f"bkg_{n}", 1),
                there.expire(f"bkg_{n}"),
                *([there.release(f"bkg_{n}", 1)] if n % 2 else []),
            )
        ]
        await asyncio.gather(*steps, return_exceptions=True)
        ended = [await hold_of(db, f"bkg_{n}") for n in range(20)]
    states = [hold.state for hold in ended]

    assert {hold.state for hold in ended[1::2]} == {HoldState.RELEASED}
    assert {hold.state for hold in ended[::2]} <= {HoldState.CONFIRMED, HoldState.EXPIRED}
    assert await seats_of(db, flight) == (0, 3 * states.count(HoldState.CONFIRMED))


async def hold_of(db: Database, booking: str) -> Hold:
    """A booking's hold."""
    found = await SqlStore(db).read(lambda records: records.hold(booking))

    assert found is not None
    return found


async def test_another_instance_sweeps_when_the_first_is_gone(
    db: Database, database_url: str
) -> None:
    """Holds run out although the instance that led has gone without giving its lease back."""
    flight = sample()
    await db.write(lambda connection: insert_flights(connection, [flight], NOW))
    clock = FixedClock()
    seats = Seats(SqlStore(db), clock.now)
    async with (
        database(database_url) as other,
        running(asyncio.create_task(dying(sweep(other, "one", clock)))),
    ):
        await leading(other)
        async with running(asyncio.create_task(sweep(db, "two", clock))):
            await other.aclose()
            await seats.hold(asked("bkg_1", flight))
            clock.advance(timedelta(minutes=11))
            async with asyncio.timeout(30):
                seen = db.version
                while (await hold_of(db, "bkg_1")).state is HoldState.HELD:
                    seen = await db.changed(seen)

    assert await seats_of(db, flight) == (0, 0)


async def dying(job: Awaitable[object]) -> object:
    """The job of an instance whose database goes away, without a chance to say so."""
    with suppress(DatabaseClosedError):
        await job
    return None


async def sweep(db: Database, holder: str, clock: FixedClock) -> object:
    """Sweep under the lease, as the service does."""
    sweeper = Sweeper(SqlDueHolds(db), Seats(SqlStore(db), clock.now).expire, clock)
    lease = Lease(db, leases, "hold-expiry", holder, TTL)
    return await lease.lead(sweeper.sweep_forever)


async def leading(db: Database) -> None:
    """Wait until somebody leads."""
    async with asyncio.timeout(30):
        seen = db.version
        while await db.read(lambda c: c.execute(leases.lease.select()).scalars().all()) == []:
            seen = await db.changed(seen)


async def test_another_instance_completes_the_window(database_url: str) -> None:
    """A load whose instance has gone in the middle is completed by the other, each flight once."""
    async with (
        database(database_url) as first,
        database(database_url) as second,
        running(asyncio.create_task(dying(keep(first, "one", Dying(first))))),
    ):
        await leading(first)
        async with running(asyncio.create_task(keep(second, "two", Daily(50)))):
            async with asyncio.timeout(60):
                await loaded(second)
            found = await count(second)

    assert found == 50 * DAYS


class Dying(Daily):
    """A source whose instance loses its database after five days, as if it was killed."""

    def __init__(self, db: Database) -> None:
        super().__init__(50)
        self._db = db
        self._loop = asyncio.get_running_loop()

    def __call__(self, days: Any) -> Any:
        """The flights of each day, as far as it comes."""
        for number, day in enumerate(super().__call__(days)):
            if number == 5:
                asyncio.run_coroutine_threadsafe(self._db.aclose(), self._loop)
            yield day


async def keep(db: Database, holder: str, daily: Daily) -> object:
    """Keep the window under the lease, as the service does."""
    lease = Lease(db, leases, "timetable-window", holder, TTL)
    window = Window(SqlWindowStore(db, lease.check), daily, FixedClock())
    return await lease.lead(window.keep)
