"""What is found: itineraries of flights, their prices, and how fresh all of that is."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum


class Cabin(IntEnum):
    """A class of service on board, numbered as in `flights.type.v1.Cabin`."""

    ECONOMY = 1
    PREMIUM_ECONOMY = 2
    BUSINESS = 3
    FIRST = 4


class PriceBasis(Enum):
    """How far a price can be trusted."""

    LIVE = "live"
    INDICATIVE = "indicative"


@dataclass(frozen=True, slots=True, kw_only=True)
class Airport:
    """An airport with an IATA code; `served` says that flights of the timetable use it.

    Its coordinates are degrees north and east.
    """

    code: str
    name: str
    city: str
    country: str
    time_zone: str
    latitude: float = 0.0
    longitude: float = 0.0
    served: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segment:
    """One state of one flight in one cabin. Shared and compared by identity."""

    flight_id: str
    carrier: str
    number: str
    aircraft: str
    origin: str
    destination: str
    departure: datetime
    arrival: datetime
    departure_offset_minutes: int
    arrival_offset_minutes: int
    delayed: bool
    seats_available: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Itinerary:
    """Flights in travel order in one cabin, and what one passenger pays for all of them.

    Shared and compared by identity: one state of the same flights is one object, so that whoever
    renders it can keep what it made.
    """

    segments: tuple[Segment, ...]
    cabin: Cabin
    price: Decimal

    @property
    def duration(self) -> timedelta:
        """From the first departure to the last arrival."""
        return self.segments[-1].arrival - self.segments[0].departure


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a source was followed; `lag` is None while it has not been heard of."""

    source: str
    epoch: str
    seq: int
    lag: timedelta | None = None
