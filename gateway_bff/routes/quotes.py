"""Quotes: prices that hold. Whoever knows a quote's id may use it."""

import uuid

from fastapi import APIRouter
from starlette.responses import Response

from flights.pricing.v1.pricing_pb2 import CreateQuoteRequest, GetQuoteRequest, QuoteSegment
from gateway_bff import openapi, schemas, translate
from gateway_bff.idempotency import AnonymousKey
from gateway_bff.ids import MAX_FLIGHTS, is_quote_id, itinerary_key
from gateway_bff.openapi import problems
from gateway_bff.parameters import QuoteId
from gateway_bff.problems import FieldError, Problem, invalid, not_found
from gateway_bff.reply import Json, TheUpstreams
from gateway_bff.requests import QuoteRequest
from gateway_bff.route import QuoteRoute

router = APIRouter(route_class=QuoteRoute, tags=["quotes"])


@router.post(
    "/v1/quotes",
    name="quote",
    operation_id="createQuote",
    summary="A price that holds until its expire_time",
    status_code=201,
    responses={
        201: {"model": schemas.Quote, "headers": openapi.LOCATION},
        **problems(404, 408, 409, 413, 415, 422),
    },
)
async def create_quote(body: QuoteRequest, upstreams: TheUpstreams, key: AnonymousKey) -> Response:
    """Quote one itinerary, or the two of a round trip. Sets no seats aside.

    A key must be as unguessable as a UUID: whoever sends it again with the same body gets the same
    quote.
    """
    response = await upstreams.pricing.CreateQuote(
        CreateQuoteRequest(
            request_id=key or uuid.uuid4().hex,
            segments=_segments(body),
            passengers=body.passengers,
        )
    )
    location = f"/v1/quotes/{response.quote.quote_id}"
    return Json(translate.quote(response.quote), 201, {"Location": location})


@router.get(
    "/v1/quotes/{quote_id}",
    name="quote",
    operation_id="getQuote",
    summary="One quote",
    responses={200: {"model": schemas.Quote}, **problems(404)},
)
async def get_quote(quote_id: QuoteId, upstreams: TheUpstreams) -> Response:
    """Show a quote, also one that has expired."""
    if not is_quote_id(quote_id):
        raise not_found("quote")
    response = await upstreams.pricing.GetQuote(GetQuoteRequest(quote_id=quote_id))
    return Json(translate.quote(response.quote))


def _segments(body: QuoteRequest) -> list[QuoteSegment]:
    segments: list[QuoteSegment] = []
    for place, itinerary in enumerate(body.ids()):
        key = itinerary_key(itinerary)
        if key is None:
            raise _no_itinerary("itinerary_id" if body.itinerary_id else f"itinerary_ids[{place}]")
        segments += [QuoteSegment(flight_id=flight, cabin=key.cabin) for flight in key.flight_ids]
    if len({segment.flight_id for segment in segments}) < len(segments):
        raise invalid("itinerary_ids", "REPEATED", "A flight is there twice.", status=422)
    if len(segments) > MAX_FLIGHTS:
        raise invalid("itinerary_ids", "TOO_LONG", f"At most {MAX_FLIGHTS} flights.", status=422)
    return segments


def _no_itinerary(field: str) -> Problem:
    detail = "There is no such itinerary."
    error = FieldError(field=field, code="NOT_FOUND", detail=detail)
    return Problem("NOT_FOUND", detail, errors=[error])
