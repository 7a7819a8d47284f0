"""A timetable of a few small flights, so that a schedule starts within a moment."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

from schedule.domain import Cabin, Flight, flight_id
from schedule.window import HOME, FlightsOf, midnight
from tests.schedule import samples

FLIGHTS = 200
SEATS = 4  # of each flight: few enough to sell one out, enough for a party


def first_day() -> date:
    """The day on which the flights leave: bookable, and far from both ends of the window."""
    return datetime.now(UTC).astimezone(HOME).date() + timedelta(days=10)


def id_of(number: int, day: date) -> str:
    """The id of flight `number`."""
    return flight_id(samples.CARRIER, str(number), "JFK", "LAX", day)


def flight(number: int, day: date) -> Flight:
    """Flight `number` of the timetable, from JFK to LAX; number 0 has landed long ago."""
    departure = midnight(day) + timedelta(hours=6, minutes=number)
    if not number:
        departure -= timedelta(days=20)
    return samples.flight(departure, {Cabin.ECONOMY: SEATS}, number=number, day=day)


def tiny(day: date, flights: int = FLIGHTS) -> FlightsOf:
    """A source that has flights on one day only: the numbers from 0 on."""

    def flights_of(days: Sequence[date]) -> Iterator[tuple[date, list[Flight]]]:
        if day in days:
            yield day, [flight(number, day) for number in range(flights)]

    return flights_of
