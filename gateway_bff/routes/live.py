"""Live prices and flights, as server-sent events that resume."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from gateway_bff import openapi, schemas
from gateway_bff.ids import is_flight_id
from gateway_bff.live.stream import LiveStream, begin
from gateway_bff.openapi import Responses, problems
from gateway_bff.parameters import FlightId, documented, parameters
from gateway_bff.problems import not_found
from gateway_bff.reply import TheLive, TheSettings, TheStreams
from gateway_bff.requests import LivePricesParameters
from gateway_bff.route import LivePricesRoute, Route
from gateway_bff.settings import Settings
from gateway_bff.sse import EventStream, OpenStreams
from gateway_bff.values import CABINS

_NAME = "live"
_LAST_EVENT_ID: dict[str, Any] = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The id of the last event that was seen, of any gateway: go on after it.",
    "schema": {"type": "string", "examples": ["pricing.e1.4711"]},
}
_IN_COMMON = """
An event is the whole new state, so of several changes that a client has not taken the newest is
sent. Sent back as `Last-Event-ID`, which an EventSource does by itself, an id makes any gateway go
on after it; in silence an id comes without an event and moves that place. Besides:

- `reset` (`Reset`): changes were missed; the current state of every flight follows.
- `stale` (`Stale`): the owner was not heard of for five seconds; `live` (`{}`): it is back.
- `problem` (`Problem`): the stream ends; come back after a while.
"""
_PRICES = """
First the prices of every flight as they are, then each change: `price` (`LivePrices`). `removed`
(`Removed`): a flight has left the timetable.
"""
_FLIGHT = """
First the flight as it is, then each change, of seats too: `flight` (`Flight`). `removed`
(`Removed`): it has left the timetable.
"""
_WITH_ALL: Final[Mapping[str, type[BaseModel]]] = {
    "removed": schemas.Removed,
    "reset": schemas.Reset,
    "stale": schemas.Stale,
    "live": schemas.Live,
    "problem": schemas.Problem,
}


def _responses(name: str, model: type[BaseModel]) -> Responses:
    """Of a stream with this event for a change, and with those of every stream."""
    sample = f'id: …\nevent: {name}\ndata: {{"flight_id":"flt_abcdefgh23456723",…}}\n\n'
    return {
        200: {
            "description": "Events without end; each has its schema by its name",
            "content": openapi.event_stream({name: model, **_WITH_ALL}, sample),
        },
        **problems(404),
    }


router = APIRouter(tags=["live"])


async def stream_prices(
    request: Request,
    asked: Annotated[LivePricesParameters, Depends(parameters(LivePricesParameters))],
    live: TheLive,
    streams: TheStreams,
    settings: TheSettings,
) -> Response:
    """Prices of some flights, live."""
    flight_ids = list(dict.fromkeys(asked.flight_id))
    if not all(map(is_flight_id, flight_ids)):
        raise not_found("flight")
    begun = await begin(
        live.prices,
        flight_ids,
        CABINS[asked.cabin] if asked.cabin else 0,
        last_event_id=_last_event_id(request),
        budget=settings.budgets[_NAME],
    )
    return _sent(begun, streams, settings)


async def stream_flight(
    flight_id: FlightId, request: Request, live: TheLive, streams: TheStreams, settings: TheSettings
) -> Response:
    """A flight, live."""
    if not is_flight_id(flight_id):
        raise not_found("flight")
    begun = await begin(
        live.flights,
        [flight_id],
        0,
        last_event_id=_last_event_id(request),
        budget=settings.budgets[_NAME],
    )
    return _sent(begun, streams, settings)


router.add_api_route(
    "/v1/prices/stream",
    stream_prices,
    name=_NAME,
    summary="Live prices of up to 50 flights",
    description=_PRICES + _IN_COMMON,
    route_class_override=LivePricesRoute,
    operation_id="streamPrices",
    response_class=Response,
    responses=_responses("price", schemas.LivePrices),
    openapi_extra=documented(LivePricesParameters, _LAST_EVENT_ID),
)
router.add_api_route(
    "/v1/flights/{flight_id}/events",
    stream_flight,
    name=_NAME,
    summary="What happens to one flight, live",
    description=_FLIGHT + _IN_COMMON,
    route_class_override=Route,
    operation_id="streamFlight",
    response_class=Response,
    responses=_responses("flight", schemas.Flight),
    openapi_extra={"parameters": [_LAST_EVENT_ID]},
)


def _last_event_id(request: Request) -> str | None:
    return request.headers.get("last-event-id")


def _sent(stream: LiveStream[Any], streams: OpenStreams, settings: Settings) -> EventStream:
    return EventStream(
        stream.events(),
        cancel=stream.cancel,
        beat=stream.bookmark,
        endless=True,
        streams=streams,
        settings=settings,
    )
