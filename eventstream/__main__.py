"""What an operator does to a durable stream: `python -m eventstream new-epoch --help`."""

import argparse
import asyncio
import sys
from pathlib import Path

import structlog
from sqlalchemy import Connection, MetaData, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from consulmesh.config import ConfigError
from eventstream.database import Database
from eventstream.errors import StorageUnavailableError
from eventstream.outbox import Outbox
from eventstream.steps import Step

START_EPOCH = Step("outbox.start_epoch")


class NoOutboxError(Exception):
    """There is no such database, or no such outbox in it."""


async def new_epoch(url: str, name: str) -> str:
    """Start a new history of an outbox and return its epoch: every reader takes a snapshot.

    Raises NoOutboxError, and what `Database.open` raises.
    """
    _check_file(make_url(url))
    outbox = Outbox(MetaData(), name)

    def unit(connection: Connection) -> str:
        if not inspect(connection).has_table(outbox.head_row.name):
            raise NoOutboxError(f"the database has no outbox {name!r}")
        return outbox.start_epoch(connection)

    async with Database.open(url) as db:
        return await db.write(unit, step=START_EPOCH)


def _check_file(url: URL) -> None:
    """Let nothing be made where there is nothing."""
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise NoOutboxError(f"there is no file {url.database}")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m eventstream", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    epoch = commands.add_parser(
        "new-epoch",
        help="start a new history, after a database was restored from a backup",
        description="Start a new history: every reader takes a snapshot. To be run after a "
        "database was restored from a backup, before any instance of its service is started.",
    )
    epoch.add_argument("--url", required=True, help="sqlite:///FILE or postgresql://…/DATABASE")
    epoch.add_argument("--outbox", required=True, help="flight, price or booking")
    given = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        print(asyncio.run(new_epoch(given.url, given.outbox)))  # noqa: T201 - a command
    except (ArgumentError, ConfigError, NoOutboxError, StorageUnavailableError) as error:
        sys.exit(f"no new epoch: {error}")


if __name__ == "__main__":
    main()
