"""The transactional inbox: what a stream brings, and where it stands, in one transaction.

`apply` must not let an older version of a row overwrite a newer one. The pattern:

    insert_into(connection, FLIGHT)
    .values(flight_id=…, version=…, …, seen=True)
    .on_conflict_do_update(
        index_elements=["flight_id"], set_={…, "seen": True}, where=FLIGHT.c.version <= version
    )

`<=` and not `<`: a snapshot sends rows again in the version that is there, and they must be marked
as seen. `start` marks all rows as unseen, `sweep` removes what still is. A key that comes back
after its removal must go on with higher versions: a reader that missed the removal has the old row.

One statement per event takes about 3,000 events a second. Where a source sends many, give
`apply_many`: the same statement, built once with `excluded` instead of values, executed with the
list of all rows of the batch, in order.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Generic, TypeVar

from google.protobuf.message import Message
from sqlalchemy import BigInteger, Column, Connection, MetaData, String, Table, select, update

from eventstream import columns, metrics
from eventstream.database import Database
from eventstream.dead_letters import DeadLetter, DeadLetters, dead_letter_table, is_poison
from eventstream.dialects import insert_into
from eventstream.errors import PositionMovedError
from streams.v1.stream_pb2 import Cursor

E = TypeVar("E", bound=Message)


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

    State: `_revision` is that of the position as it was last read or written here (0: no row).
    """

    def __init__(
        self,
        db: Database,
        tables: InboxTables,
        source: str,
        *,
        key: Callable[[E], str],
        apply: Callable[[Connection, E], None],
        start: Callable[[Connection], None],
        sweep: Callable[[Connection], None],
        apply_many: Callable[[Connection, Sequence[E]], None] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._db = db
        self._position = tables.position
        self._source = source
        self._key = key
        self._apply = apply
        self._apply_many = apply_many or self._one_by_one
        self._start = start
        self._sweep = sweep
        self._letters: DeadLetters[E] = DeadLetters(tables.dead_letter, source, apply, clock)
        self._revision = 0

    async def position(self) -> Cursor | None:
        """Return the stored cursor; None where there is none, or a snapshot was cut off."""
        row, letters = await self._db.read(
            lambda connection: (
                connection.execute(
                    select(self._position).where(self._position.c.source == self._source)
                ).one_or_none(),
                self._letters.count(connection),
            )
        )
        self._count_letters(letters)
        self._revision = 0 if row is None else row.revision
        if row is None or row.epoch is None:
            return None
        return Cursor(epoch=row.epoch, seq=row.seq)

    async def start_snapshot(self) -> None:
        """Mark all rows as unseen and forget the cursor; the snapshot replaces dead letters too."""

        def unit(connection: Connection, revision: int) -> None:
            self._move(connection, revision, None)
            self._letters.clear(connection)
            self._start(connection)

        await self._write(unit)

    async def apply(self, events: Sequence[E], cursor: Cursor | None) -> None:
        """Apply events and store the cursor; None in the middle of a snapshot.

        Raises PositionMovedError where another consumer has moved the position.
        """

        def unit(connection: Connection, revision: int) -> None:
            self._move(connection, revision, cursor)
            self._take(connection, events, None if cursor is None else cursor.seq)

        await self._write(unit)

    async def complete_snapshot(self, cursor: Cursor) -> None:
        """Remove the rows that are still unseen and store the cursor."""

        def unit(connection: Connection, revision: int) -> None:
            self._move(connection, revision, cursor)
            self._sweep(connection)

        await self._write(unit)

    async def dead_letters(self) -> Sequence[DeadLetter]:
        """Return the events that could not be applied, by key."""
        return await self._db.read(self._letters.list)

    async def retry(self, keys: Sequence[str] | None = None) -> int:
        """Apply dead letters again: of these keys, else those that are due; return how many went.

        What fails again waits longer.
        """
        applied, left = await self._db.write(
            lambda connection: (
                self._letters.retry(connection, keys),
                self._letters.count(connection),
            )
        )
        self._count_letters(left)
        return applied

    async def _write(self, unit: Callable[[Connection, int], None]) -> None:
        revision = self._revision

        def counted(connection: Connection) -> int:
            unit(connection, revision)
            return self._letters.count(connection)

        self._count_letters(await self._db.write(counted))
        self._revision = revision + 1

    def _move(self, connection: Connection, revision: int, cursor: Cursor | None) -> None:
        row = {
            "epoch": None if cursor is None else cursor.epoch,
            "seq": None if cursor is None else cursor.seq,
            "revision": revision + 1,
        }
        position = self._position
        if revision:
            found = position.c.source == self._source, position.c.revision == revision
            moved = connection.execute(update(position).where(*found).values(row)).rowcount
        else:
            first = insert_into(connection, position).values(source=self._source, **row)
            moved = connection.execute(first.on_conflict_do_nothing()).rowcount
        if not moved:
            raise PositionMovedError(f"the position of {self._source!r} was moved by another")

    def _take(self, connection: Connection, events: Sequence[E], last: int | None) -> None:
        """Apply a batch; where that fails, event by event, those that fail being dead letters."""
        try:
            with connection.begin_nested():
                self._apply_many(connection, events)
                self._letters.remove(connection, map(self._key, events))
        except Exception as error:
            if not is_poison(error):
                raise
            first = None if last is None else last - len(events) + 1
            for number, event in enumerate(events):
                self._take_one(connection, event, None if first is None else first + number)

    def _take_one(self, connection: Connection, event: E, seq: int | None) -> None:
        key = ""  # that of an event so strange that it has none
        try:
            with connection.begin_nested():
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

    def _count_letters(self, count: int) -> None:
        metrics.DEAD_LETTERS.labels(self._source).set(count)
