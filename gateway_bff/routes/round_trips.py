"""Ways there and back."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from consulmesh import wellknown
from flights.search.v1.search_pb2 import SearchRoundTripsRequest
from gateway_bff import freshness, links, openapi, schemas, searching, shards, translate
from gateway_bff.openapi import problems
from gateway_bff.parameters import documented, parameters
from gateway_bff.reply import TheSettings, TheUpstreams, revalidated
from gateway_bff.requests import RoundTripParameters
from gateway_bff.route import JourneyRoute
from gateway_bff.values import SORT_ORDERS

router = APIRouter(route_class=JourneyRoute, tags=["search"])


@router.get(
    "/v1/round-trips",
    name="round_trips",
    operation_id="searchRoundTrips",
    summary="Ways there and back, a page at a time",
    responses={
        **openapi.revalidated(schemas.RoundTripPage, {**links.HEADERS, **searching.HEADERS}),
        **problems(),
    },
    openapi_extra=documented(RoundTripParameters, *searching.REQUEST_HEADERS),
)
async def search_round_trips(
    request: Request,
    asked: Annotated[RoundTripParameters, Depends(parameters(RoundTripParameters))],
    upstreams: TheUpstreams,
    settings: TheSettings,
) -> Response:
    """Find a way there with a way back, sorted by what both are together.

    Quote one by the `itinerary_ids` of both.
    """
    query = searching.query(asked, asked.date)
    response = await upstreams.search.SearchRoundTrips(
        SearchRoundTripsRequest(
            query=query,
            return_date=wellknown.date_message(asked.return_date),
            sort_order=SORT_ORDERS[asked.sort],
            page_size=asked.page_size,
            page_token=asked.page_token,
            min_positions=searching.min_positions(request),
        ),
        metadata=shards.headers(asked.date, settings.search_shards),
    )
    body = translate.round_trips(response, query.cabin)
    more = links.next_page(request.scope, response.next_page_token)
    return revalidated(request, body, {**freshness.headers(response.positions), **more})
