"""The transactional inbox: what a stream brings, and where it stands, in one transaction.

`apply` must not let an older version of a row overwrite a newer one. The pattern:

    insert_into(connection, FLIGHT)
    .values(flight_id=…, version=…, …, seen=True)
    .on_conflict_do_update(
        index_elements=["flight_id"], set_={…, "seen": True}, where=FLIGHT.c.version <= version
    )

`<=` and not `<`: a snapshot sends rows again in the version that is there, and they must be marked
as seen. `start` marks all rows as unseen, `sweep` removes what still is. Either may do a part of it
and is called again, in a unit of its own: 100,000 rows in one transaction would hold up every other
writer of the database for seconds. For the same reason a batch may be applied in parts, each with
the position that it reaches. A key that comes back after its removal must
go on with higher versions: a reader that missed the removal has the old row.

One statement per event takes about 3,000 events a second. Where a source sends many, give
`apply_many`: the same statement, built once with `excluded` instead of values, executed with the
list of all rows of the batch, in order.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    MetaData,
    String,
    Table,
    bindparam,
    select,
    update,
)

from eventstream import columns, metrics
from eventstream.database import Database
from eventstream.dead_letters import (
    RETRIED_AT_ONCE,
    DeadLetter,
    DeadLetters,
    Retried,
    Standing,
    dead_letter_table,
    is_poison,
)
from eventstream.dialects import insert_into, savepoint
from eventstream.errors import PositionMovedError
from eventstream.steps import Step
from streams.v1.stream_pb2 import Cursor

_T = TypeVar("_T")
E = TypeVar("E", bound=Message)

START: Final = Step("inbox.start_snapshot")
MARK: Final = Step("inbox.mark_rows")
APPLY_ROWS: Final = Step("inbox.apply_rows")
SWEEP: Final = Step("inbox.sweep")
COMPLETE: Final = Step("inbox.complete_snapshot")
APPLY: Final = Step("inbox.apply")
RETRY: Final = Step("inbox.retry")

Part = Callable[[Connection, str], str | None]
"""Work on many rows in parts: what it returns it is called with again, until that is None.

At first that is "". See `part_end`.
"""


class InboxTables:
    """The tables `<name>_position` and `<name>_dead_letter`, for any number of sources.

    `revision` grows with every write of a position's row: who moves it proves that it is still the
    one that was read.
    """

    def __init__(self, metadata: MetaData, name: str) -> None:
        self.position = Table(
            f"{name}_position",
            metadata,
            Column("source", String, primary_key=True),
            Column("epoch", String(32)),
            Column("seq", columns.Sequence),
            Column("revision", BigInteger, nullable=False),
        )
        self.dead_letter = dead_letter_table(metadata, f"{name}_dead_letter")


class SqlInbox(Generic[E]):
    """An inbox in the service's own database.

    An event that `apply` can't take, while the database is well, is a dead letter and the stream
    goes on (see `DeadLetters`); a failing database is raised and nothing has happened.

    `apply_many`, where given, is used for whole batches instead of `apply` for each event; a batch
    that it can't take is taken event by event. `start`, `sweep` and it run on the writer thread.

    A unit applies `at_most` so many events, where that is given, else whole batches: then what the
    source committed at once is here at once, too. The first snapshot of all comes in whole batches
    either way: nobody is served before it is complete, so no other unit waits for those.

    `letters_changed` is set when there are other dead letters than before.

    State: `_revision` is that of the position as it was last read or written here (0: no row);
    `_filling` says that the first snapshot is under way; `_standing` is what was last known of the
    dead letters.
    """

    def __init__(
        self,
        db: Database,
        tables: InboxTables,
        source: str,
        *,
        key: Callable[[E], str],
        apply: Callable[[Connection, E], None],
        start: Part,
        sweep: Part,
        apply_many: Callable[[Connection, Sequence[E]], None] | None = None,
        at_most: int | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.source = source
        self.letters_changed = asyncio.Event()
        self._db = db
        self._position = position = tables.position
        self._moved = (
            update(position)
            .where(position.c.source == source, position.c.revision == bindparam("seen"))
            .values({name: bindparam(name) for name in ("epoch", "seq", "revision")})
        )
        self._key = key
        self._apply = apply
        self._apply_many = apply_many or self._one_by_one
        self._at_most = at_most
        self._start = start
        self._sweep = sweep
        self._clock = clock
        self._letters: DeadLetters[E] = DeadLetters(
            tables.dead_letter, source, apply, clock, jitter
        )
        self._revision = 0
        self._filling = False
        self._standing = Standing()

    async def position(self) -> Cursor | None:
        """Return the stored cursor; None where there is none, or a snapshot was cut off."""
        mine = self._position.c.source == self.source
        stored = select(self._position).where(mine)
        row = await self._db.read(lambda connection: connection.execute(stored).one_or_none())
        self._revision = 0 if row is None else row.revision
        self._filling = False
        if row is None or row.epoch is None:
            return None
        return Cursor(epoch=row.epoch, seq=row.seq)

    async def start_snapshot(self) -> None:
        """Mark all rows as unseen and forget the cursor; the snapshot replaces dead letters too."""
        self._filling = not self._revision
        await self._write(self._letters.clear, None, START)
        await self._in_parts(self._start, MARK)

    async def apply(self, events: Sequence[E], cursor: Cursor | None) -> None:
        """Apply events and store the cursor; None in the middle of a snapshot.

        Raises PositionMovedError where another consumer has moved the position.
        """
        step = APPLY_ROWS if cursor is None else APPLY
        at_most = None if self._filling else self._at_most
        for part, reached in _parts(events, cursor, at_most):
            await self._write(partial(self._take, events=part, reached=reached), reached, step)

    async def complete_snapshot(self, cursor: Cursor) -> None:
        """Remove the rows that are still unseen and store the cursor."""
        await self._in_parts(self._sweep, SWEEP)
        await self._write(lambda _: None, cursor, COMPLETE)
        self._filling = False

    async def dead_letters(self, after: str = "", limit: int = 1_000) -> Sequence[DeadLetter]:
        """Return the next events after a key that could not be applied, by key."""
        return await self._db.read(lambda connection: self._letters.list(connection, after, limit))

    async def retry(self, keys: Sequence[str]) -> Retried:
        """Apply dead letters of keys again, up to a hundred; what fails again waits longer.

        Any process may: a letter is never older than what was applied of its key.
        """
        return await self._db.write(
            lambda connection: self._letters.retry(connection, keys[:RETRIED_AT_ONCE]), step=RETRY
        )

    async def retry_due(self) -> float | None:
        """Apply the dead letters that are due; return the seconds until others are, if any are."""

        def unit(connection: Connection) -> tuple[Retried, Standing]:
            return self._letters.retry_due(connection), self._letters.standing(connection)

        standing = await self._db.read(self._letters.standing)
        while (left := self._seconds_to(standing)) is not None and left <= 0:
            _, standing = await self._db.write(unit, step=RETRY)
        self._note(standing)
        return left

    def _seconds_to(self, standing: Standing) -> float | None:
        due_time = standing.due_time
        return None if due_time is None else (due_time - self._clock()).total_seconds()

    async def _in_parts(self, part: Part, step: Step) -> None:
        """Call a part until all is done, each time in a unit without a position."""
        after: str | None = ""
        while after is not None:
            after = await self._write(partial(_called_with, part, after), None, step)

    async def _write(
        self, unit: Callable[[Connection], _T], cursor: Cursor | None, step: Step
    ) -> _T:
        """Run a unit that moves the position to `cursor` and return what it returned."""
        revision = self._revision

        def moved(connection: Connection) -> tuple[_T, Standing]:
            self._move(connection, revision, cursor)
            return unit(connection), self._letters.standing(connection)

        value, standing = await self._db.write(moved, step=step)
        self._note(standing)
        self._revision = revision + 1
        return value

    def _note(self, standing: Standing) -> None:
        metrics.DEAD_LETTERS.labels(self.source).set(standing.count)
        if standing != self._standing:
            self._standing = standing
            self.letters_changed.set()

    def _move(self, connection: Connection, revision: int, cursor: Cursor | None) -> None:
        row = {
            "epoch": None if cursor is None else cursor.epoch,
            "seq": None if cursor is None else cursor.seq,
            "revision": revision + 1,
        }
        if revision:
            moved = connection.execute(self._moved, {"seen": revision, **row}).rowcount
        else:
            first = insert_into(connection, self._position).values(source=self.source, **row)
            moved = connection.execute(first.on_conflict_do_nothing()).rowcount
        if not moved:
            raise PositionMovedError(f"the position of {self.source!r} was moved by another")

    def _take(self, connection: Connection, events: Sequence[E], reached: Cursor | None) -> None:
        """Apply a batch; where that fails, event by event, those that fail being dead letters."""
        try:
            with savepoint(connection):
                self._apply_many(connection, events)
                self._letters.remove(connection, [self._key(event) for event in events])
        except Exception as error:
            if not is_poison(error):
                raise
            first = None if reached is None else reached.seq - len(events) + 1
            for number, event in enumerate(events):
                self._take_one(connection, event, None if first is None else first + number)

    def _take_one(self, connection: Connection, event: E, seq: int | None) -> None:
        key = ""  # that of an event so strange that it has none
        try:
            with savepoint(connection):
                key = self._key(event)
                self._apply(connection, event)
                self._letters.remove(connection, [key])
        except Exception as error:
            if not is_poison(error):
                raise
            self._letters.record(connection, key, seq, event, error)

    def _one_by_one(self, connection: Connection, events: Sequence[E]) -> None:
        for event in events:
            self._apply(connection, event)


def _parts(
    events: Sequence[E], cursor: Cursor | None, at_most: int | None
) -> Iterator[tuple[Sequence[E], Cursor | None]]:
    """Parts of what leads to a cursor, each with the one that it leads to itself."""
    count = len(events)
    for first in range(0, max(count, 1), at_most or max(count, 1)):
        part = events[first : first + at_most] if at_most else events
        if cursor is None:
            yield part, None
        else:
            yield part, Cursor(epoch=cursor.epoch, seq=cursor.seq - count + first + len(part))


def _called_with(part: Part, after: str, connection: Connection) -> str | None:
    return part(connection, after)
