"""Sees to it that there is a database on a PostgreSQL server, and that it suits."""

from typing import Any, Final

import psycopg
import structlog
from psycopg import errors, sql

from consulmesh.config import ConfigError
from eventstream.errors import StorageUnavailableError

_log = structlog.get_logger()

_OLDEST: Final = 150000  # server_version_num
_MAINTENANCE: Final = "postgres"
_CREATE: Final = (
    "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER libc LOCALE 'C'"
)
_ASK: Final = """
    SELECT current_setting('server_version_num')::int,
           current_setting('server_encoding') = 'UTF8' AND 'B' < 'a',
           current_setting('fsync')::bool
"""


def prepare(arguments: dict[str, Any]) -> None:
    """Create the database that psycopg's `arguments` name where it is missing, and look at it.

    Raises StorageUnavailableError where the server can't be asked now, and ConfigError where it
    must be somebody else who creates the database. Processes may do it at the same time.
    """
    name = arguments["dbname"]
    try:
        with _connect(arguments) as connection:
            _check(connection, name)
    except psycopg.OperationalError as error:
        raise StorageUnavailableError(f"the database {name!r} can't be reached: {error}") from error


def _connect(arguments: dict[str, Any]) -> "psycopg.Connection[Any]":
    """Connect to the database; a refusal has no code, so whether it exists is asked elsewhere."""
    try:
        return psycopg.connect(**arguments)
    except psycopg.OperationalError as error:
        if not _create_missing(arguments, error):
            raise
    return psycopg.connect(**arguments)


def _create_missing(arguments: dict[str, Any], error: psycopg.OperationalError) -> bool:
    """Create the database unless it is there; whether it may be there now."""
    name = arguments["dbname"]
    try:
        connection = psycopg.connect(**{**arguments, "dbname": _MAINTENANCE})
    except psycopg.OperationalError:
        raise error from None  # the server refuses altogether: the first answer says it best
    with connection:
        known = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name])
        if known.rowcount:
            return False
        _create(connection, name)
    return True


def _create(connection: "psycopg.Connection[Any]", name: str) -> None:
    statement = sql.SQL(_CREATE).format(sql.Identifier(name))
    try:
        connection.execute(statement)
        _log.info("database_created", database=name)
    except (errors.DuplicateDatabase, errors.UniqueViolation):
        return  # another process was faster
    except errors.InsufficientPrivilege as error:
        raise ConfigError(
            f"there is no database {name!r}, and the user may not create it; "
            f"an operator may: {statement.as_string(connection)}"
        ) from error


def _check(connection: "psycopg.Connection[Any]", name: str) -> None:
    version, ordered, flushes = connection.execute(_ASK).fetchone() or (0, False, False)
    if version < _OLDEST:
        raise ConfigError(f"PostgreSQL {_OLDEST // 10000} or newer is needed for {name!r}")
    if not ordered:  # a stream's snapshot and pages are read in the order of code points
        example = sql.SQL(_CREATE).format(sql.Identifier(name)).as_string(connection)
        raise ConfigError(f"the database {name!r} must be UTF8 with the collation C: {example}")
    if not flushes:
        _log.warning("database_not_durable", database=name, reason="fsync is off")
