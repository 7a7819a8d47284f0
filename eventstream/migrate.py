"""Brings a database to the schema of its service, by Alembic and by one process at a time.

A service keeps its migrations in a folder of its package; its `env.py` is

    from eventstream.migrate import run_env
    from schedule.tables import metadata
    run_env(metadata)

Alembic is imported only where a migration is due. All that are due are one transaction: a process
killed in the middle leaves the schema that was there before.
"""

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, inspect, select
from sqlalchemy.engine import URL, make_url

from eventstream import sqlite

_log = structlog.get_logger()

_PATIENCE: Final = timedelta(seconds=60)
_REVISION: Final = re.compile(r"^(down_)?revision\b[^=\n]*=\s*[\"']([^\"'\n]+)[\"']", re.MULTILINE)
_VERSION: Final = Table("alembic_version", MetaData(), Column("version_num", String(32)))


def upgrade(url: URL, migrations: str) -> None:
    """Run what is due of `migrations` ("package:folder"); blocks, also while another process does.

    A database that is ahead of this program (a newer release was rolled back) is left as it is:
    released migrations only ever add.
    """
    engine = sqlite.writing_engine(url, _PATIENCE)
    folder = _folder(migrations)
    if not _due(engine, folder):
        return
    with _alone(sqlite.file_of(url)):
        if _due(engine, folder):
            with engine.begin() as connection:
                _run(connection, folder)


def _folder(migrations: str) -> Path:
    package, _, folder = migrations.partition(":")
    return Path(str(resources.files(package))) / folder


def _due(engine: Engine, folder: Path) -> bool:
    known, head = _revisions(folder)
    current = _current(engine)
    if current is not None and current not in known:
        _log.warning("database_ahead", revision=current, newest_known=head)
        return False
    return current != head


def _revisions(folder: Path) -> tuple[set[str], str]:
    """Return all revisions of the folder and the one that no other builds on."""
    known: set[str] = set()
    built_on: set[str] = set()
    for file in folder.glob("versions/*.py"):
        for down, revision in _REVISION.findall(file.read_text(encoding="utf-8")):
            (built_on if down else known).add(revision)
    heads = known - built_on
    if len(heads) != 1:
        raise ValueError(f"{folder} has {len(heads)} newest revisions instead of one")
    return known, heads.pop()


def _current(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table(_VERSION.name):
            return None
        return connection.execute(select(_VERSION.c.version_num)).scalar_one_or_none()


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold the lock of the processes that migrate this database; it ends with the process."""
    with file.with_suffix(".migrating").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(connection: Connection, folder: Path) -> None:
    from alembic import command  # noqa: PLC0415 - costs 11 MB, and is seldom needed
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    _log.info("database_migrated", folder=folder.name, database=connection.engine.url.database)


def run_env(metadata: MetaData) -> None:
    """Be the whole of a service's `env.py`: run the migrations that Alembic was asked for.

    On the connection that `upgrade` hands over, else (`alembic revision --autogenerate`) on
    `sqlalchemy.url` of the command's configuration file.
    """
    from alembic import context  # noqa: PLC0415 - exists only while Alembic runs

    connection: Connection | None = context.config.attributes.get("connection")
    if connection is not None:
        _run_on(connection, metadata)
        return
    url = context.config.get_main_option("sqlalchemy.url")
    if url is None:
        raise ValueError("sqlalchemy.url is not configured")
    with sqlite.writing_engine(make_url(url), _PATIENCE).begin() as connection:
        _run_on(connection, metadata)


def _run_on(connection: Connection, metadata: MetaData) -> None:
    from alembic import context  # noqa: PLC0415 - exists only while Alembic runs

    context.configure(
        connection=connection,
        target_metadata=metadata,
        transactional_ddl=True,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()
