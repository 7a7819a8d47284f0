"""What a database engine does in its own way, and which engine a URL names.

The two engines mean the same to a unit of work. A database has one writer at a time: a transaction
of the writing engine holds the database's write lock from its beginning, so a unit sees the newest
commits, nothing that it has read changes before it commits, and deadlocks can't happen.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL, make_url

from consulmesh.config import ConfigError


class Looks(Protocol):
    """Finds out whether another process has committed; belongs to the writer thread."""

    @property
    def every(self) -> float:
        """Seconds until the next look, while anybody waits for changes."""

    def changed(self, connection: Connection) -> bool:
        """Whether another process may have committed since the last look."""

    def close(self) -> None:
        """Stop looking; may be repeated."""


class Backend(Protocol):
    """A database of one engine. Blocks where it is not asynchronous."""

    async def ready(self) -> None:
        """Wait until the database can be used, and create it where there is none.

        Raises StorageUnavailableError, and ConfigError where only an operator can help.
        """

    def writing(self, patience: timedelta) -> Engine:
        """Return an engine whose transactions hold the write lock from their beginning.

        `patience` is how long one attempt waits for that lock. A transaction begins with a `mark`.
        """

    def reading(self, patience: timedelta) -> Engine:
        """Return an engine whose transactions each read one snapshot and can't write."""

    def mark(self, connection: Connection) -> None:
        """Keep what was done since the last mark, and set the next one."""

    def undo(self, connection: Connection) -> None:
        """Undo what was done since the last mark."""

    def is_sound(self, connection: Connection) -> bool:
        """Whether the transaction goes on: it does not after some errors, even if caught."""

    def is_locked(self, error: BaseException) -> bool:
        """Whether another connection held a lock for longer than this one waits."""

    def is_unavailable(self, error: BaseException) -> bool:
        """Whether the storage failed, as opposed to the statement."""

    def looks(self) -> Looks | None:
        """Return what finds commits of other processes by looking; None where `listen` does."""

    async def listen(self, told: Callable[[], None]) -> None:
        """Call `told` whenever another process has committed, perhaps once too often.

        Ends by cancellation, or at once where `looks` does it.
        """


def backend_of(url: str | URL) -> Backend:
    """Return the engine that a URL names; raises ConfigError where that is none of ours.

    An engine is imported when it is first asked for: a driver costs memory.
    """
    parsed = make_url(url)
    match parsed.get_backend_name():
        case "sqlite":
            from eventstream.sqlite import Sqlite  # noqa: PLC0415 - as said above

            return Sqlite(parsed)
        case "postgresql" | "postgres":
            from eventstream.postgres import Postgres  # noqa: PLC0415 - as said above

            return Postgres(parsed)
        case name:
            raise ConfigError(f"no support for {name!r}: a database is sqlite or postgresql")
