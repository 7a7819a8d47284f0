"""What operators do: delay and cancel flights, set fares.

Each change may be bound to the state that was looked at by its `etag`, and may be repeated with
the same Idempotency-Key.
"""

import re
import uuid
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from fastapi import APIRouter, Security
from fastapi.security import HTTPBearer
from starlette.responses import Response

from consulmesh import wellknown
from flights.pricing.v1.pricing_pb2 import UpdateFareRequest
from flights.schedule.v1.schedule_pb2 import CancelFlightRequest, UpdateFlightRequest
from gateway_bff import schemas, translate
from gateway_bff.idempotency import OptionalKey
from gateway_bff.ids import is_flight_id
from gateway_bff.openapi import Responses, problems
from gateway_bff.parameters import Destination, FlightId, Origin
from gateway_bff.problems import not_found
from gateway_bff.reply import Json, TheUpstreams
from gateway_bff.requests import CancelRequest, DelayRequest, FareRequest
from gateway_bff.route import OperatorRoute

_AIRPORT: Final = re.compile(r"[A-Z]{3}")
_REFUSED: Final = problems(401, 403, 404, 408, 409, 413, 415, 422)
_FLIGHT: Final[Responses] = {200: {"model": schemas.Flight}, **_REFUSED}

# Only for the document: the route has verified the token before dependencies are looked at.
_BEARER: Any = Security(HTTPBearer(bearerFormat="JWT", scheme_name="operator", auto_error=False))

router = APIRouter(route_class=OperatorRoute, tags=["operations"], dependencies=[_BEARER])


@router.post(
    "/v1/operations/flights/{flight_id}/delay",
    name="operation",
    operation_id="delayFlight",
    summary="Put a flight off, or take that back",
    responses=_FLIGHT,
)
async def delay_flight(
    flight_id: FlightId, body: DelayRequest, key: OptionalKey, upstreams: TheUpstreams
) -> Response:
    """Let a flight leave so many minutes later than published."""
    if not is_flight_id(flight_id):
        raise not_found("flight")
    response = await upstreams.schedule.UpdateFlight(
        UpdateFlightRequest(
            request_id=_request_id(key),
            flight_id=flight_id,
            delay=wellknown.duration(timedelta(minutes=body.minutes)),
            reason=body.reason,
            etag=body.etag,
        )
    )
    return Json(translate.flight(response.flight))


@router.post(
    "/v1/operations/flights/{flight_id}/cancel",
    name="operation",
    operation_id="cancelFlight",
    summary="Cancel a flight",
    responses=_FLIGHT,
)
async def cancel_flight(
    flight_id: FlightId, body: CancelRequest, key: OptionalKey, upstreams: TheUpstreams
) -> Response:
    """Cancel a flight for good; its bookings become `affected`."""
    if not is_flight_id(flight_id):
        raise not_found("flight")
    response = await upstreams.schedule.CancelFlight(
        CancelFlightRequest(
            request_id=_request_id(key),
            flight_id=flight_id,
            reason=body.reason,
            etag=body.etag,
        )
    )
    return Json(translate.flight(response.flight))


@router.put(
    "/v1/operations/fares/{origin}-{destination}",
    name="operation",
    operation_id="updateFare",
    summary="Set the base fare of a route",
    responses={200: {"model": schemas.Fare}, **_REFUSED},
)
async def update_fare(
    origin: Origin,
    destination: Destination,
    body: FareRequest,
    key: OptionalKey,
    upstreams: TheUpstreams,
) -> Response:
    """Set what a route costs; the prices of its flights follow, nearest departures first."""
    if not (_AIRPORT.fullmatch(origin) and _AIRPORT.fullmatch(destination)):
        raise not_found("route")
    response = await upstreams.pricing.UpdateFare(
        UpdateFareRequest(
            request_id=_request_id(key),
            origin=origin,
            destination=destination,
            base=wellknown.money(Decimal(body.base.amount), body.base.currency),
            etag=body.etag,
        )
    )
    return Json(translate.fare(response.fare))


def _request_id(key: str | None) -> str:
    return key or uuid.uuid4().hex
