import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection

from eventstream import Database, StorageUnavailableError
from eventstream.presence import Presence
from tests.databases import ON_SQLITE
from tests.eventstream.conftest import put

STAYS = """
import sys; from pathlib import Path; from eventstream.presence import Presence
presence = Presence.beside(Path(sys.argv[1])); print("there", flush=True); sys.stdin.read()
"""


def test_a_user_is_alone_until_another_comes_and_once_it_has_gone(tmp_path: Path) -> None:
    """Each sees the other, however often they ask."""
    first = Presence.beside(tmp_path / "a.db")
    before = first.alone()
    second = Presence.beside(tmp_path / "a.db")
    together = [user.alone() for user in (first, second, first, second)]
    second.close()
    second.close()
    after = first.alone()
    first.close()

    assert (before, after) == (True, True)
    assert together == [False] * 4
    assert not first.alone()


def test_a_killed_process_is_no_user(tmp_path: Path) -> None:
    """Its lock goes with it."""
    mine = Presence.beside(tmp_path / "a.db")
    command = [sys.executable, "-c", STAYS, str(tmp_path / "a.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        before = mine.alone()
        other.kill()
    after = mine.alone()
    mine.close()

    assert (before, after) == (False, True)


def test_a_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    """As is a database in it."""
    with pytest.raises(StorageUnavailableError):
        Presence.beside(tmp_path / "missing" / "a.db")


@ON_SQLITE
async def test_a_process_that_is_alone_hardly_looks_for_others(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some looks a second with nobody there, a hundred with somebody."""
    looks: list[float] = []

    def look(_connection: Connection) -> int:
        looks.append(time.monotonic())
        return 1

    monkeypatch.setattr("eventstream.sqlite.data_version", look)
    watching = asyncio.create_task(forever(db))
    began = time.monotonic()
    await asyncio.sleep(0.6)
    alone, took = len(looks), time.monotonic() - began
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)

    assert alone < 5 + 10 * took


@ON_SQLITE
async def test_commits_of_a_second_process_are_noticed_soon(db: Database, url: str) -> None:
    """Once the first has seen that there is a second, within some ten milliseconds."""
    async with Database.open(url) as other:
        await db.changed(await noticed(db, other, "first"))
        delays = []
        for n in range(15):
            seen = db.version
            started = time.monotonic()
            await other.write(lambda c, n=n: put(c, f"n{n}"))  # type: ignore[misc] # bound at once
            await db.changed(seen)
            delays.append(time.monotonic() - started)

    assert sorted(delays)[7] < 0.1


async def noticed(db: Database, other: Database, name: str) -> int:
    """Write by the other, and return the version before the one that follows from it."""
    seen = db.version
    await other.write(lambda c: put(c, name))
    return seen


async def forever(db: Database) -> None:
    """Wait for every change."""
    seen = db.version
    while True:
        seen = await db.changed(seen)
