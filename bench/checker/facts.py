"""What the databases say, as values of the judge's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

from bench.checker.history import Name, Priced
from bench.checker.streams import Stream

Seats: TypeAlias = tuple[str, str, int]
"""Seats of a flight: its id, the cabin, how many."""

LIVE = frozenset({"confirmed", "affected"})
"""States of a booking that has its seats."""


@dataclass(slots=True, kw_only=True)
class Booking:
    """A row of booking's, with what belongs to it. `step` is its saga's."""

    booking_id: str
    reference: str
    user: str
    quote_id: str
    status: str
    total: Decimal | None
    reason: str
    create_time: datetime
    version: int
    step: str = ""
    email: str = ""
    passengers: tuple[Name, ...] = ()
    segments: tuple[Priced, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether its saga has nothing left to do."""
        return self.step == "finished"

    @property
    def seats(self) -> list[Seats]:
        """The seats it needs, in travel order."""
        return [(flight, cabin, len(self.passengers)) for flight, cabin, _, _ in self.segments]


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An idempotency key that made a booking."""

    user: str
    key: str
    booking_id: str


@dataclass(slots=True, kw_only=True)
class Hold:
    """The seats of one booking: held, confirmed, released or expired."""

    state: str
    seats: list[Seats] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cabin:
    """Seats of one cabin of one flight."""

    capacity: int
    held: int
    sold: int

    @property
    def available(self) -> int:
        """Seats that nobody has."""
        return self.capacity - self.held - self.sold


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A row of schedule's, with its cabins and the event that it was last published as."""

    version: int
    cancelled: bool
    event: bytes
    cabins: Mapping[str, Cabin]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A row of pricing's. `booking_id` is who has it."""

    passengers: int
    segments: tuple[Priced, ...]
    expire_time: datetime
    booking_id: str | None


@dataclass(frozen=True, slots=True)
class PricedCabin:
    """Seats of a cabin by pricing's knowledge, and their price."""

    capacity: int
    available: int
    fare: Decimal
    taxes: Decimal
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedFlight:
    """A flight as pricing knows it."""

    version: int
    schedule_version: int
    cancelled: bool
    cabins: Mapping[str, PricedCabin]


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a consumer stands in schedule's stream; no epoch: it has nothing yet."""

    epoch: str | None
    seq: int
    dead_letters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BookingFacts:
    """Booking's database.

    `cancelled` are the flights that it knows to be cancelled, and whether bookings of them may not
    be marked yet.
    """

    bookings: Mapping[str, Booking]
    keys: list[Key]
    stream: Stream
    position: Position | None
    cancelled: Mapping[str, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleFacts:
    """Schedule's database."""

    flights: Mapping[str, Flight]
    holds: Mapping[str, Hold]
    stream: Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class PricingFacts:
    """Pricing's database. `claims` are pairs of quote and booking."""

    quotes: Mapping[str, Quote]
    claims: list[tuple[str, str]]
    flights: Mapping[str, PricedFlight]
    stream: Stream
    position: Position | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All of it."""

    booking: BookingFacts
    schedule: ScheduleFacts
    pricing: PricingFacts
