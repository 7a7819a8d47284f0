from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Column, Connection, MetaData, Table, select
from sqlalchemy.exc import StatementError

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
