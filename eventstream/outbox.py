"""The transactional outbox: events, written in the transaction that changes what they tell of.

Every event has a sequence number, gapless and in commit order also with several writer processes:
the number is taken from the one head row, whose lock is held until the commit. The epoch names the
history: a database that was loaded anew or restored from a backup must start another one.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from eventstream import columns
from eventstream.dialects import insert_into
from eventstream.writer import UNIT

_ONLY: Final = 1  # the key of the head row


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The end of a history: its epoch and the number of its newest event (0: none yet)."""

    epoch: str
    seq: int


class Stored(NamedTuple):
    """An event as it lies in the outbox. `unit` is the number of its transaction's first event."""

    seq: int
    unit: int
    payload: bytes


class Outbox:
    """The tables `<name>_event` and `<name>_head`, defined in the service's `metadata`.

    All methods run within a unit of `Database.write` or a query of `Database.read`.
    """

    def __init__(self, metadata: MetaData, name: str) -> None:
        self.name = name
        self.events = Table(
            f"{name}_event",
            metadata,
            Column("seq", columns.Sequence, primary_key=True, autoincrement=False),
            Column("unit", columns.Sequence, nullable=False),
            Column("event_time", columns.UtcDateTime, nullable=False),
            Column("key", String, nullable=False),
            Column("payload", LargeBinary, nullable=False),
        )
        self.head_row = Table(
            f"{name}_head",
            metadata,
            Column("id", SmallInteger, primary_key=True, autoincrement=False),
            Column("epoch", String(32), nullable=False),
            Column("seq", columns.Sequence, nullable=False),
            CheckConstraint(f"id = {_ONLY}", name=f"{name}_head_is_one_row"),
        )
        self._insert = insert(self.events)
        self._take = (
            update(self.head_row)
            .values(seq=self.head_row.c.seq + bindparam("count"))
            .returning(self.head_row.c.seq)
        )
        event = self.events.c
        self._after = (
            select(event.seq, event.unit, event.payload)
            .where(event.seq > bindparam("after"))
            .order_by(event.seq)
            .limit(bindparam("limit"))
        )

    def append(self, connection: Connection, key: str, payload: bytes, event_time: datetime) -> int:
        """Write one event and return its number. `key` says which row's new state it is."""
        return self.append_many(connection, [(key, payload, event_time)])

    def append_many(
        self, connection: Connection, rows: Sequence[tuple[str, bytes, datetime]]
    ) -> int:
        """Write events (key, payload, event time) in this order and return the last one's number.

        Up to 500 events of one unit reach a reader in one batch. Writing none returns the number
        of the newest event that there is.
        """
        first = self._take_numbers(connection, len(rows)) + 1
        unit = self._unit(connection, first)
        if rows:
            connection.execute(self._insert, list(_numbered(rows, first, unit)))
        return first + len(rows) - 1

    def _take_numbers(self, connection: Connection, count: int) -> int:
        """Return the number before the first that was taken."""
        seq = connection.execute(self._take, {"count": count}).scalar_one_or_none()
        if seq is None:
            self.begin(connection)
            seq = connection.execute(self._take, {"count": count}).scalar_one()
        return int(seq) - count

    def _unit(self, connection: Connection, first: int) -> int:
        running = connection.info.get(UNIT)
        known, unit = connection.info.get(self.events, (None, first))
        if known is running and running is not None:
            return int(unit)
        connection.info[self.events] = (running, first)
        return first

    def begin(self, connection: Connection) -> None:
        """Start the first epoch where there is none; safe to repeat."""
        row = {"id": _ONLY, "epoch": uuid.uuid4().hex, "seq": 0}
        connection.execute(
            insert_into(connection, self.head_row).values(row).on_conflict_do_nothing()
        )

    def start_epoch(self, connection: Connection) -> str:
        """Start a new history and return its epoch; every reader takes a snapshot then.

        To be called when the state was loaded without events, or restored from a backup.
        """
        epoch = uuid.uuid4().hex
        self.begin(connection)
        connection.execute(update(self.head_row).values(epoch=epoch, seq=0))
        connection.execute(delete(self.events))
        return epoch

    def head(self, connection: Connection) -> Head | None:
        """Return the end of the history, or None before the first epoch."""
        row = connection.execute(select(self.head_row.c.epoch, self.head_row.c.seq)).one_or_none()
        return None if row is None else Head(epoch=row.epoch, seq=row.seq)

    def after(self, connection: Connection, seq: int, limit: int) -> list[Stored]:
        """Return the next events after `seq`, in order.

        The first one is not `seq + 1` where that was trimmed.
        """
        rows = connection.execute(self._after, {"after": seq, "limit": limit})
        return [Stored(row.seq, row.unit, row.payload) for row in rows]

    def trim(
        self, connection: Connection, *, keep: int, before: datetime, limit: int = 5_000
    ) -> int:
        """Remove the oldest events: beyond the newest `keep`, or older than `before`.

        At most `limit` at a time, as the writer is held meanwhile; returns how many. A cursor that
        stands before what is left is too old from then on.
        """
        head = self.head(connection)
        oldest = connection.execute(select(func.min(self.events.c.seq))).scalar_one()
        if head is None or oldest is None:
            return 0
        event = self.events.c
        recent = select(func.min(event.seq)).where(
            event.seq < oldest + limit, event.event_time >= before
        )
        first_recent = connection.execute(recent).scalar_one()
        upto = max(head.seq - keep, (first_recent or oldest + limit) - 1)
        upto = min(upto, oldest + limit - 1, head.seq)
        return connection.execute(delete(self.events).where(event.seq <= upto)).rowcount


def _numbered(
    rows: Iterable[tuple[str, bytes, datetime]], first: int, unit: int
) -> Iterable[dict[str, Any]]:
    for seq, (key, payload, event_time) in enumerate(rows, first):
        yield {"seq": seq, "unit": unit, "event_time": event_time, "key": key, "payload": payload}
