"""Itineraries: the search, as a sorted page or as a stream of what is found."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

import grpc
import orjson
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from consulmesh.context import current
from flights.search.v1.search_pb2 import (
    SearchItinerariesRequest,
    StreamItinerariesRequest,
    StreamItinerariesResponse,
)
from flights.type.v1.cabin_pb2 import Cabin
from gateway_bff import freshness, links, openapi, schemas, searching, shards, sse, translate
from gateway_bff.cache.answers import Question
from gateway_bff.cache.conditional import answer_headers, conditional, etag
from gateway_bff.cache.repeats import QUESTION
from gateway_bff.openapi import Responses, problems
from gateway_bff.parameters import documented, parameters
from gateway_bff.reply import TheAnswers, TheSettings, TheStreams, TheUpstreams
from gateway_bff.requests import SearchParameters
from gateway_bff.route import EventStreamRoute, JourneyRoute
from gateway_bff.sse import EventStream, event
from gateway_bff.values import SORT_ORDERS

_Call = grpc.aio.UnaryStreamCall[StreamItinerariesRequest, StreamItinerariesResponse]

Parameters = Annotated[SearchParameters, Depends(parameters(SearchParameters))]

_VARY = {"Vary": "Accept, Accept-Encoding"}  # as of the page at the same path
_HEADERS: dict[str, Any] = {
    "Cache-Status": openapi.header(
        "Whether the gateway had the answer (RFC 9211)", "gateway-bff; hit"
    ),
    **links.HEADERS,
    **searching.HEADERS,
}
_PAGE: Responses = openapi.revalidated(schemas.ItineraryPage, _HEADERS)
_PAGE[200]["content"] = openapi.event_stream(
    {"itinerary": schemas.Itinerary, "done": schemas.Done, "problem": schemas.Problem},
    'event: itinerary\ndata: {"itinerary_id":"itn_…","stops":0,…}\n\n'
    'event: done\ndata: {"count":1}\n\n',
)
_RESPONSES: Responses = {
    **_PAGE,
    **problems(),
}

router = APIRouter(tags=["search"])


async def stream_itineraries(
    request: Request,
    asked: Parameters,
    upstreams: TheUpstreams,
    streams: TheStreams,
    settings: TheSettings,
) -> Response:
    """Send each itinerary as it is found, in no order, and how many there were."""
    query = searching.query(asked, asked.date)
    call = upstreams.search.StreamItineraries(
        StreamItinerariesRequest(query=query, min_positions=searching.min_positions(request)),
        metadata=shards.headers(asked.date, settings.search_shards),
    )
    try:
        first = await _first(call)
    except BaseException:
        call.cancel()
        raise
    return EventStream(
        _events(call, first, query.cabin),
        cancel=call.cancel,
        streams=streams,
        settings=settings,
        headers=sse.HEADERS | _VARY | freshness.headers(first.positions),
    )


async def search_itineraries(
    request: Request,
    asked: Parameters,
    upstreams: TheUpstreams,
    answers: TheAnswers,
    settings: TheSettings,
) -> Response:
    """Find itineraries.

    With `Accept: text/event-stream` each is sent as it is found: events `itinerary`, then one
    `done` with the count, or one `problem`.
    """
    query, question = searching.query(asked, asked.date), _question(asked)
    # answers to what has been asked before go out in front of the application
    request.scope[QUESTION] = question
    response = await upstreams.search.SearchItineraries(
        SearchItinerariesRequest(
            query=query,
            sort_order=SORT_ORDERS[asked.sort],
            page_size=asked.page_size,
            page_token=asked.page_token,
            min_positions=searching.min_positions(request),
            preferred_positions=answers.needed(question),
        ),
        metadata=shards.headers(asked.date, settings.search_shards),
    )
    body = translate.itineraries(response, query.cabin)
    validator = etag(body)
    previewed = current().baggage is not None  # then it is not everybody's answer
    kept = not previewed and answers.given(question, response, body, validator)
    status = "fwd=miss; stored" if kept else "fwd=miss"
    fresh = freshness.headers(response.positions)
    more = links.next_page(request.scope, response.next_page_token)
    return conditional(
        request.headers.get("if-none-match", ""),
        request.headers.get("accept-encoding", ""),
        body,
        answer_headers(validator, {**fresh, **more}, status),
        partial(answers.gzipped, question),
    )


# The first that matches serves, so the one that looks at the Accept header comes first.
router.add_api_route(
    "/v1/itineraries",
    stream_itineraries,
    name="stream",
    route_class_override=EventStreamRoute,
    include_in_schema=False,
)
router.add_api_route(
    "/v1/itineraries",
    search_itineraries,
    name="search",
    operation_id="searchItineraries",
    summary="Itineraries of one day, a page at a time or as a stream",
    route_class_override=JourneyRoute,
    responses=_RESPONSES,
    openapi_extra=documented(SearchParameters, *searching.REQUEST_HEADERS),
)


def _question(asked: SearchParameters) -> Question:
    return Question(
        origin=asked.origin,
        destination=asked.destination,
        day=asked.date,
        passengers=asked.passengers,
        cabin=asked.cabin,
        max_stops=asked.max_stops,
        carriers=tuple(sorted(set(asked.carrier))),
        departs_from=asked.departs_from,
        departs_before=asked.departs_before,
        sort=asked.sort,
        page_size=asked.page_size,
        page_token=asked.page_token,
    )


async def _first(call: _Call) -> StreamItinerariesResponse:
    """What was found up to the first itinerary; until then an error is an ordinary answer."""
    found = StreamItinerariesResponse()
    while not found.itineraries:
        response = await call.read()
        if not isinstance(response, StreamItinerariesResponse):
            break
        found.MergeFrom(response)
    return found


async def _events(
    call: _Call, first: StreamItinerariesResponse, cabin: Cabin.ValueType
) -> AsyncIterator[bytes]:
    count = 0
    response: object = first
    while isinstance(response, StreamItinerariesResponse):
        found = response.itineraries
        count += len(found)
        yield b"".join(event("itinerary", translate.itinerary(each, cabin)) for each in found)
        response = await call.read()
    yield event("done", orjson.dumps({"count": count}))
