"""The one thread that writes a database: units of work, committed in groups.

Why: a durable commit costs a disk flush, whatever it holds. Units that arrive while one group is
being committed form the next. Why a thread with a synchronous connection: it is three to four
times as fast as an asynchronous driver, and the flush never stops the event loop.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog
from sqlalchemy import Connection, Engine, RootTransaction
from sqlalchemy.exc import DBAPIError, OperationalError

from eventstream import metrics, sqlite
from eventstream.errors import StorageUnavailableError
from eventstream.presence import Presence
from eventstream.steps import UNNAMED, Failpoint, Point, Step

_log = structlog.get_logger()

ATTEMPT: Final = timedelta(milliseconds=10)
"""How long one attempt to begin waits for another process's transaction; between attempts the
thread looks for that process's commits."""
_PATIENCE: Final = 5.0  # seconds until a unit that can't begin fails
_LOOK_EVERY: Final = 0.010  # seconds between looks for other processes' commits
_LOOK_ALONE: Final = 0.250  # the same while there is none, and between looks for one
UNIT: Final = "eventstream.unit"
"""Key in a connection's `info` of the unit that is running, to tell where one ends."""
_GROUP_LIMIT: Final = 64  # units: bounds what one failed commit takes along
_GROUP_SECONDS: Final = 0.025  # bounds how long the first unit of a group waits for the others


@dataclass(slots=True, eq=False)
class Unit:
    """A unit of work, its outcome, and the future that is told once that is durable."""

    run: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    step: Step = UNNAMED
    value: Any = None
    error: BaseException | None = None

    def settle(self) -> None:
        """Tell whoever still waits; on the event loop."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


class Writer:
    """Runs units in the order of `submit`, each in a savepoint of a shared transaction.

    An exception of a unit undoes that unit alone; a failure of the storage fails its whole group.
    `on_commit` is called on the loop after each group and before its futures are told, and when
    another process has committed.

    State: `pending` is the loop's, `_queue` and `_watched` are shared with it, everything else is
    the writer thread's own. `presence` is closed by it.
    """

    def __init__(
        self,
        engine: Engine,
        presence: Presence,
        loop: asyncio.AbstractEventLoop,
        on_commit: Callable[[], None],
        failpoint: Failpoint | None = None,
    ) -> None:
        self._engine = engine
        self._presence = presence
        self._look_every = _LOOK_EVERY
        self._presence_due = 0.0
        self._loop = loop
        self._on_commit = on_commit
        self._failpoint = failpoint
        self._queue: queue.SimpleQueue[Unit | _Signal] = queue.SimpleQueue()
        self._watched = False
        self.pending = 0
        self._connection: Connection | None = None
        self._data_version: int | None = None
        self._thread = threading.Thread(target=self._work, name="database-writer", daemon=True)
        self._thread.start()

    def submit(self, unit: Unit) -> None:
        """Queue a unit: it will run, whether or not anybody still waits for it."""
        self.pending += 1
        self._queue.put(unit)

    def watch(self, *, others: bool) -> None:
        """Look for other processes' commits from now on, or stop."""
        self._watched = others
        if others:
            self._queue.put(_LOOK)

    async def stop(self) -> None:
        """Finish what is queued and end the thread."""
        self._queue.put(_STOP)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        try:
            while (unit := self._next()) is not None:
                group = self._write(unit)
                self._loop.call_soon_threadsafe(self._settle, group)
        finally:
            self._disconnect()
            self._presence.close()

    def _next(self) -> Unit | None:
        while True:
            try:
                item = self._queue.get(timeout=self._look_every if self._watched else None)
            except queue.Empty:
                item = _LOOK
            if isinstance(item, Unit):
                return item
            if item is _STOP:
                return None
            self._look()

    def _settle(self, group: list[Unit]) -> None:
        self.pending -= len(group)
        metrics.GROUP_UNITS.observe(len(group))
        self._on_commit()
        for unit in group:
            unit.settle()

    def _write(self, first: Unit) -> list[Unit]:
        """Run a group and commit it; afterwards every unit has its outcome."""
        group: list[Unit] = []
        try:
            connection = self._connected()
            with self._begin(connection):
                for unit in self._group(first):
                    group.append(unit)
                    self._reach(Point.BEFORE, unit)
                    _run(unit, connection)
                    self._reach(Point.WRITTEN, unit)
            self._reach(Point.AFTER, *group)
        except Exception as error:  # noqa: BLE001 - whatever it is, the waiting units must be told
            self._fail(group or [first], error)
        return group or [first]

    def _reach(self, point: Point, *units: Unit) -> None:
        if self._failpoint is not None:
            for unit in units:
                self._failpoint.reached(unit.step, point)

    def _group(self, first: Unit) -> Iterator[Unit]:
        until = time.monotonic() + _GROUP_SECONDS
        yield first
        for _ in range(_GROUP_LIMIT - 1):
            if time.monotonic() > until:
                return
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return
            if item is _STOP:
                self._queue.put(item)
                return
            if isinstance(item, Unit):
                yield item

    def _fail(self, group: list[Unit], error: Exception) -> None:
        _log.error("database_group_failed", units=len(group), error=repr(error))
        self._disconnect()
        failure = _failure(error)
        for unit in group:
            unit.error = unit.error or failure

    def _begin(self, connection: Connection) -> RootTransaction:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return connection.begin()
            except OperationalError as error:
                if not sqlite.is_locked(error) or time.monotonic() > until:
                    raise
                self._look()

    def _look(self) -> None:
        """Tell of what others have committed, and see whether there are others at all."""
        if (now := time.monotonic()) >= self._presence_due:
            self._look_every = _LOOK_ALONE if self._presence.alone() else _LOOK_EVERY
            self._presence_due = now + _LOOK_ALONE
        try:
            version = sqlite.data_version(self._connected())
        except Exception as error:  # noqa: BLE001 - a watch loop: the next look connects again
            _log.warning("database_unreadable", error=repr(error))
            self._disconnect()
            return
        if version != self._data_version:
            self._data_version = version
            self._loop.call_soon_threadsafe(self._on_commit)

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
            self._data_version = None  # unknown what was committed meanwhile
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DBAPIError):
                connection.invalidate()
                connection.close()


@dataclass(frozen=True, slots=True, eq=False)
class _Signal:
    name: str


_LOOK: Final = _Signal("look")
_STOP: Final = _Signal("stop")


def _run(unit: Unit, connection: Connection) -> None:
    """Give the unit its outcome; what is raised is a failure of the storage.

    The savepoint is set by hand: SQLAlchemy's own compiles its statements each time, which costs
    as much as the rest of a small unit.
    """
    connection.info[UNIT] = unit
    connection.exec_driver_sql("SAVEPOINT unit")
    try:
        unit.value = unit.run(connection)
    except Exception as error:  # carried to whoever awaits the unit
        if sqlite.is_unavailable(error):
            raise
        unit.error = error
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT unit")
    connection.exec_driver_sql("RELEASE SAVEPOINT unit")


def _failure(error: Exception) -> Exception:
    """Return what the units of a group are told that could not be committed."""
    if not sqlite.is_unavailable(error):
        return error
    failure = StorageUnavailableError("the database can't be used now")
    failure.__cause__ = error
    return failure
