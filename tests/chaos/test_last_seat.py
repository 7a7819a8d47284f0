"""C6: however many want the last seats at once, exactly those that there are, are sold.

Two instances of schedule share a database, and clients call both. A well-known peer, which checks
and then writes, sells 362 to 734 of 200.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import grpc
import pytest

from consulmesh.errors import Status
from consulmesh.testing import serving
from eventstream import Database, Feed
from flights.schedule.v1 import schedule_pb2 as pb
from flights.schedule.v1.schedule_pb2_grpc import (
    ScheduleServiceStub,
    add_ScheduleServiceServicer_to_server,
)
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY
from schedule.domain import Flight
from schedule.expiry import Sweeper
from schedule.service import Seats, Timetable
from schedule.servicer import STATUS_CODES, ScheduleServicer
from schedule.store import SqlDueHolds, SqlStore, snapshot
from schedule.tables import outbox
from schedule.timetable import Airports
from schedule.window_store import insert_flights
from tests.chaos.figures import LONG, at_most, figure
from tests.schedule.samples import NOW, FixedClock, sample

pytestmark = pytest.mark.timeout(3600 if LONG else 600)

CLIENTS = 200
ROUNDS = 500 if LONG else 10
PARTY_ROUNDS = 200 if LONG else 5
SEATS_OF_PARTIES = 4
CONFIRMED = 2  # of three winners; the others' holds run out


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """Two instances on one database."""

    db: Database
    clock: FixedClock
    sweeper: Sweeper
    stubs: Sequence[ScheduleServiceStub]

    async def flight(self, number: int, seats: int) -> Flight:
        """Put a flight with so many seats into the timetable."""
        flight = sample(number, in_hours=9000, economy=seats)
        await self.db.write(lambda connection: insert_flights(connection, [flight], NOW))
        return flight

    async def taken(self, flight: Flight) -> tuple[int, int]:
        """Seats held and sold."""
        found = await SqlStore(self.db).read(lambda records: records.flights([flight.flight_id]))
        seats = found[flight.flight_id].cabins[0]
        return seats.held, seats.sold

    async def expire(self) -> None:
        """Let all holds run out."""
        self.clock.advance(timedelta(minutes=11))
        await self.sweeper.sweep()


@pytest.fixture
async def instances(database_url: str) -> AsyncIterator[Instances]:
    """Two instances, each with a database connection and a server of its own."""
    clock, airports = FixedClock(), Airports.load()
    async with AsyncExitStack() as stack:
        parts = [
            await stack.enter_async_context(instance(database_url, clock, airports))
            for _ in range(2)
        ]
        (db, _), _ = parts
        await db.write(outbox.start_epoch)
        sweeper = Sweeper(SqlDueHolds(db), Seats(SqlStore(db), clock.now).expire, clock)
        yield Instances(db=db, clock=clock, sweeper=sweeper, stubs=[stub for _, stub in parts])


@asynccontextmanager
async def instance(
    url: str, clock: FixedClock, airports: Airports
) -> AsyncIterator[tuple[Database, ScheduleServiceStub]]:
    """One instance, and a stub that calls it."""
    async with Database.open(url, migrations="schedule:migrations") as db:
        store = SqlStore(db)
        servicer = ScheduleServicer(
            Timetable(store, airports.utc_offset, clock.now),
            Seats(store, clock.now),
            Feed(db, outbox, event=pb.FlightEvent, snapshot=snapshot),
        )
        add = partial(add_ScheduleServiceServicer_to_server, servicer)
        async with serving(add, status_codes=STATUS_CODES, service="schedule") as channel:
            yield db, ScheduleServiceStub(channel)


async def hold(stub: ScheduleServiceStub, booking: str, flight: Flight, seats: int) -> str:
    """Ask for seats; "" for yes, else the reason."""
    segment = pb.SegmentSeats(flight_id=flight.flight_id, cabin=CABIN_ECONOMY, seats=seats)
    request = pb.HoldSeatsRequest(booking_id=booking, saga_epoch=1, segments=[segment])
    return await refusal(stub.HoldSeats(request, timeout=60))


async def confirm(stub: ScheduleServiceStub, booking: str) -> str:
    """Buy what is held; "" for yes, else the reason."""
    request = pb.ConfirmHoldRequest(booking_id=booking, saga_epoch=1)
    return await refusal(stub.ConfirmHold(request, timeout=60))


async def refusal(call: Awaitable[object]) -> str:
    """The reason of a definite no; "" for yes."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return Status.of(error).reason or error.code().name
    return ""


async def test_the_last_seat_is_sold_once(instances: Instances, engine: str) -> None:
    """One seat, 200 clients at two instances, each asking both: one buys it, and once only."""
    answers: Counter[str] = Counter()
    sold: Counter[tuple[int, int]] = Counter()
    for number in range(1, ROUNDS + 1):
        flight = await instances.flight(number, 1)
        asked = await asyncio.gather(
            *(
                hold(instances.stubs[client % 2], f"bkg_{number}_{client}", flight, 1)
                for client in range(CLIENTS)
            )
        )
        answers.update(asked)
        winner = f"bkg_{number}_{asked.index('')}"
        answers.update(await asyncio.gather(*(confirm(stub, winner) for stub in instances.stubs)))
        sold[await instances.taken(flight)] += 1
    figure(
        "C6",
        f"{engine}: {ROUNDS} rounds of {CLIENTS} clients for 1 seat at 2 instances: "
        f"sold {sold[0, 1]} seats, oversold {at_most(ROUNDS)}",
    )

    assert sold == {(0, 1): ROUNDS}
    assert answers == {"": 3 * ROUNDS, "SEATS_UNAVAILABLE": (CLIENTS - 1) * ROUNDS}


async def test_parties_fill_the_last_seats_exactly(instances: Instances, engine: str) -> None:
    """Parties of one to nine on four seats, some of which never confirm: all are sold in the end.

    A hold that is refused leaves its seats to a smaller party, one that runs out to a later one.
    """
    chance = random.Random(PARTY_ROUNDS)
    sold: Counter[int] = Counter()
    strange: set[str] = set()
    for number in range(1, PARTY_ROUNDS + 1):
        flight = await instances.flight(number, SEATS_OF_PARTIES)
        wave = 0
        while await instances.taken(flight) != (0, SEATS_OF_PARTIES):
            wave += 1
            strange |= await one_wave(instances, flight, f"bkg_{number}_{wave}", chance)
        sold[SEATS_OF_PARTIES] += 1
    figure(
        "C6",
        f"{engine}: {PARTY_ROUNDS} rounds of parties of 1 to 9 on {SEATS_OF_PARTIES} seats, "
        "holds running out: every seat sold, none twice",
    )

    assert strange <= {"SEATS_UNAVAILABLE"}
    assert sold == {SEATS_OF_PARTIES: PARTY_ROUNDS}


async def one_wave(
    instances: Instances, flight: Flight, prefix: str, chance: random.Random
) -> set[str]:
    """Let forty parties ask, of the winners two in three confirm, and the rest run out."""
    parties = [(f"{prefix}_{n}", min(9, 1 + int(chance.expovariate(0.5)))) for n in range(40)]
    asked = await asyncio.gather(
        *(
            hold(chance.choice(instances.stubs), booking, flight, seats)
            for booking, seats in parties
        )
    )
    won = [party for party, refused in zip(parties, asked, strict=True) if not refused]
    held, before = await instances.taken(flight)
    confirmed = [party for n, party in enumerate(won) if n % 3 < CONFIRMED]
    bought = await asyncio.gather(
        *(confirm(chance.choice(instances.stubs), booking) for booking, _ in confirmed)
    )
    await instances.expire()

    assert held == sum(seats for _, seats in won)
    assert await instances.taken(flight) == (0, before + sum(seats for _, seats in confirmed))
    return {*asked, *bought} - {""}
