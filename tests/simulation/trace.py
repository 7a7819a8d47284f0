"""What happened, in order: the account of a run that two runs of a seed share to the letter."""

import hashlib
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

from eventstream import StorageUnavailableError
from tests.simulation.loop import VirtualLoop

_FLAW: Final = frozenset({"error", "critical", "exception"})


class Trace:
    """The lines so far, and of them those that tell of a flaw in the program.

    A flaw is what production code itself calls an error in its log, or an exception that nobody
    took. What stops at a disk that fails has no flaw, unless its process stops for it.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self.lines: list[str] = []
        self.flaws: list[str] = []
        self._loop = loop
        self._over = False
        loop.set_exception_handler(self._unhandled)

    def close(self) -> None:
        """What happens from now on is no part of the run."""
        self._over = True

    def note(self, what: str) -> None:
        """Write a line: when, whose, what."""
        if not self._over:
            self.lines.append(f"{self._loop.time():12.6f} {self._loop.process.name:<12} {what}")

    def flaw(self, what: str) -> None:
        """Write a line that tells of a flaw."""
        self.note(f"FLAW {what}")
        if not self._over:
            self.flaws.append(self.lines[-1])

    def digest(self) -> str:
        """Equal for two runs exactly when the same happened in both."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def log(
        self, _logger: object, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Be the processor of structlog that writes the program's log here."""
        name = event.pop("event")
        error = event.pop("exc_info", None)
        if error is True:
            error = sys.exc_info()[1]
        facts = " ".join(f"{key}={value}" for key, value in event.items())
        said = f"log {name} {facts}".rstrip() + ("" if error is None else f" {error!r}")
        if method in _FLAW and not (_is_storage(error) and name != "job_failed"):
            self.flaw(said)
        else:
            self.note(said)
        raise structlog.DropEvent

    def _unhandled(self, _loop: object, context: dict[str, Any]) -> None:
        self.flaw(f"{context.get('message')} {context.get('exception')!r}")


def _is_storage(error: object) -> bool:
    return isinstance(error, StorageUnavailableError)
