"""What goes wrong with a SQLite file, provoked for real."""

import asyncio
import os
import resource
import shutil
import sqlite3
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection

from eventstream import Database, StorageUnavailableError
from tests.eventstream.conftest import METADATA, OUTBOX, names, put

PAGE = 4096


@pytest.fixture
def engine() -> str:
    """Return the only engine that these tests are about."""
    return "sqlite"


@pytest.fixture
def file(url: str) -> Path:
    """Return the file of the test's database."""
    return Path(url.removeprefix("sqlite:///"))


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the write lock as another program."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def files_bounded(size: int) -> Iterator[None]:
    """Let the kernel refuse to make any file of this process larger than that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def pages(file: Path) -> int:
    """Return how many pages a file has."""
    return file.stat().st_size // PAGE


@contextmanager
def garbage(file: Path, first: int, count: int = 1) -> Iterator[None]:
    """Overwrite pages, and put them back at the end."""
    with file.open("r+b", buffering=0) as opened:
        opened.seek(first * PAGE)
        sound = opened.read(count * PAGE)
        opened.seek(first * PAGE)
        opened.write(os.urandom(count * PAGE))
        yield
        opened.seek(first * PAGE)
        opened.write(sound)


def rubbish(file: Path) -> None:
    """Make a file that is no database."""
    file.parent.mkdir()
    file.write_bytes(b"not a database" * 1000)


def cut_off(file: Path, share: float) -> None:
    """Leave so much of a file."""
    os.truncate(file, int(file.stat().st_size * share))


@asynccontextmanager
async def lags() -> AsyncIterator[list[float]]:
    """Record by how much the event loop is late, every five milliseconds."""
    late: list[float] = []

    async def record() -> None:
        while True:
            due = time.monotonic() + 0.005
            await asyncio.sleep(0.005)
            late.append(time.monotonic() - due)

    task = asyncio.create_task(record())
    try:
        yield late
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_locked_database_refuses_units_in_time_and_the_loop_goes_on(
    url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units that arrive while it is locked fail within the patience, all of them; reads go on."""
    monkeypatch.setattr("eventstream.writer._PATIENCE", timedelta(seconds=0.5))
    async with Database.open(url) as db:
        await db.write(METADATA.create_all)
        with locked(file):
            async with lags() as late:
                started = time.monotonic()
                units = (db.write(partial(put, name=f"n{n}")) for n in range(200))
                outcomes = await asyncio.gather(*units, return_exceptions=True)
                took = time.monotonic() - started
                seen = await db.read(names)
        after = await db.write(partial(put, name="a"))

    print(f"200 units refused after {took:.2f} s; loop late by {_p99(late):.0f} ms (p99)")
    assert {type(outcome) for outcome in outcomes} == {StorageUnavailableError}
    assert took < 10  # one patience, and no hundred of them
    assert statistics.median(late) < 0.2
    assert seen == []
    assert after == 1


def _p99(late: list[float]) -> float:
    return sorted(late)[len(late) * 99 // 100] * 1000


async def test_a_full_disk_refuses_units_whole_and_recovers(url: str, file: Path) -> None:
    """What does not fit is unavailable and not half there; reads go on, and so do units later."""
    async with Database.open(url) as db:
        await db.write(METADATA.create_all)
        await db.write(partial(put, name="a"))
        wal = file.with_name(f"{file.name}-wal").stat().st_size
        with files_bounded(wal + 2 * PAGE):
            refused = await asyncio.gather(
                *(db.write(partial(put, name=f"{n:0900}")) for n in range(50)),
                return_exceptions=True,
            )
            seen = await db.read(names)
        after = await db.write(partial(put, name="b"))
        everything = await db.read(names)

    kept = [outcome for outcome in refused if not isinstance(outcome, BaseException)]
    failed = {type(outcome) for outcome in refused if isinstance(outcome, BaseException)}
    assert failed == {StorageUnavailableError}
    assert len(seen) == 1 + len(kept)
    assert after == 2 + len(kept)
    assert everything == sorted([*seen, "b"])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.77, 0.999])
async def test_a_torn_log_is_read_up_to_the_last_whole_commit(
    url: str, tmp_path: Path, file: Path, share: float
) -> None:
    """Wherever the log was cut off by a crash, what is left is whole, gapless and in order."""
    torn = tmp_path / "torn.db"
    async with Database.open(url) as db:
        await db.write(METADATA.create_all)
        for number in range(30):
            await db.write(partial(_two, number=number))
        shutil.copy(file, torn)
        shutil.copy(f"{file}-wal", f"{torn}-wal")
    cut_off(Path(f"{torn}-wal"), share)
    async with Database.open(f"sqlite:///{torn}") as db:
        await db.write(METADATA.create_all)
        events = await db.read(lambda c: OUTBOX.after(c, 0, 100))
        kept = await db.read(names)
        following = await db.write(partial(put, name="next"))

    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert len(events) % 2 == 0
    assert len(kept) == len(events) < 60
    assert following == len(events) + 1


def _two(connection: Connection, number: int) -> None:
    put(connection, f"{number:03}-a")
    put(connection, f"{number:03}-b")


async def test_a_damaged_file_is_refused_when_it_is_opened(url: str, file: Path) -> None:
    """Garbage in any of its pages keeps the process from starting; nothing is answered from it."""
    await _fill(url)
    refused = []
    for page in range(1, pages(file), 5):
        with garbage(file, page):
            try:
                async with Database.open(url):
                    refused.append(False)
            except StorageUnavailableError:
                refused.append(True)
    async with Database.open(url) as db:
        whole = len(await db.read(names))

    assert all(refused)
    assert len(refused) > 20
    assert whole == 2000


async def test_damage_that_comes_later_is_not_answered_from(url: str, file: Path) -> None:
    """Pages that are overwritten under a running process make the reads of them unavailable."""
    await _fill(url)
    async with Database.open(url) as db:
        with garbage(file, 2, pages(file) - 2):
            with pytest.raises(StorageUnavailableError):
                await db.read(names)
            with pytest.raises(StorageUnavailableError):
                await db.write(partial(put, name="a"))


async def _fill(url: str) -> None:
    """Make a database of many pages, closed, its log empty."""
    async with Database.open(url) as db:
        await db.write(METADATA.create_all)
        await db.write(lambda c: [put(c, f"{n:0100}") for n in range(2000)])


async def test_a_large_file_is_looked_through_for_a_bounded_time(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be checked in time is opened all the same, and that is logged."""
    await _fill(url)
    monkeypatch.setattr("eventstream.sqlite._CHECK", 0.0)
    monkeypatch.setattr("eventstream.sqlite._CHECK_STEPS", 1)
    async with Database.open(url) as db:
        count = len(await db.read(names))

    assert count == 2000


async def test_a_file_that_is_no_database_is_unavailable(url: str, file: Path) -> None:
    """Opening rubbish says so instead of serving it."""
    rubbish(file)
    with pytest.raises(StorageUnavailableError, match=r"test\.db"):
        async with Database.open(url):
            pass


async def test_a_folder_that_can_not_be_made_is_unavailable(tmp_path: Path) -> None:
    """As where a file stands in its place."""
    (tmp_path / "data").touch()
    with pytest.raises(StorageUnavailableError):
        async with Database.open(f"sqlite:///{tmp_path}/data/x.db"):
            pass
