"""What goes wrong with a whole PostgreSQL server, provoked for real."""

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from psycopg.errors import DiskFull
from sqlalchemy.exc import DBAPIError

from eventstream import Database, StorageUnavailableError
from tests.databases import OwnPostgres, name_of
from tests.eventstream.conftest import METADATA, names, put


@pytest.fixture
def small_disk(durable_postgres: OwnPostgres) -> Iterator[Path]:
    """Return the folder of a small file system of its own, where the server may write."""
    folder = Path(tempfile.mkdtemp(prefix="mesh-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        folder.rmdir()
        pytest.skip("this user can't mount a file system to fill")
    try:
        if durable_postgres.user is not None:
            shutil.chown(folder, durable_postgres.user)
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


async def test_a_full_disk_refuses_units_whole_and_recovers(
    durable_postgres: OwnPostgres, small_disk: Path
) -> None:
    """Units that do not fit are unavailable; reads go on, and once there is room all does."""
    url = durable_postgres.new("disk")
    with durable_postgres.connect() as connection:
        connection.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
        connection.execute(
            f"CREATE DATABASE {name_of(url)} TEMPLATE template0"
            " ENCODING 'UTF8' LOCALE 'C' TABLESPACE small"
        )
    async with Database.open(url) as db:
        await db.write(METADATA.create_all)
        fill(small_disk)
        with pytest.raises(StorageUnavailableError) as caught:
            await db.write(lambda c: [put(c, f"{n:02000}") for n in range(1000)])
        seen = await db.read(names)
        (small_disk / "filler").unlink()
        after = await db.write(lambda c: [put(c, f"{n:02000}") for n in range(1000)])
    durable_postgres.drop()
    with durable_postgres.connect() as connection:
        connection.execute("DROP TABLESPACE small")

    assert isinstance(caught.value.__cause__, DBAPIError)
    assert isinstance(caught.value.__cause__.orig, DiskFull)
    assert seen == []
    assert after[-1] == 1000


def fill(folder: Path) -> None:
    """Write a file as large as fits."""
    with suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(65_536)):
            pass


async def test_a_crashed_server_is_used_again_when_it_is_back(
    durable_postgres: OwnPostgres,
) -> None:
    """What was acknowledged before is there; a process that starts meanwhile waits for it."""
    url = durable_postgres.new("crash")
    async with Database.open(url) as db:
        await db.write(METADATA.create_all)
        await db.write(partial(put, name="before"))
        durable_postgres.crash()
        outcomes = await asyncio.gather(
            db.write(partial(put, name="away")), db.read(names), return_exceptions=True
        )
        starting = asyncio.create_task(_names_of(url))
        await asyncio.to_thread(durable_postgres.start)
        back = time.monotonic()
        after = await db.write(partial(put, name="after"))
        usable = time.monotonic() - back
        seen = await db.read(names)
        started = await asyncio.wait_for(starting, 60)
    durable_postgres.drop()

    print(f"written {usable * 1000:.0f} ms after the server was back")
    assert [type(outcome) for outcome in outcomes] == [StorageUnavailableError] * 2
    assert after == 2
    assert seen == ["after", "before"]
    assert set(started) >= {"before"}
    assert usable < 15


async def test_a_process_that_drains_while_the_server_is_away_ends_at_once(
    durable_postgres: OwnPostgres,
) -> None:
    """Neither the listener's attempts nor the broken sessions hold it."""
    url = durable_postgres.new("drain")
    async with Database.open(url) as db:
        await db.write(METADATA.create_all)
        durable_postgres.crash()
        with pytest.raises(StorageUnavailableError):
            await db.write(partial(put, name="away"))
        started = time.monotonic()
        await db.aclose()
        took = time.monotonic() - started
    await asyncio.to_thread(durable_postgres.start)
    durable_postgres.drop()

    assert took < 10


async def _names_of(url: str) -> list[str]:
    async with Database.open(url) as db:
        return await db.read(names)
