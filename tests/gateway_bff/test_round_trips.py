import grpc
import pytest

from consulmesh.errors import Violation
from flights.search.v1.search_pb2 import SORT_ORDER_DEPARTURE, SearchRoundTripsResponse
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import Gateway
from tests.gateway_bff.fakes import refusal
from tests.gateway_bff.test_search import SHOWN

QUERY = {
    "origin": "JFK",
    "destination": "LAX",
    "date": "2026-12-01",
    "return_date": "2026-12-08",
    "passengers": "2",
}


@pytest.fixture
def found(gateway: Gateway) -> Gateway:
    """A gateway behind which there is a way there and back."""
    gateway.fakes.search.answers["SearchRoundTrips"] = examples.round_trips()
    return gateway


async def test_both_ways_come_with_the_price_of_both(found: Gateway) -> None:
    """Each way is shown as search shows it alone, beside what both cost together."""
    async with found.client.get("/v1/round-trips", params=QUERY) as response:
        body = await response.json()
    (trip,) = body["round_trips"]

    assert response.status == 200
    assert trip["outbound"] == SHOWN
    assert trip["inbound"]["itinerary_id"] == examples.RETURN
    assert trip["price"] == {
        "total": {"currency": "USD", "amount": "836.40"},
        "per_passenger": {"currency": "USD", "amount": "418.20"},
        "basis": "live",
    }
    assert body["next_page_token"] == "more"
    assert response.headers["Freshness"] == "schedule;lag=0.012, pricing;lag=0.031"


async def test_what_is_asked_reaches_search(found: Gateway) -> None:
    """Both days, the order and the page are fields of the call."""
    more = {"sort": "departure", "page_size": "7", "page_token": "opaque", "carrier": "B6"}

    async with found.client.get("/v1/round-trips", params=QUERY | more) as response:
        await response.read()
    (request,) = found.fakes.search.requests

    assert request.query.departure_date == examples.december(1)
    assert request.return_date == examples.december(8)
    assert (request.page_size, request.page_token) == (7, "opaque")
    assert request.sort_order == SORT_ORDER_DEPARTURE
    assert request.query.carriers == ["B6"]


async def test_one_indicative_price_makes_both_indicative(gateway: Gateway) -> None:
    """The price of both is live only where both prices are."""
    trips = examples.round_trips()
    trips.round_trips[0].inbound.ClearField("price_basis")
    gateway.fakes.search.answers["SearchRoundTrips"] = trips

    async with gateway.client.get("/v1/round-trips", params=QUERY) as response:
        (trip,) = (await response.json())["round_trips"]

    assert trip["price"]["basis"] == "indicative"


async def test_an_answer_that_a_client_has_is_not_sent_again(found: Gateway) -> None:
    """The same page is 304 to whoever sends its ETag."""
    async with found.client.get("/v1/round-trips", params=QUERY) as first:
        tag = first.headers["ETag"]
    async with found.client.get(
        "/v1/round-trips", params=QUERY, headers={"If-None-Match": tag}
    ) as again:
        body = await again.read()

    assert (again.status, body) == (304, b"")
    assert again.headers["ETag"] == tag


async def test_nothing_there_is_an_empty_page(gateway: Gateway) -> None:
    """No way there and back is no error."""
    gateway.fakes.search.answers["SearchRoundTrips"] = SearchRoundTripsResponse()

    async with gateway.client.get("/v1/round-trips", params=QUERY) as response:
        body = await response.json()

    assert body == {"round_trips": []}


@pytest.mark.parametrize(
    ("parameter", "value", "code"),
    [
        ("return_date", "soon", "MALFORMED"),
        ("max_stops", "2", "OUT_OF_RANGE"),
        ("month", "2026-12", "UNKNOWN_PARAMETER"),
    ],
)
async def test_a_wrong_parameter_is_named(
    found: Gateway, parameter: str, value: str, code: str
) -> None:
    """A parameter that can't be right is 400 with its name."""
    async with found.client.get("/v1/round-trips", params=QUERY | {parameter: value}) as response:
        problem = await response.json()

    assert response.status == 400
    assert [(e["field"], e["code"]) for e in problem["errors"]] == [(parameter, code)]


async def test_a_way_back_before_the_way_there_is_refused(gateway: Gateway) -> None:
    """What search says of the day of return is said of the parameter of that name."""
    gateway.fakes.search.answers["SearchRoundTrips"] = refusal(
        grpc.StatusCode.INVALID_ARGUMENT,
        "BEFORE_DEPARTURE",
        violations=[
            Violation(field="return_date", reason="BEFORE_DEPARTURE", description="It is.")
        ],
    )

    async with gateway.client.get("/v1/round-trips", params=QUERY) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (400, "VALIDATION_FAILED")
    assert problem["errors"][0]["field"] == "return_date"
