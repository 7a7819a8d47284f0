"""The databases under judgement: opened to read only, each as of one moment."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Connection, Engine, NullPool, create_engine, text
from sqlalchemy.engine import URL, make_url

_AT_ONCE: Final = 5_000  # rows fetched in one go: tables need not fit into memory as rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Urls:
    """Where the databases are: `sqlite:///FILE` or `postgresql://…`."""

    booking: str
    schedule: str
    pricing: str


@contextmanager
def snapshot(url: str) -> Iterator[Connection]:
    """A connection that can't write and sees one state."""
    parsed = make_url(url)
    engine = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgres(parsed)
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")
        yield connection


def _sqlite(url: URL) -> Engine:
    file = f"file:{quote(str(url.database))}?mode=rw"  # a killed writer's WAL must be recovered

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(file, uri=True, isolation_level=None, timeout=10)
        connection.execute("PRAGMA query_only = ON")
        return connection

    return create_engine("sqlite://", creator=connect, poolclass=NullPool)


def _postgres(url: URL) -> Engine:
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        poolclass=NullPool,
        isolation_level="REPEATABLE READ",
        execution_options={"postgresql_readonly": True},
    )


def rows(connection: Connection, statement: str) -> Iterator[Any]:
    """The rows of a query: tuples with names, some fetched at a time."""
    streaming = connection.execution_options(stream_results=True, max_row_buffer=_AT_ONCE)
    with streaming.execute(text(statement)) as found:
        yield from found.yield_per(_AT_ONCE)


def instant(value: datetime | str) -> datetime:
    """An instant of either database: SQLite has text in UTC."""
    if isinstance(value, str):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    return value.astimezone(UTC)


def document(value: Any) -> Any:
    """A JSON column of either database: SQLite has text."""
    return json.loads(value) if isinstance(value, str) else value
