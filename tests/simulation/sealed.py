"""Everything that would make two runs differ, in one place: clocks and randomness.

Within `sealed` the clocks of the `time` module tell virtual time, that of the wall with the skew of
the process that runs, and what is random comes from the seed. A module that reads `datetime.now`
gets a class that asks the same wall clock.
"""

import os
import random
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, tzinfo
from importlib import import_module
from typing import Final
from unittest.mock import patch

from booking.timetable import SparseInbox
from consulmesh import context, outgoing
from consulmesh.throttling import Throttle
from eventstream import Feed, Follower
from tests.simulation.loop import VirtualLoop

BEGINNING: Final = datetime(2026, 12, 1, 12, tzinfo=UTC)
"""When every simulation begins."""
_NANO: Final = 1_000_000_000
_READING_THE_CLOCK: Final = (
    "booking.__main__",
    "eventstream.inbox",
    "eventstream.retention",
    "pricing.__main__",
    "schedule.clock",
)
_DEFAULTS: Final = ((Feed.__init__, "time_ns"), (Follower.__init__, "time"))
"""Who has a clock for a default, read when they were defined, and which."""


@contextmanager
def sealed(loop: VirtualLoop, chance: random.Random) -> Iterator[None]:
    """Let nothing in from outside for the block."""
    start = BEGINNING.timestamp()

    def wall() -> float:
        return start + loop.time() + loop.process.skew

    class Now(datetime):
        """The module's `datetime`, on the simulated wall clock."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # no instance of this class is ever made
            return datetime.fromtimestamp(wall(), tz)

    with ExitStack() as stack:
        replaced = {
            "monotonic": loop.time,
            "perf_counter": loop.time,
            "time": wall,
            "time_ns": lambda: int(wall() * _NANO),
        }
        for name, clock in replaced.items():
            stack.enter_context(patch.object(time, name, clock))
        for method, name in _DEFAULTS:
            stack.enter_context(patch.dict(method.__kwdefaults__, clock=replaced[name]))
        stack.enter_context(patch.object(SparseInbox.__init__, "__defaults__", (loop.time,)))
        own = (loop.time, random.random)
        stack.enter_context(patch.object(Throttle.__init__, "__defaults__", own))
        # no gRPC core rounds timeouts here
        stack.enter_context(patch.object(outgoing, "sendable", lambda timeout: timeout * 1000))
        for module in _READING_THE_CLOCK:
            stack.enter_context(patch.object(import_module(module), "datetime", Now))
        stack.enter_context(_seeded(chance))
        yield


@contextmanager
def _seeded(chance: random.Random) -> Iterator[None]:
    """Ids, tokens, jitter: all by the seed. Trace ids too, though nothing depends on them."""
    state = random.getstate()
    random.seed(chance.getrandbits(64))
    with (
        patch.object(os, "urandom", chance.randbytes),
        patch.object(secrets, "token_bytes", lambda size=32: chance.randbytes(size)),
        patch.object(secrets, "choice", chance.choice),
        patch.object(context, "_random_bits", chance.getrandbits),
    ):
        try:
            yield
        finally:
            random.setstate(state)
