"""What time it is, and waiting for a time: replaced in tests."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Protocol

LONGEST_WAIT = timedelta(minutes=1)


class Clock(Protocol):
    """The wall clock; instants are UTC."""

    def now(self) -> datetime:
        """The instant."""

    async def sleep_until(self, instant: datetime) -> None:
        """Return once `now` is `instant` or later."""


class SystemClock:
    """The machine's clock; looked at every minute at least, as it can be set."""

    def now(self) -> datetime:
        """The instant."""
        return datetime.now(UTC)

    async def sleep_until(self, instant: datetime) -> None:
        """Return once `now` is `instant` or later."""
        left = instant - self.now()
        while left > timedelta():
            await asyncio.sleep(min(left, LONGEST_WAIT).total_seconds())
            left = instant - self.now()
