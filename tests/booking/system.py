"""Booking instances over one database, with the fakes of pricing and schedule, on real HTTP/2."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import grpc
from sqlalchemy import select

from booking.changes import Changes
from booking.participants import Participants
from booking.queries import snapshot
from booking.runner import SagaRunner, Terms
from booking.service import BookingService
from booking.servicer import STATUS_CODES, BookingServicer
from booking.store import BookingStore
from booking.tables import leases, outbox, sagas
from booking.timed_work import TimedWork
from booking.timetable import schedule_follower, schedule_inbox
from booking.upstreams import PricingQuotes, ScheduleSeats
from consulmesh.keys import KeyFile
from consulmesh.local_issuer import DEFAULT_AUDIENCE, DEFAULT_ISSUER, LocalIssuer
from consulmesh.testing import serving
from consulmesh.users import TokenVerifier
from eventstream import Database, Feed, Lease
from flights.booking.v1 import booking_pb2 as pb
from flights.booking.v1.booking_pb2_grpc import (
    BookingServiceStub,
    add_BookingServiceServicer_to_server,
)
from flights.pricing.v1 import pricing_pb2
from flights.pricing.v1.pricing_pb2_grpc import (
    PricingServiceStub,
    add_PricingServiceServicer_to_server,
)
from flights.schedule.v1.schedule_pb2_grpc import (
    ScheduleServiceStub,
    add_ScheduleServiceServicer_to_server,
)
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY
from tests.booking import invariants
from tests.fakes import faults
from tests.fakes.pricing import FakePricing
from tests.fakes.schedule import FakeSchedule

FLIGHTS = ("flt_out", "flt_on", "flt_back")
CAPACITY = 20
FAST = Terms(
    lease=timedelta(seconds=2),
    first_retry=timedelta(milliseconds=5),
    last_retry=timedelta(milliseconds=50),
)
TAKEOVER = timedelta(milliseconds=600)
_clock = partial(datetime.now, UTC)


@dataclass(kw_only=True)
class Instance:
    """One process of the booking service."""

    db: Database
    store: BookingStore
    runner: SagaRunner
    stub: BookingServiceStub
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def close(self) -> None:
        """Leave in order: what is unfinished is handed back."""
        await self._stack.aclose()

    async def crash(self) -> None:
        """Leave without a word: nothing more is done, nothing handed back."""
        self.runner._owner = "nobody"
        self.runner._closing = True
        for task in self.runner._tasks:
            task.cancel()
        await self._stack.aclose()


class System:
    """What a test sees: the fakes, the instances it has started, and calls as a user."""

    def __init__(
        self,
        folder: Path,
        database: str,
        schedule: FakeSchedule,
        pricing: FakePricing,
        channels: tuple[grpc.aio.Channel, grpc.aio.Channel],
    ) -> None:
        self.schedule = schedule
        self.pricing = pricing
        self.database = database
        self._schedule_channel, self._pricing_channel = channels
        self._issuer = LocalIssuer(folder)
        self._tokens = TokenVerifier(
            DEFAULT_ISSUER, DEFAULT_AUDIENCE, KeyFile(folder / "jwks.json")
        )
        self.instances: list[Instance] = []
        self._numbers = itertools.count(1)

    async def start(
        self,
        terms: Terms = FAST,
        deadline: float = 2.0,
        store_of: Callable[[Database, Changes], BookingStore] = BookingStore,
        clock: Callable[[], datetime] = _clock,
        *,
        follows: bool = False,
    ) -> Instance:
        """One more instance over the same database; it may follow schedule's stream."""
        name = f"booking-{len(self.instances)}"
        async with AsyncExitStack() as stack:
            db = await stack.enter_async_context(
                Database.open(self.database, migrations="booking:migrations")
            )
            changes = Changes(db)
            store = store_of(db, changes)
            quotes = PricingQuotes(self._pricing_channel, deadline)
            seats = ScheduleSeats(self._schedule_channel, timedelta(minutes=10), deadline)
            runner = SagaRunner(
                store,
                Participants(quotes, seats, clock),
                name=name,
                clock=clock,
                terms=terms,
            )
            await stack.enter_async_context(runner)
            jobs = [changes.run(), runner.run()]
            if follows:
                jobs.append(self._timed_work(db, name, clock))
            await stack.enter_async_context(_background(*jobs))
            servicer = BookingServicer(
                BookingService(store, quotes, runner, changes, clock),
                Feed(db, outbox, event=pb.BookingEvent, snapshot=snapshot),
                self._tokens,
                clock,
            )
            channel = await stack.enter_async_context(
                serving(
                    partial(add_BookingServiceServicer_to_server, servicer),
                    status_codes=STATUS_CODES,
                    service="booking",
                    relay_token=True,
                )
            )
            instance = Instance(
                db=db,
                store=store,
                runner=runner,
                stub=BookingServiceStub(channel),
                _stack=stack.pop_all(),
            )
        self.instances.append(instance)
        return instance

    def _timed_work(
        self, db: Database, name: str, clock: Callable[[], datetime]
    ) -> Coroutine[object, object, None]:
        inbox = schedule_inbox(db, clock)
        follower = schedule_follower(ScheduleServiceStub(self._schedule_channel), inbox)
        work = TimedWork(db, inbox, follower, clock)
        return Lease(db, leases, "timed-work", name, TAKEOVER).lead(work.run)

    @property
    def newest(self) -> Instance:
        """The instance that was started last."""
        return self.instances[-1]

    async def close(self) -> None:
        """End every instance."""
        self.schedule.faults.heal()
        self.pricing.faults.heal()
        for instance in self.instances:
            await instance.close()

    def user(self, subject: str = "ann", role: str = "customer") -> list[tuple[str, str]]:
        """The metadata of a user's call."""
        return [("authorization", f"Bearer {self._issuer.token(subject, [role])}")]

    async def quote(self, passengers: int = 2, flights: Sequence[str] = FLIGHTS[:2]) -> str:
        """The id of a new quote for these flights."""
        response = await PricingServiceStub(self._pricing_channel).CreateQuote(
            pricing_pb2.CreateQuoteRequest(
                request_id=f"quote-{next(self._numbers)}-of-a-traveller",
                passengers=passengers,
                segments=[
                    pricing_pb2.QuoteSegment(flight_id=flight, cabin=CABIN_ECONOMY)
                    for flight in flights
                ],
            )
        )
        return response.quote.quote_id

    async def request(
        self, passengers: int = 2, request_id: str = "", flights: Sequence[str] = FLIGHTS[:2]
    ) -> pb.CreateBookingRequest:
        """A request for a new quote, with a request id of its own."""
        quote_id = await self.quote(passengers, flights)
        return pb.CreateBookingRequest(
            request_id=request_id or f"booking-{next(self._numbers)}",
            quote_id=quote_id,
            passengers=[
                pb.Passenger(given_name=name, family_name="Lee")
                for name in "ABCDEFGHI"[:passengers]
            ],
            contact=pb.Contact(email="ann@example.org"),
        )

    async def book(self, instance: Instance, passengers: int = 2) -> pb.Booking:
        """Book a new quote as Ann."""
        request = await self.request(passengers)
        return (await instance.stub.CreateBooking(request, metadata=self.user())).booking

    async def finished(self, instance: Instance) -> None:
        """Wait until no saga is under way."""
        query = select(sagas.c.booking_id).where(sagas.c.due_time.is_not(None)).limit(1)
        async with asyncio.timeout(60):
            while True:
                seen = instance.db.version
                if not await instance.db.read(lambda connection: connection.execute(query).all()):
                    return
                await instance.db.changed(seen)

    async def check(self, instance: Instance) -> None:
        """Assert what must hold of bookings, seats, quotes, keys and events once all is settled."""
        await self.finished(instance)
        await instance.db.read(
            lambda connection: invariants.check(connection, self.schedule, self.pricing)
        )


@asynccontextmanager
async def _background(*work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    jobs = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


@asynccontextmanager
async def booking_system(
    folder: Path, database: str, real_pricing: grpc.aio.Channel | None = None
) -> AsyncIterator[System]:
    """A system without an instance yet; its keys are in the folder.

    With a real pricing the fake one is there and not asked.
    """
    seats_of = {(flight, CABIN_ECONOMY): CAPACITY for flight in FLIGHTS}
    schedule = FakeSchedule(seats_of)  # type: ignore[abstract]  # it says UNIMPLEMENTED
    pricing = FakePricing()  # type: ignore[abstract]  # it says UNIMPLEMENTED
    async with (
        serving(
            partial(add_ScheduleServiceServicer_to_server, schedule),
            status_codes=faults.STATUS_CODES,
            service="schedule",
        ) as seats,
        serving(
            partial(add_PricingServiceServicer_to_server, pricing),
            status_codes=faults.STATUS_CODES,
            service="pricing",
        ) as quotes,
    ):
        system = System(folder, database, schedule, pricing, (seats, real_pricing or quotes))
        try:
            yield system
        finally:
            await system.close()
