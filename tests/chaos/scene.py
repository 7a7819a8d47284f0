"""A world that serves, a customer of it, and the judgement of what that one was told."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from sqlalchemy.engine import make_url

from bench.checker import Recorder, Report, judge, read_file
from consulmesh.testing import StaticMesh
from flights.booking.v1 import booking_pb2
from flights.booking.v1.booking_pb2_grpc import BookingServiceStub
from flights.pricing.v1 import pricing_pb2
from flights.schedule.v1 import schedule_pb2
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from tests.chaos.customer import Customer, Way
from tests.chaos.processes import Zygote
from tests.chaos.rest import at_rest
from tests.chaos.timetable import FLIGHTS, id_of
from tests.chaos.world import World

USER: Final = "ann"
PATIENCE: Final = 30.0  # seconds for a read


class Scene:
    """A running world, one customer of it, and the history of what that one was told."""

    def __init__(self, world: World, caller: StaticMesh, recorder: Recorder) -> None:
        self.world = world
        self.caller = caller
        self._history = world.folder / "history.jsonl"
        self._recorder = recorder
        self._flights = (id_of(number, world.day) for number in range(1, FLIGHTS - 1))
        self.ann = self.customer("ann", Way.PLAIN)

    def customer(self, name: str, way: Way) -> Customer:
        """The one user, asking in some way; `name` begins its keys."""
        issuer = self.world.issuer
        return Customer(self.caller, issuer, self._recorder, name=name, user=USER, way=way)

    async def quotes(self, count: int) -> list[pricing_pb2.Quote]:
        """Quotes for parties of two, each on a flight of its own."""
        return [await self.ann.quote([next(self._flights)]) for _ in range(count)]

    async def booked(self, count: int) -> dict[str, booking_pb2.Booking]:
        """Bookings that were acknowledged, one after the other."""
        made = [await self.ann.book(quote) for quote in await self.quotes(count)]
        return {booking.booking_id: booking for booking in made}

    async def shown(self) -> dict[str, booking_pb2.Booking]:
        """The bookings that the service shows, once none of them is pending."""
        return {booking.booking_id: booking for booking in await self.ann.settled()}

    async def listed(self) -> dict[str, booking_pb2.Booking]:
        """The bookings that the service shows now, at once or not at all."""
        stub = BookingServiceStub(self.caller.channel("booking"))
        token = self.world.issuer.token(USER, ["customer"])
        answer = await stub.ListBookings(
            booking_pb2.ListBookingsRequest(page_size=100),
            timeout=PATIENCE,
            metadata=[("authorization", f"Bearer {token}")],
        )
        return {booking.booking_id: booking for booking in answer.bookings}

    async def flight(self) -> schedule_pb2.Flight:
        """A flight as schedule shows it."""
        stub = ScheduleServiceStub(self.caller.channel("schedule"))
        request = schedule_pb2.GetFlightRequest(flight_id=id_of(1, self.world.day))
        return (await stub.GetFlight(request, timeout=PATIENCE)).flight

    async def judged(self) -> Report:
        """The judgement of everything, when all is at rest."""
        await at_rest(self.world)
        return judge(read_file(self._history), self.world.databases)


@asynccontextmanager
async def scene(forks: Zygote, folder: Path, url_of: Callable[[str], str]) -> AsyncIterator[Scene]:
    """A world that serves, killed at the end."""
    world = World(forks, folder, url_of)
    try:
        await world.up()
        with Recorder.open(folder / "history.jsonl") as recorder:
            async with world.caller() as caller:
                yield Scene(world, caller, recorder)
    finally:
        await world.down()


def sqlite_in(folder: Path) -> Callable[[str], str]:
    """Names SQLite files in a folder."""
    return lambda service: f"sqlite:///{folder}/{service}.db"


def file_of(scene: Scene, service: str) -> Path:
    """The file of a service's SQLite database."""
    return Path(str(make_url(scene.world.urls[service]).database))
