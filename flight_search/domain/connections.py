"""Changing planes: how long it takes at least and at most, and how far out of the way it may lead.

Airports publish their own times; these are rules of thumb in the same four cases (IATA's standard
minimum connecting times): whoever comes from abroad passes a border control, and customs where the
next flight stays in the country.
"""

from datetime import timedelta
from typing import Final, NamedTuple

LONGEST_CONNECTION: Final = timedelta(hours=6)
_HUB_TAKES_LONGER: Final = timedelta(minutes=15)
_SHORTEST: Final = {
    (False, False): timedelta(minutes=45),
    (False, True): timedelta(minutes=60),
    (True, True): timedelta(minutes=75),
    (True, False): timedelta(minutes=90),
}
_HUBS: Final = """
AMS ATL BCN BKK BOS CAN CDG CLT DEL DEN DFW DOH DTW DXB EWR FCO FRA GRU HKG HND IAH ICN IST JFK LAS
LAX LGW LHR MAD MCO MEX MIA MSP MUC NRT ORD PEK PHL PHX PVG SEA SFO SIN SYD TPE YYZ ZRH
"""
HUBS: Final = frozenset(_HUBS.split())
"""Airports of several terminals, far apart."""


class Leg(NamedTuple):
    """The way between two airports: along the great circle, and over which borders."""

    km: int
    international: bool
    to_hub: bool


def shortest_connection(*, from_abroad: bool, going_abroad: bool, at_hub: bool) -> timedelta:
    """From an arrival to the earliest departure that can be reached."""
    shortest = _SHORTEST[from_abroad, going_abroad]
    return shortest + _HUB_TAKES_LONGER if at_hub else shortest


def longest_way(km: int) -> int:
    """How long a way with two stops may be, where the great circle is so long; both in km."""
    return km + km // 2 + 500
