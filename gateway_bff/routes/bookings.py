"""Bookings of the user whose token the request carries; booking verifies it again."""

import uuid
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Security
from fastapi.security import HTTPBearer
from starlette.requests import Request
from starlette.responses import Response

from consulmesh import wellknown
from flights.booking.v1.booking_pb2 import (
    BOOKING_STATUS_PENDING,
    BOOKING_STATUS_REJECTED,
    Booking,
    CancelBookingRequest,
    Contact,
    CreateBookingRequest,
    GetBookingRequest,
    ListBookingsRequest,
    Passenger,
)
from gateway_bff import idempotency, links, openapi, prefer, schemas, translate
from gateway_bff.composition import flights_now, quote_if_there
from gateway_bff.failures import RETRY_AFTER, public_code
from gateway_bff.idempotency import OptionalKey, RequiredKey
from gateway_bff.ids import is_booking_id, is_quote_id
from gateway_bff.openapi import problems
from gateway_bff.parameters import BookingId, documented, parameters
from gateway_bff.prefer import HowToWait, Waiting
from gateway_bff.problems import CODES, Problem, not_found
from gateway_bff.reply import Json, TheSettings, TheUpstreams
from gateway_bff.requests import BookingRequest, PageParameters
from gateway_bff.route import CustomerRoute
from gateway_bff.settings import Settings
from gateway_bff.upstreams import Upstreams

_CONFLICT = 409

# Only for the document: the route has verified the token before dependencies are looked at.
_BEARER = Security(HTTPBearer(bearerFormat="JWT", scheme_name="customer", auto_error=False))

router = APIRouter(route_class=CustomerRoute, tags=["bookings"], dependencies=[_BEARER])


@router.post(
    "/v1/bookings",
    name="booking",
    operation_id="createBooking",
    summary="Book what a quote says",
    status_code=201,
    responses={
        201: {"model": schemas.Booking, "headers": openapi.LOCATION | prefer.HEADERS},
        202: {
            "model": schemas.Booking,
            "description": "Still running; look at `Location`",
            "headers": openapi.LOCATION | openapi.WAIT | prefer.HEADERS,
        },
        **problems(401, 403, 404, 408, 409, 413, 415, 422),
    },
    openapi_extra={"parameters": [idempotency.REQUIRED, prefer.PARAMETER]},
)
async def create_booking(
    body: BookingRequest,
    key: RequiredKey,
    waiting: HowToWait,
    upstreams: TheUpstreams,
    settings: TheSettings,
) -> Response:
    """Book. The same key again gives the same booking, as it is then.

    With `Prefer: respond-async` or `wait` the answer comes earlier; the booking goes on.
    """
    if not is_quote_id(body.quote_id):
        raise not_found("quote")
    made = (await upstreams.booking.CreateBooking(_request(body, key, waiting))).booking
    headers = {
        "Location": f"/v1/bookings/{made.booking_id}",
        **waiting.applied(outcome=made.status != BOOKING_STATUS_PENDING),
    }
    if made.status == BOOKING_STATUS_REJECTED:
        raise await _rejected(made, upstreams, settings)
    if made.status == BOOKING_STATUS_PENDING:
        # who wants to wait no more does not wait for what its flights do either
        hurried = waiting.longest is not None
        shown = translate.booking(made) if hurried else await _composed(made, upstreams, settings)
        return Json(shown, 202, headers | {"Retry-After": str(RETRY_AFTER)})
    return Json(await _composed(made, upstreams, settings), 201, headers)


@router.get(
    "/v1/bookings",
    name="bookings",
    operation_id="listBookings",
    summary="Own bookings, newest first",
    responses={
        200: {"model": schemas.BookingPage, "headers": links.HEADERS},
        **problems(401, 403),
    },
    openapi_extra=documented(PageParameters),
)
async def list_bookings(
    request: Request,
    asked: Annotated[PageParameters, Depends(parameters(PageParameters))],
    upstreams: TheUpstreams,
) -> Response:
    """List bookings, as they were booked: one booking says what its flights do now."""
    response = await upstreams.booking.ListBookings(
        ListBookingsRequest(page_size=asked.page_size, page_token=asked.page_token)
    )
    page: dict[str, Any] = {"bookings": [translate.booking(each) for each in response.bookings]}
    if response.next_page_token:
        page["next_page_token"] = response.next_page_token
    return Json(page, headers=links.next_page(request.scope, response.next_page_token))


@router.get(
    "/v1/bookings/{booking_id}",
    name="bookings",
    operation_id="getBooking",
    summary="One booking, with its flights as they are now",
    responses={200: {"model": schemas.Booking}, **problems(401, 403, 404)},
)
async def get_booking(
    booking_id: BookingId, upstreams: TheUpstreams, settings: TheSettings
) -> Response:
    """Show a booking; `partial` where schedule can't say what the flights do."""
    if not is_booking_id(booking_id):
        raise not_found("booking")
    response = await upstreams.booking.GetBooking(GetBookingRequest(booking_id=booking_id))
    return Json(await _composed(response.booking, upstreams, settings))


@router.post(
    "/v1/bookings/{booking_id}/cancel",
    name="booking",
    operation_id="cancelBooking",
    summary="Give a booking back",
    responses={200: {"model": schemas.Booking}, **problems(401, 403, 404, 408, 409, 413, 415)},
)
async def cancel_booking(
    booking_id: BookingId, key: OptionalKey, upstreams: TheUpstreams, settings: TheSettings
) -> Response:
    """Cancel; a cancelled booking stays as it is."""
    if not is_booking_id(booking_id):
        raise not_found("booking")
    request = CancelBookingRequest(request_id=key or uuid.uuid4().hex, booking_id=booking_id)
    response = await upstreams.booking.CancelBooking(request)
    return Json(await _composed(response.booking, upstreams, settings))


def _request(body: BookingRequest, key: str, waiting: Waiting) -> CreateBookingRequest:
    longest = waiting.longest
    return CreateBookingRequest(
        wait=None if longest is None else wellknown.duration(timedelta(seconds=longest)),
        request_id=key,
        quote_id=body.quote_id,
        passengers=[
            Passenger(given_name=each.given_name, family_name=each.family_name)
            for each in body.passengers
        ],
        contact=Contact(email=body.contact.email),
    )


async def _composed(made: Booking, upstreams: Upstreams, settings: Settings) -> dict[str, Any]:
    """The booking with its flights as they are now."""
    flight_ids = [segment.flight_id for segment in made.segments]
    flights = await flights_now(upstreams.schedule, flight_ids, settings.compose)
    return translate.booking(made, flights)


async def _rejected(made: Booking, upstreams: Upstreams, settings: Settings) -> Problem:
    """Why it was rejected, with today's price where that was why."""
    code = public_code(made.rejection.reason)
    if code is None or CODES[code].status != _CONFLICT:
        code = "BOOKING_REJECTED"
    extensions: dict[str, Any] = {"booking_id": made.booking_id}
    if made.rejection.fresh_quote_id:
        fresh = made.rejection.fresh_quote_id
        if quote := await quote_if_there(upstreams.pricing, fresh, settings.compose):
            extensions["quote"] = translate.quote(quote)
    return Problem(code, made.rejection.message, extensions=extensions)
