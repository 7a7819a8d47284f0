"""What a client spares an upstream that is in trouble: calls that it would refuse, and retries.

A refusal costs a server of grpc.aio nearly as much as a small answer, so that an overload which is
only refused there stays one ("Site Reliability Engineering", ch. 21). Retries at each of three hops
make 27 calls of one that fails; gRPC core counts them itself (gRFC A6) but not over xDS.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Final

from consulmesh.context import Criticality

_PER_ACCEPTED: Final = 2
"""Calls to each that was accepted. Fewer would leave the upstream idle when it can do more again,
more would cost it more."""
_ALLOWANCE: Final = 10
"""Refusals in both windows that change nothing: so few cost nobody anything."""
_TOKENS: Final = 10
_TOKEN_RATIO: Final = 0.1
_WINDOW_SECONDS: Final = 2.0
"""Two of them are remembered."""


class Throttle:
    """Calls of one criticality to one upstream: how many ended lately, and how many were refused.

    State: both counts of this window and of the one before, and when this one ends.
    """

    __slots__ = ("_before", "_clock", "_ended", "_ends", "_random", "_refused")

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._random = random
        self._ended = 0
        self._refused = 0
        self._before = (0, 0)
        self._ends = clock() + _WINDOW_SECONDS

    def __repr__(self) -> str:
        return f"<Throttle ended={self._ended} refused={self._refused}>"

    def refuses(self) -> bool:
        """Whether one more call is better not made; then it counts as ended and refused."""
        if not (self._refused or self._before[1]):
            return False
        self._turn()
        ended, refused = self._ended + self._before[0], self._refused + self._before[1]
        excess = ended - _PER_ACCEPTED * (ended - refused) - _ALLOWANCE
        if excess <= 0 or self._random() >= excess / (ended + 1):
            return False
        self._ended += 1
        self._refused += 1
        return True

    def ended(self, *, refused: bool) -> None:
        """A call that was made is over; the upstream refused it because of its load, or did not."""
        self._turn()
        self._ended += 1
        self._refused += refused

    def _turn(self) -> None:
        now = self._clock()
        if now >= self._ends:
            gone = now - self._ends >= _WINDOW_SECONDS
            self._before = (0, 0) if gone else (self._ended, self._refused)
            self._ended = self._refused = 0
            self._ends = now + _WINDOW_SECONDS


class RetryBudget:
    """Whether calls to one upstream that fail may be tried again; gRFC A6's retryThrottling.

    A call that failed after all takes a token, one that did not gives a tenth back: with more than
    one failure in eleven there are no retries soon. State: the tokens.
    """

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens = float(_TOKENS)

    def __repr__(self) -> str:
        return f"<RetryBudget tokens={self._tokens:.1f}>"

    @property
    def empty(self) -> bool:
        """Whether half of the tokens are gone."""
        return self._tokens <= _TOKENS / 2

    def ended(self, *, failed: bool) -> None:
        """A call is over, all its attempts."""
        change = -1.0 if failed else _TOKEN_RATIO
        self._tokens = min(float(_TOKENS), max(0.0, self._tokens + change))


Throttles = Mapping[Criticality, Throttle]


def throttles() -> Throttles:
    """Of one upstream. What must not be shed has none: it is asked for all the same."""
    return {each: Throttle() for each in Criticality if each is not Criticality.CRITICAL_PLUS}
