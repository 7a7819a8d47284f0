import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from consulmesh.wellknown import duration
from schedule.domain import HoldState
from schedule.expiry import Sweeper
from schedule.store import SqlDueHolds
from tests.schedule.conftest import System
from tests.schedule.samples import sample
from tests.schedule.test_seats import confirm, hold, release, taken

MINUTE = timedelta(minutes=1)


@asynccontextmanager
async def sweeping(system: System) -> AsyncIterator[None]:
    """Expire holds while the block runs."""
    sweeper = Sweeper(SqlDueHolds(system.db), system.seats.expire, system.clock)
    job = asyncio.create_task(sweeper.sweep_forever())
    try:
        yield
    finally:
        job.cancel()
        with suppress(asyncio.CancelledError):
            await job


async def settled(system: System, booking: str, state: HoldState) -> None:
    """Wait until a booking's hold is in that state."""
    async with asyncio.timeout(30):
        seen = system.db.version
        while True:
            found = await system.store.read(lambda records: records.hold(booking))
            if found is not None and found.state is state:
                return
            seen = await system.db.changed(seen)


async def test_a_hold_runs_out_in_time(system: System) -> None:
    """When its time is over the seats are back; one second before they are not."""
    flight = sample()
    await system.add(flight)
    async with sweeping(system):
        await hold(system, "bkg_1", flight, seats=2, hold_duration=duration(5 * MINUTE))
        await hold(system, "bkg_2", flight, seats=3, hold_duration=duration(9 * MINUTE))
        system.clock.advance(5 * MINUTE - timedelta(seconds=1))
        before = await taken(system, flight)
        system.clock.advance(timedelta(seconds=1))
        await settled(system, "bkg_1", HoldState.EXPIRED)
        between = await taken(system, flight)
        system.clock.advance(4 * MINUTE)
        await settled(system, "bkg_2", HoldState.EXPIRED)

    assert (before, between) == ((5, 0), (3, 0))
    assert await taken(system, flight) == (0, 0)


async def test_a_shorter_hold_that_comes_later_runs_out_first(system: System) -> None:
    """The sweeper does not sleep over a hold that is due before the one it waits for."""
    flight = sample()
    await system.add(flight)
    await hold(system, "bkg_1", flight, hold_duration=duration(30 * MINUTE))
    async with sweeping(system):
        await hold(system, "bkg_2", flight, hold_duration=duration(MINUTE))
        system.clock.advance(2 * MINUTE)
        await settled(system, "bkg_2", HoldState.EXPIRED)

    assert await taken(system, flight) == (1, 0)


async def test_settled_holds_do_not_run_out(system: System) -> None:
    """Sold seats stay sold and released ones are given back once."""
    flight = sample()
    await system.add(flight)
    for booking in ("bkg_1", "bkg_2", "bkg_3"):
        await hold(system, booking, flight)
    await confirm(system, "bkg_1")
    await release(system, "bkg_2")
    system.clock.advance(31 * MINUTE)
    sweeper = Sweeper(SqlDueHolds(system.db), system.seats.expire, system.clock)
    swept = [await sweeper.sweep(), await sweeper.sweep()]

    assert swept == [1, 0]
    assert await taken(system, flight) == (0, 1)


async def test_many_holds_run_out_at_once(system: System) -> None:
    """More holds than one look finds are all given back, on all their flights."""
    flights = [sample(n, economy=200) for n in (1, 2)]
    await system.add(*flights)
    await asyncio.gather(*(hold(system, f"bkg_{n}", *flights) for n in range(150)))
    system.clock.advance(11 * MINUTE)
    swept = await Sweeper(SqlDueHolds(system.db), system.seats.expire, system.clock).sweep()

    assert swept == 150
    assert [await taken(system, flight) for flight in flights] == [(0, 0), (0, 0)]
