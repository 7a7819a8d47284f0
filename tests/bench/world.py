"""A few bookings of every kind, made by the real services in this process, with their history."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import booking.__main__ as booking_process
import pricing.__main__ as pricing_process
import schedule.__main__ as schedule_process
from bench.checker import Recorder, Urls, booking_told, quote_told
from bench.checker.judgement import read, unfinished
from consulmesh import MeshConfig
from consulmesh.keys import KeyFile
from consulmesh.local_issuer import DEFAULT_AUDIENCE, DEFAULT_ISSUER, LocalIssuer
from consulmesh.testing import StaticMesh
from consulmesh.testing.ports import free_port
from consulmesh.users import TokenVerifier
from eventstream import Database
from flights.booking.v1 import booking_pb2
from flights.booking.v1.booking_pb2_grpc import BookingServiceStub
from flights.pricing.v1 import pricing_pb2
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.schedule.v1 import schedule_pb2
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY
from schedule.domain import Cabin, Flight
from schedule.timetable import Airports
from tests.schedule.samples import flight

SEATS = {"flt_out": 9, "flt_back": 9, "flt_full": 1, "flt_gone": 9}
USER = "ann"
_RETURN = ("flt_out", "flt_back")
_PARTY = [("Ann", "Lee"), ("Bo", "Lee"), ("Cy", "Lee")]


@dataclass(frozen=True, slots=True)
class World:
    """Databases at rest, and the history that led to them."""

    urls: Urls
    history: Path


async def make(urls: Urls, folder: Path) -> World:
    """Make it: of seven bookings one is cancelled, one affected and one rejected.

    The history says that something was killed between the third and the fourth.
    """
    world = World(urls, folder / "history.jsonl")
    async with _system(urls, folder) as client:
        with Recorder.open(world.history) as history:
            traveller = Traveller(client, history)
            await traveller.book("one", passengers=1)
            cancelled = await traveller.book("two", passengers=2)
            await traveller.book("three", passengers=3)
            await traveller.cancel(cancelled)
            history.nemesis("kill", victim="nobody")
            rivals = [await traveller.quote(1, ["flt_full"]) for _ in range(2)]
            for key, quote in zip(("four", "refused"), rivals, strict=True):
                await traveller.book(key, quote=quote)
            gone = await traveller.quote(1, ["flt_gone"])
            await traveller.book("affected", quote=gone)
            await client.cancel_flight("flt_gone")
            traveller.lose_answers()
            await traveller.book("unknown", passengers=1)
        await _settled(urls)
    return world


async def _settled(urls: Urls) -> None:
    """Wait until no saga is under way and pricing has read all that schedule has to say."""
    async with asyncio.timeout(20), Database.open(urls.pricing) as prices:
        while True:
            seen = prices.version
            facts = read(urls)
            position = facts.pricing.position
            behind = position is None or position.seq < facts.schedule.stream.head
            if not behind and not unfinished(facts) and "flt_gone" in facts.booking.cancelled:
                return
            await prices.changed(seen)


@dataclass(frozen=True, slots=True)
class Client:
    """Stubs, and the metadata of a user's calls."""

    bookings: BookingServiceStub
    prices: PricingServiceStub
    timetable: ScheduleServiceStub
    metadata: Sequence[tuple[str, str]]

    async def cancel_flight(self, flight_id: str) -> None:
        """What an operator may do."""
        request = schedule_pb2.CancelFlightRequest(
            request_id="cancel", flight_id=flight_id, reason="crew"
        )
        await self.timetable.CancelFlight(request, metadata=self.metadata)


class Traveller:
    """Books and cancels, and writes down what happens. State: whether answers reach it."""

    def __init__(self, client: Client, history: Recorder) -> None:
        self._client = client
        self._history = history
        self._hears = True

    def lose_answers(self) -> None:
        """From now on no answer arrives."""
        self._hears = False

    async def quote(self, passengers: int, flights: Sequence[str] = _RETURN) -> pricing_pb2.Quote:
        """A quote for these flights."""
        self._history.invoke("client", "quote")
        made = await self._client.prices.CreateQuote(
            pricing_pb2.CreateQuoteRequest(
                request_id=f"{datetime.now(UTC)}",
                passengers=passengers,
                segments=[
                    pricing_pb2.QuoteSegment(flight_id=flight, cabin=CABIN_ECONOMY)
                    for flight in flights
                ],
            )
        )
        self._history.ok("client", "quote", quote=quote_told(made.quote))
        return made.quote

    async def book(
        self, key: str, *, passengers: int = 1, quote: pricing_pb2.Quote | None = None
    ) -> str:
        """Book, and return the booking's id."""
        quote = quote or await self.quote(passengers)
        party = _PARTY[: quote.passengers]
        said = {"user": USER, "key": key, "quote_id": quote.quote_id, "passengers": party}
        self._history.invoke("client", "book", email="ann@example.org", **said)
        request = booking_pb2.CreateBookingRequest(
            request_id=key,
            quote_id=quote.quote_id,
            passengers=[
                booking_pb2.Passenger(given_name=given, family_name=family)
                for given, family in party
            ],
            contact=booking_pb2.Contact(email="ann@example.org"),
        )
        call = self._client.bookings.CreateBooking(request, metadata=self._client.metadata)
        return self._heard("book", (await call).booking)

    async def cancel(self, booking_id: str) -> None:
        """Give a booking back."""
        self._history.invoke("client", "cancel", user=USER, booking_id=booking_id)
        request = booking_pb2.CancelBookingRequest(
            request_id=f"cancel {booking_id}", booking_id=booking_id
        )
        call = self._client.bookings.CancelBooking(request, metadata=self._client.metadata)
        self._heard("cancel", (await call).booking)

    def _heard(self, op: str, made: booking_pb2.Booking) -> str:
        if self._hears:
            self._history.ok("client", op, booking=booking_told(made))
        else:
            self._history.info("client", op)
        return made.booking_id


@asynccontextmanager
async def _system(urls: Urls, folder: Path) -> AsyncIterator[Client]:
    """The three services, and a client of them."""
    issuer = LocalIssuer(folder)
    users = TokenVerifier(DEFAULT_ISSUER, DEFAULT_AUDIENCE, KeyFile(folder / "jwks.json"))
    targets = {name: f"127.0.0.1:{free_port()}" for name in ("schedule", "pricing", "booking")}
    airports = Airports.load()
    serves: dict[str, Callable[[StaticMesh, Database], Coroutine[None, None, None]]] = {
        "schedule": partial(schedule_process.serve, airports=airports, flights_of=_flights),
        "pricing": pricing_process.serve,
        "booking": partial(booking_process.serve, users=users),
    }
    async with AsyncExitStack() as stack:
        for name, serve in serves.items():
            url = getattr(urls, name)
            db = await stack.enter_async_context(
                Database.open(url, migrations=f"{name}:migrations")
            )
            port = int(targets[name].rpartition(":")[2])
            config = MeshConfig(version="0.0.0", metrics_port=None, port=port)
            mesh = await stack.enter_async_context(StaticMesh(name, targets, config=config))
            serving = asyncio.create_task(serve(mesh, db))
            stack.push_async_callback(_left, mesh, serving)
            await mesh.serving.wait()
        yield await _client(stack, targets, issuer)


async def _left(mesh: StaticMesh, serving: asyncio.Task[None]) -> None:
    mesh.draining.set()
    await serving


async def _client(stack: AsyncExitStack, targets: Mapping[str, str], issuer: LocalIssuer) -> Client:
    mesh = await stack.enter_async_context(StaticMesh("client", targets))
    bearer = f"Bearer {issuer.token(USER, {'customer', 'operator'})}"
    return Client(
        BookingServiceStub(mesh.channel("booking")),
        PricingServiceStub(mesh.channel("pricing")),
        ScheduleServiceStub(mesh.channel("schedule")),
        (("authorization", bearer),),
    )


def _flights(days: Sequence[date]) -> Iterator[tuple[date, list[Flight]]]:
    """All of the flights are on the third day."""
    for day in days:
        yield day, [_flight(*of, day) for of in SEATS.items()] if day == days[2] else []


def _flight(key: str, seats: int, day: date) -> Flight:
    leaves = datetime(day.year, day.month, day.day, 18, tzinfo=UTC)
    return flight(leaves, {Cabin.ECONOMY: seats}, key=key)
