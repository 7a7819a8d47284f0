"""C4 and C7: repetitions of a request, at once or after a lost reply, are one booking.

Two instances of booking share a database, and clients call both; pricing and schedule are fakes, so
that what is measured is booking.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from consulmesh.testing import serving
from flights.booking.v1 import booking_pb2 as pb
from flights.booking.v1.booking_pb2_grpc import (
    BookingServiceServicer,
    BookingServiceStub,
    add_BookingServiceServicer_to_server,
)
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY
from tests.booking.system import FLIGHTS, System, booking_system
from tests.chaos.figures import LONG, at_most, figure
from tests.fakes.faults import STATUS_CODES, Lost

pytestmark = pytest.mark.timeout(3600 if LONG else 600)

KEYS = 1_000 if LONG else 30
DUPLICATES = 50
IMPATIENT = 10  # of the duplicates, with deadlines that are shorter than a booking may take
LOST = 10_000 if LONG else 200
AT_ONCE = 8  # clients that lose replies
SEATS = 1_000_000


@pytest.fixture
async def system(tmp_path: Path, database_url: str) -> AsyncIterator[System]:
    """Two instances of booking over one database, and flights with seats for everybody."""
    async with booking_system(tmp_path, database_url) as made:
        made.schedule.capacity = {(flight, CABIN_ECONOMY): SEATS for flight in FLIGHTS}
        await made.start()
        await made.start()
        yield made


async def test_duplicates_at_once(system: System, engine: str) -> None:
    """One key, fifty times at once over two instances: one booking, and replies that agree."""
    answered = Counter[int]()
    for _ in range(KEYS):
        replies = await duplicates(system, await system.request(passengers=1))
        answered.update(reply.status for reply in replies)
    await system.check(system.newest)
    made = len(await bookings(system))
    figure(
        "C4",
        f"{engine}: {KEYS:,} keys x {DUPLICATES} duplicates at once over 2 instances: {made:,} "
        f"bookings; {answered[pb.BOOKING_STATUS_CONFIRMED]:,} replies confirmed, "
        f"{answered[pb.BOOKING_STATUS_PENDING]:,} pending; doubled {at_most(KEYS)}",
    )

    assert made == KEYS
    assert answered[pb.BOOKING_STATUS_CONFIRMED] >= KEYS * (DUPLICATES - IMPATIENT)


async def duplicates(system: System, request: pb.CreateBookingRequest) -> Sequence[pb.Booking]:
    """Ask so many times at once; assert that replies are one booking, as far as it was then."""
    replies = await asyncio.gather(
        *(
            create(system, number, request, random.uniform(0.01, 0.2) if number < IMPATIENT else 30)
            for number in range(DUPLICATES)
        )
    )
    found = [reply for reply in replies if reply is not None]
    last = max(found, key=lambda reply: reply.version)
    by_version = {reply.version: reply for reply in found}

    assert {reply.booking_id for reply in found} == {last.booking_id}
    assert last.status == pb.BOOKING_STATUS_CONFIRMED
    assert all(by_version[reply.version] == reply for reply in found)
    assert all(
        reply.status == pb.BOOKING_STATUS_PENDING for reply in found if reply.version < last.version
    )
    return found


async def create(
    system: System, number: int, request: pb.CreateBookingRequest, patience: float
) -> pb.Booking | None:
    """Ask an instance; None where the deadline came first."""
    call = stub(system, number).CreateBooking(request, metadata=system.user(), timeout=patience)
    code = await call.code()

    assert code in {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}
    return (await call).booking if code is grpc.StatusCode.OK else None


def stub(system: System, number: int) -> BookingServiceStub:
    """One of the instances, in turn."""
    return system.instances[number % len(system.instances)].stub


async def bookings(system: System) -> set[str]:
    """The ids of all of Ann's bookings."""
    found: set[str] = set()
    request = pb.ListBookingsRequest(page_size=100)
    while True:
        page = await system.newest.stub.ListBookings(request, metadata=system.user())
        found |= {booking.booking_id for booking in page.bookings}
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found


class Losing(BookingServiceServicer):
    """Passes calls on to an instance of booking, and loses its replies."""

    def __init__(self, booking: BookingServiceStub) -> None:
        self._booking = booking

    async def CreateBooking(
        self, request: pb.CreateBookingRequest, context: Any
    ) -> pb.CreateBookingResponse:
        """Book, and tell nobody."""
        token = [item for item in context.invocation_metadata() if item[0] == "authorization"]
        await self._booking.CreateBooking(request, metadata=token)
        raise Lost("the booking is committed, and the reply is lost")


@asynccontextmanager
async def losing(booking: BookingServiceStub) -> AsyncIterator[BookingServiceStub]:
    """The instance, over a line that loses every reply."""
    servicer = Losing(booking)  # type: ignore[abstract]  # what is not asked for is UNIMPLEMENTED
    add = partial(add_BookingServiceServicer_to_server, servicer)
    async with serving(add, status_codes=STATUS_CODES, service="losing") as channel:
        yield BookingServiceStub(channel)


async def test_lost_replies(system: System, engine: str) -> None:
    """A reply that is lost after the commit, or a client that left before: the key returns it."""
    found = Counter[str]()
    async with losing(stub(system, 0)) as one, losing(stub(system, 1)) as two:
        numbers = iter(range(LOST))
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(insist(system, (one, two), numbers, found))
    await system.check(system.newest)
    figure(
        "C7",
        f"{engine}: {LOST:,} replies lost, half of them after the commit, half at any moment: "
        f"{len(found):,} bookings, each returned to its key by both instances; "
        f"doubled or lost {at_most(LOST)}",
    )

    assert len(found) == LOST
    assert await bookings(system) == found.keys()


async def insist(
    system: System,
    lines: Sequence[BookingServiceStub],
    numbers: Iterator[int],
    found: Counter[str],
) -> None:
    """Book, lose the reply, and ask both instances again with the same key."""
    for number in numbers:
        request = await system.request(passengers=1)
        await lose(lines[number % 2], request, system.user(), early=number % 4 > 1)
        again = [await settled(stub(system, number + turn), request, system) for turn in (1, 0)]

        assert again[0] == again[1]
        assert again[0].booking.status == pb.BOOKING_STATUS_CONFIRMED
        found[again[0].booking.booking_id] += 1


async def settled(
    instance: BookingServiceStub, request: pb.CreateBookingRequest, system: System
) -> pb.CreateBookingResponse:
    """Ask until it is no longer under way; each time the instance waits as long as it may."""
    while True:
        answer = await instance.CreateBooking(request, metadata=system.user())
        if answer.booking.status != pb.BOOKING_STATUS_PENDING:
            return answer


async def lose(
    line: BookingServiceStub,
    request: pb.CreateBookingRequest,
    user: list[tuple[str, str]],
    *,
    early: bool,
) -> None:
    """Ask without an answer: the line loses it, or the client leaves before it is there."""
    patience = random.uniform(0.001, 0.05) if early else 30
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await line.CreateBooking(request, metadata=user, timeout=patience)

    lost = {grpc.StatusCode.UNAVAILABLE}
    assert raised.value.code() in ({grpc.StatusCode.DEADLINE_EXCEEDED, *lost} if early else lost)
