"""A few flights with few seats, so that seats run out: what the simulated schedule loads."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from schedule.domain import Cabin, CabinSeats, Flight, flight_id

ROUTES: Final = (("JFK", "LAX", 3_975), ("LAX", "SFO", 543), ("JFK", "ORD", 1_188))
ECONOMY: Final = (2, 3, 5, 9)
"""Seats of the flights of a route, one flight each."""
_BUSINESS: Final = 2
_FIRST_DAY: Final = date(2026, 12, 1)
_HOURS: Final = (13, 18)
"""When flights leave, UTC: an hour after the beginning, and later."""


def flights_of(days: Sequence[date]) -> Iterator[tuple[date, list[Flight]]]:
    """The flights of each of these days: some on the first two, none on the others."""
    for day in days:
        near = _FIRST_DAY <= day < _FIRST_DAY + timedelta(days=2)
        yield day, list(_flights(day)) if near else []


def _flights(day: date) -> Iterator[Flight]:
    for origin, destination, distance in ROUTES:
        for number, economy in enumerate(ECONOMY, 1):
            departure = datetime.combine(day, time(_HOURS[number % 2]), UTC)
            arrival = departure + timedelta(hours=3)
            yield Flight(
                flight_id=flight_id("B6", str(number), origin, destination, day),
                carrier="B6",
                number=str(number),
                origin=origin,
                destination=destination,
                departure_date=day,
                departure_time=departure,
                arrival_time=arrival,
                scheduled_departure_time=departure,
                scheduled_arrival_time=arrival,
                departure_utc_offset_minutes=-300,
                arrival_utc_offset_minutes=-300,
                aircraft="A320",
                distance_km=distance,
                inferred=False,
                cabins=(
                    CabinSeats(cabin=Cabin.ECONOMY, capacity=economy),
                    CabinSeats(cabin=Cabin.BUSINESS, capacity=_BUSINESS),
                ),
            )
