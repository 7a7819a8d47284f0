"""Writes histories: one line for each thing that happens, before the next one does."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TextIO

from bench.checker.history import FAIL, INFO, INVOKE, NEMESIS, OK


class Recorder:
    """Writes what happens to a file; each line is in the operating system's hands at once."""

    def __init__(self, lines: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._lines = lines
        self._clock = clock

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Write to the end of a file."""
        with path.open("a", buffering=1) as lines:
            yield cls(lines)

    def invoke(self, process: str, op: str, **said: Any) -> None:
        """A process is about to ask."""
        self._write(process, op, INVOKE, said)

    def ok(self, process: str, op: str, **told: Any) -> None:
        """It was answered."""
        self._write(process, op, OK, told)

    def fail(self, process: str, op: str, **told: Any) -> None:
        """It definitely had no effect."""
        self._write(process, op, FAIL, told)

    def info(self, process: str, op: str, **told: Any) -> None:
        """Nobody knows whether it had an effect."""
        self._write(process, op, INFO, told)

    def nemesis(self, op: str, **told: Any) -> None:
        """Something was killed, just now."""
        self._write(NEMESIS, op, INFO, told)

    def _write(self, process: str, op: str, phase: str, rest: Mapping[str, Any]) -> None:
        line = {"t": self._clock(), "process": process, "op": op, "phase": phase, **rest}
        self._lines.write(json.dumps(line, separators=(",", ":")) + "\n")
