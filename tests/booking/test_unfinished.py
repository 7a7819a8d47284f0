import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import grpc
import pytest

from booking import metrics
from booking.domain import Step
from booking.runner import DEFAULT_TERMS
from booking.store import BookingStore
from consulmesh.errors import Status
from consulmesh.wellknown import instant
from flights.booking.v1 import booking_pb2 as pb
from tests.booking.system import FAST, Instance, System
from tests.fakes.faults import UNREACHABLE, Fault, Gate, refused

OPERATOR = "operator"


@pytest.fixture
def booking_url(database_url: str) -> str:
    """Each engine."""
    return database_url


async def unfinished(
    system: System, instance: Instance, **fields: object
) -> pb.ListUnfinishedSagasResponse:
    """What an operator sees."""
    request = pb.ListUnfinishedSagasRequest(**fields)  # type: ignore[arg-type]  # a test's
    return await instance.stub.ListUnfinishedSagas(request, metadata=system.user("olga", OPERATOR))


async def pending(system: System, instance: Instance, reached: asyncio.Event) -> pb.Booking:
    """A booking whose caller has gone away when something was reached."""
    request = await system.request(passengers=1)
    call = instance.stub.CreateBooking(request, metadata=system.user())
    await asyncio.wait_for(reached.wait(), 10)
    call.cancel()
    newest = pb.ListBookingsRequest(page_size=1)
    return (await instance.stub.ListBookings(newest, metadata=system.user())).bookings[0]


async def test_unanswered_after_the_pivot(system: System) -> None:
    """A confirmation that nobody answers is asked for again for ever, and can be seen."""
    instance = await system.start(replace(FAST, patience=timedelta(0)))
    gate = Gate()
    system.schedule.faults.plan("ConfirmHold", *[UNREACHABLE] * 5, Fault(gate=gate))
    booking = await pending(system, instance, gate.reached)

    [saga] = (found := await unfinished(system, instance)).sagas
    system.schedule.faults.heal()
    gate.open()

    assert saga.booking_id == booking.booking_id
    assert saga.step == pb.SAGA_STEP_CONFIRM_SEATS
    assert (saga.attempts, saga.epoch) == (5, 6)
    assert saga.last_error == "UNAVAILABLE LOST"
    assert saga.start_time == booking.create_time
    assert instant(found.read_time) >= instant(saga.start_time)
    await system.check(instance)
    assert not (await unfinished(system, instance)).sagas


def test_pause_of_any_attempt() -> None:
    """Pauses grow up to a bound, however often nobody has answered."""
    pauses = [DEFAULT_TERMS.pause(attempts) for attempts in (0, 1, 2, 7, 10_000)]

    assert pauses == [timedelta(seconds=one) for one in (0.05, 0.1, 0.2, 5, 5)]


async def test_owner(system: System) -> None:
    """A saga that waits for an answer says which instance drives it, and until when."""
    instance = await system.start()
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", Fault(gate=gate))
    await pending(system, instance, gate.reached)

    [saga] = (await unfinished(system, instance)).sagas
    gate.open()

    assert (saga.step, saga.epoch, saga.attempts) == (pb.SAGA_STEP_HOLD_SEATS, 1, 0)
    assert saga.owner.startswith("booking-0/")
    assert instant(saga.due_time) > instant(saga.start_time)
    await system.check(instance)


async def test_cancellation_has_an_age_of_its_own(system: System) -> None:
    """The saga of a cancellation began when the user asked for that, not for the booking."""
    instance = await system.start()
    booked = await system.book(instance)
    gate = Gate()
    system.schedule.faults.plan("ReleaseHold", Fault(gate=gate))
    request = pb.CancelBookingRequest(request_id="cancel", booking_id=booked.booking_id)
    cancelled = (await instance.stub.CancelBooking(request, metadata=system.user())).booking

    [saga] = (await unfinished(system, instance)).sagas
    gate.open()

    assert saga.step == pb.SAGA_STEP_RETURN_SEATS
    assert saga.start_time == cancelled.update_time
    await system.check(instance)


async def test_pages(system: System) -> None:
    """Pages of any size list the unfinished sagas once each, the oldest first."""
    instance = await system.start()
    gates = [Gate() for _ in range(5)]
    system.schedule.faults.plan("HoldSeats", *(Fault(gate=gate) for gate in gates))
    begun = [await pending(system, instance, gate.reached) for gate in gates]

    found: list[str] = []
    token = ""
    while True:
        page = await unfinished(system, instance, page_size=2, page_token=token)
        found += [saga.booking_id for saga in page.sagas]
        if not (token := page.next_page_token):
            break
    for gate in gates:
        gate.open()

    assert found == [one.booking_id for one in begun]
    await system.check(instance)


async def test_operators_only(system: System) -> None:
    """A customer does not see the sagas of others."""
    instance = await system.start()

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await instance.stub.ListUnfinishedSagas(
            pb.ListUnfinishedSagasRequest(), metadata=system.user()
        )

    assert Status.of(raised.value).code is grpc.StatusCode.PERMISSION_DENIED


class Counting:
    """Counts what a store has, and says when it has done so."""

    def __init__(self, store: BookingStore) -> None:
        self.counted = asyncio.Event()
        self._store = store

    async def unfinished_by_step(self) -> Mapping[Step, tuple[int, datetime]]:
        """Count."""
        found = await self._store.unfinished_by_step()
        self.counted.set()
        return found


async def test_metrics(system: System) -> None:
    """Sagas that have not ended are counted by step, with the age of the oldest."""
    instance = await system.start()
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", refused("SEATS_UNAVAILABLE"))
    system.schedule.faults.plan("ReleaseHold", Fault(gate=gate))
    booking = await pending(system, instance, gate.reached)
    age = timedelta(minutes=1)
    sagas = Counting(instance.store)
    counting = asyncio.create_task(
        metrics.count_unfinished(sagas, lambda: instant(booking.create_time) + age)
    )
    await asyncio.wait_for(sagas.counted.wait(), 20)
    counting.cancel()
    await asyncio.gather(counting, return_exceptions=True)
    gate.open()

    assert metrics.UNFINISHED.labels(Step.RELEASE_SEATS)._value.get() == 1
    assert metrics.UNFINISHED.labels(Step.HOLD_SEATS)._value.get() == 0
    assert metrics.OLDEST.labels(Step.RELEASE_SEATS)._value.get() == age.total_seconds()
    await system.check(instance)
