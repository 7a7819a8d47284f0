"""C9: PostgreSQL's sessions are ended at random, and the server stops as in a power failure."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy.engine import make_url

from bench.checker import Recorder, judge, read_file
from flights.booking.v1.booking_pb2 import BOOKING_STATUS_CONFIRMED
from tests.chaos.customer import Customer, RefusedError, Way
from tests.chaos.figures import LONG, at_most, figure
from tests.chaos.processes import Zygote
from tests.chaos.rest import at_rest
from tests.chaos.timetable import FLIGHTS, id_of
from tests.chaos.world import World
from tests.databases import OwnPostgres

CUSTOMERS: Final = 8
ENDED: Final = 300 if LONG else 10  # sessions
CRASHES: Final = 20 if LONG else 1
BETWEEN: Final = 5  # bookings that are acknowledged between two faults
GIVEN_BACK: Final = 0.9  # of the bookings, so that there are seats for the next ones
USABLE_WITHIN: Final = 5.0 if LONG else 30.0  # seconds after the server accepts connections again


class Progress:
    """Bookings that were acknowledged. State: their number, and who waits for the next one."""

    def __init__(self) -> None:
        self.bookings = 0
        self._grown = asyncio.Condition()

    async def one_more(self) -> None:
        """A booking was acknowledged."""
        async with self._grown:
            self.bookings += 1
            self._grown.notify_all()

    async def more(self, count: int) -> None:
        """Wait for so many."""
        goal = self.bookings + count
        async with self._grown:
            await self._grown.wait_for(lambda: self.bookings >= goal)


@pytest.mark.timeout(3600 if LONG else 600)
async def test_the_server_is_not_to_be_relied_on(
    forks: Zygote, tmp_path: Path, durable_postgres: OwnPostgres
) -> None:
    """Sessions end, the server crashes and comes back: nothing is lost, and soon all is usable."""
    world = World(
        forks, tmp_path, durable_postgres.new, instances={"booking": 2, "schedule": 2, "pricing": 2}
    )
    history, progress = tmp_path / "history.jsonl", Progress()
    usable: list[float] = []
    try:
        await world.up()
        with Recorder.open(history) as recorder:
            async with customers(world, recorder, progress):
                for _ in range(ENDED):
                    await progress.more(BETWEEN)
                    recorder.nemesis("terminate")
                    await asyncio.to_thread(_end_a_session, durable_postgres, world)
                for _ in range(CRASHES):
                    await progress.more(BETWEEN)
                    recorder.nemesis("crash")
                    await asyncio.to_thread(durable_postgres.crash)
                    await asyncio.to_thread(durable_postgres.start)
                    began = time.monotonic()
                    await progress.more(1)
                    usable.append(time.monotonic() - began)
        await at_rest(world)
        report = judge(read_file(history), world.databases)
    finally:
        await world.down()
        durable_postgres.drop()
    figure(
        "C9",
        f"{ENDED} sessions ended and {CRASHES} crashes of the server; usable {max(usable):.1f} s "
        f"after it was back; {len(report.violations)} violations in "
        f"{report.counts['bookings']:,} bookings; a fault breaks something: "
        f"{at_most(ENDED + CRASHES)}",
    )

    assert report.holds, report
    assert max(usable) <= USABLE_WITHIN


def _end_a_session(server: OwnPostgres, world: World) -> None:
    """Any session of the services: a writer, a reader, a listener."""
    names = [make_url(url).database for url in world.urls.values()]
    with server.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = ANY(%s) ORDER BY random() LIMIT 1",
            [names],
        )


@asynccontextmanager
async def customers(world: World, recorder: Recorder, progress: Progress) -> AsyncIterator[None]:
    """They book while the block runs; at its end each has its last answer."""
    over = asyncio.Event()
    async with world.caller() as caller, asyncio.TaskGroup() as tasks:
        for number in range(CUSTOMERS):
            name = f"customer-{number}"
            customer = Customer(caller, world.issuer, recorder, name=name, user=name, way=Way.RETRY)
            draw = random.Random(number)
            tasks.create_task(_book(customer, draw, world, progress, over.is_set))
        try:
            yield
        finally:
            over.set()


async def _book(
    customer: Customer,
    draw: random.Random,
    world: World,
    progress: Progress,
    over: Callable[[], bool],
) -> None:
    while not over():
        flight = id_of(draw.randrange(1, FLIGHTS), world.day)
        try:
            booking = await customer.book(await customer.quote([flight], draw.randint(1, 3)))
        except RefusedError:  # the flight is sold out
            continue
        await progress.one_more()
        if booking.status == BOOKING_STATUS_CONFIRMED and draw.random() < GIVEN_BACK:
            await customer.cancel(booking)
