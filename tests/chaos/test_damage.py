"""F3: a file of a database is torn, cut or damaged while the service is down."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import grpc
import pytest

from flights.booking.v1 import booking_pb2
from tests.chaos.figures import figure
from tests.chaos.processes import DiedError, Zygote
from tests.chaos.scene import Scene, file_of, scene, sqlite_in
from tests.databases import OwnPostgres, name_of

BOOKINGS: Final = 6
PAGE: Final = 4096  # bytes, of SQLite
BLOCK: Final = 8192  # bytes, of PostgreSQL


def wal_of(running: Scene) -> Path:
    """The write-ahead log of booking's SQLite database."""
    file = file_of(running, "booking")
    return file.with_name(f"{file.name}-wal")


def overwrite(file: Path, offset: int, size: int) -> None:
    """Put garbage into a file."""
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(os.urandom(size))


async def test_a_torn_end_of_the_log_loses_nothing(forks: Zygote, tmp_path: Path) -> None:
    """What a power failure leaves of a commit that nobody was told of is passed over."""
    async with scene(forks, tmp_path, sqlite_in(tmp_path)) as running:
        told = await running.booked(BOOKINGS)
        await running.world.kill("booking")
        with wal_of(running).open("ab") as log:
            log.write(os.urandom(PAGE // 2))
        await (await running.world.start("booking")).serving()
        shown = await running.shown()
        report = await running.judged()
    figure("F3", f"torn end of the WAL: {len(shown)} of {len(told)} bookings there")

    assert shown.keys() == told.keys()
    assert report.holds, report


async def test_a_log_that_was_cut_is_a_past_that_was(forks: Zygote, tmp_path: Path) -> None:
    """The service recovers to an earlier commit: the first bookings, whole, and sells on."""
    async with scene(forks, tmp_path, sqlite_in(tmp_path)) as running:
        told = await running.booked(BOOKINGS)
        await running.world.kill("booking")
        log = wal_of(running)
        os.truncate(log, int(log.stat().st_size * 0.8))
        await (await running.world.start("booking")).serving()
        shown = await running.shown()
        after = await running.booked(1)
    figure("F3", f"WAL cut at four fifths: the first {len(shown)} of {len(told)} bookings there")

    assert 0 < len(shown) < len(told)
    assert set(shown) == set(list(told)[: len(shown)])
    assert [seen(shown[each]) for each in shown] == [seen(told[each]) for each in shown]
    assert [made.status for made in after.values()] == [booking_pb2.BOOKING_STATUS_CONFIRMED]


def seen(booking: booking_pb2.Booking) -> tuple[object, ...]:
    """What a user sees of a booking."""
    return (
        booking.status,
        booking.reference,
        booking.quote_id,
        booking.total.SerializeToString(),
        [segment.flight_id for segment in booking.segments],
        [(each.given_name, each.family_name) for each in booking.passengers],
    )


@pytest.mark.parametrize(
    ("first", "share"), [(0, 0.01), (1, 0.5)], ids=["no database", "damaged pages"]
)
async def test_a_damaged_file_keeps_the_service_from_starting(
    forks: Zygote, tmp_path: Path, first: int, share: float
) -> None:
    """It ends with 1 and names the file, instead of serving what is left."""
    async with scene(forks, tmp_path, sqlite_in(tmp_path)) as running:
        await running.booked(BOOKINGS)
        await running.world.kill("booking")
        file = file_of(running, "booking")
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        overwrite(file, first * PAGE, max(PAGE, int(file.stat().st_size * share)))
        process = await running.world.start("booking")
        with pytest.raises(DiedError):
            await process.serving()
        said = process.log.read_text().rpartition("\neventstream.errors.")[2].splitlines()[0]
    figure("F3", f"damaged from page {first} on: exit {process.status}, {said!r}")

    assert process.status == 1
    assert said.startswith("StorageUnavailableError: booking.db")


async def test_a_damaged_page_of_postgresql_is_not_served(
    forks: Zygote, tmp_path: Path, durable_postgres: OwnPostgres
) -> None:
    """Reads that touch it are UNAVAILABLE: the server's checksums find it."""
    try:
        async with scene(forks, tmp_path, durable_postgres.new) as running:
            await running.booked(BOOKINGS)
            await running.world.kill("booking")
            name = name_of(running.world.urls["booking"])
            with durable_postgres.connect(name) as connection:
                query = "SELECT current_setting('data_directory'), pg_relation_filepath('booking')"
                row = connection.execute(query).fetchone()
                connection.execute("CHECKPOINT")  # recovery would mend what it writes anew
            assert row is not None
            durable_postgres.crash()
            overwrite(Path(row[0]) / row[1], BLOCK // 2, BLOCK // 4)
            durable_postgres.start()
            await (await running.world.start("booking")).serving()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await running.listed()
    finally:
        durable_postgres.drop()
    figure("F3", f"damaged page of PostgreSQL: {refused.value.code().name}")

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
