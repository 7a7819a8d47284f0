from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Column, Connection, DateTime, MetaData, Table, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import StatementError
from sqlalchemy.schema import CreateTable

from eventstream import Database, UtcDateTime

TIMES = Table("time", MetaData(), Column("at", UtcDateTime, primary_key=True))


async def test_an_instant_comes_back_as_the_same_instant_in_utc(url: str) -> None:
    """Whatever zone it was given in, microseconds included, and ordered as instants are."""
    early = datetime(2026, 3, 29, 3, 30, 0, 1, tzinfo=timezone(timedelta(hours=2)))
    late = datetime(2026, 3, 29, 1, 31, tzinfo=UTC)

    def unit(connection: Connection) -> list[datetime]:
        TIMES.metadata.create_all(connection)
        connection.execute(TIMES.insert(), [{"at": late}, {"at": early}])
        return list(connection.scalars(select(TIMES.c.at).order_by(TIMES.c.at)))

    async with Database.open(url) as db:
        stored = await db.write(unit)

    assert stored == [early, late]
    assert {instant.tzinfo for instant in stored} == {UTC}


async def test_a_datetime_without_a_zone_is_refused(url: str) -> None:
    """It is no instant."""
    naive = datetime(2026, 3, 29, 1, 31)  # noqa: DTZ001 - on purpose
    async with Database.open(url) as db:
        await db.write(TIMES.metadata.create_all)
        with pytest.raises(StatementError, match="no time zone"):
            await db.write(lambda c: c.execute(TIMES.insert().values(at=naive)).rowcount)


async def test_the_text_of_an_instant_is_that_of_sqlalchemy(url: str) -> None:
    """Rows that its DateTime has written are read the same, and in order with ours."""
    plain = Table("time", MetaData(), Column("at", DateTime, primary_key=True))
    instants = [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 31, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 31, 0, 1, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 31, 0, 10, tzinfo=timezone(timedelta(hours=-2))),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ]
    theirs = [{"at": at.astimezone(UTC).replace(tzinfo=None)} for at in instants[::2]]
    ours = [{"at": at} for at in instants[1::2]]

    def unit(connection: Connection) -> tuple[list[datetime], list[datetime], list[datetime]]:
        TIMES.metadata.create_all(connection)
        connection.execute(plain.insert(), theirs)
        connection.execute(TIMES.insert(), ours)
        later = TIMES.c.at > instants[1]
        return (
            list(connection.scalars(select(TIMES.c.at).order_by(TIMES.c.at))),
            list(connection.scalars(select(plain.c.at).order_by(plain.c.at))),
            list(connection.scalars(select(TIMES.c.at).where(later).order_by(TIMES.c.at))),
        )

    async with Database.open(url) as db:
        read, read_plainly, later = await db.write(unit)

    assert read == instants
    assert [at.replace(tzinfo=UTC) for at in read_plainly] == instants
    assert later == instants[2:]


def test_the_column_has_the_type_that_it_always_had() -> None:
    """A table made now and one made by an earlier release are the same."""
    created = str(CreateTable(TIMES).compile(dialect=sqlite.dialect()))

    assert "at DATETIME NOT NULL" in created
