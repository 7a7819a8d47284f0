"""What the two sources say, as the read model takes it: absolute states with their versions.

Tuples in the order of the columns they are written to.
"""

from typing import NamedTuple


class FlightChanged(NamedTuple):
    """A flight as it is now; times in epoch seconds, seats by cabin (None: not on sale)."""

    flight_id: str
    version: int
    carrier: str
    number: str
    aircraft: str
    origin: str
    destination: str
    departure: int
    arrival: int
    departure_offset: int
    arrival_offset: int
    delayed: bool
    seats_economy: int | None
    seats_premium_economy: int | None
    seats_business: int | None
    seats_first: int | None


class FlightRemoved(NamedTuple):
    """A flight has left the timetable."""

    flight_id: str
    version: int


class PricesChanged(NamedTuple):
    """The prices of a flight as they are now, with taxes, in billionths (None: no price)."""

    flight_id: str
    version: int
    economy: int | None
    premium_economy: int | None
    business: int | None
    first: int | None


class PricesRemoved(NamedTuple):
    """A flight has no prices any more."""

    flight_id: str
    version: int


Change = FlightChanged | FlightRemoved | PricesChanged | PricesRemoved
