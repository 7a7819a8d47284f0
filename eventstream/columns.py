"""Column types that mean the same on every database."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Integer
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

Sequence = BigInteger().with_variant(Integer, "sqlite")
"""A 64-bit number; as a primary key on SQLite it is the row id itself, without a second index."""


class _DateTimeText(UserDefinedType[str]):
    """SQLite's DATETIME, handed over as the text that it is stored as."""

    cache_ok = True

    def get_col_spec(self, **_kw: Any) -> str:
        """The name in a CREATE TABLE."""
        return "DATETIME"


class UtcDateTime(TypeDecorator[datetime]):
    """An instant: aware datetimes in, aware datetimes in UTC out, ordered as text and as time.

    SQLite has the text that SQLAlchemy's own DateTime writes, `YYYY-MM-DD HH:MM:SS.ffffff`; it is
    made here, as that takes a sixth of the time, and a first load has some 400,000 instants.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Text on SQLite, and a timestamp with time zone elsewhere."""
        return _DATE_TIME_TEXT if dialect.name == "sqlite" else self.impl_instance

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | str | None:
        """Refuse a naive datetime; SQLite is given UTC without a zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"not an instant, the datetime has no time zone: {value}")
        instant = value.astimezone(UTC)
        if dialect.name != "sqlite":
            return instant
        return instant.isoformat(" ", "microseconds")[:_TEXT_LENGTH]

    def process_result_value(
        self, value: datetime | str | None, dialect: Dialect
    ) -> datetime | None:
        """Return UTC whatever the zone of the session."""
        if value is None:
            return None
        if isinstance(value, str):
            return datetime.fromisoformat(value + _IN_UTC)
        return value.astimezone(UTC)


_DATE_TIME_TEXT = _DateTimeText()
_IN_UTC = "+00:00"
_TEXT_LENGTH = len("2026-03-29 01:31:00.000000")
