"""The port behind which sagas are stored."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Protocol

from booking.domain import Booking, RequestKey, Saga, User

Stray = tuple[str, datetime]
"""The booking of a saga, and when that is due. Whoever moves a saga puts it off anew."""


class SagaLog(Protocol):
    """Stored sagas. Every change is one durable transaction, and fails for an older epoch."""

    async def begin(self, saga: Saga, key: RequestKey, due: datetime) -> Booking | None:
        """Store booking, key and saga; or return the booking that the key has made already."""
        ...

    async def cancel(
        self, user: User, booking_id: str, key: RequestKey, owner: str, now: datetime, due: datetime
    ) -> tuple[Booking, Saga | None] | None:
        """Cancel the user's booking; with the saga, unless it was cancelled before."""
        ...

    async def record(self, before: Saga, after: Saga, due: datetime) -> Saga | None:
        """Store the saga's new step and what it did to the booking; None when superseded."""
        ...

    async def postpone(self, saga: Saga, error: str, due: datetime) -> bool:
        """Count an unanswered attempt and let go of the saga until it is due."""
        ...

    async def next_due(self, now: datetime) -> datetime | None:
        """When the next saga is due: `now` where one is already."""
        ...

    async def claim(self, owner: str, now: datetime, due: datetime, limit: int) -> Sequence[Saga]:
        """Take sagas that are due, in a new epoch each, until `due`."""
        ...

    async def strays(self, horizon: datetime) -> AbstractSet[Stray]:
        """Sagas that are due after the horizon only; some, where there are many."""
        ...

    async def recall(self, strays: AbstractSet[Stray], now: datetime) -> None:
        """Make sagas due that have not moved since they were read."""
        ...

    async def hand_back(self, owner: str, now: datetime) -> int:
        """Make the owner's unfinished sagas due for everybody; how many."""
        ...

    @property
    def elsewhere(self) -> int:
        """Grows with every commit of another process that is known here."""
        ...

    async def changed_elsewhere(self, seen: int) -> int:
        """Wait for such a commit: until `elsewhere` is beyond `seen`."""
        ...
