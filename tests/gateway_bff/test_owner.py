from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Protocol

import pytest
from sqlalchemy import Connection

from eventstream import Database
from flights.schedule.v1.schedule_pb2 import WatchFlightsRequest
from streams.v1.stream_pb2 import Cursor, Phase
from tests.databases import Databases
from tests.eventstream import mirror
from tests.eventstream.conftest import NOW
from tests.gateway_bff.owner import Owner, schedule_owner

Batch = tuple[str, int, list[str]]


class Party(Protocol):
    """An owner, and what a test must be able to bring about."""

    async def put(self, flight_id: str) -> None:
        """Change a flight."""

    async def trim(self, keep: int) -> None:
        """Forget all events but some."""

    async def cursor(self, seq: int) -> Cursor:
        """A position."""

    def watch(self, cursor: Cursor | None) -> Any:
        """What a reader of changes only is told: phase, position, flights."""


class FakeParty:
    """The fake."""

    def __init__(self) -> None:
        self._owner: Owner = schedule_owner()

    async def put(self, flight_id: str) -> None:
        """Change a flight."""
        self._owner.put(flight_id, 1)

    async def trim(self, keep: int) -> None:
        """Forget all events but some."""
        self._owner.trimmed = self._owner.seq - keep

    async def cursor(self, seq: int) -> Cursor:
        """A position."""
        return self._owner.cursor(seq)

    async def watch(self, cursor: Cursor | None) -> AsyncIterator[Batch]:
        """What a reader is told."""
        request = WatchFlightsRequest(cursor=cursor, changes_only=True)
        async with aclosing(self._owner.watch(request)) as responses:  # type: ignore[type-var]  # it is a generator
            async for response in responses:
                yield told(response)


class RealParty:
    """The feed of an outbox in a database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def put(self, flight_id: str) -> None:
        """Change a flight."""
        await self._db.write(lambda c: mirror.put(c, flight_id, 1))

    async def trim(self, keep: int) -> None:
        """Forget all events but some."""

        def trim(connection: Connection) -> object:
            return mirror.OUTBOX.trim(connection, keep=keep, before=NOW.replace(year=2000))

        await self._db.write(trim)

    async def cursor(self, seq: int) -> Cursor:
        """A position."""
        head = await self._db.read(mirror.OUTBOX.head)
        assert head
        return Cursor(epoch=head.epoch, seq=seq)

    async def watch(self, cursor: Cursor | None) -> AsyncIterator[Batch]:
        """What a reader is told."""
        async with aclosing(mirror.feed(self._db).watch(cursor, rows=False)) as batches:
            async for batch in batches:
                yield told(mirror.answer(batch))


def told(response: Any) -> Batch:
    """What both say alike."""
    phase = Phase.Name(response.phase).removeprefix("PHASE_").lower()
    return phase, response.cursor.seq, [mirror.key(event) for event in response.events]


async def first(party: Party, cursor: Cursor | None, count: int) -> list[Batch]:
    """The first batches that a reader is told."""
    async with aclosing(party.watch(cursor)) as batches:
        return [await anext(batches) for _ in range(count)]


@pytest.fixture(params=["fake", "real"])
async def party(request: pytest.FixtureRequest, databases: Databases) -> AsyncIterator[Party]:
    """Either of the two."""
    if request.param == "fake":
        yield FakeParty()
        return
    async with mirror.source(databases("owner")) as db:
        yield RealParty(db)


async def test_who_has_no_position_begins_at_the_end(party: Party) -> None:
    """The frame of a snapshot, empty, then a bookmark."""
    await party.put("a")

    assert await first(party, None, 3) == [
        ("snapshot_started", 1, []),
        ("snapshot_completed", 1, []),
        ("bookmark", 1, []),
    ]


async def test_who_has_a_position_goes_on_there(party: Party) -> None:
    """Events after it, and a bookmark where there are none."""
    for flight_id in ("a", "b", "a"):
        await party.put(flight_id)

    assert await first(party, await party.cursor(1), 2) == [
        ("events", 3, ["b", "a"]),
        ("bookmark", 3, []),
    ]
    assert await first(party, await party.cursor(3), 1) == [("bookmark", 3, [])]


def of_another_history(cursor: Cursor) -> Cursor:
    """The position in a history that is not this one."""
    return Cursor(epoch="another", seq=cursor.seq)


def the_same(cursor: Cursor) -> Cursor:
    """The position."""
    return cursor


@pytest.mark.parametrize(("seq", "of"), [(4, the_same), (11, the_same), (8, of_another_history)])
async def test_a_position_that_is_gone_is_the_end(
    party: Party, seq: int, of: Callable[[Cursor], Cursor]
) -> None:
    """Trimmed, of the future, of another history: a reader is told that it missed something."""
    for _ in range(10):
        await party.put("a")
    await party.trim(5)

    assert await first(party, of(await party.cursor(seq)), 2) == [
        ("snapshot_started", 10, []),
        ("snapshot_completed", 10, []),
    ]
    assert await first(party, await party.cursor(5), 1) == [("events", 10, ["a"] * 5)]
