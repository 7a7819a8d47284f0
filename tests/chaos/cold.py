"""First starts that are cut off: a service dies at each point of what it does only once."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Never

import grpc

from bench.checker import Recorder, judge, read_file
from consulmesh.testing import StaticMesh
from eventstream.steps import Point
from flights.booking.v1 import booking_pb2
from flights.booking.v1.booking_pb2_grpc import BookingServiceStub
from flights.pricing.v1 import pricing_pb2
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from tests.chaos.customer import PAUSE, Customer, Way
from tests.chaos.processes import Zygote
from tests.chaos.rest import at_rest
from tests.chaos.scenarios import COLD
from tests.chaos.timetable import id_of
from tests.chaos.world import World

REACHED: Final = 60.0  # seconds
PRICES: Final = pricing_pb2.WatchPricesRequest()
BOOKINGS: Final = booking_pb2.WatchBookingEventsRequest()
LAST: Final = ("pricing", "booking", "schedule")
"""In this order: the streams of the first two are asked for before there is anything in them."""


class Cold:
    """A world that has never been there."""

    def __init__(self, forks: Zygote, folder: Path, url_of: Callable[[str], str]) -> None:
        self._world = World(forks, folder / "cold", url_of)

    @property
    def points(self) -> int:
        """How many there are to die at."""
        return sum(len(steps) for steps in COLD.values()) * len(Point)

    async def play(self) -> int:
        """Die at each point in turn, then book a flight; how often something has died."""
        try:
            async with self._world.caller() as caller, _readers(caller):
                deaths = [await self._die_all_along(service) for service in LAST]
            await self._book()
        finally:
            await self._world.down()
        return sum(deaths)

    async def _die_all_along(self, service: str) -> int:
        deaths = 0
        for step in COLD[service]:
            for point in Point:
                process = await self._world.start(service, failpoint=f"{step}:{point}")
                assert await process.ended(REACHED) == -signal.SIGKILL, f"{service} {step}:{point}"
                deaths += 1
        return deaths

    async def _book(self) -> None:
        """Whatever was cut off: the system is whole, and sells."""
        history = self._world.folder / "history.jsonl"
        await self._world.up()
        with Recorder.open(history) as recorder:
            async with self._world.caller() as caller:
                ann = Customer(
                    caller, self._world.issuer, recorder, name="ann", user="ann", way=Way.RETRY
                )
                booking = await ann.book(await ann.quote([id_of(1, self._world.day)]))
        assert booking.status == booking_pb2.BOOKING_STATUS_CONFIRMED
        await at_rest(self._world)
        await self._world.down()
        report = judge(read_file(history), self._world.databases)
        assert report.holds, report


@asynccontextmanager
async def _readers(caller: StaticMesh) -> AsyncIterator[None]:
    """Readers of streams that have not begun, for the block."""
    prices = PricingServiceStub(caller.channel("pricing"))
    bookings = BookingServiceStub(caller.channel("booking"))
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_read(lambda: prices.WatchPrices(PRICES, wait_for_ready=True))),
            group.create_task(
                _read(lambda: bookings.WatchBookingEvents(BOOKINGS, wait_for_ready=True))
            ),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _read(watch: Callable[[], grpc.aio.UnaryStreamCall[Any, Any]]) -> Never:
    """Read a stream, and again whenever it breaks."""
    while True:
        call = watch()
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError:
            await asyncio.sleep(PAUSE)
        finally:
            call.cancel()
