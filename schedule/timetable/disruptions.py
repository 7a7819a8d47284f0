"""What went wrong with a flight of 2013, as it happens again to its flights of today.

How late a departure was, and which flights were cancelled, is real. When that becomes known is not
in the source, nor is what it does to a derived return: a return waits for its aircraft, which is
turned around faster than planned, and is cancelled with its outbound.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from schedule.domain import LONGEST_DELAY, Flight
from schedule.timetable.source import SourceFlight

LATE: Final = timedelta(minutes=15)
"""Less is on time, by the usual definition."""
MADE_UP: Final = timedelta(minutes=20)
"""What a turnaround of an hour can be shortened by."""
CANCELLED_AHEAD: Final = timedelta(hours=3)
DELAYED_AHEAD: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disruption:
    """From `at` on it is known that a flight is late, or cancelled where `delay` is None."""

    at: datetime
    flight_id: str
    delay: timedelta | None


def disruptions_of(row: SourceFlight, outbound: Flight, back: Flight) -> Iterator[Disruption]:
    """What went wrong with an outbound flight and its return."""
    if row.departure_delay is None:
        at = outbound.scheduled_departure_time - CANCELLED_AHEAD
        for flight in (outbound, back):
            yield Disruption(at=at, flight_id=flight.flight_id, delay=None)
        return
    late = timedelta(minutes=row.departure_delay)
    if late >= LATE:
        at = outbound.scheduled_departure_time - DELAYED_AHEAD
        yield _delay(at, outbound, late)
    still_late = timedelta(minutes=row.arrival_delay or 0) - MADE_UP
    if still_late >= LATE:
        yield _delay(outbound.scheduled_arrival_time, back, still_late)


def _delay(at: datetime, flight: Flight, delay: timedelta) -> Disruption:
    return Disruption(at=at, flight_id=flight.flight_id, delay=min(delay, LONGEST_DELAY))
