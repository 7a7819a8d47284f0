"""What can be looked for, and which questions are refused.

Days are calendar days at the origin, 23, 24 or 25 hours long; a flight belongs to the day of its
departure as now expected. Instants are aware UTC datetimes, money is USD.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final, Protocol

from flight_search.domain.connections import Leg, longest_way
from flight_search.domain.errors import InvalidQueryError, Violation
from flight_search.domain.values import Cabin

BOOKABLE_AHEAD: Final = timedelta(days=365)
LARGEST_PARTY: Final = 9
MOST_CARRIERS: Final = 10
DEFAULT_STOPS: Final = 1
MOST_STOPS: Final = 2
_DATE_LINE: Final = timedelta(days=1)
"""Whoever flies east over the date line arrives on the day before."""
_CARRIER: Final = re.compile(r"[A-Z0-9]{2,3}", re.ASCII)


class Geography(Protocol):
    """Where airports are."""

    def airports(self, code: str) -> tuple[str, ...]:
        """What a code means: an airport, all airports of a metropolitan area, or nothing."""

    def zone(self, code: str) -> tzinfo | None:
        """The time zone of an airport; None for a code that no airport has."""

    def leg(self, origin: str, destination: str) -> Leg:
        """The way between two airports; of one that is unknown, no way within its country."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItineraryQuery:
    """What a caller asked for, unchecked; None where it was absent or has no meaning.

    The first departure is between two times of the clock at the origin, the later one excluded.
    Without carriers, all of them.
    """

    origin: str
    destination: str
    departure_date: date | None
    passengers: int
    cabin: Cabin | None
    max_stops: int = DEFAULT_STOPS
    carriers: tuple[str, ...] = ()
    departs_from: time | None = None
    departs_before: time | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """An admitted query: first departures in `[start, end)`, `passengers` seats on each flight.

    Empty carriers are all carriers. Two stops are allowed on ways of up to `longest_km`.
    """

    origins: tuple[str, ...]
    destinations: tuple[str, ...]
    start: datetime
    end: datetime
    passengers: int
    cabin: Cabin
    max_stops: int
    carriers: tuple[str, ...]
    longest_km: int


def admit(query: ItineraryQuery, geography: Geography, now: datetime) -> Journey:
    """Checks a query. Flights that have left are not looked for. Raises `InvalidQueryError`."""
    origins, destinations = geography.airports(query.origin), geography.airports(query.destination)
    zone = geography.zone(origins[0]) if origins else None
    day, cabin = query.departure_date, query.cabin
    violations = list(_violations(query, origins, destinations, zone, now))
    if violations or zone is None or day is None or cabin is None:
        raise InvalidQueryError(violations)
    start, end = _window(query, day, zone)
    return Journey(
        origins=origins,
        destinations=destinations,
        start=max(start, now),
        end=end,
        passengers=query.passengers,
        cabin=cabin,
        max_stops=query.max_stops,
        carriers=query.carriers,
        longest_km=longest_way(geography.leg(origins[0], destinations[0]).km),
    )


def admit_return(
    query: ItineraryQuery, return_date: date | None, geography: Geography, now: datetime
) -> Journey:
    """Checks the way back of a round trip whose way there was admitted.

    The times of the clock are about the way there alone. Raises `InvalidQueryError`.
    """
    airports = geography.airports(query.destination)
    zone = geography.zone(airports[0]) if airports else None
    violations = list(_date_violations("return_date", return_date, zone, now))
    if return_date and query.departure_date and return_date < query.departure_date - _DATE_LINE:
        description = "must not be before the departure"
        violations.append(_violation("return_date", "BEFORE_DEPARTURE", description))
    if violations:
        raise InvalidQueryError(violations)
    back = replace(
        query,
        origin=query.destination,
        destination=query.origin,
        departure_date=return_date,
        departs_from=None,
        departs_before=None,
    )
    return admit(back, geography, now)


def _window(query: ItineraryQuery, day: date, zone: tzinfo) -> tuple[datetime, datetime]:
    """The instants between which the first departure is.

    Where the clock shows a time twice, the window has both; a time that it skips is as much later.
    """
    start, end = midnight(day, zone), midnight(day + timedelta(days=1), zone)
    if query.departs_from is not None:
        start = _instant(day, query.departs_from, zone)
    if query.departs_before is not None:
        end = max(_instant(day, query.departs_before.replace(fold=fold), zone) for fold in (0, 1))
    return start, end


def midnight(day: date, zone: tzinfo) -> datetime:
    """The instant at which a calendar day starts."""
    return _instant(day, time.min, zone)


def bookable(day: date, zone: tzinfo, now: datetime) -> bool:
    """Whether flights of a calendar day can be looked for."""
    today = now.astimezone(zone).date()
    return today <= day <= today + BOOKABLE_AHEAD


def _instant(day: date, clock: time, zone: tzinfo) -> datetime:
    return datetime.combine(day, clock, zone).astimezone(UTC)


def _violations(
    query: ItineraryQuery,
    origins: tuple[str, ...],
    destinations: tuple[str, ...],
    zone: tzinfo | None,
    now: datetime,
) -> Iterator[Violation]:
    yield from _airport_violations("query.origin", query.origin, origins)
    yield from _airport_violations("query.destination", query.destination, destinations)
    if set(origins) & set(destinations):
        description = "must not be the origin, nor of the same area"
        yield _violation("query.destination", "SAME_AS_ORIGIN", description)
    yield from _date_violations("query.departure_date", query.departure_date, zone, now)
    if not 1 <= query.passengers <= LARGEST_PARTY:
        yield _violation("query.passengers", "OUT_OF_RANGE", f"must be 1 to {LARGEST_PARTY}")
    if query.cabin is None:
        yield _violation("query.cabin", "INVALID_CABIN", "must be a cabin")
    if not 0 <= query.max_stops <= MOST_STOPS:
        yield _violation("query.max_stops", "OUT_OF_RANGE", f"must be 0 to {MOST_STOPS}")
    yield from _filter_violations(query)


def _airport_violations(field: str, code: str, airports: tuple[str, ...]) -> Iterator[Violation]:
    if not code:
        yield _violation(field, "REQUIRED", "must be an IATA code of an airport or an area")
    elif not airports:
        yield _violation(field, "UNKNOWN_AIRPORT", "no airport and no area has this IATA code")


def _date_violations(
    field: str, day: date | None, zone: tzinfo | None, now: datetime
) -> Iterator[Violation]:
    if day is None:
        yield _violation(field, "INVALID_DATE", "must be a calendar day")
    elif zone is not None and not bookable(day, zone, now):
        today = now.astimezone(zone).date()
        description = f"must be within {BOOKABLE_AHEAD.days} days from {today} on"
        yield _violation(field, "DATE_OUT_OF_RANGE", description)


def _filter_violations(query: ItineraryQuery) -> Iterator[Violation]:
    if len(query.carriers) > MOST_CARRIERS:
        description = f"must be at most {MOST_CARRIERS}"
        yield _violation("query.carriers", "OUT_OF_RANGE", description)
    if not all(map(_CARRIER.fullmatch, query.carriers)):
        description = "must be airline designators: 2 or 3 capital letters and digits"
        yield _violation("query.carriers", "MALFORMED", description)
    start, end = query.departs_from, query.departs_before
    if start is not None and end is not None and start >= end:
        description = "must be later than departs_from"
        yield _violation("query.departs_before", "OUT_OF_RANGE", description)


def _violation(field: str, reason: str, description: str) -> Violation:
    return Violation(field=field, reason=reason, description=description)
