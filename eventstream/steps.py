"""Durable steps by name, and the failpoints before, within and after each of them.

A unit of `Database.write` that a service could lose or repeat names its step:

    BEGIN: Final = Step("booking.begin")
    await db.write(unit, step=BEGIN)

So the list of all moments at which a crash could hurt is what the program itself uses, and a test
can go through it. Each step has three points: `before` (in the transaction, the unit has not run),
`written` (it has run, nothing is durable) and `after` (it is durable, nobody has been told).

`MESH_FAILPOINT=booking.begin:written:2` kills the process, as by `kill -9`, when it comes to that
point for the second time; `booking.begin:written:2:stop` freezes it, as by SIGSTOP.
"""

import os
import signal
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Self

from consulmesh.config import ConfigError

VARIABLE: Final = "MESH_FAILPOINT"

_STEPS: dict[str, "Step"] = {}


class Point(StrEnum):
    """A moment of a durable step."""

    BEFORE = "before"
    WRITTEN = "written"
    AFTER = "after"


class Step:
    """A durable step of this program; its name is `<package>.<verb>` and unique."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        if name in _STEPS:
            raise ValueError(f"two durable steps are called {name!r}")
        self.name = name
        _STEPS[name] = self

    def __repr__(self) -> str:
        return f"Step({self.name!r})"


UNNAMED: Final = Step("eventstream.unnamed")
"""The step of a unit that no service names: a program's own, or a test's."""


def steps() -> list[str]:
    """Return the names of the steps of the modules that are imported, in order."""
    return sorted(_STEPS)


class Failpoint:
    """The one point of this process that is armed.

    State: `_passes` that are left, the writer thread's own.
    """

    def __init__(self, step: Step, point: Point, passes: int, action: signal.Signals) -> None:
        self._step = step
        self._point = point
        self._passes = passes
        self._action = action

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self | None:
        """Return what `MESH_FAILPOINT` arms; raises ConfigError where that is no point."""
        text = environ.get(VARIABLE)
        if not text:
            return None
        name, _, rest = text.partition(":")
        point, _, rest = rest.partition(":")
        passes, _, action = rest.partition(":")
        try:
            return cls(_STEPS[name], Point(point), _count(passes), _ACTIONS[action or "kill"])
        except (KeyError, ValueError):
            raise ConfigError(
                f"{VARIABLE}={text!r} is not step:point[:pass[:kill|stop]]; "
                f"points are {', '.join(Point)}, steps {', '.join(steps())}"
            ) from None

    def reached(self, step: Step, point: Point) -> None:
        """End this process if this is its point."""
        if step is not self._step or point is not self._point:
            return
        self._passes -= 1
        if not self._passes:
            os.kill(os.getpid(), self._action)


def _count(text: str) -> int:
    count = int(text or "1")
    if count < 1:
        raise ValueError(text)
    return count


_ACTIONS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
