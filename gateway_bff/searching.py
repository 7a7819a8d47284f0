"""What the routes that search have in common: the question, and the headers of answers."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

from google.type.timeofday_pb2 import TimeOfDay
from starlette.requests import Request

from consulmesh import wellknown
from flights.search.v1.search_pb2 import ItineraryQuery, SourcePosition
from gateway_bff import freshness, openapi
from gateway_bff.problems import invalid
from gateway_bff.requests import JourneyParameters
from gateway_bff.values import CABINS
from streams.v1.stream_pb2 import Cursor

_POSITION: Final = freshness.encode(
    [SourcePosition(source="schedule", cursor=Cursor(epoch="e1", seq=17))]
)
MIN_POSITION: Final[dict[str, Any]] = {
    "name": freshness.MIN_POSITION,
    "in": "header",
    "description": "The `Search-Position` of an answer: nothing older than that is read.",
    "schema": {"type": "string", "format": "search-position", "examples": [_POSITION]},
}
REQUEST_HEADERS: Final = (MIN_POSITION, openapi.IF_NONE_MATCH)
HEADERS: Final[dict[str, Any]] = {
    "Freshness": openapi.header(
        "Lag of each source in seconds", "schedule;lag=0.012, pricing;lag=0.031"
    ),
    "Search-Position": openapi.header("How far the answer's sources were read; opaque", _POSITION),
}


def query(asked: JourneyParameters, day: dt.date) -> ItineraryQuery:
    """The question to search about this day."""
    return ItineraryQuery(
        origin=asked.origin,
        destination=asked.destination,
        departure_date=wellknown.date_message(day),
        passengers=asked.passengers,
        cabin=CABINS[asked.cabin],
        max_stops=asked.max_stops,
        carriers=asked.carrier,
        departs_from=_time_of_day(asked.departs_from),
        departs_before=_time_of_day(asked.departs_before),
    )


def min_positions(request: Request) -> Sequence[SourcePosition]:
    """The positions that the answer must have reached; raises a problem where they are none."""
    header = request.headers.get(freshness.MIN_POSITION)
    if header is None:
        return ()
    try:
        return freshness.decode(header)
    except ValueError:
        detail = "This is not the Search-Position of an answer."
        raise invalid(freshness.MIN_POSITION, "MALFORMED", detail) from None


def _time_of_day(clock: str | None) -> TimeOfDay | None:
    if clock is None:
        return None
    hours, _, minutes = clock.partition(":")
    return TimeOfDay(hours=int(hours), minutes=int(minutes))
