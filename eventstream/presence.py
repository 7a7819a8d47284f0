"""Whether anybody else has the database open: who is alone need not look for others' commits.

Each `Database` holds a shared lock on a file beside the data; the lock ends with the process,
however that ends. Only how soon a commit is noticed depends on the answer, never whether it is.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from eventstream.errors import StorageUnavailableError


class Presence:
    """One user of a database, until it is closed. Belongs to one thread at a time.

    State: `_lock`, the open file that holds the lock; None once closed.
    """

    def __init__(self, lock: int) -> None:
        self._lock: int | None = lock
        fcntl.flock(lock, fcntl.LOCK_SH)

    @classmethod
    def beside(cls, file: Path) -> Self:
        """Return a user of the database in `file`; raises StorageUnavailableError."""
        try:
            return cls(os.open(file.with_suffix(".users"), os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise StorageUnavailableError("the database's folder can't be written") from error

    def alone(self) -> bool:
        """Whether there is no other user now.

        Two that ask within the same microseconds may overlook each other, until they ask again.
        """
        if self._lock is None:
            return False
        alone = False
        with suppress(BlockingIOError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        fcntl.flock(self._lock, fcntl.LOCK_SH)  # one that could not be turned is gone
        return alone

    def close(self) -> None:
        """Stop being a user; may be repeated."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
