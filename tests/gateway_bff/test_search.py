import datetime as dt

import grpc
import pytest
from google.type.date_pb2 import Date
from google.type.timeofday_pb2 import TimeOfDay

from consulmesh.errors import Violation
from flights.search.v1.search_pb2 import (
    SORT_ORDER_DURATION,
    SearchAirportsRequest,
    SearchAirportsResponse,
    SearchItinerariesResponse,
)
from flights.type.v1.cabin_pb2 import CABIN_PREMIUM_ECONOMY
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import Gateway
from tests.gateway_bff.fakes import refusal

QUERY = {"origin": "JFK", "destination": "LAX", "date": "2026-12-01", "passengers": "2"}
SHOWN = {
    "itinerary_id": examples.ITINERARY,
    "stops": 0,
    "duration_minutes": 385,
    "segments": [
        {
            "flight_id": examples.FLIGHT,
            "carrier": "B6",
            "number": "23",
            "aircraft": "A320",
            "departure": {"airport": "JFK", "time": "2026-12-01T06:30:00-05:00"},
            "arrival": {"airport": "LAX", "time": "2026-12-01T09:55:00-08:00"},
            "status": "scheduled",
            "cabin": "economy",
            "seats_available": 112,
        }
    ],
    "price": {
        "total": {"currency": "USD", "amount": "418.20"},
        "per_passenger": {"currency": "USD", "amount": "209.10"},
        "basis": "live",
    },
}


def found(**more: object) -> SearchItinerariesResponse:
    """One itinerary."""
    return SearchItinerariesResponse(
        itineraries=[examples.itinerary()],
        positions=examples.positions(),
        **more,  # type: ignore[arg-type]  # fields of the message
    )


async def test_a_page_has_the_shape_of_the_contract(gateway: Gateway) -> None:
    """A search answers with the itineraries exactly as the API's contract shows them."""
    gateway.fakes.search.answers["SearchItineraries"] = found(next_page_token="more")

    async with gateway.client.get("/v1/itineraries", params=QUERY) as response:
        body = await response.json()

    assert response.status == 200
    assert response.content_type == "application/json"
    assert body == {"itineraries": [SHOWN], "next_page_token": "more"}


async def test_the_last_page_has_no_token(gateway: Gateway) -> None:
    """Where there is no more, next_page_token is absent."""
    gateway.fakes.search.answers["SearchItineraries"] = found()

    async with gateway.client.get("/v1/itineraries", params=QUERY) as response:
        body = await response.json()

    assert "next_page_token" not in body


async def test_parameters_reach_search(gateway: Gateway) -> None:
    """Every parameter of the request is a field of the call, and codes may be in lower case."""
    gateway.fakes.search.answers["SearchItineraries"] = found()
    parameters = QUERY | {
        "origin": "jfk",
        "cabin": "premium_economy",
        "max_stops": "0",
        "sort": "duration",
        "page_size": "100",
        "page_token": "opaque",
    }

    async with gateway.client.get("/v1/itineraries", params=parameters) as response:
        await response.read()
    (request,) = gateway.fakes.search.requests

    assert request.query.origin == "JFK"
    assert request.query.destination == "LAX"
    assert request.query.departure_date == Date(year=2026, month=12, day=1)
    assert request.query.passengers == 2
    assert request.query.cabin == CABIN_PREMIUM_ECONOMY
    assert request.query.HasField("max_stops")
    assert request.query.max_stops == 0
    assert request.sort_order == SORT_ORDER_DURATION
    assert request.page_size == 100
    assert request.page_token == "opaque"


async def test_filters_reach_search(gateway: Gateway) -> None:
    """Carriers, of which there may be several, and the window of the first departure."""
    gateway.fakes.search.answers["SearchItineraries"] = found()
    filters = [("carrier", "b6"), ("carrier", "DL"), ("departs_from", "06:00")]

    async with gateway.client.get("/v1/itineraries", params=[*QUERY.items(), *filters]) as response:
        await response.read()
    (request,) = gateway.fakes.search.requests

    assert response.status == 200
    assert request.query.carriers == ["B6", "DL"]
    assert request.query.departs_from == TimeOfDay(hours=6)
    assert not request.query.HasField("departs_before")


async def test_an_answer_says_how_fresh_it_is(gateway: Gateway) -> None:
    """Lag per source and an opaque position are headers, so that equal results are equal bytes."""
    gateway.fakes.search.answers["SearchItineraries"] = found()

    async with gateway.client.get("/v1/itineraries", params=QUERY) as response:
        first = await response.read()
    later = found()
    later.positions[0].lag.nanos += 1_000_000
    gateway.fakes.search.answers["SearchItineraries"] = later
    async with gateway.client.get("/v1/itineraries", params=QUERY) as again:
        second = await again.read()

    assert response.headers["Freshness"] == "schedule;lag=0.012, pricing;lag=0.031"
    assert again.headers["Freshness"] == "schedule;lag=0.013, pricing;lag=0.031"
    assert first == second
    assert response.headers["Search-Position"] == again.headers["Search-Position"]
    assert response.headers["Vary"] == "Accept, Accept-Encoding"


async def test_a_position_comes_back_as_the_least_that_is_read(gateway: Gateway) -> None:
    """What an answer said as Search-Position, a request may ask for as Min-Position."""
    gateway.fakes.search.answers["SearchItineraries"] = found()

    async with gateway.client.get("/v1/itineraries", params=QUERY) as response:
        position = response.headers["Search-Position"]
    other = {**QUERY, "passengers": "3"}  # of which nothing was answered before
    async with gateway.client.get(
        "/v1/itineraries", params=other, headers={"Min-Position": position}
    ) as response:
        await response.read()
    asked = gateway.fakes.search.requests[1].min_positions

    assert [(p.source, p.cursor) for p in asked] == [
        (p.source, p.cursor) for p in examples.positions()
    ]
    assert not any(p.HasField("lag") for p in asked)


@pytest.mark.parametrize("position", ["", "!", "x", "AAAA", "a" * 1025, "CgA"])
async def test_a_position_that_is_none_is_refused(gateway: Gateway, position: str) -> None:
    """A Min-Position that no answer can have given is 400 and names the header."""
    async with gateway.client.get(
        "/v1/itineraries", params=QUERY, headers={"Min-Position": position}
    ) as response:
        problem = await response.json()

    assert response.status == 400
    assert problem["code"] == "VALIDATION_FAILED"
    assert problem["errors"][0]["field"] == "Min-Position"


@pytest.mark.parametrize(
    ("parameter", "value", "code"),
    [
        ("passengers", "0", "OUT_OF_RANGE"),
        ("passengers", "10", "OUT_OF_RANGE"),
        ("passengers", "two", "MALFORMED"),
        ("origin", "JFKX", "MALFORMED"),
        ("origin", "J%K", "MALFORMED"),
        ("origin", "", "MALFORMED"),
        ("date", "tomorrow", "MALFORMED"),
        ("date", "2026-02-30", "MALFORMED"),
        ("date", "1796083200", "MALFORMED"),
        ("date", "2026-12-01T00:00:00", "MALFORMED"),
        ("cabin", "hold", "NOT_ALLOWED"),
        ("max_stops", "3", "OUT_OF_RANGE"),
        ("carrier", "B", "MALFORMED"),
        ("departs_from", "24:00", "MALFORMED"),
        ("departs_before", "7:30", "MALFORMED"),
        ("max_stops", "-1", "OUT_OF_RANGE"),
        ("sort", "luck", "NOT_ALLOWED"),
        ("page_size", "0", "OUT_OF_RANGE"),
        ("page_size", "101", "OUT_OF_RANGE"),
        ("page_token", "a" * 2049, "TOO_LONG"),
        ("max_stop", "0", "UNKNOWN_PARAMETER"),
    ],
)
async def test_a_wrong_parameter_is_named(
    gateway: Gateway, parameter: str, value: str, code: str
) -> None:
    """A parameter that can't be right is 400 with its name, and search is not asked."""
    async with gateway.client.get("/v1/itineraries", params=QUERY | {parameter: value}) as response:
        problem = await response.json()

    assert response.status == 400
    assert problem["code"] == "VALIDATION_FAILED"
    assert [(e["field"].partition("[")[0], e["code"]) for e in problem["errors"]] == [
        (parameter, code)
    ]
    assert gateway.fakes.search.requests == []


async def test_missing_parameters_are_named_all_at_once(gateway: Gateway) -> None:
    """What is required and not there is listed completely."""
    async with gateway.client.get("/v1/itineraries") as response:
        problem = await response.json()

    assert response.status == 400
    assert {(e["field"], e["code"]) for e in problem["errors"]} == {
        ("origin", "REQUIRED"),
        ("destination", "REQUIRED"),
        ("date", "REQUIRED"),
    }


async def test_a_parameter_that_comes_twice_is_refused(gateway: Gateway) -> None:
    """Of two values for one parameter none is silently chosen."""
    async with gateway.client.get(
        "/v1/itineraries", params=[*QUERY.items(), ("origin", "EWR")]
    ) as response:
        problem = await response.json()

    assert response.status == 400
    assert problem["errors"][0]["field"] == "origin"
    assert problem["errors"][0]["code"] == "REPEATED"


async def test_a_violation_has_the_name_of_the_parameter(gateway: Gateway) -> None:
    """What search says of a field of its request, the client reads of the parameter it sent."""
    yesterday = (dt.datetime.now(dt.UTC) - dt.timedelta(days=2)).date().isoformat()
    gateway.fakes.search.answers["SearchItineraries"] = refusal(
        grpc.StatusCode.INVALID_ARGUMENT,
        "DATE_OUT_OF_RANGE",
        "query.departure_date: It is past.",
        violations=[
            Violation(
                field="query.departure_date", reason="DATE_OUT_OF_RANGE", description="It is past."
            )
        ],
    )

    async with gateway.client.get(
        "/v1/itineraries", params=QUERY | {"date": yesterday}
    ) as response:
        problem = await response.json()

    assert response.status == 400
    assert problem["code"] == "DATE_OUT_OF_RANGE"
    assert problem["detail"] == "date: It is past."
    assert problem["errors"] == [
        {"field": "date", "code": "DATE_OUT_OF_RANGE", "detail": "It is past."}
    ]


@pytest.mark.parametrize("reason", ["UNKNOWN_AIRPORT", "INVALID_PAGE_TOKEN"])
async def test_reasons_of_search_are_public_codes(gateway: Gateway, reason: str) -> None:
    """A reason that the public API knows is the problem's code."""
    gateway.fakes.search.answers["SearchItineraries"] = refusal(
        grpc.StatusCode.INVALID_ARGUMENT, reason
    )

    async with gateway.client.get("/v1/itineraries", params=QUERY) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (400, reason)


async def test_airports_are_completed(gateway: Gateway) -> None:
    """What people type finds airports, with what tells them apart."""
    gateway.fakes.search.answers["SearchAirports"] = SearchAirportsResponse(
        airports=[examples.airport()]
    )

    async with gateway.client.get("/v1/airports", params={"q": "new y"}) as response:
        body = await response.json()

    assert response.status == 200
    assert gateway.fakes.search.requests == [SearchAirportsRequest(query="new y", page_size=10)]
    assert body == {
        "airports": [
            {
                "code": "JFK",
                "name": "John F Kennedy International Airport",
                "city": "New York",
                "country": "US",
                "time_zone": "America/New_York",
                "served": True,
            }
        ]
    }


@pytest.mark.parametrize(
    "parameters", [{}, {"q": ""}, {"q": "x" * 101}, {"q": "x", "page_size": "51"}]
)
async def test_a_query_for_airports_is_bounded(
    gateway: Gateway, parameters: dict[str, str]
) -> None:
    """Nothing, too much or too many is 400."""
    async with gateway.client.get("/v1/airports", params=parameters) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (400, "VALIDATION_FAILED")
