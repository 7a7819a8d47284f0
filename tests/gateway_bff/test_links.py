"""Links to the next page, beside its token."""

import pytest
from yarl import URL

from flights.booking.v1.booking_pb2 import BOOKING_STATUS_CONFIRMED, ListBookingsResponse
from flights.search.v1.search_pb2 import SearchItinerariesResponse, SearchRoundTripsResponse
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import Gateway
from tests.gateway_bff.test_bookings import Bearer
from tests.gateway_bff.test_cached_search import QUERY as CACHED
from tests.gateway_bff.test_cached_search import find, live, search
from tests.gateway_bff.test_live import LiveGateway
from tests.gateway_bff.test_search import QUERY

__all__ = ["live"]  # a fixture

TOKEN = "a/b+c=&>"  # tokens are opaque


@pytest.fixture
def paged(gateway: Gateway) -> Gateway:
    """A gateway with lists that go on."""
    gateway.fakes.search.answers |= {
        "SearchItineraries": SearchItinerariesResponse(next_page_token=TOKEN),
        "SearchRoundTrips": SearchRoundTripsResponse(next_page_token=TOKEN),
    }
    gateway.fakes.booking.answers["ListBookings"] = ListBookingsResponse(
        bookings=[examples.booking(BOOKING_STATUS_CONFIRMED)], next_page_token=TOKEN
    )
    return gateway


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        (
            "/v1/itineraries",
            [*QUERY.items(), ("carrier", "B6"), ("carrier", "DL"), ("departs_from", "06:00")],
        ),
        ("/v1/round-trips", [*QUERY.items(), ("return_date", "2026-12-08")]),
        ("/v1/bookings", [("page_size", "1")]),
    ],
)
async def test_a_page_links_to_the_next(
    paged: Gateway, bearer: Bearer, path: str, parameters: list[tuple[str, str]]
) -> None:
    """At the same path, with the same parameters and the token; followed, it works."""
    asked = [("page_token", "here"), *parameters]
    async with paged.client.get(path, params=asked, headers=bearer()) as response:
        page = await response.json()
    target = response.headers["Link"].removeprefix("<").removesuffix('>; rel="next"')
    async with paged.client.get(URL(target, encoded=True), headers=bearer()) as followed:
        await followed.read()
    (_, request) = [*paged.fakes.search.requests, *paged.fakes.booking.requests]

    assert target.startswith(f"{path}?")
    assert list(URL(target).query.items()) == [*parameters, ("page_token", TOKEN)]
    assert page["next_page_token"] == TOKEN
    assert followed.status == 200
    assert request.page_token == TOKEN


async def test_the_last_page_has_no_link(gateway: Gateway) -> None:
    """As it has no token."""
    gateway.fakes.search.answers["SearchItineraries"] = SearchItinerariesResponse()
    async with gateway.client.get("/v1/itineraries", params=QUERY) as response:
        await response.read()

    assert response.status == 200
    assert "Link" not in response.headers


async def test_a_hit_links_as_it_was_asked(live: LiveGateway) -> None:
    """Two spellings of a question have the same answer, and each its own link."""
    find(live)
    live.gateway.fakes.search.answers["SearchItineraries"].next_page_token = TOKEN
    first = await search(live)
    await search(live, cabin="economy")
    said = [await search(live), await search(live, cabin="economy")]
    links = [URL(each.headers["Link"][1:].partition(">")[0]) for each in said]

    assert [each.cache for each in said] == ["gateway-bff; hit"] * 2
    assert said[0].headers["Link"] == first.headers["Link"]
    assert [dict(link.query) for link in links] == [
        {**CACHED, "page_token": TOKEN},
        {**CACHED, "cabin": "economy", "page_token": TOKEN},
    ]
