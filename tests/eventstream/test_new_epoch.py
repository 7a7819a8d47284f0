"""`python -m eventstream new-epoch`, as an operator runs it."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eventstream import Database, Follower
from tests.databases import ON_SQLITE, Databases
from tests.eventstream import mirror
from tests.eventstream.test_follower import equal, following

ROOT = Path(__file__).parents[2]


async def new_epoch(url: str, outbox: str = "flight") -> "subprocess.CompletedProcess[str]":
    """Run the command."""
    command = [sys.executable, "-m", "eventstream", "new-epoch", "--url", url, "--outbox", outbox]
    environ = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/gen"}
    return await asyncio.to_thread(
        subprocess.run,
        command,
        check=False,
        capture_output=True,
        text=True,
        env=environ,
        timeout=60,
        cwd=ROOT,
    )


async def followed(source: Database, copy: Database) -> bool:
    """Follow until the copy says what the source says; whether it does."""
    async with mirror.serving(source) as (watch, _):
        follower = Follower("flights", watch, mirror.inbox(copy))
        async with following(follower):
            await follower.caught_up.wait()
            return await equal(source, copy)


async def test_readers_take_a_snapshot_of_the_new_epoch(databases: Databases) -> None:
    """The command prints the epoch; a reader at a position of the old one starts anew."""
    url = databases("source")
    async with mirror.copy(databases("copy")) as copy:
        async with mirror.source(url) as source:
            await source.write(lambda c: [mirror.put(c, f"f{n}", n) for n in range(5)])
            first = await followed(source, copy)
        done = await new_epoch(url)
        async with mirror.source(url) as source:
            await source.write(lambda c: mirror.remove(c, "f3"))
            second = await followed(source, copy)
        position = await mirror.inbox(copy).position()

    assert first
    assert second
    assert done.returncode == 0
    assert position
    assert (position.epoch, position.seq) == (done.stdout.strip(), 1)


@ON_SQLITE
async def test_a_restored_backup_is_followed_again(databases: Databases, tmp_path: Path) -> None:
    """What came after the backup is gone in the copy too, and the same numbers mean other events.

    Without the new epoch the reader would stand in the future, or miss what is new before it.
    """
    url, file = databases("source"), tmp_path / "data" / "source.db"
    async with mirror.copy(databases("copy")) as copy:
        async with mirror.source(url) as source:
            await source.write(lambda c: [mirror.put(c, f"f{n}", n) for n in range(5)])
        shutil.copy(file, tmp_path / "backup.db")
        async with mirror.source(url) as source:
            await source.write(lambda c: [mirror.put(c, f"lost{n}", n) for n in range(5)])
            await source.write(lambda c: mirror.remove(c, "f0"))
            await followed(source, copy)
        shutil.copy(tmp_path / "backup.db", file)
        await new_epoch(url)
        async with mirror.source(url) as source:
            await source.write(lambda c: [mirror.put(c, f"new{n}", n) for n in range(6)])
            same = await followed(source, copy)
        names = sorted(await copy.read(mirror.copied))

    assert same
    assert names == [*(f"f{n}" for n in range(5)), *(f"new{n}" for n in range(6))]


@ON_SQLITE
@pytest.mark.parametrize(
    ("url", "outbox", "says"),
    [
        ("sqlite:///{}/missing.db", "flight", "there is no file"),
        ("sqlite:///{}/data/source.db", "ticket", "no outbox 'ticket'"),
        ("mysql://somewhere/source", "flight", "no support for 'mysql'"),
        ("nonsense", "flight", "Could not parse"),
    ],
)
async def test_a_mistake_is_told_and_makes_nothing(
    databases: Databases, tmp_path: Path, url: str, outbox: str, says: str
) -> None:
    """Neither a file nor an outbox that nobody has."""
    async with mirror.source(databases("source")):
        pass
    done = await new_epoch(url.format(tmp_path), outbox)

    assert done.returncode == 1
    assert says in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "missing.db").exists()
