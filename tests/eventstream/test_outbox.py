import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import IO

import pytest
from sqlalchemy import Connection

from eventstream import Database
from eventstream.outbox import Head, Stored
from tests.eventstream.conftest import METADATA, NOW, OUTBOX, put

ROOT = Path(__file__).parents[2]
WRITER = """
import asyncio, sys
from eventstream import Database
from tests.eventstream.conftest import put

async def main(url, name, count):
    async with Database.open(url) as db:
        def unit(connection, number):
            put(connection, f"{name}-{number:06}-a")
            put(connection, f"{name}-{number:06}-b")
        for first in range(0, count, 10):
            await asyncio.gather(*(
                db.write(lambda c, n=n: unit(c, n)) for n in range(first, first + 10)
            ))
            print(first, flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


ON_DEMAND = """
import asyncio, sys, time
from eventstream import Database
from tests.eventstream.conftest import put

async def main(url):
    async with Database.open(url) as db:
        print("ready", flush=True)
        for number, _ in enumerate(sys.stdin):
            await db.write(lambda c: put(c, str(number)))
            print(time.time(), flush=True)

asyncio.run(main(sys.argv[1]))
"""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a process of this interpreter."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT}/gen"},
    )


async def stored(db: Database, after: int = 0) -> Sequence[Stored]:
    """Return all events after a number."""
    return await db.read(lambda c: OUTBOX.after(c, after, 1_000_000))


async def test_numbers_are_gapless_although_units_fail(db: Database) -> None:
    """A unit that is rolled back gives its number back."""

    def fails(connection: Connection) -> None:
        put(connection, "x")
        raise LookupError

    await db.write(lambda c: put(c, "a"))
    with pytest.raises(LookupError):
        await db.write(fails)
    await db.write(lambda c: put(c, "b"))

    assert [event.seq for event in await stored(db)] == [1, 2]


async def test_events_of_one_unit_share_its_number(db: Database) -> None:
    """Whether appended one by one or together, a unit's events carry its first one's number."""

    def one_by_one(connection: Connection) -> None:
        put(connection, "a")
        put(connection, "b")

    await db.write(one_by_one)
    await db.write(lambda c: OUTBOX.append_many(c, [("a", b"1", NOW), ("b", b"2", NOW)]))
    none = await db.write(lambda c: OUTBOX.append_many(c, []))

    assert [event.unit for event in await stored(db)] == [1, 1, 3, 3]
    assert none == 4


async def test_two_writer_processes_number_gapless_and_in_commit_order(url: str) -> None:
    """A thousand units of two processes: no gap, no unit torn apart, each process in its order."""
    async with Database.open(url) as db:
        await db.write(METADATA.create_all)
        writers = [start(WRITER, url, name, "500") for name in ("p", "q")]
        codes = asyncio.gather(*(asyncio.to_thread(writer.wait, 60) for writer in writers))
        heads: list[Head | None] = []
        while not codes.done():
            heads.append(await db.read(OUTBOX.head))
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await db.changed(db.version)
        for writer in writers:
            writer.communicate()
        events = await stored(db)

    assert await codes == [0, 0]
    assert len({head.epoch for head in heads if head}) == 1
    assert [head.seq for head in heads if head] == sorted(head.seq for head in heads if head)
    assert [event.seq for event in events] == list(range(1, 2001))
    assert all(a.unit == b.unit == a.seq for a, b in zip(events[::2], events[1::2], strict=True))


async def test_a_writer_killed_in_the_middle_leaves_no_half_unit(url: str) -> None:
    """After kill -9 the numbers are gapless, every unit is whole, and what was said is there."""
    async with Database.open(url) as db:
        await db.write(METADATA.create_all)
        writer = start(WRITER, url, "p", "100000")
        assert writer.stdout
        acknowledged = [writer.stdout.readline() for _ in range(20)][-1]
        writer.kill()
        writer.wait(30)
        writer.communicate()
        events = await stored(db)
        after = await db.write(lambda c: put(c, "next"))

    assert len(events) % 2 == 0
    assert len(events) >= 2 * (int(acknowledged) + 10)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert after == len(events) + 1


async def test_a_new_epoch_starts_over(db: Database) -> None:
    """A new history has another name, no events, and counts from one."""
    await db.write(lambda c: put(c, "a"))
    before = await db.read(OUTBOX.head)
    epoch = await db.write(OUTBOX.start_epoch)
    after = await db.read(OUTBOX.head)
    first = await db.write(lambda c: put(c, "b"))

    assert before
    assert after
    assert before.epoch != epoch == after.epoch
    assert (before.seq, after.seq, first) == (1, 0, 1)


@pytest.mark.parametrize(
    ("keep", "before", "left"),
    [
        (4, NOW - timedelta(days=1), [7, 8, 9, 10]),
        (100, NOW + timedelta(seconds=6), [6, 7, 8, 9, 10]),
        (3, NOW + timedelta(seconds=6), [8, 9, 10]),
        (100, NOW, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (0, NOW, []),
        (100, NOW + timedelta(days=1), []),
    ],
)
async def test_trimming_keeps_the_newest_by_count_and_age(
    db: Database, keep: int, before: object, left: list[int]
) -> None:
    """What is beyond the count or older than the age goes, from the oldest on."""
    rows = [(str(n), b"", NOW + timedelta(seconds=n)) for n in range(1, 11)]
    await db.write(lambda c: OUTBOX.append_many(c, rows))
    removed = [
        await db.write(lambda c: OUTBOX.trim(c, keep=keep, before=before, limit=4))  # type: ignore[arg-type]  # parametrised
        for _ in range(4)
    ]

    assert [event.seq for event in await stored(db)] == left
    assert sum(removed) == 10 - len(left)
    assert max(removed) <= 4


async def test_a_commit_of_another_process_is_noticed_soon(db: Database, url: str) -> None:
    """Somebody who waits sees another process's event soon after its commit returned there."""
    writer = start(ON_DEMAND, url)
    assert writer.stdin
    assert writer.stdout
    delays: list[float] = []
    while await asyncio.to_thread(writer.stdout.readline) != "ready\n":
        pass
    for number in range(1, 16):
        seen = db.version
        await asyncio.to_thread(_say, writer.stdin)
        while len(await stored(db)) < number:
            seen = await db.changed(seen)
        noticed = time.time()
        delays.append(noticed - float(await asyncio.to_thread(writer.stdout.readline)))
    writer.stdin.close()
    code = writer.wait(30)
    writer.stdout.close()

    assert statistics.median(delays) < 0.1
    assert code == 0


def _say(pipe: IO[str]) -> None:
    pipe.write("now\n")
    pipe.flush()
