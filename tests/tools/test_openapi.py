"""The document is fresh, breaks nobody, and what would break somebody is found."""

import copy
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tools import openapi
from tools.breaking import breaks

Document = dict[str, Any]
Change = Callable[[Document], object]
SEARCH, BOOK = "/v1/itineraries", "/v1/bookings"


@pytest.fixture(scope="module")
def document() -> Document:
    """The document as it is."""
    made: Document = orjson.loads(openapi.text())
    return made


def schema(document: Document, name: str) -> Any:
    """One of the components."""
    return document["components"]["schemas"][name]


def parameter(document: Document, name: str) -> Any:
    """A parameter of the search."""
    parameters = document["paths"][SEARCH]["get"]["parameters"]
    return next(each for each in parameters if each["name"] == name)


def test_the_document_is_fresh() -> None:
    """Nobody changed the routes without it."""
    assert not openapi.stale()


def test_the_document_breaks_nobody() -> None:
    """Clients of the last release find what they rely on."""
    assert openapi.broken() == []


BREAKS: list[tuple[str, Change]] = [
    (f"GET {SEARCH}: gone", lambda d: d["paths"][SEARCH].pop("get")),
    (f"GET {SEARCH}: gone", lambda d: d["paths"].pop(SEARCH)),
    (
        f"GET {SEARCH}: operationId was searchItineraries, is search",
        lambda d: d["paths"][SEARCH]["get"].update(operationId="search"),
    ),
    (
        f"GET {SEARCH}: other credentials are needed",
        lambda d: d["paths"][SEARCH]["get"].update(security=[{"customer": []}]),
    ),
    (
        f"POST {BOOK}: other credentials are needed",
        lambda d: d["paths"][BOOK]["post"].update(security=[{"operator": []}]),
    ),
    (f"POST {BOOK}: 202: gone", lambda d: d["paths"][BOOK]["post"]["responses"].pop("202")),
    (
        f"POST {BOOK}: 201: header Location: gone",
        lambda d: d["paths"][BOOK]["post"]["responses"]["201"]["headers"].pop("Location"),
    ),
    (
        f"GET {SEARCH}: 200: text/event-stream: gone",
        lambda d: d["paths"][SEARCH]["get"]["responses"]["200"]["content"].pop("text/event-stream"),
    ),
    (
        f"GET {SEARCH}: 200: event done: gone",
        lambda d: d["paths"][SEARCH]["get"]["responses"]["200"]["content"]["text/event-stream"][
            "x-events"
        ].pop("done"),
    ),
    (
        f"GET {SEARCH}: 200.itineraries[].stops: gone",
        lambda d: schema(d, "Itinerary")["properties"].pop("stops"),
    ),
    (
        f"GET {SEARCH}: 200.next_page_token: gone",
        lambda d: schema(d, "ItineraryPage")["properties"].pop("next_page_token"),
    ),
    (
        f"GET {SEARCH}: 200.itineraries[].stops: not always there now",
        lambda d: schema(d, "Itinerary")["required"].remove("stops"),
    ),
    (
        f"GET {SEARCH}: 200.itineraries[].stops: type was ['integer'], is ['string']",
        lambda d: schema(d, "Itinerary")["properties"]["stops"].update(type="string"),
    ),
    (
        (
            f"GET {SEARCH}: 200.itineraries[].price.basis: values were "
            "['indicative', 'live'], is ['guessed', 'indicative', 'live']"
        ),
        lambda d: schema(d, "PriceBasis")["enum"].append("guessed"),
    ),
    (
        (
            f"GET {SEARCH}: query cabin: values were "
            "['business', 'economy', 'first', 'premium_economy'], "
            "is ['business', 'economy', 'premium_economy']"
        ),
        lambda d: schema(d, "Cabin")["enum"].remove("first"),
    ),
    (
        f"GET {SEARCH}: query cabin: gone",
        lambda d: d["paths"][SEARCH]["get"]["parameters"].remove(parameter(d, "cabin")),
    ),
    (
        f"GET {SEARCH}: query cabin: required now",
        lambda d: parameter(d, "cabin").update(required=True),
    ),
    (
        f"GET {SEARCH}: query colour: new and required",
        lambda d: d["paths"][SEARCH]["get"]["parameters"].append(
            {"name": "colour", "in": "query", "required": True, "schema": {"type": "string"}}
        ),
    ),
    (
        f"GET {SEARCH}: query passengers: maximum was 9, is 4",
        lambda d: parameter(d, "passengers")["schema"].update(maximum=4),
    ),
    (
        f"GET {SEARCH}: query passengers: type was ['integer'], is ['string']",
        lambda d: parameter(d, "passengers")["schema"].update(type="string"),
    ),
    (
        f"GET {SEARCH}: query page_token: minLength was None, is 1",
        lambda d: parameter(d, "page_token")["schema"].update(minLength=1),
    ),
    (
        f"GET {SEARCH}: query origin: pattern was ^[A-Za-z]{{3}}$, is ^[A-Z]{{3}}$",
        lambda d: parameter(d, "origin")["schema"].update(pattern="^[A-Z]{3}$"),
    ),
    (
        f"GET {SEARCH}: query sort: default was price, is duration",
        lambda d: parameter(d, "sort")["schema"].update(default="duration"),
    ),
    (
        f"POST {BOOK}: body.passengers[].birth_date: required now",
        lambda d: (
            schema(d, "Traveller")["required"].append("birth_date"),
            schema(d, "Traveller")["properties"].update(birth_date={"type": "string"}),
        ),
    ),
    (
        f"POST {BOOK}: body.contact: gone",
        lambda d: (
            schema(d, "BookingRequest")["required"].remove("contact"),
            schema(d, "BookingRequest")["properties"].pop("contact"),
        ),
    ),
    (
        f"POST {BOOK}: body.passengers: maxItems was 9, is 5",
        lambda d: schema(d, "BookingRequest")["properties"]["passengers"].update(maxItems=5),
    ),
    (
        f"POST {BOOK}: body: application/json: gone",
        lambda d: d["paths"][BOOK]["post"]["requestBody"].update(content={}),
    ),
    (
        "POST /v1/quotes: body.itinerary_id: not all of its kinds are left",
        lambda d: schema(d, "QuoteRequest")["properties"]["itinerary_id"].update(
            anyOf=[{"type": "string", "minLength": 1, "maxLength": 2048}]
        ),
    ),
]


@pytest.mark.parametrize(("line", "change"), BREAKS, ids=[line for line, _ in BREAKS])
def test_what_breaks_clients_is_found(document: Document, line: str, change: Change) -> None:
    """One change, and it is named."""
    changed = copy.deepcopy(document)
    change(changed)

    assert line in breaks(document, changed)


HARMLESS: dict[str, Change] = {
    "a new operation": lambda d: d["paths"].update({"/v1/new": d["paths"][SEARCH]}),
    "a new member of an answer": lambda d: schema(d, "Itinerary")["properties"].update(
        colour={"type": "string"}
    ),
    "a new event": lambda d: d["paths"][SEARCH]["get"]["responses"]["200"]["content"][
        "text/event-stream"
    ]["x-events"].update(more={"type": "object"}),
    "a new optional member of a request": lambda d: schema(d, "Traveller")["properties"].update(
        title={"type": "string"}
    ),
    "a new optional parameter": lambda d: d["paths"][SEARCH]["get"]["parameters"].append(
        {"name": "colour", "in": "query", "required": False, "schema": {"type": "string"}}
    ),
    "a parameter that may be left out": lambda d: parameter(d, "destination").update(
        required=False
    ),
    "a wider limit": lambda d: parameter(d, "passengers")["schema"].update(maximum=20),
    "a wider type of a request": lambda d: parameter(d, "passengers")["schema"].update(
        type="number"
    ),
    "a new status": lambda d: d["paths"][SEARCH]["get"]["responses"].update(
        {"451": {"description": "Not here"}}
    ),
    "a new code of a problem": lambda d: schema(d, "Problem")["properties"]["code"][
        "x-extensible-enum"
    ].append("NEW"),
    "anybody may": lambda d: d["paths"][BOOK]["get"].pop("security"),
    "other words": lambda d: schema(d, "Itinerary").update(description="Words."),
    "a schema by another name": lambda d: (
        d["components"]["schemas"].update(Way=schema(d, "Itinerary")),
        schema(d, "ItineraryPage")["properties"]["itineraries"]["items"].update(
            {"$ref": "#/components/schemas/Way"}
        ),
    ),
    "always there now": lambda d: schema(d, "ItineraryPage")["required"].append("next_page_token"),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_breaks_nobody_is_allowed(document: Document, change: Change) -> None:
    """The API can grow."""
    changed = copy.deepcopy(document)
    change(changed)

    assert changed != document
    assert breaks(document, changed) == []


def test_what_cannot_be_compared_is_said(document: Document) -> None:
    """A keyword that the comparison does not know is no reason to be silent."""
    changed = copy.deepcopy(document)
    schema(changed, "Itinerary")["dependentRequired"] = {}

    with pytest.raises(ValueError, match="dependentRequired"):
        breaks(document, changed)
