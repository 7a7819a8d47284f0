from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from functools import partial

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from eventstream import Database, PositionMovedError, SqlInbox
from eventstream.dead_letters import Retried
from flights.schedule.v1.schedule_pb2 import Flight, FlightEvent, FlightRemoved
from streams.v1.stream_pb2 import Cursor
from tests.eventstream import mirror
from tests.eventstream.conftest import NOW

BROKEN = -1
"""A distance that the copies can't take."""


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """Return a database without copies."""
    async with mirror.copy(database_url) as copy:
        yield copy


def changed(flight_id: str, version: int, distance_km: int) -> FlightEvent:
    """Return the event of a changed flight."""
    flight = Flight(flight_id=flight_id, version=version, distance_km=distance_km)
    return FlightEvent(flight_changed=flight)


def removed(flight_id: str, version: int) -> FlightEvent:
    """Return the event of a removed flight."""
    return FlightEvent(flight_removed=FlightRemoved(flight_id=flight_id, version=version))


def at(seq: int) -> Cursor:
    """Return a cursor of one history."""
    return Cursor(epoch="e", seq=seq)


async def begun(db: Database) -> SqlInbox[FlightEvent]:
    """Return an inbox that stands at 0 after a snapshot of nothing."""
    inbox = mirror.inbox(db)
    await inbox.position()
    await inbox.start_snapshot()
    await inbox.complete_snapshot(at(0))
    return inbox


async def test_events_and_cursor_are_stored_together(db: Database) -> None:
    """After a batch the rows and the position are those of its cursor, for a new inbox too."""
    inbox = await begun(db)
    await inbox.apply([changed("a", 1, 10), changed("b", 1, 20)], at(2))
    position = await mirror.inbox(db).position()

    assert position == at(2)
    assert await db.read(mirror.copied) == {"a": (1, 10), "b": (1, 20)}


async def test_a_snapshot_that_was_cut_off_leaves_no_position(db: Database) -> None:
    """Rows of half a snapshot are there, the position is not: the next run starts anew."""
    inbox = await begun(db)
    await inbox.apply([changed("a", 1, 10)], at(1))
    await inbox.start_snapshot()
    await inbox.apply([changed("b", 1, 20)], None)

    assert await mirror.inbox(db).position() is None


async def test_a_snapshot_removes_what_it_did_not_contain(db: Database) -> None:
    """Rows that were deleted while nobody followed are gone when the snapshot is complete."""
    inbox = await begun(db)
    await inbox.apply([changed("a", 1, 10), changed("b", 1, 20)], at(2))
    await inbox.start_snapshot()
    await inbox.apply([changed("b", 1, 20), changed("c", 1, 30)], None)
    during = await db.read(mirror.copied)
    await inbox.complete_snapshot(at(7))

    assert sorted(during) == ["a", "b", "c"]
    assert sorted(await db.read(mirror.copied)) == ["b", "c"]
    assert await inbox.position() == at(7)


async def test_an_older_version_never_overwrites_a_newer_one(db: Database) -> None:
    """The documented pattern of `apply`: a late version changes nothing."""
    inbox = await begun(db)
    await inbox.apply([changed("a", 5, 50)], at(1))
    await inbox.apply([changed("a", 4, 40), removed("a", 4)], at(3))

    assert await db.read(mirror.copied) == {"a": (5, 50)}


async def test_of_two_consumers_one_moves_the_position(db: Database) -> None:
    """A second consumer that read the same position applies nothing, and goes on once it reads."""
    first, second = await begun(db), mirror.inbox(db)
    await second.position()
    await first.apply([changed("a", 1, 10)], at(1))
    with pytest.raises(PositionMovedError):
        await second.apply([changed("a", 1, 10), changed("x", 1, 1)], at(2))
    lost = await db.read(mirror.copied)
    position = await second.position()
    await second.apply([changed("b", 1, 20)], at(2))

    assert lost == {"a": (1, 10)}
    assert position == at(1)
    assert await second.position() == at(2)


async def test_of_two_consumers_that_begin_one_starts_the_snapshot(db: Database) -> None:
    """Also where there is no position yet, and in the middle of a snapshot."""
    first, second = mirror.inbox(db), mirror.inbox(db)
    assert [await first.position(), await second.position()] == [None, None]

    await first.start_snapshot()
    with pytest.raises(PositionMovedError):
        await second.start_snapshot()
    await second.position()
    await first.apply([changed("a", 1, 10)], None)
    with pytest.raises(PositionMovedError):
        await second.complete_snapshot(at(3))


async def test_a_poison_event_is_kept_and_the_others_are_applied(db: Database) -> None:
    """The event that can't be applied becomes a letter with its number and reason."""
    inbox = await begun(db)
    await inbox.apply([changed("a", 1, 10), changed("b", 1, BROKEN), changed("c", 1, 30)], at(3))
    (letter,) = await inbox.dead_letters()

    assert sorted(await db.read(mirror.copied)) == ["a", "c"]
    assert await inbox.position() == at(3)
    assert (letter.key, letter.seq, letter.attempts) == ("b", 2, 1)
    assert letter.reason == "ValueError: -1 km"
    assert REGISTRY.get_sample_value("eventstream_dead_letters", {"source": "flights"}) == 1


async def test_a_later_event_of_the_key_supersedes_the_letter(db: Database) -> None:
    """Once a newer state is applied the letter is gone: it could only bring back the old one."""
    inbox = await begun(db)
    await inbox.apply([changed("a", 1, BROKEN), changed("b", 1, BROKEN)], at(2))
    await inbox.apply([changed("a", 2, 20), removed("b", 2)], at(4))

    assert await inbox.dead_letters() == []
    assert await db.read(mirror.copied) == {"a": (2, 20)}


async def test_a_later_poison_event_of_the_key_takes_the_letters_place(db: Database) -> None:
    """There is one letter for a key, the newest."""
    inbox = await begun(db)
    await inbox.apply([changed("a", 1, BROKEN)], at(1))
    await inbox.apply([changed("a", 2, BROKEN)], at(2))

    assert [letter.seq for letter in await inbox.dead_letters()] == [2]


async def test_a_snapshot_replaces_the_letters(db: Database) -> None:
    """What it says anew counts; what it does not contain is gone."""
    inbox = await begun(db)
    await inbox.apply([changed("a", 1, BROKEN), changed("b", 1, BROKEN)], at(2))
    await inbox.start_snapshot()
    await inbox.apply([changed("b", 2, BROKEN)], None)
    await inbox.complete_snapshot(at(9))

    assert [(letter.key, letter.seq) for letter in await inbox.dead_letters()] == [("b", None)]


async def test_a_letter_is_applied_once_its_cause_is_gone(db: Database) -> None:
    """Retried when due; it waits longer each time it fails, and goes when it is applied."""
    now = NOW
    limit = 0

    def apply(connection: Connection, event: FlightEvent) -> None:
        if event.flight_changed.distance_km < limit:
            raise LookupError("no such distance")
        mirror.apply(connection, event)

    inbox = mirror.inbox(db, apply=apply, clock=lambda: now, jitter=lambda: 0.5)
    limit = 50
    await inbox.position()
    await inbox.apply([changed("a", 1, 10)], at(1))
    early = await inbox.retry_due()
    now += timedelta(minutes=1)
    failed = await inbox.retry_due()
    (letter,) = await inbox.dead_letters()
    limit = 0
    not_due = await inbox.retry_due()
    asked = await inbox.retry(["a"])

    assert [early, failed, not_due] == [60, 120, 120]
    assert asked == Retried(applied=1, failed=0)
    assert (letter.attempts, letter.next_attempt_time) == (2, now + timedelta(minutes=2))
    assert await inbox.dead_letters() == []
    assert await db.read(mirror.copied) == {"a": (1, 10)}


async def test_a_letter_brings_back_nothing_old(db: Database) -> None:
    """Poison, then two newer states, one of them poison too: what counts is the newest."""
    inbox = mirror.inbox(db, apply=_picky, clock=lambda: NOW)
    await inbox.position()
    _REFUSED.update({1, 3})
    await inbox.apply([changed("a", n, n) for n in (1, 2)], at(2))
    superseded = await inbox.dead_letters()
    await inbox.apply([changed("a", 3, 3)], at(3))
    (letter,) = await inbox.dead_letters()
    _REFUSED.clear()
    retried = await inbox.retry(["a"])

    assert superseded == []
    assert (letter.seq, letter.attempts) == (3, 1)
    assert retried == Retried(applied=1)
    assert await db.read(mirror.copied) == {"a": (3, 3)}


_REFUSED: set[int] = set()


def _picky(connection: Connection, event: FlightEvent) -> None:
    if event.flight_changed.version in _REFUSED:
        raise LookupError("refused")
    mirror.apply(connection, event)


async def test_events_without_a_key_are_all_kept(db: Database) -> None:
    """An event so strange that it names no row has a letter of its own."""
    inbox = await begun(db)
    await inbox.apply([changed("", 1, BROKEN), changed("", 2, BROKEN)], at(2))
    letters = await inbox.dead_letters()

    assert [letter.seq for letter in sorted(letters, key=lambda letter: letter.seq or 0)] == [1, 2]


async def test_rows_are_marked_and_swept_in_parts(db: Database) -> None:
    """Work that says that more is left goes on in other units; the cursor comes after all of it."""
    inbox = mirror.inbox(
        db, start=partial(mirror.start, limit=1), sweep=partial(mirror.sweep, limit=1)
    )
    await inbox.position()
    await inbox.start_snapshot()
    await inbox.apply([changed(name, 1, 1) for name in "abcd"], None)
    await inbox.complete_snapshot(at(4))
    before = db.version
    await inbox.start_snapshot()
    await inbox.apply([changed("b", 1, 1)], None)
    await inbox.complete_snapshot(at(5))

    assert db.version - before >= 10
    assert list(await db.read(mirror.copied)) == ["b"]
    assert await inbox.position() == at(5)


async def test_a_long_batch_is_applied_in_parts(db: Database) -> None:
    """Each has the position that it reaches, and a dead letter its number in the whole stream."""
    sizes: list[int] = []

    def apply_many(connection: Connection, events: Sequence[FlightEvent]) -> None:
        sizes.append(len(events))
        for event in events:
            mirror.apply(connection, event)

    inbox = mirror.inbox(db, apply_many=apply_many, at_most=2)
    await inbox.position()
    await inbox.apply([changed(name, 1, 1) for name in "abc"], None)
    await inbox.apply([changed(name, 2, 1) for name in "abcd"] + [changed("e", 2, BROKEN)], at(9))
    (letter,) = await inbox.dead_letters()

    assert sizes == [2, 1, 2, 2, 1]
    assert (letter.key, letter.seq) == ("e", 9)
    assert await inbox.position() == at(9)


async def test_the_first_snapshot_comes_in_whole_batches(db: Database) -> None:
    """Nobody is served before it is complete. What comes later is cut, other snapshots too."""
    sizes: list[int] = []

    def apply_many(connection: Connection, events: Sequence[FlightEvent]) -> None:
        sizes.append(len(events))
        for event in events:
            mirror.apply(connection, event)

    rows = [changed(name, 1, 1) for name in "abc"]
    inbox = mirror.inbox(db, apply_many=apply_many, at_most=2)
    for _ in range(2):
        await inbox.position()
        await inbox.start_snapshot()
        await inbox.apply(rows, None)
        await inbox.complete_snapshot(at(3))
        await inbox.apply([changed(name, 2, 1) for name in "abc"], at(6))

    assert sizes == [3, 2, 1, 2, 1, 2, 1]


async def test_a_batch_that_was_cut_off_goes_on_where_it_was(db: Database) -> None:
    """Parts that are durable are not asked for again: the position is theirs."""

    def apply_many(connection: Connection, events: Sequence[FlightEvent]) -> None:
        for event in events:
            mirror.apply(connection, event)
        if mirror.key(events[0]) == "c":
            connection.execute(text("SELECT * FROM missing"))

    inbox = mirror.inbox(db, apply_many=apply_many, at_most=2)
    await inbox.position()
    with pytest.raises(DBAPIError, match="missing"):
        await inbox.apply([changed(name, 1, 1) for name in "abcd"], at(14))

    assert await mirror.inbox(db).position() == at(12)
    assert list(await db.read(mirror.copied)) == ["a", "b"]


async def test_a_failing_database_is_no_poison(db: Database) -> None:
    """A statement that the database can't run is raised, and neither rows nor position moved."""

    def broken(connection: Connection, events: Sequence[FlightEvent]) -> None:
        mirror.apply(connection, events[0])
        connection.execute(text("SELECT * FROM missing"))

    inbox = mirror.inbox(db, apply_many=broken)
    await inbox.position()
    with pytest.raises(DBAPIError, match="missing"):
        await inbox.apply([changed("a", 1, 10)], at(1))

    assert await inbox.position() is None
    assert await db.read(mirror.copied) == {}
    assert await inbox.dead_letters() == []
