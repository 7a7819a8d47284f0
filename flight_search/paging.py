"""Page tokens: where a page ended, readable by every instance and while data changes.

A token is a keyset - the sort values of the last itinerary given out - under a digest of itself
and of the question it belongs to. The digest finds accidents and tokens of other questions; it
is no secret, since a keyset says nothing that its reader could not ask for.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import date
from hashlib import blake2b
from typing import Final

from flight_search.domain import (
    BEFORE_ALL,
    BEFORE_ALL_TRIPS,
    InvalidQueryError,
    ItineraryQuery,
    Place,
    RoundTripPlace,
    SortOrder,
    invalid,
)

DIGEST_SIZE: Final = 12
LONGEST_TOKEN: Final = 500
INT64: Final = 1 << 63

Keyset = Sequence[int | str]
Shape = tuple[type[int] | type[str], ...]

_ITINERARY: Final[Shape] = (int, int, str, str, str)
_ROUND_TRIP: Final[Shape] = (*_ITINERARY, *_ITINERARY[1:])


def question(query: ItineraryQuery, order: SortOrder, return_date: date | None = None) -> str:
    """All that a place in a result depends on."""
    parts = [query.origin, query.destination, query.departure_date, query.passengers, query.cabin]
    parts += [query.max_stops, order.value]
    filters = (query.carriers, query.departs_from, query.departs_before, return_date)
    return " ".join(map(str, [*parts, *(filters if any(filters) else ()), ""]))


def page_token(place: Place, asked: str) -> str:
    """The token of the page that starts after a place."""
    return _token(place, asked)


def page_start(token: str, asked: str) -> Place:
    """The place after which the page starts.

    Raises `InvalidQueryError` for a token that was not made for this question.
    """
    return Place(*_keyset(token, asked, _ITINERARY)) if token else BEFORE_ALL  # type: ignore[arg-type]  # their types were looked at


def round_trip_token(place: RoundTripPlace, asked: str) -> str:
    """As `page_token`, of a result of round trips."""
    return _token((place.value, *place.outbound, *place.inbound), asked)


def round_trip_start(token: str, asked: str) -> RoundTripPlace:
    """As `page_start`, of a result of round trips."""
    if not token:
        return BEFORE_ALL_TRIPS
    value, *ties = _keyset(token, asked, _ROUND_TRIP)
    return RoundTripPlace(value, tuple(ties[:4]), tuple(ties[4:]))  # type: ignore[arg-type]  # as above


def _token(keyset: Keyset, asked: str) -> str:
    raw = json.dumps(keyset, separators=(",", ":")).encode()
    return _text(_digest(raw, asked) + raw)


def _keyset(token: str, asked: str, shape: Shape) -> Keyset:
    """The keyset of a token; anybody can make a digest, so it may be none."""
    raw = _raw(token)
    digest, keyset = raw[:DIGEST_SIZE], raw[DIGEST_SIZE:]
    if digest != _digest(keyset, asked):
        raise _not_ours()
    try:
        values = json.loads(keyset)
    except (ValueError, RecursionError):
        raise _not_ours() from None
    if not isinstance(values, list) or tuple(map(type, values)) != shape:
        raise _not_ours()
    if not all(abs(each) < INT64 if type(each) is int else each.isascii() for each in values):
        raise _not_ours()
    return values


def _not_ours() -> InvalidQueryError:
    return invalid("page_token", "INVALID_PAGE_TOKEN", "is not the next_page_token of this query")


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")


def _raw(token: str) -> bytes:
    """The bytes of a token in its one canonical spelling, else nothing."""
    if len(token) > LONGEST_TOKEN:
        return b""
    try:
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except ValueError:
        return b""
    return raw if _text(raw) == token else b""


def _digest(keyset: bytes, asked: str) -> bytes:
    digest = blake2b(asked.encode(), digest_size=DIGEST_SIZE, person=b"search-page-2")
    digest.update(keyset)
    return digest.digest()
