"""What the gateway does not begin when its event loop is behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from consulmesh import ConfigError
from consulmesh.admission import QueueTerms
from consulmesh.context import Criticality
from flights.pricing.v1.pricing_pb2 import GetQuoteResponse
from flights.search.v1.search_pb2 import SearchAirportsResponse
from gateway_bff.admission import RECEIVED, _criticality
from gateway_bff.app import ROUTES, create_app
from gateway_bff.quotas import Limit
from gateway_bff.route import Route
from gateway_bff.server import listening
from gateway_bff.settings import Settings
from gateway_bff.upstreams import Upstreams
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import SETTINGS
from tests.gateway_bff.fakes import Fakes
from tests.gateway_bff.test_search import QUERY

AIRPORTS = "/v1/airports?q=jfk"
QUOTE = f"/v1/quotes/{examples.QUOTE}"
AT_ONCE = QueueTerms(target=timedelta(seconds=40), patience=timedelta(0), run=1)
"""A step may take 10 s, so that no slow machine matters; one late request makes a queue."""
EARLY, LATE, TOO_LATE = 0.0, 20.0, 100.0  # for a search, and for everything
NOTHING_IN_TIME = QueueTerms(target=timedelta(microseconds=4), patience=timedelta(0), run=1)


class Delayed:
    """The application behind an event loop that is late: by how much, a test says."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.seconds = EARLY
        self.stamped: list[bool] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request as if it had waited."""
        self.stamped.append(RECEIVED in scope)
        if RECEIVED in scope:
            scope[RECEIVED] -= self.seconds
        await self.app(scope, receive, send)


@dataclass
class Door:
    """A gateway that runs, how late it is, a client of it, and what is behind it."""

    app: Delayed
    port: int
    client: aiohttp.ClientSession
    fakes: Fakes

    async def asked(
        self, path: str = AIRPORTS, *, late: float = EARLY, method: str = "GET", **how: Any
    ) -> aiohttp.ClientResponse:
        """The answer to a request that waited so long, read."""
        self.app.seconds = late
        async with self.client.request(method, path, **how) as response:
            await response.read()
            return response

    @property
    def calls(self) -> int:
        """How many calls the services have got."""
        fakes = self.fakes
        return sum(
            len(each.requests)
            for each in (fakes.search, fakes.schedule, fakes.pricing, fakes.booking)
        )


@asynccontextmanager
async def opened(
    upstreams: Upstreams, fakes: Fakes, queue: QueueTerms | None, **settings: Any
) -> AsyncIterator[Door]:
    """A gateway of its own."""
    fakes.reset()
    fakes.search.answers["SearchAirports"] = SearchAirportsResponse()
    fakes.pricing.answers["GetQuote"] = GetQuoteResponse(quote=examples.quote())
    fakes.pricing.answers["CreateQuote"] = examples.quote_created()
    changed = replace(SETTINGS, queue=queue, **settings)
    app = create_app(upstreams, changed, registry=CollectorRegistry())
    delayed = Delayed(app)
    grace = timedelta(seconds=1)
    async with (
        listening(delayed, host="127.0.0.1", port=0, settings=changed, grace=grace) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
    ):
        yield Door(delayed, port, client, fakes)
    await app.state.quotas.aclose()


Open = Callable[..., Any]


@pytest.fixture
async def door(upstreams: tuple[Upstreams, Fakes]) -> AsyncIterator[Open]:
    """Opens gateways with other terms and settings."""
    async with AsyncExitStack() as stack:

        async def make(queue: QueueTerms | None = AT_ONCE, **settings: Any) -> Door:
            return await stack.enter_async_context(opened(*upstreams, queue, **settings))

        yield make


async def test_a_late_search_is_refused(door: Open) -> None:
    """With a problem that says when to come again, before any service is called."""
    open_door = await door()
    refused = await open_door.asked(late=LATE)
    problem = await refused.json()

    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert refused.content_type == "application/problem+json"
    assert (problem["code"], problem["instance"]) == ("OVERLOADED", "/v1/airports")
    assert problem["trace_id"] == refused.headers["traceparent"].split("-")[1]
    assert open_door.calls == 0


async def test_a_refusal_costs_no_quota_and_looks_at_no_token(door: Open) -> None:
    """What is refused for the gateway's sake is not counted against its client."""
    open_door = await door(limits={"requests": Limit.parse("2/hour")})
    bad = {"Authorization": "Bearer nonsense"}
    refused = [await open_door.asked(late=LATE) for _ in range(5)]
    unknown = await open_door.asked("/v1/bookings", late=TOO_LATE, headers=bad)
    in_time = [await open_door.asked() for _ in range(3)]

    assert [answer.status for answer in refused] == [503] * 5
    assert unknown.status == 503
    assert "RateLimit" not in refused[0].headers
    assert [answer.status for answer in in_time] == [200, 200, 429]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_what_machines_ask_is_never_refused(door: Open, path: str) -> None:
    """A busy gateway is not taken for a dead one, and can be looked at."""
    open_door = await door()
    search = await open_door.asked(late=TOO_LATE)
    answer = await open_door.asked(path, late=TOO_LATE)

    assert search.status == 503
    assert answer.status == 200


@pytest.mark.parametrize(
    ("method", "path", "late", "too_late"),
    [
        ("GET", AIRPORTS, 503, 503),
        ("HEAD", AIRPORTS, 503, 503),
        ("GET", "/v1/itineraries?origin=JFK", 503, 503),
        ("GET", f"/v1/flights/{examples.FLIGHT}/events", 503, 503),
        ("GET", "/v1/nothing", 503, 503),
        ("GET", QUOTE, 200, 503),
        ("POST", "/v1/quotes", 201, 503),
        ("GET", "/v1/bookings", 401, 503),
        ("POST", "/v1/bookings", 401, 503),
        ("GET", f"/v1/bookings/{examples.BOOKING}", 401, 503),
        ("POST", f"/v1/bookings/{examples.BOOKING}/cancel", 401, 503),
        ("POST", f"/v1/operations/flights/{examples.FLIGHT}/cancel", 401, 503),
        ("GET", "/v1/mesh", 401, 503),
    ],
)
async def test_searches_are_refused_before_quotes_and_bookings(
    door: Open, method: str, path: str, late: int, too_late: int
) -> None:
    """Who is about to book may wait five times as long, but not for ever."""
    open_door = await door()
    body: dict[str, Any] = (
        {"json": {"itinerary_id": examples.ITINERARY}} if path == "/v1/quotes" else {}
    )
    answers = [
        await open_door.asked(path, method=method, late=seconds, **body)
        for seconds in (LATE, TOO_LATE)
    ]

    assert [answer.status for answer in answers] == [late, too_late]


def test_the_door_thinks_of_a_request_as_its_route_does() -> None:
    """Nothing that a route has as critical is shed as a search is, nor the other way."""
    differing = [
        (method, route.path)
        for route in ROUTES
        if isinstance(route, Route)
        for method in route.methods or ()
        if (_criticality({"path": route.path, "method": method}) is Criticality.CRITICAL)
        != (route.criticality is Criticality.CRITICAL)
        and route.path.startswith("/v1/")
    ]

    assert differing == []


async def test_repeat_searches_are_refused_too(door: Open) -> None:
    """Also what a cache could answer waits for the loop."""
    open_door = await door()
    refused = await open_door.asked("/v1/itineraries", late=LATE, params=QUERY)

    assert refused.status == 503


async def test_a_request_in_time_ends_it(door: Open) -> None:
    """The gateway serves again with the first request that did not have to wait."""
    open_door = await door(replace(AT_ONCE, run=2))
    statuses = [
        (await open_door.asked(late=late)).status for late in (LATE, LATE, LATE, EARLY, LATE, LATE)
    ]

    assert statuses == [200, 503, 503, 200, 200, 503]


async def test_refusals_are_counted(door: Open) -> None:
    """Operators see how much of what is shed; probes show up nowhere."""
    open_door = await door()
    for path, late in ((AIRPORTS, LATE), (AIRPORTS, TOO_LATE), (QUOTE, LATE), (QUOTE, TOO_LATE)):
        await open_door.asked(path, late=late)
    metrics = await (await open_door.asked("/metrics", late=TOO_LATE)).text()
    counted = [line for line in metrics.splitlines() if line.startswith("gateway_shed_total")]

    assert sorted(counted) == [
        'gateway_shed_total{criticality="critical"} 1.0',
        'gateway_shed_total{criticality="critical_plus"} 0.0',
        'gateway_shed_total{criticality="sheddable"} 2.0',
        'gateway_shed_total{criticality="sheddable_plus"} 0.0',
    ]


async def test_nothing_is_shed_where_that_is_off(door: Open) -> None:
    """Whatever waited, however long."""
    open_door = await door(Settings.from_env({"MESH_QUEUE_TARGET": "off"}).queue)
    statuses = {(await open_door.asked(late=TOO_LATE)).status for _ in range(50)}

    assert statuses == {200}


async def test_who_waits_behind_himself_is_not_late(door: Open) -> None:
    """A request that was sent before the answer to the one before waits for that, not for us."""
    open_door = await door(NOTHING_IN_TIME)
    alone = await open_door.asked()
    reader, writer = await asyncio.open_connection("127.0.0.1", open_door.port)
    open_door.app.stamped.clear()
    one = "GET {} HTTP/1.1\r\nHost: x\r\nConnection: {}\r\n\r\n"
    writer.write((one.format("/livez", "keep-alive") + one.format(AIRPORTS, "close")).encode())
    async with asyncio.timeout(10):
        said = await reader.read()
    writer.close()

    assert alone.status == 503
    assert open_door.app.stamped == [True, False]
    assert said.count(b"HTTP/1.1 200 OK") == 2


async def test_a_busy_event_loop_is_noticed_and_so_is_its_end(door: Open) -> None:
    """The time between a request's headers and its start tells, without any timer."""
    open_door = await door(
        QueueTerms(target=timedelta(milliseconds=80), patience=timedelta(0), run=1)
    )
    busy = True

    async def work() -> None:
        while busy:
            time.sleep(0.04)  # noqa: ASYNC251 - a turn that is longer than a step may take
            await asyncio.sleep(0)

    working = asyncio.create_task(work())
    during = [await open_door.asked() for _ in range(3)]
    calls = open_door.calls
    busy = False
    await working
    async with asyncio.timeout(20):
        while (await open_door.asked()).status != 200:
            pass

    assert [answer.status for answer in during] == [503] * 3
    assert calls == 0


@pytest.mark.parametrize(
    ("text", "queue"),
    [
        ("", QueueTerms()),
        ("20ms", QueueTerms(target=timedelta(milliseconds=20))),
        ("off", None),
    ],
)
def test_the_target_comes_from_the_environment(text: str, queue: QueueTerms | None) -> None:
    """A time, or that nothing is to be shed."""
    assert Settings.from_env({"MESH_QUEUE_TARGET": text}).queue == queue


@pytest.mark.parametrize("text", ["never", "0ms", "-5ms", "20 parsecs"])
def test_a_target_that_can_not_be_is_named(text: str) -> None:
    """The process does not start with a target that is not understood."""
    with pytest.raises(ConfigError, match="MESH_QUEUE_TARGET"):
        Settings.from_env({"MESH_QUEUE_TARGET": text})
