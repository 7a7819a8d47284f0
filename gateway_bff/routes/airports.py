"""Airports: what people type, completed."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from flights.search.v1.search_pb2 import SearchAirportsRequest
from gateway_bff import openapi, schemas, translate
from gateway_bff.openapi import problems
from gateway_bff.parameters import documented, parameters
from gateway_bff.reply import TheUpstreams, revalidated
from gateway_bff.requests import AirportParameters
from gateway_bff.route import Route

router = APIRouter(route_class=Route, tags=["search"])


@router.get(
    "/v1/airports",
    name="airports",
    operation_id="searchAirports",
    summary="Airports by code, city or name, best match first",
    responses={**openapi.revalidated(schemas.AirportMatches), **problems()},
    openapi_extra=documented(AirportParameters, openapi.IF_NONE_MATCH),
)
async def search_airports(
    request: Request,
    asked: Annotated[AirportParameters, Depends(parameters(AirportParameters))],
    upstreams: TheUpstreams,
) -> Response:
    """Complete what somebody types."""
    question = SearchAirportsRequest(query=asked.q, page_size=asked.page_size)
    body = translate.airports((await upstreams.search.SearchAirports(question)).airports)
    return revalidated(request, body, {"Cache-Control": "public, max-age=300"})
