"""Databases in files of their own, with a table of things and the outbox that tells of them."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Final

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, select

from eventstream import Database, Outbox

METADATA: Final = MetaData()
THINGS: Final = Table(
    "thing",
    METADATA,
    Column("name", String, primary_key=True),
    Column("version", Integer, nullable=False),
)
OUTBOX: Final = Outbox(METADATA, "thing")
NOW: Final = datetime(2026, 11, 24, 12, tzinfo=UTC)


def put(connection: Connection, name: str, version: int = 1) -> int:
    """Insert a thing, tell of it, and return the event's number."""
    connection.execute(THINGS.insert().values(name=name, version=version))
    return OUTBOX.append(connection, name, f"{name}@{version}".encode(), NOW)


def names(connection: Connection) -> list[str]:
    """Return the names of all things."""
    return list(connection.scalars(select(THINGS.c.name).order_by(THINGS.c.name)))


@pytest.fixture
def url(database_url: str) -> str:
    """Return the URL of a database that is not there yet."""
    return database_url


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    """Return a database with empty tables."""
    async with Database.open(url) as database:
        await database.write(METADATA.create_all)
        yield database
