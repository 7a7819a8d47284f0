"""A few flights with few seats, so that seats run out: what the simulated schedule loads."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from schedule.domain import Cabin, Flight
from tests.schedule.samples import flight

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
    for route in ROUTES:
        for number, economy in enumerate(ECONOMY, 1):
            yield flight(
                datetime.combine(day, time(_HOURS[number % 2]), UTC),
                {Cabin.ECONOMY: economy, Cabin.BUSINESS: _BUSINESS},
                number=number,
                route=route,
                hours=3,
            )
