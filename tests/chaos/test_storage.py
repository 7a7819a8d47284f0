"""F1 and F2: the disk is full, a database is locked."""

import asyncio
import sqlite3
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractContextManager,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from pathlib import Path
from typing import Final

import grpc
import pytest
from grpc_health.v1 import (  # type: ignore[import-untyped]  # it has no stubs
    health_pb2,
    health_pb2_grpc,
)

from flights.booking.v1 import booking_pb2
from flights.pricing.v1 import pricing_pb2
from tests.chaos import customer
from tests.chaos.customer import UnansweredError, Way
from tests.chaos.disks import Disk, small_disk
from tests.chaos.figures import LONG, figure
from tests.chaos.processes import Zygote
from tests.chaos.scene import Scene, file_of, scene, sqlite_in
from tests.databases import ENGINES, OwnPostgres, Postgres, name_of

pytestmark = pytest.mark.timeout(600)

CLEAR: Final = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
REFUSALS: Final = 20 if LONG else 5
LOCKED: Final = 10.0 if LONG else 6.0  # seconds: longer than a unit of work waits
CUSTOMERS: Final = 8
DEADLINE: Final = 2.0  # seconds of a call while the database is locked
SLACK: Final = 0.5 if LONG else 3.0  # seconds more; a short run may share its machine
LAG: Final = 0.050 if LONG else 0.5
QUIET: Final = 1.5  # seconds without a fault, to compare with
EVERY: Final = 0.010


@contextmanager
def on_small_disk(
    engine: str, request: pytest.FixtureRequest
) -> Iterator[tuple[Disk, Callable[[str], str]]]:
    """A disk of a few MiB, and what names databases on it."""
    if engine == "sqlite":
        with small_disk(16) as disk:
            yield disk, sqlite_in(disk.path)
        return
    server: OwnPostgres = request.getfixturevalue("durable_postgres")
    with small_disk(96, server.user) as disk:
        with server.connect() as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{disk.path}'")
        try:
            yield disk, lambda service: in_tablespace(server, service)
        finally:
            server.drop()
            with server.connect() as connection:
                connection.execute("DROP TABLESPACE small")


def in_tablespace(server: OwnPostgres, service: str) -> str:
    """The URL of an empty database on the small disk."""
    url = server.new(service)
    with server.connect() as connection:
        connection.execute(
            f"CREATE DATABASE {name_of(url)} TEMPLATE template0"
            " ENCODING 'UTF8' LOCALE 'C' TABLESPACE small"
        )
    return url


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_full_disk_refuses_bookings_and_nothing_else(
    forks: Zygote, tmp_path: Path, request: pytest.FixtureRequest, engine: str
) -> None:
    """Bookings that find no room are UNAVAILABLE; reads go on; with room, all goes on by itself."""
    with on_small_disk(engine, request) as (disk, url_of):
        async with scene(forks, tmp_path, url_of) as running:
            before = await running.booked(2)
            quotes = iter(await running.quotes(20 + REFUSALS))
            disk.fill()
            codes = await refused(running, quotes, REFUSALS)
            listed = await running.listed()
            flight = await running.flight()
            disk.make_room()
            began = time.monotonic()
            after = await running.customer("bea", Way.RETRY).book(next(quotes))
            usable = time.monotonic() - began
            report = await running.judged()
    figure(
        "F1",
        f"{engine}: {len(codes)} of {len(codes)} bookings on a full disk refused with "
        f"{', '.join(sorted({code.name for code in codes}))}; booked again {usable:.2f} s after "
        f"there was room; {len(report.violations)} violations",
    )

    assert set(codes) <= CLEAR
    assert set(listed) >= set(before)
    assert flight.flight_id
    assert after.status == booking_pb2.BOOKING_STATUS_CONFIRMED
    assert report.holds, report


def code_of(error: UnansweredError) -> grpc.StatusCode:
    """How a request that has no answer ended."""
    if not isinstance(error.__cause__, grpc.aio.AioRpcError):
        raise TypeError(error.__cause__)
    return error.__cause__.code()


async def refused(
    running: Scene, quotes: Iterator[pricing_pb2.Quote], count: int
) -> list[grpc.StatusCode]:
    """Book until so many bookings in a row were refused: the codes. The last page may have room."""
    codes: list[grpc.StatusCode] = []
    for quote in quotes:
        try:
            await running.ann.book(quote)
        except UnansweredError as error:
            codes.append(code_of(error))
            if len(codes) == count:
                return codes
        else:
            codes.clear()
    raise AssertionError(f"only {len(codes)} bookings were refused")


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_locked_database_is_waited_for_no_longer_than_the_deadline(
    forks: Zygote,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
) -> None:
    """Another program has booking's lock: calls end in time, the loop goes on, nothing is lost."""
    monkeypatch.setattr(customer, "ATTEMPT", DEADLINE)
    url_of, locked = lockable(engine, tmp_path, request)
    async with scene(forks, tmp_path, url_of) as running:
        before = await running.booked(2)
        quotes = iter(await running.quotes(60))
        async with lags(running) as quiet:
            await asyncio.sleep(QUIET)
        took: list[float] = []
        codes: set[grpc.StatusCode] = set()
        with locked(running):
            until = time.monotonic() + LOCKED
            async with lags(running) as late, asyncio.TaskGroup() as tasks:
                for number in range(CUSTOMERS):
                    name = f"customer-{number}"
                    tasks.create_task(book_until(until, running, name, quotes, took, codes))
                listed = await running.listed()
        after = await running.customer("bea", Way.RETRY).book(next(quotes))
        report = await running.judged()
    figure(
        "F2",
        f"{engine}: locked for {LOCKED:.0f} s, {len(took)} calls ended within {max(took):.2f} s of "
        f"{DEADLINE:.0f} with {', '.join(sorted(code.name for code in codes))}; probes of the loop "
        f"p99 {p99(late) * 1000:.0f} ms (before: {p99(quiet) * 1000:.0f} ms); "
        f"{len(report.violations)} violations",
    )

    assert codes <= {*CLEAR, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert took
    assert max(took) < DEADLINE + SLACK
    assert p99(late) <= max(LAG, 2 * p99(quiet))
    assert set(listed) >= set(before)
    assert after.status == booking_pb2.BOOKING_STATUS_CONFIRMED
    assert report.holds, report


Locked = Callable[[Scene], AbstractContextManager[None]]
"""Holds the write lock of booking's database, as another program."""


def lockable(
    engine: str, folder: Path, request: pytest.FixtureRequest
) -> tuple[Callable[[str], str], Locked]:
    """What names databases of the engine, and what locks booking's."""
    if engine == "sqlite":
        return sqlite_in(folder), locked_file
    server: Postgres = request.getfixturevalue("postgres")
    request.addfinalizer(server.drop)
    table = "LOCK TABLE booking IN EXCLUSIVE MODE"  # reads go on, as beside any long migration
    return server.new, lambda of: server.holding(name_of(of.world.urls["booking"]), table)


@contextmanager
def locked_file(of: Scene) -> Iterator[None]:
    """Begin to write, and don't come to an end."""
    with closing(sqlite3.connect(file_of(of, "booking"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def book_until(
    until: float,
    running: Scene,
    name: str,
    quotes: Iterator[pricing_pb2.Quote],
    took: list[float],
    codes: set[grpc.StatusCode],
) -> None:
    """Book, again and again, until it is time to stop: how long calls took, and their codes."""
    one = running.customer(name, Way.PLAIN)
    while (began := time.monotonic()) < until - DEADLINE:
        try:
            await one.book(next(quotes))
        except UnansweredError as error:
            codes.add(code_of(error))
            took.append(time.monotonic() - began)


@asynccontextmanager
async def lags(running: Scene) -> AsyncIterator[list[float]]:
    """How long booking takes to answer what needs nothing but its loop, while a block runs."""
    stub = health_pb2_grpc.HealthStub(running.caller.channel("booking"))
    found: list[float] = []

    async def probe() -> None:
        while True:
            began = time.monotonic()
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
            found.append(time.monotonic() - began)
            await asyncio.sleep(EVERY)

    probing = asyncio.create_task(probe())
    try:
        yield found
    finally:
        probing.cancel()
        with suppress(asyncio.CancelledError):
            await probing


def p99(found: list[float]) -> float:
    """The value below which 99 of 100 are."""
    return statistics.quantiles(found, n=100)[98]
