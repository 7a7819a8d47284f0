"""Load shedding: what a server that has more to do than it can does not begin.

gRPC's asyncio server takes up one call after the other, so what is too much waits in gRPC core,
where no event loop is late and no handler runs. How long a call waited there is known all the same:
its deadline began when its headers arrived, and its client says what it was then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from consulmesh.context import Criticality
from consulmesh.errors import Overloaded
from consulmesh.propagation import Incoming

_TIMES_TARGET: Final = {
    Criticality.SHEDDABLE: 1.0,
    Criticality.SHEDDABLE_PLUS: 2.0,
    Criticality.CRITICAL: 5.0,
    Criticality.CRITICAL_PLUS: math.inf,
}
_RELIEF: Final = 0.5  # of the target: who waits less has found next to no queue


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTerms:
    """When a queue is one that stays.

    `target` is the time that sheddable calls may wait in it; more important ones may wait longer.
    A pause of the process, after which many calls are late once, is shorter than `patience` or has
    fewer than `run` late calls behind it.
    """

    target: timedelta = timedelta(milliseconds=200)
    patience: timedelta = timedelta(milliseconds=100)
    run: int = 16


class StandingQueue:
    """Tells a queue that stays from a burst, by how long what leaves it has waited.

    As long as nothing leaves it early, what waited longer than its criticality allows is refused.
    Refusing is cheap, so the wait settles at the target of the least important that still come.
    Source: CoDel (RFC 8289) and the controlled delay of "Fail at Scale" (ACM Queue 13, 8).

    State: since when and how often everything was late, and the last wait.
    """

    __slots__ = ("_late", "_late_since", "_patience", "_relief", "_run", "_target", "last")

    def __init__(self, terms: QueueTerms) -> None:
        self._target = terms.target.total_seconds()
        self._relief = self._target * _RELIEF
        self._patience = terms.patience.total_seconds()
        self._run = terms.run
        self._late = 0
        self._late_since = math.inf
        self.last = 0.0

    def left(self, waited: float, now: float) -> None:
        """Something left the queue after so many seconds."""
        self.last = waited
        if waited < self._relief:
            self._late = 0
            self._late_since = math.inf
        elif waited > self._target:
            if not self._late:
                self._late_since = now
            self._late += 1

    def stands(self, now: float) -> bool:
        """Whether there is more to do than can be done."""
        return self._late >= self._run and now - self._late_since >= self._patience

    def refuses(self, criticality: Criticality, waited: float, now: float) -> bool:
        """Whether what waited so long is not worth to be done any more."""
        return self.stands(now) and waited > self._target * _TIMES_TARGET[criticality]


class QueueAdmission:
    """Admission of a server's calls by how long they waited in gRPC core.

    A call that does not say (another client than ours, or one of its retries) is judged by the one
    before it.
    """

    def __init__(self, terms: QueueTerms, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue = StandingQueue(terms)
        self._clock = clock

    def __repr__(self) -> str:
        return f"<QueueAdmission last={self._queue.last:.3f} s>"

    def admit(self, _method: str, call: Incoming) -> None:
        """Returns, or raises Overloaded."""
        queue, now = self._queue, self._clock()
        waited = call.waited
        if waited is None:
            waited = queue.last
        else:
            queue.left(waited, now)
        if queue.stands(now) and queue.refuses(call.read().criticality, waited, now):
            raise Overloaded


class ConcurrencyLimit:
    """How many of something may be under way, found by how long they take.

    One more for each `most` that was done in time while most places were taken, a tenth less for
    one that was late, once in as long as it may take: additive increase, multiplicative decrease.

    State: the limit, and when it was last lowered.
    """

    __slots__ = ("_clock", "_least", "_lowered", "_most", "_target", "limit")

    def __init__(
        self,
        target: timedelta,
        *,
        least: int,
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target.total_seconds()
        self._least = least
        self._most = most
        self._clock = clock
        self._lowered = -math.inf
        self.limit = float(most)

    def admits(self, under_way: int) -> bool:
        """Whether one more may begin."""
        return under_way < self.limit

    def done(self, seconds: float, under_way: int) -> None:
        """One that took so long is over; so many are still under way."""
        if seconds <= self._target:
            if 2 * under_way >= self.limit:
                self.limit = min(self._most, self.limit + 1 / self.limit)
        elif (now := self._clock()) - self._lowered >= self._target:
            self._lowered = now
            self.limit = max(self._least, min(self.limit, under_way + 1) * 0.9)
