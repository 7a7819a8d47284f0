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
from gateway_bff import json_schema, requests, schemas, translate
from gateway_bff.ids import itinerary_key
from gateway_bff.problems import CODES, TITLES, Problem
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import Gateway
from tests.gateway_bff.owner import price_list

Document = dict[str, Any]
OF_OPERATORS = {200, 400, 401, 403, 404, 408, 409, 413, 414, 415, 422, 429, 500, 503, 504}
OPERATIONS = {
    ("GET", "/v1/airports"): {200, 304, 400, 414, 429, 500, 503, 504},
    ("GET", "/v1/itineraries"): {200, 304, 400, 414, 429, 500, 503, 504},
    ("GET", "/v1/round-trips"): {200, 304, 400, 414, 429, 500, 503, 504},
    ("GET", "/v1/fare-calendar"): {200, 304, 400, 414, 429, 500, 503, 504},
    ("GET", "/v1/flights/{flight_id}"): {200, 304, 400, 404, 414, 429, 500, 503, 504},
    ("GET", "/v1/flights/{flight_id}/events"): {200, 400, 404, 414, 429, 500, 503, 504},
    ("GET", "/v1/prices/stream"): {200, 400, 404, 414, 429, 500, 503, 504},
    ("POST", "/v1/quotes"): {201, 400, 404, 408, 409, 413, 414, 415, 422, 429, 500, 503, 504},
    ("GET", "/v1/quotes/{quote_id}"): {200, 400, 404, 414, 429, 500, 503, 504},
    ("POST", "/v1/bookings"): {
        *(201, 202, 400, 401, 403, 404, 408, 409, 413, 414, 415, 422, 429, 500, 503, 504)
    },
    ("GET", "/v1/bookings"): {200, 400, 401, 403, 414, 429, 500, 503, 504},
    ("GET", "/v1/bookings/{booking_id}"): {200, 400, 401, 403, 404, 414, 429, 500, 503, 504},
    ("POST", "/v1/bookings/{booking_id}/cancel"): {
        *(200, 400, 401, 403, 404, 408, 409, 413, 414, 415, 429, 500, 503, 504)
    },
    ("POST", "/v1/operations/flights/{flight_id}/delay"): OF_OPERATORS,
    ("POST", "/v1/operations/flights/{flight_id}/cancel"): OF_OPERATORS,
    ("PUT", "/v1/operations/fares/{origin}-{destination}"): OF_OPERATORS,
    ("GET", "/v1/mesh"): {200, 400, 401, 403, 414, 429, 500, 503, 504},
}
NAMES = {
    *("searchAirports", "searchItineraries", "searchRoundTrips", "getFareCalendar"),
    *("getFlight", "streamFlight", "streamPrices"),
    *("createQuote", "getQuote"),
    *("createBooking", "listBookings", "getBooking", "cancelBooking"),
    *("delayFlight", "cancelFlight", "updateFare", "getMesh"),
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


def found(document: Document, thing: Document) -> Document:
    """What is meant by something that may be a reference."""
    if "$ref" not in thing:
        return thing
    meant: Document = document
    for part in thing["$ref"].removeprefix("#/").split("/"):
        meant = meant[part]
    return meant


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
        (status, found(document, response))
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
    references = re.findall(r"#/components/(\w+)/([\w-]+)", str(document))

    assert all(name in document["components"][kind] for kind, name in references)
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
    stream = prices["responses"]["200"]["content"]["text/event-stream"]
    named = {"price", "removed", "reset", "stale", "live", "problem"}

    assert set(prices["responses"]["200"]["content"]) == {"text/event-stream"}
    assert parameters["flight_id"]["schema"]["type"] == "array"
    assert parameters["flight_id"]["schema"]["maxItems"] == 50
    assert parameters["flight_id"]["required"]
    assert parameters["Last-Event-ID"]["in"] == "header"
    assert set(stream["x-events"]) == named
    assert stream["x-events"]["price"] == {"$ref": "#/components/schemas/LivePrices"}


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


async def test_every_operation_has_a_name_of_its_own(document: Document) -> None:
    """Short verbs in camel case, from which clients make the names of methods; and a tag."""
    names = [operation["operationId"] for _, _, operation in operations(document)]
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    used = {tag for _, _, operation in operations(document) for tag in operation["tags"]}

    assert sorted(names) == sorted(NAMES)
    assert all(re.fullmatch(r"[a-z]+([A-Z][a-z]+)+", name) for name in names)
    assert used == set(tags)
    assert all(tags.values())


async def test_the_document_says_who_and_where(document: Document) -> None:
    """Its server is where it comes from, whatever that is called."""
    info = document["info"]

    assert [server["url"] for server in document["servers"]] == ["/"]
    assert info["license"]["identifier"] == "Apache-2.0"
    assert info["contact"]["url"].startswith("https://")
    assert "Idempotency-Key" in info["description"]


async def test_everything_has_an_example_that_is_valid(document: Document) -> None:
    """What goes in and what comes out: parameters, bodies, answers and problems."""
    samples = list(shown(document))
    wrong = [
        (place, sample, error.message)
        for place, schema, values in samples
        for sample in values
        for error in validator(document, schema).iter_errors(sample)
    ]

    assert len(samples) > 200
    assert [place for place, _, values in samples if not values] == []
    assert wrong == []


def shown(document: Document) -> Iterator[tuple[str, Document, list[Any]]]:
    """Every place that has a schema and should have examples, with those."""
    for method, path, operation in operations(document):
        place = f"{method} {path}"
        for each in operation.get("parameters", ()):
            examples = each["schema"].get("examples", [])
            yield f"{place}: {each['name']}", each["schema"], examples
        for status, each in {
            "body": operation.get("requestBody"),
            **operation["responses"],
        }.items():
            message = found(document, each or {})
            for media_type, content in message.get("content", {}).items():
                examples = [each["value"] for each in content.get("examples", {}).values()]
                examples += [content["example"]] if "example" in content else []
                yield f"{place}: {status} {media_type}", content["schema"], examples
            for name, header in message.get("headers", {}).items():
                there = found(document, header)
                yield f"{place}: {status} {name}", there["schema"], [there["example"]]


def validator(document: Document, schema: Document) -> Draft202012Validator:
    """Of a schema that refers to others of the document; formats count."""
    whole = {**schema, "components": document["components"]}
    return Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)


async def test_examples_of_requests_are_taken(document: Document) -> None:
    """What the document shows as a body is a request that the gateway accepts."""
    for model in (requests.QuoteRequest, requests.BookingRequest, requests.DelayRequest):
        schema = document["components"]["schemas"][model.__name__]
        composed = json_schema.example(schema, document["components"]["schemas"])
        for sample in schema.get("examples", [composed]):
            read = model.model_validate(sample)

            assert members(read.model_dump(exclude_unset=True)) == members(sample)
            assert all(map(itinerary_key, sample.get("itinerary_ids", ())))


async def test_a_member_that_may_be_missing_is_never_null(document: Document) -> None:
    """Answers leave out what they don't have, so clients need not look for null."""
    nullable = {
        name
        for name, schema in document["components"]["schemas"].items()
        if "'type': 'null'" in str(schema)
    }

    assert nullable == {"QuoteRequest"}


@pytest.mark.parametrize(
    ("operation", "status", "headers"),
    [
        (("/v1/bookings", "post"), "202", {"Location", "Retry-After"}),
        (("/v1/bookings", "post"), "401", {"WWW-Authenticate"}),
        (("/v1/quotes", "post"), "201", {"Location"}),
        (("/v1/quotes", "post"), "429", {"Retry-After", "RateLimit", "RateLimit-Policy"}),
        (("/v1/itineraries", "get"), "200", {"ETag", "Freshness", "Search-Position"}),
        (("/v1/itineraries", "get"), "304", {"ETag"}),
        (("/v1/itineraries", "get"), "503", {"Retry-After"}),
    ],
)
async def test_headers_that_clients_act_on_are_documented(
    document: Document, operation: tuple[str, str], status: str, headers: set[str]
) -> None:
    """Where to look, when to come back, what is left, what to send the next time."""
    path, method = operation
    response = found(document, document["paths"][path][method]["responses"][status])

    assert headers <= set(response["headers"])


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
    (schemas.AirportMatches, translate.airports([examples.airport()])),
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
