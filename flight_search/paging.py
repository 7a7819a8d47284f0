"""Page tokens: where a page ended, readable by every instance and while data changes.

A token is a keyset - the sort values of the last itinerary given out - under a digest of itself
and of the question it belongs to. The digest finds accidents and tokens of other questions; it
is no secret, since a keyset says nothing that its reader could not ask for.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import blake2b

from flight_search.domain import InvalidQueryError, ItineraryQuery, SortOrder, Violation

DIGEST_SIZE = 12
LONGEST_TOKEN = 500
INT64 = 1 << 63
NOT_OURS = Violation(
    field="page_token",
    reason="INVALID_PAGE_TOKEN",
    description="is not the next_page_token of this query",
)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in a sorted result.

    The sort value, the departure (epoch seconds), and the flights' ids, the second one empty for
    a direct flight.
    """

    value: int
    departure: int
    first: str
    second: str


BEFORE_ALL = Place(-1, -1, "", "")


def page_token(place: Place, query: ItineraryQuery, order: SortOrder) -> str:
    """The token of the page that starts after `place`."""
    values = (place.value, place.departure, place.first, place.second)
    keyset = json.dumps(values, separators=(",", ":")).encode()
    return _text(_digest(keyset, query, order) + keyset)


def page_start(token: str, query: ItineraryQuery, order: SortOrder) -> Place:
    """The place after which the page starts.

    Raises `InvalidQueryError` for a token that was not made for this question.
    """
    if not token:
        return BEFORE_ALL
    raw = _raw(token)
    digest, keyset = raw[:DIGEST_SIZE], raw[DIGEST_SIZE:]
    if digest != _digest(keyset, query, order):
        raise InvalidQueryError([NOT_OURS])
    return _place(keyset)


def _place(keyset: bytes) -> Place:
    """The place that a keyset names; anybody can make a digest, so it may be none."""
    try:
        value, departure, first, second = json.loads(keyset)
    except (ValueError, TypeError, RecursionError):
        raise InvalidQueryError([NOT_OURS]) from None
    numbers = all(type(each) is int and abs(each) < INT64 for each in (value, departure))
    if not (numbers and all(isinstance(key, str) and key.isascii() for key in (first, second))):
        raise InvalidQueryError([NOT_OURS])
    return Place(value, departure, first, second)


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


def _digest(keyset: bytes, query: ItineraryQuery, order: SortOrder) -> bytes:
    question = (
        f"{query.origin} {query.destination} {query.departure_date} {query.passengers} "
        f"{query.cabin} {query.max_stops} {order.value} "
    )
    digest = blake2b(question.encode(), digest_size=DIGEST_SIZE, person=b"search-page-1")
    digest.update(keyset)
    return digest.digest()
