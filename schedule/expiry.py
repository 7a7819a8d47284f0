"""Gives the seats of holds back that have run out. Runs in one process at a time.

Sleeps until the next hold is due, and looks again when something was committed, as that may have
been a hold that is due earlier; because of commits not more often than four times a second.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Never, Protocol

import structlog

from schedule.clock import Clock
from schedule.domain import Hold, HoldState

PAUSE = timedelta(milliseconds=250)

_log = structlog.get_logger()


class DueHolds(Protocol):
    """The holds that run out, as stored."""

    @property
    def version(self) -> int:
        """A number that grows with what is committed."""

    async def changed(self, seen: int) -> int:
        """Wait until `version` is beyond `seen`."""

    async def due(self, now: datetime) -> Sequence[str]:
        """Bookings whose holds have run out by then, the oldest first; not all if many."""

    async def next_expiry(self) -> datetime | None:
        """When the next hold runs out."""


Expire = Callable[[str], Awaitable[Hold]]
"""Gives back what a booking holds, if that is due."""


class Sweeper:
    """Expires holds in time."""

    def __init__(self, holds: DueHolds, expire: Expire, clock: Clock) -> None:
        self._holds = holds
        self._expire = expire
        self._clock = clock

    async def sweep_forever(self) -> Never:
        """Expire holds for ever."""
        while True:
            looked, seen = self._clock.now(), self._holds.version
            await self.sweep()
            expiry = await self._holds.next_expiry()
            if await self._changed_before(expiry, seen):
                await self._clock.sleep_until(looked + PAUSE)

    async def sweep(self) -> int:
        """Expire what is due, each hold in a unit of its own; returns how many that were."""
        expired = 0
        while due := await self._holds.due(self._clock.now()):
            holds = await asyncio.gather(*map(self._expire, due))
            expired += sum(hold.state is HoldState.EXPIRED for hold in holds)
        if expired:
            _log.info("holds_expired", count=expired)
        return expired

    async def _changed_before(self, expiry: datetime | None, seen: int) -> bool:
        """Wait for a commit or for the expiry; whether it was a commit."""
        waits = [asyncio.ensure_future(self._changed(seen))]
        if expiry is not None:
            waits.append(asyncio.ensure_future(self._clock.sleep_until(expiry)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return waits[0].done()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _changed(self, seen: int) -> None:
        await self._holds.changed(seen)
