import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc
import pytest
from sqlalchemy import Connection, update

from booking.changes import Changes
from booking.domain import Saga
from booking.store import BookingStore
from booking.tables import sagas
from eventstream import Database
from flights.booking.v1 import booking_pb2 as pb
from tests.booking.system import FAST, Instance, System
from tests.fakes.faults import LOST_REPLY, Fault, Gate, refused

SHORT = replace(FAST, lease=timedelta(milliseconds=300), grace=timedelta(milliseconds=100))
HAPPY = 3
COMPENSATED = 4


@pytest.fixture
def booking_url(database_url: str) -> str:
    """Each engine."""
    return database_url


class HaltingStore(BookingStore):
    """Stands still at one of the records of outcomes, before it or after its commit."""

    def __init__(self, db: Database, changes: Changes, *, at: int, before: bool) -> None:
        super().__init__(db, changes)
        self.gate = Gate()
        self.recorded: list[Saga | None] = []
        self._at = at
        self._before = before

    async def record(self, before: Saga, after: Saga, due: datetime) -> Saga | None:
        """Record, unless it is the one to stand still at."""
        self._at -= 1
        if self._at == 0 and self._before:
            await self.gate.passed()
        self.recorded.append(await super().record(before, after, due))
        if self._at == 0 and not self._before:
            await self.gate.passed()
        return self.recorded[-1]


async def start_halting(system: System, *, at: int, before: bool) -> tuple[Instance, HaltingStore]:
    """An instance that stands still once."""
    instance = await system.start(SHORT, store_of=partial(HaltingStore, at=at, before=before))
    assert isinstance(instance.store, HaltingStore)
    return instance, instance.store


@asynccontextmanager
async def begun(
    system: System, instance: Instance, gate: Gate
) -> AsyncIterator[pb.CreateBookingRequest]:
    """A caller asks for a booking, and the instance has come to the gate; it opens at the end."""
    request = await system.request()
    waiting = asyncio.ensure_future(
        _end(instance.stub.CreateBooking(request, metadata=system.user()))
    )
    await gate.reached.wait()
    try:
        yield request
    finally:
        gate.open()
        await waiting
        await asyncio.gather(*instance.runner._tasks, return_exceptions=True)


async def _end(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> None:
    await call.code()


async def repeat(
    system: System, instance: Instance, request: pb.CreateBookingRequest
) -> pb.Booking:
    """Ask again, until it is settled."""
    return (await instance.stub.CreateBooking(request, metadata=system.user())).booking


HALTS = [
    *[(at, before, True) for at in range(1, HAPPY + 1) for before in (True, False)],
    *[(at, before, False) for at in range(2, COMPENSATED + 1) for before in (True, False)],
]


@pytest.mark.parametrize(("at", "before", "sells"), HALTS)
async def test_crash_at_each_record(system: System, at: int, *, before: bool, sells: bool) -> None:
    """A process that dies before or after the record of any outcome has its booking finished."""
    if not sells:
        system.schedule.faults.always("HoldSeats", refused("SEATS_UNAVAILABLE"))
    dying, store = await start_halting(system, at=at, before=before)
    async with begun(system, dying, store.gate) as request:
        await dying.crash()

        booking = await repeat(system, await system.start(), request)

    expected = pb.BOOKING_STATUS_CONFIRMED if sells else pb.BOOKING_STATUS_REJECTED
    assert booking.status == expected
    await system.check(system.newest)


@pytest.mark.parametrize(
    "method", ["RedeemQuote", "HoldSeats", "ConfirmHold", "ReleaseHold", "ReleaseQuote"]
)
@pytest.mark.parametrize("done", [True, False], ids=["done", "not_done"])
async def test_crash_during_each_step(system: System, method: str, *, done: bool) -> None:
    """A process that dies while it waits for a participant has its booking finished."""
    sells = not method.startswith("Release")
    owner = system.pricing if "Quote" in method else system.schedule
    if not sells:
        system.schedule.faults.always("HoldSeats", refused("SEATS_UNAVAILABLE"))
    gate = Gate()
    owner.faults.plan(method, *([LOST_REPLY] if done else []), Fault(gate=gate))
    dying = await system.start(SHORT)
    async with begun(system, dying, gate) as request:
        await dying.crash()

        booking = await repeat(system, await system.start(), request)

    expected = pb.BOOKING_STATUS_CONFIRMED if sells else pb.BOOKING_STATUS_REJECTED
    assert booking.status == expected
    await system.check(system.newest)


@pytest.mark.parametrize("at", range(1, HAPPY + 1))
async def test_frozen_owner_wakes_up(system: System, at: int) -> None:
    """An owner that slept through its lease can record nothing: the next epoch has gone on."""
    frozen, store = await start_halting(system, at=at, before=True)
    async with begun(system, frozen, store.gate) as request:
        booking = await repeat(system, await system.start(), request)
        calls = system.schedule.faults.calls.total()

    assert booking.status == pb.BOOKING_STATUS_CONFIRMED
    assert store.recorded[-1] is None
    assert system.schedule.faults.calls.total() == calls
    assert max(system.schedule.epochs.values()) >= 2
    await system.check(frozen)


async def test_frozen_call_arrives(system: System) -> None:
    """A step of an old epoch that arrives after the takeover is refused, and its owner lets go."""
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", Fault(gate=gate))
    frozen = await system.start(SHORT)
    async with begun(system, frozen, gate) as request:
        booking = await repeat(system, await system.start(), request)

    assert booking.status == pb.BOOKING_STATUS_CONFIRMED
    await system.check(frozen)


async def test_late_call_after_compensation(system: System) -> None:
    """A hold that arrives after the booking was given back holds nothing: there is a tombstone."""
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", Fault(gate=gate))
    system.schedule.faults.always("HoldSeats", refused("SEATS_UNAVAILABLE"))
    frozen = await system.start(SHORT)
    async with begun(system, frozen, gate) as request:
        booking = await repeat(system, await system.start(), request)

    assert booking.status == pb.BOOKING_STATUS_REJECTED
    await system.check(frozen)


async def test_drain_hands_back(system: System) -> None:
    """An instance that leaves in order lets others go on at once, long before its lease ends."""
    long = replace(FAST, lease=timedelta(hours=1), grace=timedelta(milliseconds=50))
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", Fault(gate=gate))
    leaving = await system.start(long)
    staying = await system.start(long)
    async with begun(system, leaving, gate) as request:
        await leaving.close()
        booking = await repeat(system, staying, request)

    assert booking.status == pb.BOOKING_STATUS_CONFIRMED
    await system.check(staying)


async def test_drain_lets_steps_end(system: System) -> None:
    """What is nearly done when an instance leaves is done by it."""
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", Fault(gate=gate))
    leaving = await system.start()
    async with begun(system, leaving, gate):
        closing = asyncio.ensure_future(leaving.close())
    await closing

    await system.check(await system.start())

    assert set(system.schedule.epochs.values()) == {1}


async def test_clock_that_was_set_back(system: System) -> None:
    """A lease that seems to end tomorrow was written before the clock was set back: it is over."""
    dying, store = await start_halting(system, at=2, before=True)
    async with begun(system, dying, store.gate) as request:
        await dying.crash()
        instance = await system.start()
        await instance.db.write(partial(_lease_until, datetime.now(UTC) + timedelta(days=1)))

        booking = await repeat(system, instance, request)

    assert booking.status == pb.BOOKING_STATUS_CONFIRMED


def _lease_until(due: datetime, connection: Connection) -> None:
    connection.execute(update(sagas).values(due_time=due))


async def test_many_at_once(system: System) -> None:
    """An instance finishes what dozens of callers had begun at another that died."""
    dying = await system.start(SHORT)
    system.schedule.faults.always("HoldSeats", LOST_REPLY)
    requests = [await system.request(passengers=1) for _ in range(15)]
    calls = [dying.stub.CreateBooking(one, metadata=system.user()) for one in requests]
    waiting = [asyncio.ensure_future(_end(call)) for call in calls]
    async with asyncio.timeout(30):
        while system.schedule.faults.calls["HoldSeats"] < 20:
            await dying.db.changed(dying.db.version)
    await dying.crash()
    await asyncio.gather(*waiting)
    system.schedule.faults.heal()

    instance = await system.start(replace(SHORT, at_once=4))
    bookings = await asyncio.gather(*(repeat(system, instance, one) for one in requests))

    assert {one.status for one in bookings} == {pb.BOOKING_STATUS_CONFIRMED}
    await system.check(instance)
