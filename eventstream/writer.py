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
from sqlalchemy import Connection, RootTransaction
from sqlalchemy.exc import DBAPIError

from eventstream import metrics
from eventstream.backend import Backend
from eventstream.errors import StorageUnavailableError
from eventstream.steps import UNNAMED, Failpoint, Point, Step

_log = structlog.get_logger()

_PATIENCE: Final = timedelta(seconds=5)  # until a unit that can't begin fails
_ATTEMPT: Final = timedelta(milliseconds=10)
"""How long one attempt to begin waits for another process's transaction, where the thread looks for
that process's commits between attempts."""
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
    `on_commit` is called on the loop after each group and before its futures are told,
    `on_foreign_commit` when another process has committed.

    State: `pending` is the loop's, `_queue` and `_watched` are shared with it, everything else is
    the writer thread's own.
    """

    def __init__(
        self,
        backend: Backend,
        loop: asyncio.AbstractEventLoop,
        on_commit: Callable[[], None],
        on_foreign_commit: Callable[[], None],
        failpoint: Failpoint | None = None,
    ) -> None:
        self._backend = backend
        self._looks = backend.looks()
        self._patience = _PATIENCE.total_seconds()
        self._engine = backend.writing(_PATIENCE if self._looks is None else _ATTEMPT)
        self._loop = loop
        self._on_commit = on_commit
        self._on_foreign_commit = on_foreign_commit
        self._failpoint = failpoint
        self._queue: queue.SimpleQueue[Unit | _Signal] = queue.SimpleQueue()
        self._watched = False
        self.pending = 0
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._work, name="database-writer", daemon=True)
        self._thread.start()

    def submit(self, unit: Unit) -> None:
        """Queue a unit: it will run, whether or not anybody still waits for it."""
        self.pending += 1
        self._queue.put(unit)

    def watch(self, *, others: bool) -> None:
        """Look for other processes' commits from now on, or stop."""
        self._watched = others and self._looks is not None
        if self._watched:
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
            if self._looks is not None:
                self._looks.close()

    def _next(self) -> Unit | None:
        while True:
            try:
                item = self._queue.get(timeout=self._pause())
            except queue.Empty:
                item = _LOOK
            if isinstance(item, Unit):
                return item
            if item is _STOP:
                return None
            self._look()

    def _pause(self) -> float | None:
        return self._looks.every if self._watched and self._looks is not None else None

    def _settle(self, group: list[Unit]) -> None:
        self.pending -= len(group)
        self._on_commit()
        for unit in group:
            unit.settle()

    def _write(self, first: Unit) -> list[Unit]:
        """Run a group and commit it; afterwards every unit has its outcome."""
        try:
            connection, transaction = self._begin()
        except Exception as error:  # noqa: BLE001 - whatever it is, the waiting units must be told
            return self._fail([first, *self._waiting()], error)
        group: list[Unit] = []
        try:
            with transaction:
                for unit in self._group(first):
                    if group:
                        self._backend.mark(connection)
                    group.append(unit)
                    self._reach(Point.BEFORE, unit)
                    self._run(unit, connection)
                    self._reach(Point.WRITTEN, unit)
            self._reach(Point.AFTER, *group)
        except Exception as error:  # noqa: BLE001 - as above
            return self._fail(group, error)
        metrics.GROUP_UNITS.observe(len(group))
        return group

    def _reach(self, point: Point, *units: Unit) -> None:
        if self._failpoint is not None:
            for unit in units:
                self._failpoint.reached(unit.step, point)

    def _group(self, first: Unit) -> Iterator[Unit]:
        until = time.monotonic() + _GROUP_SECONDS
        yield first
        for _ in range(_GROUP_LIMIT - 1):
            if time.monotonic() > until or (unit := self._queued()) is None:
                return
            yield unit

    def _waiting(self) -> Iterator[Unit]:
        """Units that would wait as long as the first did, to find the same."""
        while (unit := self._queued()) is not None:
            yield unit

    def _queued(self) -> Unit | None:
        """Return the next unit that is in the queue now."""
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return None
            if item is _STOP:
                self._queue.put(item)
                return None
            if isinstance(item, Unit):
                return item

    def _run(self, unit: Unit, connection: Connection) -> None:
        """Give the unit its outcome; what is raised is a failure of the storage."""
        connection.info[UNIT] = unit
        try:
            unit.value = unit.run(connection)
            if not self._backend.is_sound(connection):
                unit.error = RuntimeError("a unit has caught an error that ended its transaction")
        except Exception as error:  # carried to whoever awaits the unit
            if self._backend.is_unavailable(error):
                raise
            unit.error = error
        if unit.error is not None:
            self._backend.undo(connection)

    def _fail(self, group: list[Unit], error: Exception) -> list[Unit]:
        _log.error("database_group_failed", units=len(group), error=repr(error))
        self._disconnect()
        failure = error
        if self._backend.is_unavailable(error):
            failure = StorageUnavailableError("the database can't be used now")
            failure.__cause__ = error
        for unit in group:
            unit.error = unit.error or failure
        return group

    def _begin(self) -> tuple[Connection, RootTransaction]:
        until = time.monotonic() + self._patience
        while True:
            was_idle = self._connection is not None
            try:
                connection = self._connected()
                return connection, connection.begin()
            except Exception as error:
                if self._backend.is_locked(error):
                    if self._looks is None or time.monotonic() > until:
                        raise
                    self._look()
                elif was_idle and self._backend.is_unavailable(error):
                    self._disconnect()  # it broke while idle: nothing has been tried yet
                else:
                    raise

    def _look(self) -> None:
        """Tell of what others have committed."""
        if self._looks is None:
            return
        try:
            changed = self._looks.changed(self._connected())
        except Exception as error:  # noqa: BLE001 - a watch loop: the next look connects again
            _log.warning("database_unreadable", error=repr(error))
            self._disconnect()
            return
        if changed:
            self._loop.call_soon_threadsafe(self._on_foreign_commit)

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
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
