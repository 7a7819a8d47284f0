"""Instance slots: a small stable number for each of several processes of one service.

A slot is an exclusive lock on a file. The kernel gives it back when the process ends, however it
ends, so that the next process takes the same number, id and files. Source: flock(2).
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

MOST = 1000  # more processes of one service on one machine are a mistake


class SlotTakenError(Exception):
    """The instance id that was asked for belongs to a process that is still alive."""


class Slot:
    """A held slot, given back by `close()` or the end of a `with` block.

    `instance_id` is "<service>-<number>", or the id that was asked for; its number is then the
    one it ends with after the service's name, else 0.
    """

    def __init__(self, instance_id: str, number: int, descriptor: int) -> None:
        self.instance_id = instance_id
        self.number = number
        self._descriptor: int | None = descriptor

    def __repr__(self) -> str:
        return f"Slot({self.instance_id!r}, held={self._descriptor is not None})"

    @classmethod
    def take(cls, folder: Path, service: str, instance_id: str | None = None) -> Self:
        """Take the lowest free slot of a service, or the one of the given id.

        Raises SlotTakenError where that one is held. The folder is made if need be.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if instance_id is not None:
            return cls._named(folder, service, instance_id)
        for number in range(1, MOST + 1):
            name = f"{service}-{number}"
            if (descriptor := _lock(folder / f"{name}.lock")) is not None:
                return cls(name, number, descriptor)
        raise SlotTakenError(f"{service} has {MOST} processes already")

    @classmethod
    def _named(cls, folder: Path, service: str, instance_id: str) -> Self:
        path = folder / f"{instance_id}.lock"
        if (descriptor := _lock(path)) is None:
            raise SlotTakenError(f"{instance_id} is held by process {path.read_text() or '?'}")
        suffix = instance_id.removeprefix(f"{service}-")
        return cls(instance_id, int(suffix) if suffix.isdecimal() else 0, descriptor)

    def close(self) -> None:
        """Give the slot back; may be called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _lock(path: Path) -> int | None:
    """Lock a file and write our process id for people to read; None if another holds it.

    The file is never removed: a waiter could be left with the lock of a file nobody sees.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor
