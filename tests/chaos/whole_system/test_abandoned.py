"""L2: callers go away in the middle of calls and streams, by gRPC and by closing connections."""

import asyncio
import itertools
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
import psutil
import psycopg
import pytest
from sqlalchemy import make_url

from bench.oracle import Asked
from bench.recorded_api import RecordedApi, User
from bench.steady import query_of, some_searches
from bench.subject import POLL
from bench.travellers import Market
from consulmesh import Mesh, MeshConfig
from consulmesh.local_issuer import LocalIssuer
from flights.pricing.v1 import pricing_pb2
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.schedule.v1 import schedule_pb2
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from flights.search.v1 import search_pb2
from flights.search.v1.search_pb2_grpc import SearchServiceStub
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY
from tests.chaos.figures import LONG, SHARE, at_most, figure
from tests.chaos.whole_system.system import DAYS, WholeSystem
from tools.programs import GATEWAY, SERVICES

CALLS: Final = round(20_000 * SHARE) if LONG else 200  # half of them are over before they are left
STREAMS: Final = round(2_000 * SHARE) if LONG else 40
WARM: Final = 0.2  # of them before anything is counted
AT_ONCE: Final = 16
LONGEST: Final = 0.06  # seconds until a caller goes away
SETTLED: Final = 30.0  # seconds until all is as before
ALLOWED: Final = 0.05  # of descriptors and threads that may be more than before
SSE: Final = {"Accept": "text/event-stream"}

Act = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Held:
    """What the processes of a system hold at a moment."""

    descriptors: int
    threads: int
    calls: float
    """That are being served, requests of the gateway and streams between the services too."""


class Leavers:
    """Those who ask and go away. All mutable state: how their calls ended."""

    def __init__(
        self, system: WholeSystem, mesh: Mesh, market: Market, flights: Sequence[str]
    ) -> None:
        self.ends: Counter[str] = Counter()
        self._market = market
        self._flights = flights
        self._random = random.Random(1)
        self._numbers = itertools.count(1)
        self._search = SearchServiceStub(mesh.channel("flight-search"))
        self._schedule = ScheduleServiceStub(mesh.channel("schedule"))
        self._pricing = PricingServiceStub(mesh.channel("pricing"))
        self._gateway = system.settings.gateway_url
        self._patient = system.travellers.api
        self._impatient = RecordedApi(
            system.subject.http,
            self._gateway,
            system.recorder,
            pauses=(),
            patience=self._soon,
        )
        token = LocalIssuer(system.settings.run / "issuer").token("leaver", {"customer"})
        self._user = User("leaver", token)

    async def calls(self, count: int) -> None:
        """So many unary calls, of every kind in turn."""
        await self._all(
            itertools.islice(
                itertools.cycle(
                    (self._searches, self._flight, self._searches_in_the_mesh, self._books)
                ),
                count,
            )
        )

    async def streams(self, count: int) -> None:
        """So many streams, of every kind in turn."""
        kinds = (self._found, self._found_in_the_mesh, self._events, self._changes, self._fares)
        await self._all(itertools.islice(itertools.cycle(kinds), count))

    async def _all(self, acts: Any) -> None:
        room = asyncio.Semaphore(AT_ONCE)

        async def one(act: Act) -> None:
            async with room:
                await act()

        async with asyncio.TaskGroup() as group:
            for act in acts:
                group.create_task(one(act))

    def _soon(self) -> float:
        return self._random.uniform(0, LONGEST)

    def _asked(self) -> Asked:
        return self._random.choice(some_searches())

    def _query(self) -> search_pb2.ItineraryQuery:
        asked = self._asked()
        year, month, day = map(int, asked.date.split("-"))
        query = search_pb2.ItineraryQuery(
            origin=asked.origin, destination=asked.destination, passengers=1, cabin=CABIN_ECONOMY
        )
        query.departure_date.year, query.departure_date.month = year, month
        query.departure_date.day = day
        return query

    async def _searches(self) -> None:
        await self._closed("/v1/itineraries", query_of(self._asked()), {})

    async def _flight(self) -> None:
        flight = self._random.choice(self._flights)
        await self._cancelled(
            self._schedule.GetFlight(schedule_pb2.GetFlightRequest(flight_id=flight), timeout=5)
        )

    async def _searches_in_the_mesh(self) -> None:
        request = search_pb2.SearchItinerariesRequest(query=self._query())
        await self._cancelled(self._search.SearchItineraries(request, timeout=5))

    async def _books(self) -> None:
        """Take a quote, and go away while it is booked."""
        process = f"leaver-{next(self._numbers)}"
        quote = await self._patient.quote(process, self._random.choice(self._market.plenty), 1)
        assert quote, self._patient.tally.failures
        told = await self._impatient.book(
            process, self._user, process, quote["quote_id"], [(process, "Lee")]
        )
        self.ends["answered" if told else "left"] += 1

    async def _found(self) -> None:
        await self._closed("/v1/itineraries", query_of(self._asked()), SSE)

    async def _events(self) -> None:
        flight = self._random.choice(self._flights)
        await self._closed(f"/v1/flights/{flight}/events", {}, SSE)

    async def _found_in_the_mesh(self) -> None:
        request = search_pb2.StreamItinerariesRequest(query=self._query())
        await self._read(self._search.StreamItineraries(request, timeout=10))

    async def _changes(self) -> None:
        await self._read(self._schedule.WatchFlights(schedule_pb2.WatchFlightsRequest()))

    async def _fares(self) -> None:
        await self._read(self._pricing.WatchPrices(pricing_pb2.WatchPricesRequest()))

    async def _closed(self, path: str, query: dict[str, str], headers: dict[str, str]) -> None:
        """Ask the gateway by a connection of its own and close that."""
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as http:
            try:
                async with (
                    asyncio.timeout(self._soon()),
                    http.get(self._gateway + path, params=query, headers=headers) as answer,
                ):
                    await answer.read()
            except TimeoutError:
                self.ends["left"] += 1
            else:
                self.ends["answered"] += 1

    async def _cancelled(self, call: grpc.aio.UnaryUnaryCall[Any, Any]) -> None:
        """Cancel a call soon, unless it is over."""
        done, _ = await asyncio.wait([asyncio.ensure_future(call.code())], timeout=self._soon())
        call.cancel()
        code = await call.code()
        self.ends["answered" if done else "left"] += 1
        assert code in {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED}, code

    async def _read(self, stream: grpc.aio.UnaryStreamCall[Any, Any]) -> None:
        """Read a stream for a moment and cancel it."""
        try:
            async with asyncio.timeout(self._soon()):
                async for _ in stream:
                    pass
        except TimeoutError:
            stream.cancel()
            self.ends["left"] += 1
        else:
            self.ends["answered"] += 1


@asynccontextmanager
async def leavers(system: WholeSystem, folder: Path) -> AsyncIterator[Leavers]:
    """Join the mesh as who goes away."""
    config = MeshConfig(
        version="1.0.0", consul_url=system.settings.consul_url, state_dir=folder, isolated=True
    )
    http, gateway = system.subject.http, system.settings.gateway_url
    query = query_of(some_searches()[0])
    async with http.get(f"{gateway}/v1/itineraries", params=query) as answer:
        found = (await answer.json())["itineraries"]
    flights = sorted({leg["flight_id"] for one in found for leg in one["segments"]})
    market = await Market.survey(http, gateway, DAYS)
    async with Mesh.join("operator", config) as mesh:
        yield Leavers(system, mesh, market, flights)


async def held(system: WholeSystem) -> Held:
    """Count what gateway and services hold."""
    subject = system.subject
    names = [GATEWAY, *(f"{service}-{slot}" for service in SERVICES for slot in (1, 2))]
    processes = [psutil.Process(subject.pid(name)) for name in names]
    calls = 0.0
    for service in (GATEWAY, *SERVICES):
        for instance in await subject.instances(service):
            calls += await active(
                subject.http, f"http://{instance.address}:{instance.metrics_port}"
            )
    return Held(
        descriptors=sum(process.num_fds() for process in processes),
        threads=sum(process.num_threads() for process in processes),
        calls=calls,
    )


async def active(http: aiohttp.ClientSession, url: str) -> float:
    """What a process is serving, by its metrics."""
    async with http.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    names = ("rpc_server_active_calls", "http_server_active_requests")
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(names))


def nobody_holds(url: str) -> bool:
    """Whether nobody is in the middle of a transaction that would keep others from writing."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(make_url(url).database or "", timeout=5)) as file:
            file.execute("BEGIN IMMEDIATE")  # raises where somebody writes for five seconds
        return True
    idle = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    with psycopg.connect(url) as connection:
        return connection.execute(idle).fetchone() == (0,)


@pytest.mark.timeout(1800 if LONG else 300)
async def test_those_who_leave_leave_nothing_behind(system: WholeSystem, tmp_path: Path) -> None:
    """No call, descriptor, thread or transaction stays, and no booking is a half one."""
    loop = asyncio.get_running_loop()
    async with leavers(system, tmp_path) as those:
        await those.calls(round(WARM * CALLS))
        await those.streams(round(WARM * STREAMS))
        await system.judged()
        before = await held(system)
        those.ends.clear()
        await those.calls(CALLS)
        await those.streams(STREAMS)
        began = loop.time()
        while not within(now := await held(system), before):
            assert loop.time() - began < SETTLED, (before, now)
            await asyncio.sleep(POLL)
        settled = loop.time() - began
    report = await system.judged()
    urls = (system.urls.booking, system.urls.schedule, system.urls.pricing)
    free = [await asyncio.to_thread(nobody_holds, url) for url in urls]
    figure(
        "L2",
        f"{system.engine}: {CALLS:,} calls and {STREAMS:,} streams, {those.ends['left']:,} left "
        f"midway; as before after {settled:.1f} s: {before}, {now}; {len(report.violations)} "
        f"violations in {report.counts['bookings']:,} bookings; something stays: "
        f"{at_most(CALLS + STREAMS)}",
    )

    assert report.holds, report
    assert all(free)
    assert those.ends["left"] > (CALLS + STREAMS) / 4


def within(now: Held, before: Held) -> bool:
    """Whether hardly more is held than before, and no call at all."""
    return (
        now.calls <= before.calls
        and now.descriptors <= before.descriptors * (1 + ALLOWED)
        and now.threads <= before.threads * (1 + ALLOWED)
    )
