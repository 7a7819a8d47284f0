import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import Connection

from eventstream import Batch, Database, DatabaseClosedError
from flights.schedule.v1.schedule_pb2 import FlightEvent
from streams.v1.stream_pb2 import (
    PHASE_BOOKMARK,
    PHASE_EVENTS,
    PHASE_SNAPSHOT,
    PHASE_SNAPSHOT_COMPLETED,
    PHASE_SNAPSHOT_STARTED,
    Cursor,
)
from tests.eventstream import mirror
from tests.eventstream.conftest import NOW

SNAPSHOT = [PHASE_SNAPSHOT_STARTED, PHASE_SNAPSHOT, PHASE_SNAPSHOT_COMPLETED]


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """Return a database without flights."""
    async with mirror.source(database_url) as source:
        yield source


async def read(
    db: Database, cursor: Cursor | None, count: int, *, rows: bool = True
) -> Sequence[Batch[FlightEvent]]:
    """Return the first batches that a reader at `cursor` gets."""
    batches: list[Batch[FlightEvent]] = []
    async with asyncio.timeout(10), aclosing(mirror.feed(db).watch(cursor, rows=rows)) as stream:
        async for batch in stream:
            batches.append(batch)
            if len(batches) == count:
                break
    return batches


async def cursor_at(db: Database, seq: int) -> Cursor:
    """Return a cursor of this history."""
    head = await db.read(mirror.OUTBOX.head)
    assert head
    return Cursor(epoch=head.epoch, seq=seq)


def put_many(connection: Connection, count: int, prefix: str = "f") -> None:
    """Create flights in one unit."""
    for n in range(count):
        mirror.put(connection, f"{prefix}{n:05}", n)


async def test_a_reader_without_a_cursor_gets_a_snapshot_then_events(db: Database) -> None:
    """Position, rows in key order, position again, then a bookmark at it."""
    await db.write(lambda c: put_many(c, 3))
    await db.write(lambda c: mirror.remove(c, "f00001"))
    batches = await read(db, None, 4)

    assert [batch.phase for batch in batches] == [*SNAPSHOT, PHASE_BOOKMARK]
    assert [mirror.key(event) for event in batches[1].events] == ["f00000", "f00002"]
    assert [batch.cursor.seq if batch.cursor else None for batch in batches] == [4, None, 4, 4]


async def test_an_empty_source_is_complete_at_once(db: Database) -> None:
    """A history that has not begun is a snapshot of nothing at number 0, and has an epoch."""
    started, completed, bookmark = await read(db, None, 3)

    assert [b.phase for b in (started, completed, bookmark)] == [*SNAPSHOT[::2], PHASE_BOOKMARK]
    assert completed.cursor
    assert completed.cursor.epoch != ""
    assert bookmark.cursor == completed.cursor == await cursor_at(db, 0)


async def test_every_cursor_resumes_with_exactly_the_next_event(db: Database) -> None:
    """At each of 200 positions, while another task writes on, nothing is skipped or repeated."""
    for n in range(100):
        await db.write(partial(put_many, count=2, prefix=f"p{n:03}-"))
    writing = asyncio.create_task(_write_on(db))
    first: list[int] = []
    gaps: list[int] = []
    for seq in range(201):
        (batch,) = await read(db, await cursor_at(db, seq), 1)
        assert batch.cursor
        assert batch.phase in {PHASE_EVENTS, PHASE_BOOKMARK}
        first.append(batch.cursor.seq - len(batch.events))
        stored = await db.read(lambda c, n=seq: mirror.OUTBOX.after(c, n, 500))  # type: ignore[misc]  # mypy can't infer it
        expected = [FlightEvent.FromString(event.payload) for event in stored]
        if list(batch.events) != expected[: len(batch.events)]:
            gaps.append(seq)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)

    assert first == list(range(201))
    assert gaps == []


async def _write_on(db: Database) -> None:
    for n in range(1_000_000):
        await db.write(partial(mirror.put, flight_id="busy", distance_km=n))


@pytest.mark.parametrize("why", ["too old", "other epoch", "future"])
async def test_a_cursor_that_cannot_be_continued_gets_a_snapshot(db: Database, why: str) -> None:
    """A reader whose place is gone is told so by a snapshot, never by a gap."""
    await db.write(lambda c: put_many(c, 10))
    await db.write(lambda c: mirror.OUTBOX.trim(c, keep=4, before=NOW - timedelta(days=1)))
    place = {"too old": 5, "other epoch": 8, "future": 11}[why]
    cursor = await cursor_at(db, place)
    if why == "other epoch":
        cursor.epoch = "another"
    batches = await read(db, cursor, 4)

    assert [batch.phase for batch in batches] == [*SNAPSHOT, PHASE_BOOKMARK]
    assert batches[2].cursor == await cursor_at(db, 10)


async def test_a_reader_of_changes_only_starts_at_the_end(db: Database) -> None:
    """It gets the position and no rows, however many there are, and then what happens."""
    await db.write(lambda c: put_many(c, 3))
    async with aclosing(mirror.feed(db).watch(None, rows=False)) as stream:
        started, completed, bookmark = [await anext(stream) for _ in range(3)]
        await db.write(lambda c: mirror.put(c, "f00001", 99))
        changes = await anext(stream)

    assert [b.phase for b in (started, completed, bookmark)] == [*SNAPSHOT[::2], PHASE_BOOKMARK]
    assert started.cursor == completed.cursor == await cursor_at(db, 3)
    assert completed.read_time is not None
    assert [mirror.key(event) for event in changes.events] == ["f00001"]
    assert changes.cursor == await cursor_at(db, 4)


async def test_a_reader_of_changes_only_is_continued_as_any_other(db: Database) -> None:
    """A cursor that is kept is followed by exactly the next event."""
    await db.write(lambda c: put_many(c, 3))
    (batch,) = await read(db, await cursor_at(db, 1), 1, rows=False)

    assert batch.phase == PHASE_EVENTS
    assert [mirror.key(event) for event in batch.events] == ["f00001", "f00002"]


@pytest.mark.parametrize("why", ["too old", "other epoch", "future"])
async def test_a_reader_of_changes_only_is_told_that_it_missed_some(db: Database, why: str) -> None:
    """Where its place is gone it gets the frame of a snapshot, empty, and goes on at its end."""
    await db.write(lambda c: put_many(c, 10))
    await db.write(lambda c: mirror.OUTBOX.trim(c, keep=4, before=NOW - timedelta(days=1)))
    cursor = await cursor_at(db, {"too old": 5, "other epoch": 8, "future": 11}[why])
    if why == "other epoch":
        cursor.epoch = "another"
    batches = await read(db, cursor, 3, rows=False)

    assert [batch.phase for batch in batches] == [*SNAPSHOT[::2], PHASE_BOOKMARK]
    assert {batch.cursor.seq for batch in batches if batch.cursor} == {10}
    assert not any(batch.events for batch in batches)


async def test_the_oldest_cursor_that_trimming_leaves_is_continued(db: Database) -> None:
    """A reader whose next event is the oldest that is kept goes on without a snapshot."""
    await db.write(lambda c: put_many(c, 10))
    await db.write(lambda c: mirror.OUTBOX.trim(c, keep=4, before=NOW - timedelta(days=1)))
    (batch,) = await read(db, await cursor_at(db, 6), 1)

    assert batch.phase == PHASE_EVENTS
    assert len(batch.events) == 4


async def test_a_new_epoch_reaches_a_reader_in_mid_stream(db: Database) -> None:
    """A reader that is up to date gets a snapshot when the history starts anew."""
    await db.write(lambda c: put_many(c, 2))
    async with aclosing(mirror.feed(db).watch(await cursor_at(db, 2))) as stream:
        bookmark = await anext(stream)
        epoch = await db.write(mirror.OUTBOX.start_epoch)
        started = await anext(stream)

    assert bookmark.phase == PHASE_BOOKMARK
    assert started.phase == PHASE_SNAPSHOT_STARTED
    assert started.cursor == Cursor(epoch=epoch, seq=0)


async def test_an_idle_stream_says_every_second_that_nothing_happened(db: Database) -> None:
    """Bookmarks come at once and then each second, each read later than the last."""
    await db.write(lambda c: put_many(c, 1))
    loop = asyncio.get_running_loop()
    started = loop.time()
    batches = await read(db, await cursor_at(db, 1), 3)
    took = loop.time() - started
    times = [batch.read_time.ToNanoseconds() for batch in batches if batch.read_time]

    assert [batch.phase for batch in batches] == [PHASE_BOOKMARK] * 3
    assert {batch.cursor.seq for batch in batches if batch.cursor} == {1}
    assert 1.9 < took < 10
    assert times == sorted(set(times))


async def test_a_commit_just_after_the_last_look_is_not_overlooked(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that is committed between a read and the wait for changes comes at once."""
    cursor = Cursor(epoch=await db.write(mirror.OUTBOX.start_epoch), seq=0)
    read_page = db.read

    async def read_then_commit(query: Callable[[Connection], object]) -> object:
        page = await read_page(query)
        monkeypatch.setattr(db, "read", read_page)
        await db.write(lambda c: put_many(c, 1))
        return page

    monkeypatch.setattr("eventstream.feed._BOOKMARK_EVERY", 60.0)
    monkeypatch.setattr(db, "read", read_then_commit)
    async with aclosing(mirror.feed(db).watch(cursor)) as stream:
        bookmark = await anext(stream)
        async with asyncio.timeout(30):
            event = await anext(stream)

    assert [bookmark.phase, event.phase] == [PHASE_BOOKMARK, PHASE_EVENTS]


async def test_a_batch_ends_where_a_unit_ends(db: Database) -> None:
    """Units that fit are never split; one that is larger than a batch is, and only it."""
    for size in (300, 300, 1200):
        await db.write(partial(put_many, count=size, prefix=f"u{size}-"))
    batches = await read(db, await cursor_at(db, 0), 5)

    assert [len(batch.events) for batch in batches] == [300, 300, 500, 500, 200]
    assert [batch.read_time is not None for batch in batches] == [False] * 4 + [True]


async def test_a_change_during_a_snapshot_comes_after_it(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed while rows are sent follows as events, whether or not a row had it."""
    monkeypatch.setattr("eventstream.feed.BATCH", 2)
    await db.write(lambda c: put_many(c, 4))
    async with aclosing(mirror.feed(db).watch(None)) as stream:
        batches = [await anext(stream), await anext(stream)]
        await db.write(lambda c: mirror.put(c, "f00000", 99))
        await db.write(lambda c: mirror.put(c, "f00003", 99))
        batches += [await anext(stream) for _ in range(3)]

    late = batches[2].events[1].flight_changed
    assert [batch.phase for batch in batches] == [
        PHASE_SNAPSHOT_STARTED,
        PHASE_SNAPSHOT,
        PHASE_SNAPSHOT,
        PHASE_SNAPSHOT_COMPLETED,
        PHASE_EVENTS,
    ]
    assert (late.flight_id, late.distance_km) == ("f00003", 99)
    assert [mirror.key(event) for event in batches[4].events] == ["f00000", "f00003"]


async def test_a_slow_reader_holds_up_nobody(db: Database) -> None:
    """While one reader does not take its batch, another gets every event and the writer goes on."""
    await db.write(lambda c: put_many(c, 1))
    async with aclosing(mirror.feed(db).watch(await cursor_at(db, 0))) as slow:
        await anext(slow)
        for n in range(20):
            await db.write(partial(put_many, count=100, prefix=f"s{n}-"))
        batches = await read(db, await cursor_at(db, 1), 4)
        resumed = await anext(slow)

    assert sum(len(batch.events) for batch in batches) == 2000
    assert len(resumed.events) == 500


async def test_a_stream_ends_when_the_database_closes(database_url: str) -> None:
    """A reader of a process that drains is told, not left waiting."""
    async with (
        mirror.source(database_url) as db,
        aclosing(mirror.feed(db).watch(None)) as stream,
    ):
        for _ in range(3):
            await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        await db.aclose()
        with pytest.raises(DatabaseClosedError):
            await waiting
