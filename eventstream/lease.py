"""A lease: of the processes that share a database, one does a job at a time.

No clock is compared with another. The holder raises the row's beat every third of the time to
live; who wants the lease takes it when it has itself seen no beat for that long, or at once when it
was given back. A holder goes on until it sees that another has taken over: one that is slow, with
nobody waiting, would gain nothing by starting its job again.

A lease gives liveness, not safety: a process that was slow or frozen may for a moment believe that
it still leads. A job's unit that must not run then calls `check` first, in its own transaction.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Final, Never

import structlog
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    MetaData,
    String,
    Table,
    select,
    update,
)

from eventstream.database import Database
from eventstream.dialects import insert_into
from eventstream.errors import DatabaseClosedError, LeaseLostError, StorageUnavailableError
from eventstream.steps import Step

_log = structlog.get_logger()

TAKE: Final = Step("lease.take")
BEAT: Final = Step("lease.beat")
VACATE: Final = Step("lease.vacate")


class LeaseTable:
    """The table `<name>` of all leases of a database. `epoch` counts the changes of the holder."""

    def __init__(self, metadata: MetaData, name: str = "lease") -> None:
        self.lease = Table(
            name,
            metadata,
            Column("name", String, primary_key=True),
            Column("holder", String, nullable=False),
            Column("epoch", BigInteger, nullable=False),
            Column("beat", BigInteger, nullable=False),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Term:
    """What the row says; an empty holder has given it back."""

    holder: str
    epoch: int
    beat: int


_NEVER_HELD = _Term(holder="", epoch=0, beat=0)


class Lease:
    """One process's part in the lease `name`; `holder` is the process's own, unique name.

    A process that was killed and comes back under its old name goes on at once.

    State: `_term`, the row as this process took it, while it leads.
    """

    def __init__(
        self, db: Database, table: LeaseTable, name: str, holder: str, ttl: timedelta
    ) -> None:
        self._db = db
        self._table = table.lease
        self._name = name
        self._holder = holder
        self._ttl = ttl.total_seconds()
        self._term: _Term | None = None

    @property
    def epoch(self) -> int | None:
        """The number of this term while this process leads; larger than any holder's before."""
        return None if self._term is None else self._term.epoch

    async def lead(self, job: Callable[[], Awaitable[None]]) -> Never:
        """Run `job` whenever this process holds the lease, and cancel it when it does not any more.

        A job that returns gives the lease back, and it starts anew with whoever gets it next; so
        does one that a database interrupts that can't be used for a while. Any other exception of
        the job is raised.
        """
        while True:
            try:
                await self._lead_once(job)
            except* StorageUnavailableError as interrupted:  # also out of a job's task group
                error = str(interrupted.exceptions[0])
                _log.warning("leading_interrupted", lease=self._name, error=error)
            await asyncio.sleep(self._ttl / 3)

    def check(self, connection: Connection) -> None:
        """Raise LeaseLostError where this unit must not go on, as another process leads."""
        row = self._read(connection)
        if self._term is None or (row.holder, row.epoch) != (self._holder, self._term.epoch):
            raise LeaseLostError(f"{self._name!r} is held by {row.holder!r}")

    async def _lead_once(self, job: Callable[[], Awaitable[None]]) -> None:
        self._term = await self._acquire()
        _log.info("lease_taken", lease=self._name, epoch=self._term.epoch)
        try:
            await self._run(job)
        finally:
            await self._give_back()

    async def _acquire(self) -> _Term:
        seen: _Term | None = None
        since = time.monotonic()
        while True:
            row = await self._look()
            if row != seen:
                seen, since = row, time.monotonic()
            if seen is not None and (self._is_free(seen) or self._is_silent(since)):
                mine = _Term(holder=self._holder, epoch=seen.epoch + 1, beat=0)
                if await self._replace(seen, mine):
                    return mine
            await asyncio.sleep(self._ttl / 6)

    def _is_free(self, term: _Term) -> bool:
        return term.holder in {"", self._holder}

    def _is_silent(self, since: float) -> bool:
        return time.monotonic() - since >= self._ttl

    async def _look(self) -> _Term | None:
        """Return what the row says, or None while the database can't be read."""
        try:
            return await self._db.read(self._read)
        except StorageUnavailableError as error:
            _log.warning("lease_unreadable", lease=self._name, error=str(error))
            return None

    async def _run(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run the job until it returns or the lease is lost."""
        tasks = asyncio.create_task(self._keep()), asyncio.ensure_future(job())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        self._end([error for task in tasks if not task.cancelled() and (error := task.exception())])

    def _end(self, errors: Sequence[BaseException]) -> None:
        """Raise what went wrong: both, where the job and the lease's keeper failed."""
        failures = []
        for error in errors:
            if isinstance(error, LeaseLostError):
                _log.warning("lease_lost", lease=self._name, error=str(error))
            else:
                failures.append(error)
        if len(failures) > 1:
            raise BaseExceptionGroup(f"leading {self._name!r}", failures)
        if failures:
            raise failures[0]

    async def _keep(self) -> None:
        """Raise the beat until that is refused, as another process has taken the lease."""
        while True:
            await asyncio.sleep(self._ttl / 3)
            try:
                held = await self._db.write(self._raise_beat, step=BEAT)
            except StorageUnavailableError as error:
                _log.warning("lease_not_renewed", lease=self._name, error=str(error))
                continue
            if not held:
                raise LeaseLostError("another process has taken it")

    async def _give_back(self) -> None:
        with suppress(StorageUnavailableError, DatabaseClosedError):
            await self._db.write(self._vacate, step=VACATE)
        self._term = None

    def _read(self, connection: Connection) -> _Term:
        c = self._table.c
        row = connection.execute(
            select(c.holder, c.epoch, c.beat).where(c.name == self._name)
        ).one_or_none()
        return _NEVER_HELD if row is None else _Term(**row._mapping)  # noqa: SLF001 - public API

    def _raise_beat(self, connection: Connection) -> bool:
        """Whether this process still holds the lease; its beat is raised then."""
        beat = self._table.c.beat + 1
        raised = update(self._table).where(*self._mine()).values(beat=beat)
        return connection.execute(raised).rowcount == 1

    def _vacate(self, connection: Connection) -> None:
        connection.execute(update(self._table).where(*self._mine()).values(holder=""))

    def _mine(self) -> tuple[ColumnElement[bool], ...]:
        c, epoch = self._table.c, self.epoch
        return c.name == self._name, c.holder == self._holder, c.epoch == epoch

    async def _replace(self, old: _Term, new: _Term) -> bool:
        """Write `new` where the row still says `old`; whether it did."""
        return await self._db.write(lambda connection: self._swap(connection, old, new), step=TAKE)

    def _swap(self, connection: Connection, old: _Term, new: _Term) -> bool:
        c = self._table.c
        if old == _NEVER_HELD:
            first = insert_into(connection, self._table).values(name=self._name, **asdict(new))
            return connection.execute(first.on_conflict_do_nothing()).rowcount == 1
        same = (
            c.name == self._name,
            c.holder == old.holder,
            c.epoch == old.epoch,
            c.beat == old.beat,
        )
        changed = connection.execute(update(self._table).where(*same).values(asdict(new)))
        return changed.rowcount == 1
