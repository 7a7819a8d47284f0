"""Quotes: prices that hold, each redeemed by at most one booking at a time."""

import base64
import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Self

from pricing.domain.errors import QuoteExpired, QuoteRedeemed, QuoteReleased, StaleEpoch
from pricing.domain.fares import Cabin, Price

LIFETIME = timedelta(minutes=10)
REDEEMED_AFTER = timedelta(minutes=10)
"""How long after its end a quote can be redeemed by a booking that was accepted before.

Longer than a saga waits before it gives up. It bounds what a clock that is slow, where the booking
was accepted, can make of a quote; one that is fast finds quotes expired.
"""


@dataclass(frozen=True, slots=True)
class Line:
    """What one passenger pays for one flight."""

    flight_id: str
    cabin: Cabin
    price: Price


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one booking has done with a quote. A released claim is a tombstone."""

    booking_id: str
    epoch: int  # of the saga; an older one is refused
    released: bool = False

    def by(self, epoch: int) -> Self:
        """The claim in the hands of this epoch of its saga."""
        if epoch < self.epoch:
            raise StaleEpoch(f"Epoch {epoch} of this saga was followed by {self.epoch}.")
        return replace(self, epoch=epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A price for a party. Whoever knows the unguessable id may use it."""

    quote_id: str
    passengers: int
    lines: tuple[Line, ...]
    create_time: datetime
    expire_time: datetime
    booking_id: str | None = None

    @classmethod
    def new(cls, lines: tuple[Line, ...], passengers: int, now: datetime) -> Self:
        """A quote that holds from now on."""
        return cls(
            quote_id=new_quote_id(),
            passengers=passengers,
            lines=lines,
            create_time=now,
            expire_time=now + LIFETIME,
        )

    @property
    def total(self) -> int:
        """What the party pays, in cents."""
        return sum(line.price.total for line in self.lines) * self.passengers

    def redeem(self, claim: Claim, accept_time: datetime, now: datetime) -> Self:
        """Bind the quote to the claim's booking; bound to it already, it stays so.

        Raises QuoteReleased, QuoteRedeemed, QuoteExpired.
        """
        if claim.released:
            raise QuoteReleased("This booking has given the quote back.")
        if self.booking_id == claim.booking_id:
            return self
        if self.booking_id is not None:
            raise QuoteRedeemed("Another booking has the quote.")
        if accept_time >= self.expire_time or now >= self.expire_time + REDEEMED_AFTER:
            raise QuoteExpired
        return replace(self, booking_id=claim.booking_id)

    def release(self, claim: Claim) -> Self:
        """Free the quote of the claim's booking, where it has it."""
        return replace(self, booking_id=None) if self.booking_id == claim.booking_id else self


def new_quote_id() -> str:
    """An id that can't be guessed: 128 random bits."""
    return "quo_" + base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()
