import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from jsonschema import (  # type: ignore[import-untyped]  # it has no stubs
    Draft202012Validator,
)
from pydantic import BaseModel

from flights.booking.v1.booking_pb2 import BOOKING_STATUS_CONFIRMED, BOOKING_STATUS_REJECTED
from flights.booking.v1.booking_pb2 import Rejection as RejectionMessage
from flights.schedule.v1.schedule_pb2 import Flight
from flights.search.v1.search_pb2 import SearchItinerariesResponse
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY
from gateway_bff import schemas, translate
from gateway_bff.problems import CODES, TITLES, Problem
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import Gateway
from tests.gateway_bff.owner import price_list

Document = dict[str, Any]
OF_OPERATORS = {200, 400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503, 504}
OPERATIONS = {
    ("GET", "/v1/airports"): {200, 400, 429, 500, 503, 504},
    ("GET", "/v1/itineraries"): {200, 400, 429, 500, 503, 504},
    ("GET", "/v1/round-trips"): {200, 400, 429, 500, 503, 504},
    ("GET", "/v1/fare-calendar"): {200, 400, 429, 500, 503, 504},
    ("GET", "/v1/flights/{flight_id}"): {200, 400, 404, 429, 500, 503, 504},
    ("GET", "/v1/flights/{flight_id}/events"): {200, 400, 404, 429, 500, 503, 504},
    ("GET", "/v1/prices/stream"): {200, 400, 404, 429, 500, 503, 504},
    ("POST", "/v1/quotes"): {201, 400, 404, 408, 409, 413, 415, 422, 429, 500, 503, 504},
    ("GET", "/v1/quotes/{quote_id}"): {200, 400, 404, 429, 500, 503, 504},
    ("POST", "/v1/bookings"): {
        *(201, 202, 400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503, 504)
    },
    ("GET", "/v1/bookings"): {200, 400, 401, 403, 429, 500, 503, 504},
    ("GET", "/v1/bookings/{booking_id}"): {200, 400, 401, 403, 404, 429, 500, 503, 504},
    ("POST", "/v1/bookings/{booking_id}/cancel"): {
        *(200, 400, 401, 403, 404, 408, 409, 413, 429, 500, 503, 504)
    },
    ("POST", "/v1/operations/flights/{flight_id}/delay"): OF_OPERATORS,
    ("POST", "/v1/operations/flights/{flight_id}/cancel"): OF_OPERATORS,
    ("PUT", "/v1/operations/fares/{origin}-{destination}"): OF_OPERATORS,
    ("GET", "/v1/mesh"): {200, 400, 401, 403, 429, 500, 503, 504},
}


@pytest.fixture
async def document(gateway: Gateway) -> Document:
    """The document as clients get it."""
    async with gateway.client.get("/openapi.json") as response:
        made: Document = await response.json()
    return made


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Every operation with its method and path."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


async def test_every_operation_is_documented(document: Document) -> None:
    """The document has exactly the public operations, each with every status it may answer."""
    documented = {
        (method, path): {int(s) for s in operation["responses"] if s != "default"}
        for method, path, operation in operations(document)
    }

    assert document["openapi"].startswith("3.1")
    assert documented == OPERATIONS


async def test_every_problem_has_its_media_type(document: Document) -> None:
    """Errors are application/problem+json with the one schema, and name their codes."""
    problems = [
        (status, response)
        for _, _, operation in operations(document)
        for status, response in operation["responses"].items()
        if status == "default" or int(status) >= 400
    ]

    for status, response in problems:
        reference = response["content"]["application/problem+json"]["schema"]["$ref"]
        assert reference == "#/components/schemas/Problem"
        assert list(response["content"]) == ["application/problem+json"]
        assert status == "default" or any(c in response["description"] for c in TITLES[int(status)])


async def test_every_reference_leads_somewhere(document: Document) -> None:
    """No schema is named that is not there, and each is a valid JSON Schema."""
    components = document["components"]["schemas"]
    references = set(re.findall(r"#/components/schemas/(\w+)", str(document)))

    assert references <= set(components)
    assert "HTTPValidationError" not in components
    for schema in components.values():
        Draft202012Validator.check_schema(schema)


async def test_search_is_documented_both_ways(document: Document) -> None:
    """The page and the stream stand side by side, with the parameters of both."""
    search = document["paths"]["/v1/itineraries"]["get"]
    names = {parameter["name"].lower() for parameter in search["parameters"]}

    assert set(search["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert {"origin", "destination", "date", "page_token", "min-position"} <= names


async def test_live_streams_are_documented_with_their_events(document: Document) -> None:
    """The parameter that may be repeated is a list, and every event's data has a schema."""
    prices = document["paths"]["/v1/prices/stream"]["get"]
    parameters = {each["name"]: each for each in prices["parameters"]}
    named = {"LivePrices", "LivePrice", "Flight", "Removed", "Reset", "Stale"}

    assert set(prices["responses"]["200"]["content"]) == {"text/event-stream"}
    assert parameters["flight_id"]["schema"]["type"] == "array"
    assert parameters["flight_id"]["schema"]["maxItems"] == 50
    assert parameters["flight_id"]["required"]
    assert parameters["Last-Event-ID"]["in"] == "header"
    assert named <= set(document["components"]["schemas"])


@pytest.mark.parametrize(
    ("role", "part"), [("customer", "bookings"), ("operator", "operations|mesh")]
)
async def test_whose_token_is_needed_is_documented(
    document: Document, role: str, part: str
) -> None:
    """What belongs to a role, and that alone, says that it needs a bearer token of it."""
    secured = {
        path
        for _, path, operation in operations(document)
        if {role: []} in operation.get("security", [])
    }

    assert secured == {path for _, path in OPERATIONS if re.search(part, path)}
    assert document["components"]["securitySchemes"][role]["scheme"] == "bearer"


async def test_the_document_is_shown_to_people(gateway: Gateway) -> None:
    """There is a page that shows the document, and nothing of it comes from elsewhere."""
    async with gateway.client.get("/docs") as response:
        page = await response.text()
    parts = [part for part in re.findall(r'(?:src|href)="([^"]+)"', page) if part != "data:,"]
    loaded = [await gateway.client.get(part) for part in parts]
    for answer in loaded:
        await answer.read()

    assert response.status == 200
    assert "/openapi.json" in page
    assert len(parts) >= 2
    assert {answer.status for answer in loaded} == {200}


def rejected() -> dict[str, Any]:
    """A booking that was not made."""
    booking = examples.booking(BOOKING_STATUS_REJECTED)
    booking.rejection.CopyFrom(RejectionMessage(reason="SEATS_UNAVAILABLE", message="Sold out."))
    return translate.booking(booking)


def delayed() -> Flight:
    """A flight with everything that one can have."""
    flight = examples.flight()
    flight.status_reason = "weather"
    return flight


ANSWERS: list[tuple[type[BaseModel], Any]] = [
    (schemas.Airports, translate.airports([examples.airport()])),
    (
        schemas.ItineraryPage,
        translate.itineraries(
            SearchItinerariesResponse(
                itineraries=[examples.itinerary()],
                next_page_token="x",
            ),
            CABIN_ECONOMY,
        ),
    ),
    (schemas.Itinerary, translate.itinerary(examples.itinerary(), CABIN_ECONOMY)),
    (schemas.RoundTripPage, translate.round_trips(examples.round_trips(), CABIN_ECONOMY)),
    (schemas.FareCalendar, translate.fare_calendar("2026-12", [examples.calendar()])),
    (schemas.Fare, translate.fare(examples.fare())),
    (schemas.Flight, translate.flight(delayed())),
    (schemas.LivePrices, translate.prices(examples.FLIGHT, price_list(examples.FLIGHT, 2, 120))),
    (schemas.Quote, translate.quote(examples.quote())),
    (schemas.Booking, translate.booking(examples.booking(BOOKING_STATUS_CONFIRMED), {})),
    (
        schemas.Booking,
        translate.booking(examples.booking(BOOKING_STATUS_CONFIRMED), {examples.FLIGHT: delayed()}),
    ),
    (schemas.Booking, rejected()),
    (schemas.Problem, Problem("NOT_FOUND").document("/")),
]


@pytest.mark.parametrize(("model", "answer"), ANSWERS)
def test_answers_are_what_the_document_says(model: type[BaseModel], answer: Any) -> None:
    """What is written by hand for speed has exactly the members that the document shows."""
    shown = orjson.loads(answer) if isinstance(answer, bytes) else answer

    read = model.model_validate(shown)

    assert members(read.model_dump(mode="json", exclude_unset=True)) == members(shown)


def members(value: Any) -> Any:
    """The names in a document, without its values."""
    if isinstance(value, dict):
        return {name: members(member) for name, member in value.items()}
    return [members(each) for each in value] if isinstance(value, list) else None


def test_every_code_has_a_type_of_its_own() -> None:
    """A problem's type is its code as a URI, and no two are the same."""
    types = {code.type for code in CODES.values()}

    assert len(types) == len(CODES)
    assert CODES["PRICE_CHANGED"].type == "https://flightmesh.dev/problems/price-changed"
    assert all(re.fullmatch(r"https://flightmesh\.dev/problems/[a-z-]+", each) for each in types)
