"""What can be looked for, what is found, and which questions are refused.

Days are calendar days at the origin, 23, 24 or 25 hours long; a flight belongs to the day of its
departure as now expected. Instants are aware UTC datetimes, money is USD.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum

SHORTEST_CONNECTION = timedelta(minutes=45)
LONGEST_CONNECTION = timedelta(hours=6)
BOOKABLE_AHEAD = timedelta(days=365)
LARGEST_PARTY = 9
MOST_STOPS = 1


class Cabin(IntEnum):
    """A class of service on board, numbered as in `flights.type.v1.Cabin`."""

    ECONOMY = 1
    PREMIUM_ECONOMY = 2
    BUSINESS = 3
    FIRST = 4


class SortOrder(Enum):
    """What a page is sorted by; ties by departure, then by the flights' ids in travel order."""

    PRICE = "price"
    DEPARTURE = "departure"
    DURATION = "duration"


class PriceBasis(Enum):
    """How far a price can be trusted."""

    LIVE = "live"
    INDICATIVE = "indicative"


@dataclass(frozen=True, slots=True, kw_only=True)
class Airport:
    """An airport with an IATA code; `served` says that flights of the timetable use it."""

    code: str
    name: str
    city: str
    country: str
    time_zone: str
    served: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ItineraryQuery:
    """What a caller asked for, unchecked; None where it was absent or has no meaning."""

    origin: str
    destination: str
    departure_date: date | None
    passengers: int
    cabin: Cabin | None
    max_stops: int = MOST_STOPS


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """An admitted query: first departures in `[start, end)`, `passengers` seats on each flight."""

    origin: str
    destination: str
    start: datetime
    end: datetime
    passengers: int
    cabin: Cabin
    max_stops: int


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing wrong with one field of a request."""

    field: str
    reason: str
    description: str


class InvalidQueryError(Exception):
    """A question that has no answer; `violations` says everything that is wrong with it."""

    TELLING = ("UNKNOWN_AIRPORT", "DATE_OUT_OF_RANGE", "INVALID_PAGE_TOKEN")

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)

    @property
    def reason(self) -> str:
        """The first violation with a reason of its own, else VALIDATION_FAILED."""
        reasons = (violation.reason for violation in self.violations)
        return next((reason for reason in reasons if reason in self.TELLING), "VALIDATION_FAILED")


class PositionNotReachedError(Exception):
    """The read model did not get as far as the caller asked while it was worth waiting."""

    reason = "POSITION_NOT_REACHED"


def admit(query: ItineraryQuery, zone: Callable[[str], tzinfo | None], now: datetime) -> Journey:
    """Checks a query; `zone` knows the time zone of every airport that exists.

    Flights that have left are not looked for. Raises `InvalidQueryError`.
    """
    origin, day, cabin = zone(query.origin), query.departure_date, query.cabin
    violations = list(_violations(query, zone, now))
    if violations or origin is None or day is None or cabin is None:
        raise InvalidQueryError(violations)
    return Journey(
        origin=query.origin,
        destination=query.destination,
        start=max(midnight(day, origin), now),
        end=midnight(day + timedelta(days=1), origin),
        passengers=query.passengers,
        cabin=cabin,
        max_stops=query.max_stops,
    )


def midnight(day: date, zone: tzinfo) -> datetime:
    """The instant at which a calendar day starts."""
    return datetime.combine(day, time.min, zone).astimezone(UTC)


def _violations(
    query: ItineraryQuery, zone: Callable[[str], tzinfo | None], now: datetime
) -> Iterator[Violation]:
    yield from _airport_violations("query.origin", query.origin, zone)
    yield from _airport_violations("query.destination", query.destination, zone)
    if query.origin and query.origin == query.destination:
        yield _violation("query.destination", "SAME_AS_ORIGIN", "must not be the origin")
    yield from _date_violations(query.departure_date, zone(query.origin), now)
    if not 1 <= query.passengers <= LARGEST_PARTY:
        yield _violation("query.passengers", "OUT_OF_RANGE", f"must be 1 to {LARGEST_PARTY}")
    if query.cabin is None:
        yield _violation("query.cabin", "INVALID_CABIN", "must be a cabin")
    if not 0 <= query.max_stops <= MOST_STOPS:
        yield _violation("query.max_stops", "OUT_OF_RANGE", f"must be 0 to {MOST_STOPS}")


def _airport_violations(
    field: str, code: str, zone: Callable[[str], tzinfo | None]
) -> Iterator[Violation]:
    if not code:
        yield _violation(field, "REQUIRED", "must be an IATA airport code")
    elif zone(code) is None:
        yield _violation(field, "UNKNOWN_AIRPORT", "no airport has this IATA code")


def _date_violations(day: date | None, origin: tzinfo | None, now: datetime) -> Iterator[Violation]:
    field = "query.departure_date"
    if day is None:
        yield _violation(field, "INVALID_DATE", "must be a calendar day")
    elif origin is not None:
        today = now.astimezone(origin).date()
        if not today <= day <= today + BOOKABLE_AHEAD:
            description = f"must be within {BOOKABLE_AHEAD.days} days from {today} on"
            yield _violation(field, "DATE_OUT_OF_RANGE", description)


def _violation(field: str, reason: str, description: str) -> Violation:
    return Violation(field=field, reason=reason, description=description)
