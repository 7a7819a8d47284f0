import asyncio
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import grpc
import pytest

from booking.changes import Changes
from booking.domain import Booking, RequestKey, Saga
from booking.store import BookingStore
from consulmesh.errors import Status
from eventstream import Database, StorageUnavailableError
from flights.booking.v1 import booking_pb2 as pb
from flights.booking.v1.booking_pb2_grpc import BookingServiceStub
from tests.booking.system import FAST, System
from tests.fakes.faults import UNREACHABLE, Fault, Gate

T = TypeVar("T")

SHORT = replace(FAST, lease=timedelta(milliseconds=300), grace=timedelta(milliseconds=100))
ALWAYS = 1_000
OUTCOMES = pytest.mark.parametrize("committed", [True, False], ids=["committed", "lost"])


@pytest.fixture
def booking_url(database_url: str) -> str:
    """Each engine."""
    return database_url


class FailingStore(BookingStore):
    """Its first calls of some methods fail: before their commit, or after it."""

    def __init__(
        self, db: Database, changes: Changes, *, failures: Mapping[str, int], committed: bool
    ) -> None:
        super().__init__(db, changes)
        self._failures = Counter(failures)
        self._committed = committed

    async def begin(self, saga: Saga, key: RequestKey, due: datetime) -> Booking | None:
        """Begin, or fail."""
        return await self._failing("begin", super().begin(saga, key, due))

    async def record(self, before: Saga, after: Saga, due: datetime) -> Saga | None:
        """Record, or fail."""
        return await self._failing("record", super().record(before, after, due))

    async def postpone(self, saga: Saga, error: str, due: datetime) -> bool:
        """Postpone, or fail."""
        return await self._failing("postpone", super().postpone(saga, error, due))

    async def claim(self, owner: str, now: datetime, due: datetime, limit: int) -> Sequence[Saga]:
        """Claim, or fail."""
        return await self._failing("claim", super().claim(owner, now, due, limit))

    async def hand_back(self, owner: str, now: datetime) -> int:
        """Hand back, or fail."""
        return await self._failing("hand_back", super().hand_back(owner, now))

    async def _failing(self, method: str, work: Coroutine[object, object, T]) -> T:
        if not self._failures[method]:
            return await work
        self._failures[method] -= 1
        if self._committed:
            await work
        else:
            work.close()
        raise StorageUnavailableError("as planned")


def failing(*, committed: bool = False, **failures: int) -> partial[FailingStore]:
    """Makes a store of which so many calls fail, by method."""
    return partial(FailingStore, failures=failures, committed=committed)


async def create(
    system: System, stub: BookingServiceStub, request: pb.CreateBookingRequest
) -> pb.Booking:
    """Book as Ann."""
    return (await stub.CreateBooking(request, metadata=system.user())).booking


@OUTCOMES
@pytest.mark.parametrize("method", ["record", "postpone", "claim"])
async def test_saga_goes_on(system: System, method: str, *, committed: bool) -> None:
    """A saga whose change could not be stored, or perhaps was, goes on when its lease ends."""
    instance = await system.start(SHORT, store_of=failing(committed=committed, **{method: 3}))
    system.schedule.faults.plan("HoldSeats", UNREACHABLE, UNREACHABLE)

    booking = await create(system, instance.stub, await system.request())

    assert booking.status == pb.BOOKING_STATUS_CONFIRMED
    await system.check(instance)


async def test_another_instance_goes_on(system: System) -> None:
    """An instance that can't store anything loses its sagas to one that can."""
    broken = await system.start(SHORT, store_of=failing(record=ALWAYS, claim=ALWAYS))
    well = await system.start(SHORT)
    requests = [await system.request(passengers=1) for _ in range(8)]

    bookings = await asyncio.gather(*(create(system, broken.stub, request) for request in requests))

    assert {one.status for one in bookings} == {pb.BOOKING_STATUS_CONFIRMED}
    await system.check(well)


@OUTCOMES
async def test_begin(system: System, *, committed: bool) -> None:
    """A booking that could not be stored, or perhaps was, is UNAVAILABLE; its key makes it one."""
    instance = await system.start(SHORT, store_of=failing(committed=committed, begin=1))
    request = await system.request()

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await create(system, instance.stub, request)
    booking = await create(system, instance.stub, request)

    status = Status.of(raised.value)
    assert (status.code, status.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
    assert booking.status == pb.BOOKING_STATUS_CONFIRMED
    await system.check(instance)


async def test_drain(system: System) -> None:
    """An instance that can't hand its sagas back leaves all the same, and their leases end."""
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", Fault(gate=gate))
    leaving = await system.start(SHORT, store_of=failing(hand_back=1))
    request = await system.request()
    call = asyncio.ensure_future(create(system, leaving.stub, request))
    await asyncio.wait_for(gate.reached.wait(), 10)

    await leaving.close()
    gate.open()
    await asyncio.gather(call, return_exceptions=True)
    staying = await system.start(SHORT)
    booking = await create(system, staying.stub, request)

    assert booking.status == pb.BOOKING_STATUS_CONFIRMED
    await system.check(staying)
