"""Snapshots and replays at the sizes of the scoreboard (S3, S5)."""

import asyncio
import random
import signal
import time
from functools import partial
from typing import Final, TypeVar

import pytest
from sqlalchemy import delete

from consulmesh.testing.ports import free_port
from eventstream import Database
from tests.chaos.figures import LONG, figure
from tests.chaos.stream_parties import (
    PATIENCE,
    Party,
    begun,
    complete,
    digest,
    followed,
    head_of,
    left_over,
    load,
    parties,
    stand_at,
    tell,
)
from tests.databases import ENGINES, Databases
from tests.eventstream import mirror
from tests.eventstream.conftest import NOW
from tests.eventstream.test_follower import equal

T = TypeVar("T")

ROWS: Final = 100_000 if LONG else 10_000
EVENTS: Final = 1_000_000 if LONG else 10_000
SLOW: Final = 5.0  # seconds: a writer that waits longer than that for another fails
ON_EACH_WHEN_LONG = pytest.mark.parametrize("engine", ENGINES if LONG else ["sqlite"])

pytestmark = pytest.mark.timeout(2 * PATIENCE)


async def test_s3_a_reader_that_was_away_for_too_long_starts_anew(
    databases: Databases, engine: str
) -> None:
    """By a snapshot, during which rows change and go: it ends up equal, and holds nobody up."""
    chance = random.Random(1)
    async with mirror.source(databases("source")) as source, mirror.copy(databases("copy")) as copy:
        await load(source, ROWS)
        async with followed(source, copy):
            pass
        gone = mirror.FLIGHTS.c.distance_km % 10 == 0
        await source.write(lambda c: c.execute(delete(mirror.FLIGHTS).where(gone)))
        await source.write(lambda c: mirror.put(c, "f0000001", 1))
        await source.write(lambda c: mirror.OUTBOX.trim(c, keep=0, before=NOW))
        await source.write(lambda c: mirror.put(c, "f0000002", 2))
        writing = asyncio.create_task(_change_on(source, chance))
        waiting = asyncio.create_task(_longest_wait(copy))
        started = time.monotonic()
        async with followed(source, copy):
            seconds = time.monotonic() - started
            changes = await _end(writing)
            same = await equal(source, copy, PATIENCE)
        longest = await _end(waiting)
    figure(
        "S3",
        f"{engine}: {ROWS:,} rows again in {seconds:.1f} s, {changes:,} changes and deletes "
        f"meanwhile: equal; another writer at the reader waited {longest * 1e3:.0f} ms at most",
    )

    assert same
    assert changes > 0
    assert longest < SLOW


async def _change_on(source: Database, chance: random.Random) -> int:
    """Change and delete until cancelled; how often."""
    changes = 0
    try:
        while True:
            name, distance = f"f{chance.randrange(ROWS):07}", chance.randrange(9_000)
            remove = partial(mirror.remove, flight_id=name)
            put = partial(mirror.put, flight_id=name, distance_km=distance)
            await source.write(remove if chance.random() < 0.5 else put)
            changes += 1
            await asyncio.sleep(0.002)
    except asyncio.CancelledError:
        return changes


async def _longest_wait(copy: Database) -> float:
    """Write until cancelled; the longest that one unit took."""
    longest = 0.0
    try:
        while True:
            began = time.monotonic()
            await copy.write(lambda _: None)
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        return longest


async def _end(task: "asyncio.Task[T]") -> T:
    task.cancel()
    return await task


@ON_EACH_WHEN_LONG
async def test_s5_a_whole_history_is_replayed(databases: Databases, engine: str) -> None:
    """A consumer that begins at the beginning comes to the same state; how fast is the figure."""
    urls, port = (databases("source"), databases("copy")), free_port()
    async with mirror.source(urls[0]) as source, mirror.copy(urls[1]) as copy:
        await tell(source, EVENTS, EVENTS // 20)
        await stand_at(copy, (await head_of(source)).epoch, 0)
        producer = Party("producer", urls[0], port, 0, 0)
        with parties(producer, Party("consumer", urls[1], port)):
            first, started = await begun(copy, PATIENCE), time.monotonic()
            await complete(source, copy, EVENTS, PATIENCE)
            seconds = time.monotonic() - started
        states = digest(await source.read(mirror.state)), digest(await copy.read(mirror.copied))
    rate = (EVENTS - first) / seconds
    figure("S5", f"{engine}: {EVENTS:,} events replayed at {rate:,.0f} events/s, state {states[1]}")

    assert states[0] == states[1]


@ON_EACH_WHEN_LONG
async def test_s5_half_a_snapshot_is_never_taken_for_a_whole_one(
    databases: Databases, engine: str
) -> None:
    """Killed among the rows and at the end: no position until all of it is there."""
    urls, port = (databases("source"), databases("copy")), free_port()
    producer, consumer = Party("producer", urls[0], port, 0, 0), Party("consumer", urls[1], port)
    deaths = ["inbox.apply_rows:after:7", "inbox.complete_snapshot:written"]
    deaths += ["inbox.mark_rows:after", "inbox.sweep:written"] if LONG else []
    positions, found = [], []
    async with mirror.source(urls[0]) as source, mirror.copy(urls[1]) as copy:
        await load(source, ROWS)
        await copy.write(lambda c: mirror.apply(c, left_over()))
        with parties(producer):
            for death in deaths:
                consumer.start(MESH_FAILPOINT=death)
                assert await asyncio.to_thread(consumer.wait) == -signal.SIGKILL
                positions.append(await mirror.inbox(copy).position())
                found.append(len(await copy.read(mirror.copied)))
            with parties(consumer):
                await _whole(copy)
        states = digest(await source.read(mirror.state)), digest(await copy.read(mirror.copied))
    figure(
        "S5",
        f"{engine}: killed at {', '.join(deaths)} with {found} of {ROWS:,} rows: "
        "no position; then whole, equal",
    )

    assert positions == [None] * len(deaths)
    assert found[0] < ROWS
    assert states[0] == states[1]


async def _whole(copy: Database) -> None:
    """Wait until a copy has a position."""
    async with asyncio.timeout(PATIENCE):
        seen = copy.version
        while await mirror.inbox(copy).position() is None:
            seen = await copy.changed(seen)
