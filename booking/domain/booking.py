"""A booking: what was asked, what was quoted, and what became of it. Amounts are US dollars."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from booking.domain.errors import IllegalTransition, NotCancellable
from booking.domain.party import Passenger, User


class Cabin(StrEnum):
    """A class of service on board."""

    ECONOMY = "economy"
    PREMIUM_ECONOMY = "premium_economy"
    BUSINESS = "business"
    FIRST = "first"


class Status(StrEnum):
    """State of a booking."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    AFFECTED = "affected"


NEXT_STATUSES: Mapping[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.CONFIRMED, Status.REJECTED}),
    Status.CONFIRMED: frozenset({Status.AFFECTED, Status.CANCELLED}),
    Status.AFFECTED: frozenset({Status.CANCELLED}),
    Status.REJECTED: frozenset(),
    Status.CANCELLED: frozenset(),
}
"""What can become of a booking; each arrow is one version and one event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One flight as it was quoted; amounts are for one passenger."""

    flight_id: str
    cabin: Cabin
    fare: Decimal
    taxes: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What pricing asks for a party; the total is for all of it."""

    quote_id: str
    passengers: int
    segments: tuple[Segment, ...]
    total: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why a booking was rejected; `fresh_quote_id` where another price is on offer."""

    reason: str
    message: str
    fresh_quote_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """A booking of one user; each change makes a new value with the next version."""

    booking_id: str
    reference: str
    user: User
    quote_id: str
    passengers: tuple[Passenger, ...]
    email: str
    create_time: datetime
    update_time: datetime
    status: Status = Status.PENDING
    segments: tuple[Segment, ...] = ()
    total: Decimal | None = None
    rejection: Rejection | None = None
    version: int = 1

    @property
    def settled(self) -> bool:
        """Whether the saga has decided what becomes of it."""
        return self.status is not Status.PENDING

    def priced(self, quote: Quote, now: datetime) -> "Booking":
        """With the flights and the price of the redeemed quote."""
        return replace(
            self,
            segments=quote.segments,
            total=quote.total,
            update_time=now,
            version=self.version + 1,
        )

    def confirmed(self, now: datetime) -> "Booking":
        """With its seats sold."""
        return self._with(Status.CONFIRMED, now)

    def rejected(self, rejection: Rejection, now: datetime) -> "Booking":
        """With nothing sold, and why."""
        return replace(self._with(Status.REJECTED, now), rejection=rejection)

    def cancelled(self, now: datetime) -> "Booking":
        """Given back by its user; a cancelled one stays as it is. `NotCancellable` otherwise."""
        if self.status is Status.CANCELLED:
            return self
        if Status.CANCELLED not in NEXT_STATUSES[self.status]:
            raise NotCancellable(f"a {self.status} booking can't be cancelled")
        return self._with(Status.CANCELLED, now)

    def affected(self, now: datetime) -> "Booking":
        """With a flight that does not fly; its seats stay sold until the user gives it back."""
        return self._with(Status.AFFECTED, now)

    def _with(self, status: Status, now: datetime) -> "Booking":
        if status not in NEXT_STATUSES[self.status]:
            raise IllegalTransition(f"a {self.status} booking can't become {status}")
        return replace(self, status=status, update_time=now, version=self.version + 1)
