"""The producer's side of a durable stream: from any cursor to the newest event, and on.

A reader's cursor is continued where the outbox still has the next event. Otherwise (no cursor, too
old, of another epoch, in the future) the reader is given a snapshot: position P is taken, then all
rows in key order in short transactions, then the events after P. A row read late may be newer than
P; its events come again, and as they are absolute and versioned that changes nothing. A reader that
keeps no copy leaves the rows out: it learns that it missed something, and goes on at P.

Memory: one batch per reader. Each reader is a generator that reads its next batch when the last
one was taken, so a slow reader holds nothing but its place.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import Connection

from eventstream import metrics
from eventstream.database import Database
from eventstream.outbox import Head, Outbox, Stored
from eventstream.steps import Step
from streams.v1.stream_pb2 import (
    PHASE_BOOKMARK,
    PHASE_EVENTS,
    PHASE_SNAPSHOT,
    PHASE_SNAPSHOT_COMPLETED,
    PHASE_SNAPSHOT_STARTED,
    Cursor,
    Phase,
)

E = TypeVar("E", bound=Message)

BEGIN: Final = Step("outbox.begin")
BATCH: Final = 500
"""Events in one batch at most, and rows in one read of a snapshot."""
_BOOKMARK_EVERY: Final = 1.0  # seconds without anything that says the reader is complete
_LINGER: Final = 0.02
"""Seconds after a batch before the next look: what a busy history gains meanwhile goes together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Generic[E]):
    """What a Watch RPC answers next.

    `cursor` is absent in the middle of a snapshot. `read_time` is there where the reader has, with
    this batch, everything that was committed before that instant.
    """

    phase: Phase.ValueType
    cursor: Cursor | None = None
    events: Sequence[E] = ()
    read_time: Timestamp | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page(Generic[E]):
    events: Sequence[E]
    seq: int
    complete: bool


class Feed(Generic[E]):
    """Serves one outbox to any number of readers.

    `snapshot(connection, after, limit)` returns the next rows after a key as (key, event that
    would create the row), in key order; none at the end. `clock` gives nanoseconds since 1970.
    """

    def __init__(
        self,
        db: Database,
        outbox: Outbox,
        *,
        event: type[E],
        snapshot: Callable[[Connection, str | None, int], Sequence[tuple[str, E]]],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._db = db
        self._outbox = outbox
        self._event = event
        self._rows = snapshot
        self._clock = clock

    async def watch(
        self, cursor: Cursor | None, *, rows: bool = True
    ) -> AsyncGenerator[Batch[E], None]:
        """Yield what brings a reader at `cursor` up to date and keeps it there; never ends.

        Without `rows` a snapshot is its start and its end. Raises what `Database.read` raises.
        """
        watchers = metrics.WATCHERS.labels(self._outbox.name)
        watchers.inc()
        try:
            async with aclosing(self._batches(cursor, rows=rows)) as batches:
                async for batch in batches:
                    self._count(batch)
                    yield batch
        finally:
            watchers.dec()

    def _count(self, batch: Batch[E]) -> None:
        if batch.events:
            phase = Phase.Name(batch.phase).removeprefix("PHASE_").lower()
            metrics.EVENTS_SENT.labels(self._outbox.name, phase).inc(len(batch.events))

    async def _batches(
        self, cursor: Cursor | None, *, rows: bool
    ) -> AsyncGenerator[Batch[E], None]:
        position = None if cursor is None else Head(epoch=cursor.epoch, seq=cursor.seq)
        while True:
            if position is not None:
                async with aclosing(self._after(position)) as changes:
                    async for batch in changes:
                        yield batch
            position, read_time = await self._position()
            snapshot = self._snapshot(position, read_time, rows=rows)
            async with aclosing(snapshot) as batches:
                async for batch in batches:
                    yield batch

    async def _snapshot(
        self, position: Head, read_time: Timestamp, *, rows: bool
    ) -> AsyncGenerator[Batch[E], None]:
        cursor = _cursor(position)
        yield Batch(phase=PHASE_SNAPSHOT_STARTED, cursor=cursor)
        if rows:
            async with aclosing(self._all_rows()) as batches:
                async for batch in batches:
                    yield batch
        yield Batch(phase=PHASE_SNAPSHOT_COMPLETED, cursor=cursor, read_time=read_time)

    async def _all_rows(self) -> AsyncGenerator[Batch[E], None]:
        after: str | None = None
        while rows := await self._read_rows(after):
            after = rows[-1][0]
            yield Batch(phase=PHASE_SNAPSHOT, events=[event for _, event in rows])

    async def _read_rows(self, after: str | None) -> Sequence[tuple[str, E]]:
        rows = await self._db.read(lambda connection: self._rows(connection, after, BATCH))
        if rows and after is not None and rows[0][0] <= after:
            raise ValueError(f"the snapshot is not in key order: {rows[0][0]!r} after {after!r}")
        return rows

    async def _after(self, position: Head) -> AsyncGenerator[Batch[E], None]:
        """Yield what follows `position`; ends where that can't be continued."""
        loop = asyncio.get_running_loop()
        bookmark_due = loop.time()
        while True:
            version, read_time = self._db.version, self._now()
            page = await self._read_page(position)
            if page is None:
                return
            if page.events or loop.time() >= bookmark_due:
                position = replace(position, seq=page.seq)
                yield _changes(position, page, read_time)
                bookmark_due = loop.time() + _BOOKMARK_EVERY
            if page.complete:
                if page.events:
                    await asyncio.sleep(_LINGER)
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(bookmark_due):
                        await self._db.changed(version)

    async def _read_page(self, position: Head) -> _Page[E] | None:
        return await self._db.read(lambda connection: self._page(connection, position))

    def _page(self, connection: Connection, position: Head) -> _Page[E] | None:
        head = self._outbox.head(connection)
        if head is None or head.epoch != position.epoch or head.seq < position.seq:
            return None
        stored = self._outbox.after(connection, position.seq, BATCH + 1)
        if head.seq > position.seq and (not stored or stored[0].seq != position.seq + 1):
            return None
        batch = _whole_units(stored)
        seq = batch[-1].seq if batch else position.seq
        events = [self._event.FromString(event.payload) for event in batch]
        return _Page(events=events, seq=seq, complete=seq == head.seq)

    async def _position(self) -> tuple[Head, Timestamp]:
        """Return the end of the history now, and when it was that."""
        read_time = self._now()
        head = await self._db.read(self._outbox.head)
        if head is None:
            await self._db.write(self._outbox.begin, step=BEGIN)
            return await self._position()
        return head, read_time

    def _now(self) -> Timestamp:
        now = Timestamp()
        now.FromNanoseconds(self._clock())
        return now


def _changes(position: Head, page: _Page[E], read_time: Timestamp) -> Batch[E]:
    return Batch(
        phase=PHASE_EVENTS if page.events else PHASE_BOOKMARK,
        cursor=_cursor(position),
        events=page.events,
        read_time=read_time if page.complete else None,
    )


def _whole_units(stored: Sequence[Stored]) -> Sequence[Stored]:
    """Return the batch to send of up to one event more: it ends where a unit ends.

    A unit of more events than a batch holds is cut all the same.
    """
    if len(stored) <= BATCH:
        return stored
    ends = (n for n in range(BATCH, 0, -1) if stored[n].unit != stored[n - 1].unit)
    return stored[: next(ends, BATCH)]


def _cursor(position: Head) -> Cursor:
    return Cursor(epoch=position.epoch, seq=position.seq)
