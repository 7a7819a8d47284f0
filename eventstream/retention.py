"""Bounds what an outbox keeps: a reader that stands before it takes a snapshot instead."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Never

import structlog
from sqlalchemy import Connection

from eventstream.database import Database
from eventstream.errors import StorageUnavailableError
from eventstream.outbox import Outbox
from eventstream.steps import Step

_log = structlog.get_logger()

TRIM: Final = Step("outbox.trim")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """An event goes when `keep` newer ones are there, or when it is older than `age`."""

    keep: int = 200_000
    age: timedelta = timedelta(days=1)
    every: timedelta = timedelta(minutes=1)


async def trim_forever(
    db: Database,
    outbox: Outbox,
    retention: Retention,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Never:
    """Trim the outbox from time to time; several processes may do it. Ends by cancellation only."""
    while True:
        try:
            removed = await trim(db, outbox, retention, now=clock())
            _log.debug("outbox_trimmed", outbox=outbox.name, events=removed)
        except StorageUnavailableError as error:
            _log.warning("outbox_not_trimmed", outbox=outbox.name, error=str(error))
        await asyncio.sleep(retention.every.total_seconds())


async def trim(db: Database, outbox: Outbox, retention: Retention, *, now: datetime) -> int:
    """Remove all that need not be kept, in short units, and return how many events that were."""

    def unit(connection: Connection) -> int:
        return outbox.trim(connection, keep=retention.keep, before=now - retention.age)

    removed = 0
    while part := await db.write(unit, step=TRIM):
        removed += part
    return removed
