"""Brings a database to the schema of its service, by Alembic and by one process at a time.

A service keeps its migrations in a folder of its package; its `env.py` is

    from eventstream.migrate import run_env
    from schedule.tables import metadata
    run_env(metadata)

Alembic is imported only where a migration is due. All that are due are one transaction: a process
killed in the middle leaves the schema that was there before.
"""

import os
import re
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from sqlalchemy import URL, Column, Connection, MetaData, String, Table, inspect, select

from eventstream.backend import backend_of
from eventstream.steps import Failpoint, Point, Step

if TYPE_CHECKING:
    from alembic.config import Config

_log = structlog.get_logger()

UPGRADE: Final = Step("migrate.upgrade")
_PATIENCE: Final = timedelta(seconds=60)
_REVISION: Final = re.compile(r"^(down_)?revision\b[^=\n]*=\s*[\"']([^\"'\n]+)[\"']", re.MULTILINE)
_VERSION: Final = Table("alembic_version", MetaData(), Column("version_num", String(32)))


def upgrade(url: str | URL, migrations: str) -> None:
    """Run what is due of `migrations` ("package:folder"); blocks, also while another process does.

    All that is due is one transaction, and as a transaction holds the database's write lock, one
    process at a time does it. A database that is ahead of this program (a newer release was rolled
    back) is left as it is: released migrations only ever add.
    """
    backend = backend_of(url)
    folder = _folder(migrations)
    with backend.reading(_PATIENCE).connect() as connection:
        if not _due(connection, folder):
            return
    config = _config(folder)
    failpoint = Failpoint.from_env(os.environ)
    with backend.writing(_PATIENCE).begin() as connection:
        if _due(connection, folder):
            _reach(failpoint, Point.BEFORE)
            _run(connection, config)
            _reach(failpoint, Point.WRITTEN)
    _reach(failpoint, Point.AFTER)


def _reach(failpoint: Failpoint | None, point: Point) -> None:
    if failpoint is not None:
        failpoint.reached(UPGRADE, point)


def _folder(migrations: str) -> Path:
    package, _, folder = migrations.partition(":")
    return Path(str(resources.files(package))) / folder


def _due(connection: Connection, folder: Path) -> bool:
    known, head = _revisions(folder)
    current = _current(connection)
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


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_VERSION.name):
        return None
    return connection.execute(select(_VERSION.c.version_num)).scalar_one_or_none()


def _config(folder: Path) -> "Config":
    """Return Alembic's configuration; importing it takes too long for an open transaction."""
    from alembic.config import Config  # noqa: PLC0415 - costs 11 MB, and is seldom needed

    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _run(connection: Connection, config: "Config") -> None:
    from alembic import command  # noqa: PLC0415 - as above

    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    _log.info("database_migrated", database=connection.engine.url.database)


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
    with backend_of(url).writing(_PATIENCE).begin() as connection:
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
