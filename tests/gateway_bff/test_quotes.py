import grpc
import pytest

from consulmesh.errors import Violation
from flights.pricing.v1.pricing_pb2 import GetQuoteRequest, GetQuoteResponse, QuoteSegment
from flights.search.v1.search_pb2 import ItineraryKey
from flights.type.v1.cabin_pb2 import CABIN_BUSINESS, CABIN_ECONOMY, CABIN_UNSPECIFIED
from gateway_bff import base64url
from gateway_bff.ids import itinerary_id
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import Gateway
from tests.gateway_bff.fakes import refusal

USD = {"currency": "USD"}
KEY = "5f0f9b3e-6d5a-4a52-9d7e-2d3c4b5a6978"
SHOWN = {
    "quote_id": examples.QUOTE,
    "itinerary_id": examples.ITINERARY,
    "cabin": "economy",
    "passengers": 2,
    "total": USD | {"amount": "418.20"},
    "lines": [
        {
            "flight_id": examples.FLIGHT,
            "cabin": "economy",
            "fare": USD | {"amount": "180.00"},
            "taxes": USD | {"amount": "29.10"},
        }
    ],
    "expire_time": "2026-11-24T12:10:00Z",
}


async def test_an_itinerary_is_quoted(gateway: Gateway) -> None:
    """A quote is made for the flights that the itinerary's id names, and shown with its address."""
    gateway.fakes.pricing.answers["CreateQuote"] = examples.quote_created()

    async with gateway.client.post(
        "/v1/quotes",
        json={"itinerary_id": examples.ITINERARY, "passengers": 2},
        headers={"Idempotency-Key": KEY},
    ) as response:
        body = await response.json()
    (request,) = gateway.fakes.pricing.requests

    assert response.status == 201
    assert response.headers["Location"] == f"/v1/quotes/{examples.QUOTE}"
    assert body == SHOWN
    assert request.request_id == KEY
    assert request.passengers == 2
    assert list(request.segments) == [QuoteSegment(flight_id=examples.FLIGHT, cabin=CABIN_ECONOMY)]


async def test_a_key_that_strangers_could_share_is_400(gateway: Gateway) -> None:
    """Quotes are anonymous, so their keys are one space: a short one is refused."""
    async with gateway.client.post(
        "/v1/quotes",
        json={"itinerary_id": examples.ITINERARY},
        headers={"Idempotency-Key": "1"},
    ) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (400, "VALIDATION_FAILED")
    assert problem["errors"][0]["field"] == "Idempotency-Key"
    assert problem["errors"][0]["code"] == "TOO_SHORT"
    assert gateway.fakes.pricing.requests == []


async def test_without_a_key_each_quote_is_another(gateway: Gateway) -> None:
    """A quote without an Idempotency-Key gets a request id of its own."""
    gateway.fakes.pricing.answers["CreateQuote"] = examples.quote_created()

    for _ in range(2):
        async with gateway.client.post(
            "/v1/quotes", json={"itinerary_id": examples.ITINERARY}
        ) as response:
            await response.read()
    first, second = gateway.fakes.pricing.requests

    assert first.request_id
    assert second.request_id
    assert first.request_id != second.request_id


async def test_a_round_trip_is_one_quote(gateway: Gateway) -> None:
    """Two itineraries become one quote over all their flights, each in its cabin."""
    back = itinerary_id([examples.OTHER_FLIGHT], CABIN_BUSINESS)
    gateway.fakes.pricing.answers["CreateQuote"] = examples.quote_created()

    async with gateway.client.post(
        "/v1/quotes", json={"itinerary_ids": [examples.ITINERARY, back], "passengers": 1}
    ) as response:
        await response.read()
    (request,) = gateway.fakes.pricing.requests

    assert response.status == 201
    assert list(request.segments) == [
        QuoteSegment(flight_id=examples.FLIGHT, cabin=CABIN_ECONOMY),
        QuoteSegment(flight_id=examples.OTHER_FLIGHT, cabin=CABIN_BUSINESS),
    ]


async def test_a_quote_is_shown_as_it_was_made(gateway: Gateway) -> None:
    """GET gives the same bytes as the POST that made the quote."""
    gateway.fakes.pricing.answers["CreateQuote"] = examples.quote_created()
    gateway.fakes.pricing.answers["GetQuote"] = GetQuoteResponse(quote=examples.quote())

    async with gateway.client.post(
        "/v1/quotes", json={"itinerary_id": examples.ITINERARY}
    ) as response:
        made = await response.read()
    async with gateway.client.get(response.headers["Location"]) as response:
        shown = await response.read()

    assert response.status == 200
    assert shown == made
    assert gateway.fakes.pricing.requests[1] == GetQuoteRequest(quote_id=examples.QUOTE)


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        ({}, "", "REQUIRED"),
        ({"itinerary_id": "a", "itinerary_ids": ["a", "b"]}, "", "REQUIRED"),
        ({"itinerary_ids": ["a"]}, "itinerary_ids", "TOO_SHORT"),
        ({"itinerary_ids": ["a", "b", "c"]}, "itinerary_ids", "TOO_LONG"),
        ({"itinerary_id": 7}, "itinerary_id", "INVALID"),
        ({"itinerary_id": "a", "passengers": 0}, "passengers", "OUT_OF_RANGE"),
        ({"itinerary_id": "a", "passengers": 10}, "passengers", "OUT_OF_RANGE"),
        ({"itinerary_id": "a", "passengers": "2"}, "passengers", "INVALID"),
        ({"itinerary_id": "a", "passengers": True}, "passengers", "INVALID"),
        ({"itinerary_id": "a", "cabin": "first"}, "cabin", "UNKNOWN_FIELD"),
        (
            {"itinerary_ids": [examples.ITINERARY, examples.ITINERARY]},
            "itinerary_ids",
            "REPEATED",
        ),
        ([], "", "INVALID"),
        ("text", "", "INVALID"),
    ],
)
async def test_a_wrong_member_is_named(
    gateway: Gateway, body: object, field: str, code: str
) -> None:
    """A body that is JSON but not a quote's is 422 and says where."""
    async with gateway.client.post("/v1/quotes", json=body) as response:
        problem = await response.json()

    assert response.status == 422
    assert problem["code"] == "VALIDATION_FAILED"
    assert [(e["field"], e["code"]) for e in problem["errors"]] == [(field, code)]
    assert gateway.fakes.pricing.requests == []


def _key(*flights: str, cabin: int = CABIN_ECONOMY) -> str:
    key = ItineraryKey(flight_ids=flights, cabin=cabin)  # type: ignore[arg-type]  # any number
    return "itn_" + base64url.encode(key.SerializeToString())


@pytest.mark.parametrize(
    "itinerary",
    [
        "nope",
        "itn_",
        "itn_!!!!",
        "itn_\u00e4",
        "itn_AAAA",
        "itn_" + "A" * 1500,
        examples.ITINERARY + "=",
        examples.ITINERARY + "AA",
        examples.ITINERARY[:-3],
        _key(),
        _key("not-a-flight"),
        _key("flt_a b"),
        _key(*[f"flt_{n}" for n in range(13)]),
        _key(examples.FLIGHT, cabin=CABIN_UNSPECIFIED),
        _key(examples.FLIGHT, cabin=99),
    ],
)
async def test_what_is_no_itinerary_is_not_found(gateway: Gateway, itinerary: str) -> None:
    """An id that search can't have written is 404, whatever its shape, and pricing is not asked."""
    async with gateway.client.post("/v1/quotes", json={"itinerary_id": itinerary}) as response:
        problem = await response.json()

    assert response.status == 404
    assert problem["code"] == "NOT_FOUND"
    assert problem["errors"][0]["field"] == "itinerary_id"
    assert gateway.fakes.pricing.requests == []


@pytest.mark.parametrize("reason", ["SEATS_UNAVAILABLE", "FLIGHT_CANCELLED", "FLIGHT_DEPARTED"])
async def test_a_flight_that_cannot_be_sold_is_a_conflict(gateway: Gateway, reason: str) -> None:
    """FAILED_PRECONDITION with a reason of the domain is 409 with that code."""
    gateway.fakes.pricing.answers["CreateQuote"] = refusal(
        grpc.StatusCode.FAILED_PRECONDITION, reason
    )

    async with gateway.client.post(
        "/v1/quotes", json={"itinerary_id": examples.ITINERARY}
    ) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (409, reason)


async def test_a_reused_key_is_422(gateway: Gateway) -> None:
    """A key that came with another request before is 422 and names the header."""
    gateway.fakes.pricing.answers["CreateQuote"] = refusal(
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_ID_REUSED",
        violations=[
            Violation(field="request_id", reason="REQUEST_ID_REUSED", description="Other content.")
        ],
    )

    async with gateway.client.post(
        "/v1/quotes",
        json={"itinerary_id": examples.ITINERARY},
        headers={"Idempotency-Key": KEY},
    ) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert problem["errors"][0]["field"] == "Idempotency-Key"


UNKNOWN_IDS = ["nope", "quo_", "quo_!", "flt_a", "quo_%00", "%F0%9F%9B%AB", "a" * 300, "quo_a%20b"]


@pytest.mark.parametrize("kind", ["quotes", "flights"])
@pytest.mark.parametrize("shape", UNKNOWN_IDS)
async def test_ids_of_any_shape_are_404(gateway: Gateway, kind: str, shape: str) -> None:
    """What can't be an id is the id of nothing; nobody is asked."""
    wrong = shape.replace("flt_", "xyz_") if kind == "flights" else shape

    async with gateway.client.get(f"/v1/{kind}/{wrong}") as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (404, "NOT_FOUND")
    assert gateway.fakes.pricing.requests == []
    assert gateway.fakes.schedule.requests == []


async def test_an_unknown_quote_is_404(gateway: Gateway) -> None:
    """NOT_FOUND of pricing is 404 with its words."""
    gateway.fakes.pricing.answers["GetQuote"] = refusal(
        grpc.StatusCode.NOT_FOUND, "QUOTE_NOT_FOUND", "There is no such quote."
    )

    async with gateway.client.get(f"/v1/quotes/{examples.QUOTE}") as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (404, "NOT_FOUND")
    assert problem["detail"] == "There is no such quote."


async def test_a_whole_number_may_be_written_as_a_decimal(gateway: Gateway) -> None:
    """4.0 is an integer to JSON Schema; 4.5 and "4" are none."""
    gateway.fakes.pricing.answers["CreateQuote"] = examples.quote_created()
    statuses = []
    for passengers in (4.0, 4.5, "4", True, 1e300):
        wanted = {"itinerary_id": examples.ITINERARY, "passengers": passengers}
        async with gateway.client.post("/v1/quotes", json=wanted) as response:
            statuses.append(response.status)

    assert statuses == [201, 422, 422, 422, 422]
    assert gateway.fakes.pricing.requests[0].passengers == 4
