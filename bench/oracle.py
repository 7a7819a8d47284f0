"""Decides whether an answer of the public API is right, by what must hold in any of them.

Pure functions of decoded JSON; each raises AssertionError with what is wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

SHORTEST_CONNECTION = timedelta(minutes=45)
LONGEST_CONNECTION = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Asked:
    """A search as the user meant it."""

    origin: str
    destination: str
    date: str  # YYYY-MM-DD at the origin
    passengers: int
    cabin: str


def check_results(asked: Asked, found: Sequence[Mapping[str, Any]], *, by_price: bool) -> None:
    """Check a list of itineraries."""
    for itinerary in found:
        check_itinerary(asked, itinerary)
    ids = [itinerary["itinerary_id"] for itinerary in found]
    assert len(set(ids)) == len(ids), "an itinerary twice"
    if by_price:
        prices = [_amount(itinerary["price"]["total"]) for itinerary in found]
        assert prices == sorted(prices), "not sorted by price"


def check_itinerary(asked: Asked, itinerary: Mapping[str, Any]) -> None:
    """Check one itinerary: it travels as asked, its times and its price add up."""
    segments = itinerary["segments"]
    assert segments[0]["departure"]["airport"] == asked.origin, "leaves from elsewhere"
    assert segments[0]["departure"]["time"].startswith(asked.date), "leaves on another day"
    assert segments[-1]["arrival"]["airport"] == asked.destination, "arrives elsewhere"
    assert itinerary["stops"] == len(segments) - 1, "stops are not the segments less one"
    for segment in segments:
        _check_segment(asked, segment)
    for before, after in pairwise(segments):
        _check_connection(before, after)
    _check_duration(itinerary)
    price = itinerary["price"]
    expected = _amount(price["per_passenger"]) * asked.passengers
    assert _amount(price["total"]) == expected, "total is not the price times the passengers"


def _check_segment(asked: Asked, segment: Mapping[str, Any]) -> None:
    assert segment["cabin"] == asked.cabin, "another cabin"
    assert segment["seats_available"] >= asked.passengers, "too few seats"
    assert segment["status"] in {"scheduled", "delayed"}, "does not fly"
    assert _instant(segment["departure"]) < _instant(segment["arrival"]), "arrives before it leaves"


def _check_connection(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    assert before["arrival"]["airport"] == after["departure"]["airport"], "teleports"
    wait = _instant(after["departure"]) - _instant(before["arrival"])
    assert SHORTEST_CONNECTION <= wait <= LONGEST_CONNECTION, f"a connection of {wait}"


def _check_duration(itinerary: Mapping[str, Any]) -> None:
    segments = itinerary["segments"]
    length = _instant(segments[-1]["arrival"]) - _instant(segments[0]["departure"])
    minutes = length // timedelta(minutes=1)
    assert itinerary["duration_minutes"] == minutes, "duration is not arrival less departure"


def check_quote(quote: Mapping[str, Any], passengers: int) -> None:
    """Check that a quote's total is the sum of its lines for the party."""
    one = sum((_amount(x["fare"]) + _amount(x["taxes"]) for x in quote["lines"]), Decimal(0))
    assert quote["passengers"] == passengers, "another party"
    assert _amount(quote["total"]) == one * passengers, "total is not the sum of the lines"


def check_booking(booking: Mapping[str, Any], quote: Mapping[str, Any]) -> None:
    """Check that a confirmed booking costs what was quoted, on the flights quoted."""
    assert booking["status"] == "confirmed", booking["status"]
    assert booking["total"] == quote["total"], "charged another price"
    flights = [segment["flight_id"] for segment in booking["segments"]]
    assert flights == [line["flight_id"] for line in quote["lines"]], "other flights"
    assert len(booking["passengers"]) == quote["passengers"], "other travellers"


def _amount(money: Mapping[str, str]) -> Decimal:
    assert money["currency"] == "USD", "another currency"
    return Decimal(money["amount"])


def _instant(end: Mapping[str, str]) -> datetime:
    return datetime.fromisoformat(end["time"])
