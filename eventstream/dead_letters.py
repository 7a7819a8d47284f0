"""Events that a consumer could not apply: kept with the reason, counted, listed, tried again.

There is one letter for a key, the newest event's. Events are absolute: a later event of the key
does not wait behind the letter. If it is applied it makes the letter pointless and removes it, if
it fails it takes the letter's place. So a letter is never older than what was applied of its key,
and to apply it late brings nothing old back.
"""

import hashlib
from collections.abc import Callable, Sequence
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
from eventstream.dialects import savepoint

E = TypeVar("E", bound=Message)

_log = structlog.get_logger()

_FIRST_DELAY: Final = timedelta(minutes=1)
_LONGEST_DELAY: Final = timedelta(hours=1)
_DOUBLINGS: Final = 10  # more would not fit a timedelta in the end
_REASON_LENGTH: Final = 1_000
_DIGITS: Final = 16
RETRIED_AT_ONCE: Final = 100
"""Letters that one unit tries: the writer is held meanwhile."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How many letters of a source there are, and when the first of them is due."""

    count: int = 0
    due_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """What came of letters that were tried again."""

    applied: int = 0
    failed: int = 0

    def __add__(self, other: "Retried") -> "Retried":
        return Retried(applied=self.applied + other.applied, failed=self.failed + other.failed)


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
    """The letters of one source; every method runs within a unit of the consumer's database.

    `jitter` spreads what failed at once: 0 to 1, for three to five quarters of a delay.
    """

    def __init__(
        self,
        table: Table,
        source: str,
        apply: Callable[[Connection, E], None],
        clock: Callable[[], datetime],
        jitter: Callable[[], float],
    ) -> None:
        self._table = table
        self._source = source
        self._apply = apply
        self._clock = clock
        self._jitter = jitter
        self._mine = mine = table.c.source == source
        self._any = select(table.c.key).where(mine).limit(1)
        due_time = func.min(table.c.next_attempt_time)
        self._counted = select(func.count(), due_time).select_from(table).where(mine)

    def record(
        self, connection: Connection, key: str, seq: int | None, event: E, error: Exception
    ) -> None:
        """Keep an event that could not be applied, instead of the key's letter before.

        An event without a key gets one of its own, by its content: letters of others stay.
        """
        packed = AnyMessage()
        packed.Pack(event, deterministic=True)
        payload = packed.SerializeToString()
        key = key or f"?{hashlib.sha256(payload).hexdigest()[:_DIGITS]}"
        now = self._clock()
        letter = {
            "seq": seq,
            "payload": payload,
            "reason": _reason(error),
            "attempts": 1,
            "recorded_time": now,
            "next_attempt_time": now + self._delay(1),
        }
        self.remove(connection, [key])
        connection.execute(insert(self._table).values(source=self._source, key=key, **letter))
        _log.error("event_dead", source=self._source, key=key, seq=seq, reason=letter["reason"])

    def remove(self, connection: Connection, keys: Sequence[str]) -> None:
        """Remove the letters of keys for which something newer is known."""
        if keys and connection.execute(self._any).first() is not None:
            connection.execute(delete(self._table).where(self._mine, self._table.c.key.in_(keys)))

    def clear(self, connection: Connection) -> None:
        """Remove all: a snapshot is about to say everything anew."""
        connection.execute(delete(self._table).where(self._mine))

    def standing(self, connection: Connection) -> Standing:
        """Return how many there are, and when the first is due."""
        count, first = connection.execute(self._counted).one()
        return Standing(count=count, due_time=first)

    def list(self, connection: Connection, after: str, limit: int) -> Sequence[DeadLetter]:
        """Return the next letters after a key, by key."""
        c = self._table.c
        wanted = select(*(column for column in c if column is not c.source))
        page = wanted.where(self._mine, c.key > after).order_by(c.key).limit(limit)
        rows = connection.execute(page)
        return [DeadLetter(**row._mapping) for row in rows]  # noqa: SLF001 - SQLAlchemy's public name

    def retry(self, connection: Connection, keys: Sequence[str]) -> Retried:
        """Apply the letters of these keys."""
        return self._retry_where(connection, self._table.c.key.in_(keys))

    def retry_due(self, connection: Connection) -> Retried:
        """Apply letters that are due, `RETRIED_AT_ONCE` at most."""
        return self._retry_where(connection, self._table.c.next_attempt_time <= self._clock())

    def _retry_where(self, connection: Connection, chosen: ColumnElement[bool]) -> Retried:
        c = self._table.c
        wanted = select(self._table).where(self._mine, chosen).order_by(c.next_attempt_time)
        letters = connection.execute(wanted.limit(RETRIED_AT_ONCE)).all()
        applied = sum(self._retry(connection, letter) for letter in letters)
        return Retried(applied=applied, failed=len(letters) - applied)

    def _retry(self, connection: Connection, letter: Any) -> bool:
        try:
            with savepoint(connection):
                self._apply(connection, _unpack(letter.payload))
                connection.execute(delete(self._table).where(self._of(letter.key)))
        except Exception as error:
            if not is_poison(error):
                raise
            self._postpone(connection, letter, error)
            return False
        _log.info("event_revived", source=self._source, key=letter.key, seq=letter.seq)
        return True

    def _postpone(self, connection: Connection, letter: Any, error: Exception) -> None:
        attempts = letter.attempts + 1
        connection.execute(
            update(self._table)
            .where(self._of(letter.key))
            .values(
                attempts=attempts,
                reason=_reason(error),
                next_attempt_time=self._clock() + self._delay(attempts),
            )
        )

    def _delay(self, attempts: int) -> timedelta:
        longer: timedelta = _FIRST_DELAY * 2 ** min(attempts - 1, _DOUBLINGS)
        return min(longer, _LONGEST_DELAY) * (0.75 + self._jitter() / 2)

    def _of(self, key: str) -> ColumnElement[bool]:
        return and_(self._mine, self._table.c.key == key)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_REASON_LENGTH]


def _unpack(payload: bytes) -> Any:
    packed = AnyMessage.FromString(payload)
    descriptor = descriptor_pool.Default().FindMessageTypeByName(packed.TypeName())
    return GetMessageClass(descriptor).FromString(packed.value)
