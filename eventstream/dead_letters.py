"""Events that a consumer could not apply: kept with the reason, counted, listed, tried again.

There is one letter for a key, the newest event's. Events are absolute: a later event of the key
that is applied makes the letter pointless and removes it, one that fails takes its place.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

import structlog
from google.protobuf import descriptor_pool
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    and_,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from eventstream import columns

E = TypeVar("E", bound=Message)

_log = structlog.get_logger()

_FIRST_DELAY: Final = timedelta(minutes=1)
_LONGEST_DELAY: Final = timedelta(hours=1)
_REASON_LENGTH: Final = 1_000
_RETRIED_AT_ONCE: Final = 100  # letters in one unit: the writer is held meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event that could not be applied. `payload` is it as a serialised google.protobuf.Any."""

    key: str
    seq: int | None  # None for a row of a snapshot
    payload: bytes
    reason: str
    attempts: int
    recorded_time: datetime
    next_attempt_time: datetime


def dead_letter_table(metadata: MetaData, name: str) -> Table:
    """Define the table of the letters of any number of sources."""
    return Table(
        name,
        metadata,
        Column("source", String, primary_key=True),
        Column("key", String, primary_key=True),
        Column("seq", columns.Sequence),
        Column("payload", LargeBinary, nullable=False),
        Column("reason", Text, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("recorded_time", columns.UtcDateTime, nullable=False),
        Column("next_attempt_time", columns.UtcDateTime, nullable=False),
    )


def is_poison(error: Exception) -> bool:
    """Whether an error is the event's: anything but a failing database or a broken statement."""
    return not isinstance(error, DBAPIError) or isinstance(error, DataError | IntegrityError)


class DeadLetters(Generic[E]):
    """The letters of one source; every method runs within a unit of the consumer's database."""

    def __init__(
        self,
        table: Table,
        source: str,
        apply: Callable[[Connection, E], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._table = table
        self._source = source
        self._apply = apply
        self._clock = clock
        self._mine = table.c.source == source

    def record(
        self, connection: Connection, key: str, seq: int | None, event: E, error: Exception
    ) -> None:
        """Keep an event that could not be applied, instead of the key's letter before."""
        packed = AnyMessage()
        packed.Pack(event)
        now = self._clock()
        letter = {
            "seq": seq,
            "payload": packed.SerializeToString(),
            "reason": _reason(error),
            "attempts": 1,
            "recorded_time": now,
            "next_attempt_time": now + _FIRST_DELAY,
        }
        self.remove(connection, [key])
        connection.execute(insert(self._table).values(source=self._source, key=key, **letter))
        _log.error("event_dead", source=self._source, key=key, seq=seq, reason=letter["reason"])

    def remove(self, connection: Connection, keys: Iterable[str]) -> None:
        """Remove the letters of keys for which something newer is known."""
        known = set(connection.scalars(select(self._table.c.key).where(self._mine)))
        for key in known.intersection(keys) if known else ():
            connection.execute(delete(self._table).where(self._of(key)))

    def clear(self, connection: Connection) -> None:
        """Remove all: a snapshot is about to say everything anew."""
        connection.execute(delete(self._table).where(self._mine))

    def count(self, connection: Connection) -> int:
        """Return how many there are."""
        counted = select(func.count()).select_from(self._table).where(self._mine)
        return connection.execute(counted).scalar_one()

    def list(self, connection: Connection) -> Sequence[DeadLetter]:
        """Return all, by key."""
        c = self._table.c
        wanted = select(*(column for column in c if column is not c.source))
        rows = connection.execute(wanted.where(self._mine).order_by(c.key))
        return [DeadLetter(**row._mapping) for row in rows]  # noqa: SLF001 - SQLAlchemy's public name

    def retry(self, connection: Connection, keys: Sequence[str] | None) -> int:
        """Apply the letters of `keys`, else those that are due; return how many went."""
        now = self._clock()
        due = self._table.c.next_attempt_time <= now
        chosen = due if keys is None else self._table.c.key.in_(keys)
        letters = connection.execute(
            select(self._table).where(self._mine, chosen).limit(_RETRIED_AT_ONCE)
        ).all()
        return sum(self._retry(connection, letter, now) for letter in letters)

    def _retry(self, connection: Connection, letter: Any, now: datetime) -> bool:
        try:
            with connection.begin_nested():
                self._apply(connection, _unpack(letter.payload))
                connection.execute(delete(self._table).where(self._of(letter.key)))
        except Exception as error:
            if not is_poison(error):
                raise
            self._postpone(connection, letter, now, error)
            return False
        _log.info("event_revived", source=self._source, key=letter.key, seq=letter.seq)
        return True

    def _postpone(
        self, connection: Connection, letter: Any, now: datetime, error: Exception
    ) -> None:
        delay = min(_FIRST_DELAY * 2 ** min(letter.attempts, 10), _LONGEST_DELAY)
        connection.execute(
            update(self._table)
            .where(self._of(letter.key))
            .values(
                attempts=letter.attempts + 1,
                reason=_reason(error),
                next_attempt_time=now + delay,
            )
        )

    def _of(self, key: str) -> ColumnElement[bool]:
        return and_(self._mine, self._table.c.key == key)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_REASON_LENGTH]


def _unpack(payload: bytes) -> Any:
    packed = AnyMessage.FromString(payload)
    descriptor = descriptor_pool.Default().FindMessageTypeByName(packed.TypeName())
    return GetMessageClass(descriptor).FromString(packed.value)
