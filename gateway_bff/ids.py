"""The ids of the public API. What comes from outside is looked at before it is believed.

Ids are opaque to clients. A text that can't be an id of its kind is treated as the id of nothing:
the answer is 404, whatever its shape.
"""

import re
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from flights.search.v1.search_pb2 import ItineraryKey
from flights.type.v1.cabin_pb2 import Cabin
from gateway_bff import base64url
from gateway_bff.values import CABIN_NAMES

MAX_FLIGHTS = 12

_FLIGHT = re.compile(r"flt_[A-Za-z0-9_-]{1,64}")
_QUOTE = re.compile(r"quo_[A-Za-z0-9_-]{1,64}")
_BOOKING = re.compile(r"bkg_[A-Za-z0-9_-]{1,64}")
_ITINERARY = re.compile(r"itn_[A-Za-z0-9_-]{1,1024}")


def is_flight_id(text: str) -> bool:
    """True for what a flight's id looks like."""
    return _FLIGHT.fullmatch(text) is not None


def is_quote_id(text: str) -> bool:
    """True for what a quote's id looks like."""
    return _QUOTE.fullmatch(text) is not None


def is_booking_id(text: str) -> bool:
    """True for what a booking's id looks like."""
    return _BOOKING.fullmatch(text) is not None


def itinerary_id(flight_ids: Sequence[str], cabin: Cabin.ValueType) -> str:
    """The id of the itinerary with these flights in travel order and this cabin."""
    key = ItineraryKey(flight_ids=flight_ids, cabin=cabin)
    return "itn_" + base64url.encode(key.SerializeToString(deterministic=True))


def itinerary_key(text: str) -> ItineraryKey | None:
    """What an itinerary's id says, or None when it is not one, or not written the one right way."""
    if _ITINERARY.fullmatch(text) is None:
        return None
    try:
        key = ItineraryKey.FromString(base64url.decode(text.removeprefix("itn_")))
    except (ValueError, DecodeError):
        return None
    return key if _is_sound(key) and itinerary_id(key.flight_ids, key.cabin) == text else None


def _is_sound(key: ItineraryKey) -> bool:
    flights = key.flight_ids
    return (
        0 < len(flights) <= MAX_FLIGHTS
        and key.cabin in CABIN_NAMES
        and all(map(is_flight_id, flights))
    )
