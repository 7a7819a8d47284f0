"""Flights, as schedule knows them now."""

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from flights.schedule.v1.schedule_pb2 import GetFlightRequest
from gateway_bff import openapi, schemas, translate
from gateway_bff.ids import is_flight_id
from gateway_bff.openapi import problems
from gateway_bff.parameters import FlightId
from gateway_bff.problems import not_found
from gateway_bff.reply import TheUpstreams, revalidated
from gateway_bff.route import Route

router = APIRouter(route_class=Route, tags=["flights"])


@router.get(
    "/v1/flights/{flight_id}",
    name="flight",
    operation_id="getFlight",
    summary="One flight as it is now",
    responses={**openapi.revalidated(schemas.Flight), **problems(404)},
    openapi_extra={"parameters": [openapi.IF_NONE_MATCH]},
)
async def get_flight(flight_id: FlightId, request: Request, upstreams: TheUpstreams) -> Response:
    """Show a flight with its seats."""
    if not is_flight_id(flight_id):
        raise not_found("flight")
    response = await upstreams.schedule.GetFlight(GetFlightRequest(flight_id=flight_id))
    return revalidated(request, orjson.dumps(translate.flight(response.flight)))
