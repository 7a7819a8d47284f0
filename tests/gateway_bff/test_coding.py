"""Compressed answers: who gets them, their validators, and what the cache keeps of them."""

import gzip
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlencode

import aiohttp
import pytest

from flights.booking.v1.booking_pb2 import BOOKING_STATUS_CONFIRMED, ListBookingsResponse
from flights.search.v1.search_pb2 import SearchAirportsResponse, SearchItinerariesResponse
from gateway_bff.coding import SMALLEST
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import Gateway
from tests.gateway_bff.test_bookings import Bearer
from tests.gateway_bff.test_cached_search import QUERY as CACHED
from tests.gateway_bff.test_cached_search import find, live
from tests.gateway_bff.test_live import LiveGateway
from tests.gateway_bff.test_search import QUERY

__all__ = ["live"]  # a fixture

GZIP: Final = {"Accept-Encoding": "gzip"}
PLAIN: Final = {"Accept-Encoding": "identity"}


class Said(NamedTuple):
    """An answer as it came over the wire."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def coding(self) -> str | None:
        """Of the body."""
        return self.headers.get("Content-Encoding")


async def get(gateway: Gateway, path: str, method: str = "GET", **headers: str) -> Said:
    """What a client that decodes nothing is answered."""
    async with (
        aiohttp.ClientSession(
            f"http://127.0.0.1:{gateway.port}",
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding",),
        ) as client,
        client.request(method, path, headers=headers) as response,
    ):
        return Said(response.status, await response.read(), response.headers.copy())


@pytest.fixture
def many(gateway: Gateway) -> Gateway:
    """A gateway that finds more than fits a packet, of all kinds."""
    gateway.fakes.search.answers |= {
        "SearchItineraries": SearchItinerariesResponse(itineraries=[examples.itinerary()] * 20),
        "SearchAirports": SearchAirportsResponse(airports=[examples.airport()] * 20),
    }
    gateway.fakes.booking.answers["ListBookings"] = ListBookingsResponse(
        bookings=[examples.booking(BOOKING_STATUS_CONFIRMED)] * 20
    )
    return gateway


def path_of(query: Mapping[str, str] = QUERY) -> str:
    """A search."""
    return f"/v1/itineraries?{urlencode(query)}"


def find_many(live: LiveGateway) -> None:
    """From here on, search finds more than fits a packet."""
    find(live)
    found: SearchItinerariesResponse = live.gateway.fakes.search.answers["SearchItineraries"]
    found.itineraries.extend([found.itineraries[0]] * 19)


@pytest.mark.parametrize("path", [path_of(), "/v1/airports?q=x", "/v1/bookings", "/openapi.json"])
async def test_who_takes_gzip_gets_the_same_bytes_in_it(
    many: Gateway, bearer: Bearer, path: str
) -> None:
    """Less of them, with the right length and the same media type."""
    plain = await get(many, path, **bearer(**PLAIN))
    coded = await get(many, path, **bearer(**GZIP))

    assert (plain.status, plain.coding) == (200, None)
    assert (coded.status, coded.coding) == (200, "gzip")
    assert gzip.decompress(coded.body) == plain.body
    assert len(coded.body) < len(plain.body) / 2
    assert coded.headers["Content-Length"] == str(len(coded.body))
    assert coded.headers["Content-Type"] == plain.headers["Content-Type"]
    assert "Accept-Encoding" in plain.headers["Vary"]
    assert coded.headers["Vary"] == plain.headers["Vary"]


@pytest.mark.parametrize(
    ("accept_encoding", "coding"),
    [
        ("gzip, deflate, br, zstd", "gzip"),
        ("GZip;q=0.5", "gzip"),
        ("x-gzip", "gzip"),
        ("*", "gzip"),
        ("br, *;q=0.1", "gzip"),
        ("gzip;q=0, *", None),
        ("gzip; q=0.000", None),
        ("identity, gzip;q=0.5", None),
        ("*;q=0", None),
        ("br", None),
        ("gzip;q=much", None),
        ("", None),
    ],
)
async def test_the_coding_is_what_the_client_takes(
    many: Gateway, accept_encoding: str, coding: str | None
) -> None:
    """Qualities count; what can't be had, or is not understood, is no reason for an error."""
    said = await get(many, path_of(), **{"Accept-Encoding": accept_encoding})

    assert (said.status, said.coding) == (200, coding)


async def test_what_is_short_is_sent_as_it_is(gateway: Gateway) -> None:
    """And says that a longer answer could come otherwise."""
    gateway.fakes.search.answers["SearchItineraries"] = SearchItinerariesResponse()
    said = await get(gateway, path_of(), **GZIP)

    assert len(said.body) < SMALLEST
    assert said.coding is None
    assert said.headers["Vary"] == "Accept, Accept-Encoding"


async def test_each_coding_has_a_validator_of_its_own(many: Gateway) -> None:
    """They are strong; who comes back with the one it got has that answer."""
    plain = await get(many, path_of(), **PLAIN)
    coded = await get(many, path_of(), **GZIP)
    again = [
        await get(many, path_of(), **{"If-None-Match": said.headers["ETag"], **takes})
        for said, takes in ((plain, PLAIN), (coded, GZIP), (plain, GZIP))
    ]

    assert plain.headers["ETag"] != coded.headers["ETag"]
    assert not any(said.headers["ETag"].startswith("W/") for said in (plain, coded))
    assert [(said.status, said.body, said.coding) for said in again] == [(304, b"", None)] * 3
    assert [said.headers["ETag"] for said in again] == [
        said.headers["ETag"] for said in (plain, coded, plain)
    ]
    assert {said.headers["Vary"] for said in again} == {"Accept, Accept-Encoding"}


async def test_who_takes_no_gzip_is_not_sent_to_it(many: Gateway) -> None:
    """A shared cache asks with the validator of what it has, for a client that can't read that."""
    coded = await get(many, path_of(), **GZIP)
    said = await get(many, path_of(), **{"If-None-Match": coded.headers["ETag"]}, **PLAIN)

    assert (said.status, said.coding) == (200, None)


@pytest.mark.parametrize("takes", [PLAIN, GZIP])
async def test_head_has_the_headers_of_the_coding(many: Gateway, takes: dict[str, str]) -> None:
    """Length, coding and validator are those of GET."""
    said = await get(many, path_of(), **takes)
    head = await get(many, path_of(), "HEAD", **takes)
    same = ("Content-Length", "Content-Encoding", "ETag", "Vary", "Content-Type")

    assert (head.status, head.body) == (200, b"")
    assert [head.headers.get(name) for name in same] == [said.headers.get(name) for name in same]


async def test_event_streams_are_never_coded(live: LiveGateway) -> None:
    """Neither those that end nor those that do not: the first event is there before the second."""
    live.gateway.fakes.search.answers["StreamItineraries"] = []
    said = await get(live.gateway, path_of(), Accept="text/event-stream", **GZIP)
    live.pricing.put(examples.FLIGHT, 100)
    async with live.open(f"/v1/prices/stream?flight_id={examples.FLIGHT}") as (answer, source):
        (event,) = await source.read(answer, 1)

    assert answer.request_info.headers["Accept-Encoding"].startswith("gzip")
    assert (said.coding, answer.headers.get("Content-Encoding")) == (None, None)
    assert said.body.startswith(b"event: done")
    assert event.name == "price"


async def test_a_hit_is_coded_once(live: LiveGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept in gzip goes out as it is, and counts as kept; the other coding is there too."""
    coded: list[bytes] = []

    def counted(body: bytes) -> bytes:
        coded.append(body)
        return gzip.compress(body)

    monkeypatch.setattr("gateway_bff.cache.answers.gzipped", counted)
    find_many(live)
    path = path_of(CACHED)
    plain = await get(live.gateway, path, **PLAIN)
    alone = live.metric("gateway_search_cache_bytes")
    said = [await get(live.gateway, path, **takes) for takes in (GZIP, GZIP, PLAIN)]

    assert [each.headers["Cache-Status"] for each in said] == ["gateway-bff; hit"] * 3
    assert [each.coding for each in said] == ["gzip", "gzip", None]
    assert said[0].body == said[1].body
    assert gzip.decompress(said[0].body) == said[2].body == plain.body
    assert len(coded) == 1
    assert alone == len(plain.body)
    assert live.metric("gateway_search_cache_bytes") == len(plain.body) + len(said[0].body)


async def test_what_was_coded_for_the_first_is_kept(
    live: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The miss has done it; 304 needs no coding at all."""
    find_many(live)
    path = path_of(CACHED)
    first = await get(live.gateway, path, **GZIP)
    monkeypatch.delattr("gateway_bff.cache.answers.gzipped")
    hit = await get(live.gateway, path, **GZIP)
    held = await get(live.gateway, path, **GZIP, **{"If-None-Match": first.headers["ETag"]})

    assert (first.coding, hit.coding) == ("gzip", "gzip")
    assert hit.body == first.body
    assert hit.headers["ETag"] == first.headers["ETag"]
    assert (held.status, held.headers["Cache-Status"]) == (304, "gateway-bff; hit")
