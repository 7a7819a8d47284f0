"""What is PostgreSQL's own: the write lock, round trips, and what its errors mean.

The write lock is an advisory lock that every writing transaction takes when it begins, in the
order of asking. READ COMMITTED is enough then: nobody else changes what a unit has read. A process
that was frozen in a transaction loses its session, and with it the lock, before the patience of
those that wait is over.

Beginning, with lock and savepoint, is one round trip; so is the commit. NOTIFY follows the COMMIT
in the same message instead of standing in the transaction: a transaction that notifies holds a
lock of the whole server while it flushes its log, so that the services of one server would wait for
each other's disks. A process can't die between the two: the server has got both or neither.

A pooler between must be in session mode: settings, prepared statements and LISTEN are a session's.
"""

import asyncio
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import psycopg
import structlog
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError

from consulmesh.config import ConfigError
from eventstream import provision
from eventstream.errors import StorageUnavailableError
from eventstream.listener import listen, notice

_log = structlog.get_logger()

_WRITE_LOCK: Final = int.from_bytes(b"events", "big")
"""Key of the advisory lock that the writers of a database take in turn."""
_FROZEN: Final = 0.8
"""Share of the patience of those that wait, after which a transaction is ended that is idle."""
_READ_LIMIT: Final = timedelta(seconds=60)  # for a reader that was frozen: it keeps old rows alive
_START: Final = 30.0  # seconds that a process waits for the server when it starts
_MILLISECOND: Final = timedelta(milliseconds=1)
_LINK: Final = {
    "connect_timeout": 3,
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 4,
    "tcp_user_timeout": 7000,
    "client_encoding": "utf8",
}
"""A server that vanished is noticed within seven seconds; the URL's query may say otherwise."""
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') = 'off'"
)
_UNAVAILABLE: Final = (
    "08",  # the connection
    "25006",  # read only: a standby, or an operator's wish
    "25P03",  # a transaction that did nothing for too long
    "40",  # the server chose to roll back
    "53",  # no memory, no disk, no connections left
    "54",  # a limit of the server: where notices find no room, the commit before them is done
    "55P03",  # locked
    "57",  # cancelled, shut down, starting up
    "58",  # its input or output failed
    "XX",  # damaged data, or a defect of the server
)
_SHOWS_VALUES: Final = ("22", "23")
"""Errors whose own text may contain values of the statement."""


class Postgres:
    """A database on a server. Has no state but the name by which it knows its own notices."""

    def __init__(self, url: URL) -> None:
        if not url.database:
            raise ConfigError("the URL of a PostgreSQL database does not name the database")
        self._url = url.set(drivername="postgresql+psycopg")
        self._sender = uuid.uuid4().hex

    async def ready(self) -> None:
        """Wait for the server, which may just start or recover, and create the database."""
        until = time.monotonic() + _START
        awaited = False
        while True:
            try:
                return await asyncio.to_thread(provision.prepare, self._arguments("starter"))
            except StorageUnavailableError as error:
                if time.monotonic() > until:
                    raise
                if not awaited:
                    _log.warning("database_awaited", error=str(error))
                awaited = True
            await asyncio.sleep(0.25)

    def writing(self, patience: timedelta) -> Engine:
        """Return an engine whose transactions take the write lock first."""
        engine = self._engine("writer", patience, patience * _FROZEN)
        begin = f"BEGIN; SELECT pg_advisory_xact_lock({_WRITE_LOCK}); SAVEPOINT unit"
        commit = f"COMMIT; {notice(self._sender)}"
        event.listen(engine, "begin", lambda connection: _execute(connection, begin))
        event.listen(engine, "commit", lambda connection: _execute(connection, commit))
        return engine

    def reading(self, patience: timedelta) -> Engine:
        """Return an engine whose transactions are REPEATABLE READ and READ ONLY."""
        engine = self._engine("reader", patience, _READ_LIMIT)
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
        event.listen(engine, "begin", lambda connection: _execute(connection, begin))
        return engine

    def _engine(self, role: str, patience: timedelta, idle: timedelta) -> Engine:
        engine = create_engine(
            self._url,
            poolclass=NullPool,
            connect_args={"autocommit": True, **self._link(role)},
            hide_parameters=True,  # an error goes to the log, the values of a statement may not
            use_native_hstore=False,
            execution_options={"preserve_rowcount": True},  # of inserts too, as SQLite does
        )
        settings = (
            f"SET lock_timeout = {patience // _MILLISECOND}; "
            f"SET idle_in_transaction_session_timeout = {idle // _MILLISECOND}; {_DURABLE}"
        )

        @event.listens_for(engine, "connect")
        def configure(connection: "psycopg.Connection[Any]", _record: object) -> None:
            connection.execute(settings, prepare=False)

        event.listen(engine, "handle_error", _hide_values)
        return engine

    def _link(self, role: str) -> dict[str, Any]:
        link = {**_LINK, "application_name": f"eventstream-{role}"}
        return {name: value for name, value in link.items() if name not in self._url.query}

    def _arguments(self, role: str) -> dict[str, Any]:
        """What psycopg is called with where SQLAlchemy is not used."""
        dialect = self._url.get_dialect()()
        _, arguments = dialect.create_connect_args(self._url)
        return {**arguments, **self._link(role), "autocommit": True}

    def mark(self, connection: Connection) -> None:
        """Move the savepoint here.

        A released savepoint is a subtransaction all the same; beyond 64 of them in a transaction
        others' snapshots become slow, which is the size of a writer's group.
        """
        _execute(connection, "RELEASE SAVEPOINT unit; SAVEPOINT unit")

    def undo(self, connection: Connection) -> None:
        """Go back to the savepoint."""
        _execute(connection, "ROLLBACK TO SAVEPOINT unit")

    def is_sound(self, connection: Connection) -> bool:
        """False after any error of a statement, also where the unit has caught it."""
        return _driver(connection).info.transaction_status == TransactionStatus.INTRANS

    def is_locked(self, error: BaseException) -> bool:
        """Whether it is lock_not_available."""
        return _state(error) == "55P03"

    def is_unavailable(self, error: BaseException) -> bool:
        """Whether the connection broke, or the server says that it is the server."""
        state = _state(error)
        if state is not None:
            return state.startswith(_UNAVAILABLE)
        return isinstance(_cause(error), psycopg.OperationalError)

    def looks(self) -> None:
        """Nothing: the server tells."""

    async def listen(self, told: Callable[[], None]) -> None:
        """Listen on a connection of its own, for ever."""
        await listen(self._arguments("listener"), self._sender, told)


def _execute(connection: Connection, commands: str) -> None:
    """Run commands without parameters in one round trip; psycopg would prepare them one day."""
    try:
        _driver(connection).execute(commands, prepare=False)
    except psycopg.Error as error:
        hidden = DBAPIError.instance(
            commands, None, error, psycopg.Error, hide_parameters=True, dialect=connection.dialect
        )
        _hide(error, hidden)
        raise hidden from error


def _driver(connection: Connection) -> "psycopg.Connection[Any]":
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError(f"not a connection of psycopg: {driver!r}")
    return driver


def _hide_values(context: ExceptionContext) -> None:
    _hide(context.original_exception, context.sqlalchemy_exception)


def _hide(error: BaseException, wrapped: BaseException | None) -> None:
    """Leave no values in an error's text: PostgreSQL quotes the row that broke a constraint."""
    if not isinstance(error, psycopg.Error) or error.sqlstate is None:
        return
    diagnosis = error.diag
    text = diagnosis.message_primary or ""
    if error.sqlstate.startswith(_SHOWS_VALUES):
        text = f"{error.sqlstate} {diagnosis.table_name or ''} {diagnosis.constraint_name or ''}"
    error.args = (text.strip(),)
    if wrapped is not None:
        wrapped.args = (f"({type(error).__name__}) {text.strip()}",)


def _cause(error: BaseException) -> BaseException | None:
    return error.orig if isinstance(error, DBAPIError) else error


def _state(error: BaseException) -> str | None:
    cause = _cause(error)
    return cause.sqlstate if isinstance(cause, psycopg.Error) else None
