"""What operators do to the running system, by its commands, costs its users no call."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from bench.steady import load, query_of, some_searches, summary
from bench.subject import Subject
from consulmesh import Mesh, MeshConfig
from consulmesh.propagation import INSTANCE, NO_RETRY
from flight_search import __version__
from tests.e2e.conftest import SERVICES, run
from tools.binaries import ROOT
from tools.programs import Settings

RATE: Final = 20.0  # searches per second
PAUSE: Final = 0.05  # seconds between two calls to each service
CALLS: Final = 80  # of all services: enough to see who answers
OLD: Final = __version__
NEW: Final = "99.0.0"
METHODS: Final = {
    "schedule": "/flights.schedule.v1.ScheduleService/GetFlight",
    "pricing": "/flights.pricing.v1.PricingService/GetPrices",
    "flight-search": "/flights.search.v1.SearchService/SearchAirports",
    "booking": "/flights.booking.v1.BookingService/GetBooking",
}
ANSWERS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAUTHENTICATED,
}
"""What handlers say to an empty request; anything else came instead of an answer."""


class RawCalls:
    """How calls end that are made all the time, each tried once, and which version answers.

    All mutable state: how many ended so, and who answered since the last look.
    """

    def __init__(self) -> None:
        self.codes: Counter[tuple[str, grpc.StatusCode]] = Counter()
        self.versions: Counter[tuple[str, str]] = Counter()

    def __str__(self) -> str:
        ends = {f"{service} {code.name}": n for (service, code), n in sorted_by_name(self.codes)}
        return f"{self.codes.total()} raw calls: {ends}"

    def ended(self, service: str, call: Any, code: grpc.StatusCode) -> None:
        """A call is over; who answered says so in a trailer."""
        self.codes[service, code] += 1
        trailers = dict(call.trailing_metadata() or ())
        self.versions[service, str(trailers.get(INSTANCE, "")).rpartition("/")[2]] += 1

    async def until_only(self, service: str, *versions: str) -> None:
        """Wait until it is these versions, all of them, that answer the calls of a service."""
        async with asyncio.timeout(60):
            while True:
                self.versions.clear()
                while self.versions.total() < CALLS:
                    await asyncio.sleep(PAUSE)
                if {version for name, version in self.versions if name == service} == {*versions}:
                    return


def sorted_by_name(codes: Counter[tuple[str, grpc.StatusCode]]) -> list[Any]:
    """Services in the order of their names, each with its codes."""
    return sorted(codes.items(), key=lambda item: (item[0][0], item[0][1].name))


@asynccontextmanager
async def raw_calls(settings: Settings, folder: Path) -> AsyncIterator[RawCalls]:
    """Call a method of every service as long as the block lasts."""
    config = MeshConfig(
        version="1.0.0", consul_url=settings.consul_url, state_dir=folder, isolated=True
    )
    calls = RawCalls()
    stop = asyncio.Event()

    async def keep_calling(channel: grpc.aio.Channel, service: str) -> None:
        method: Any = channel.unary_unary(METHODS[service])
        while not stop.is_set():
            try:
                await method(b"", metadata=((NO_RETRY, "1"),), timeout=30)
            except grpc.aio.AioRpcError as error:
                calls.ended(service, error, error.code())
            await asyncio.sleep(PAUSE)

    async with Mesh.join("operator", config) as mesh:
        calling = [
            asyncio.create_task(keep_calling(mesh.channel(service), service)) for service in METHODS
        ]
        try:
            yield calls
        finally:
            stop.set()
            await asyncio.gather(*calling)


@pytest.mark.timeout(600)
async def test_a_rolling_restart_costs_no_call(subject: Subject, tmp_path: Path) -> None:
    """`make restart` renews every instance: no search fails, and no call that is tried once."""
    settings = subject.settings
    names = [f"{service}-{slot}" for service in SERVICES for slot in (1, 2)]
    before = [subject.pid(name) for name in names]
    async with (
        load(subject.http, settings.gateway_url, RATE) as searches,
        raw_calls(settings, tmp_path) as calls,
    ):
        for service in SERVICES:
            await calls.until_only(service, OLD)
        done = await asyncio.to_thread(run, settings, "restart")
        await calls.until_only("booking", OLD)
    after = [subject.pid(name) for name in names]
    print(done.stdout, summary(searches), calls, sep="\n")

    assert done.returncode == 0, done.stdout + done.stderr
    assert not set(before) & set(after)
    assert not summary(searches).failures
    assert {code for _, code in calls.codes} <= ANSWERS
    assert {service for service, _ in calls.codes} == set(METHODS)


@asynccontextmanager
async def another(subject: Subject, package: str, version: str) -> AsyncIterator[str]:
    """One more instance of a service, of another version, until the block ends; gives its id."""
    service = package.replace("_", "-")
    settings = subject.settings
    environment = {
        "CONSUL_HTTP_ADDR": settings.consul_url,
        "MESH_STATE_DIR": str(settings.run),
        "MESH_VERSION": version,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", package),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        await subject.passes(service, f"{service}-3", patience=60)
        yield f"{service}-3"
    finally:
        process.terminate()
        await process.wait()


async def release(settings: Settings, *words: str) -> None:
    """Run `make release` on this system."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tools.release", *words),
        cwd=ROOT,
        env={**os.environ, "CONSUL_HTTP_ADDR": settings.consul_url},
    )
    assert await process.wait() == 0, words


@pytest.mark.timeout(600)
async def test_a_real_service_gets_a_new_version(subject: Subject, tmp_path: Path) -> None:
    """Pinned, dark, canary, promoted, rolled back, its instance stopped: nobody notices."""
    settings = subject.settings
    async with (
        load(subject.http, settings.gateway_url, RATE) as searches,
        raw_calls(settings, tmp_path) as calls,
    ):
        await release(settings, "pin", "flight-search")
        async with another(subject, "flight_search", NEW):
            await calls.until_only("flight-search", OLD)
            await release(settings, "canary", "flight-search", "--to", NEW, "--weight", "50")
            await calls.until_only("flight-search", OLD, NEW)
            await release(settings, "promote", "flight-search")
            await calls.until_only("flight-search", NEW)
            await release(settings, "rollback", "flight-search")
            await calls.until_only("flight-search", OLD)
        await release(settings, "unpin", "flight-search")
        await calls.until_only("flight-search", OLD)
    print(summary(searches), calls, sep="\n")

    assert not summary(searches).failures
    assert {code for _, code in calls.codes} <= ANSWERS


async def test_the_last_instance_is_not_restarted(subject: Subject) -> None:
    """With one that passes there is nobody to stand in: the command says so and stops nothing."""
    await subject.stop("pricing-2")
    await subject.fails("pricing", "pricing-2")
    try:
        pid = subject.pid("pricing-1")
        refused = await asyncio.to_thread(run, subject.settings, "restart", "pricing")
        still = subject.pid("pricing-1")
    finally:
        await subject.start("pricing-2")

    assert refused.returncode == 1
    assert "pricing-1 is the only instance that passes its checks" in refused.stderr
    assert still == pid


async def stops(subject: Subject) -> set[int]:
    """How many stops the ways have that a search with two allowed finds, in some directions."""
    found: set[int] = set()
    for asked in some_searches():
        query = query_of(asked) | {"max_stops": "2", "page_size": "100", "sort": "duration"}
        url = f"{subject.settings.gateway_url}/v1/itineraries"
        async with subject.http.get(url, params=query) as answer:
            assert answer.status == 200, await answer.text()
            ways = (await answer.json())["itineraries"]
        found |= {len(way["segments"]) - 1 for way in ways}
    return found


async def test_an_operator_switches_two_stops_off_and_on(subject: Subject) -> None:
    """A flag in Consul reaches the running instances: searches go on, without the dear ways."""
    url = f"{subject.settings.consul_url}/v1/kv/flags/flight-search/two-stops"
    usual = await stops(subject)
    async with load(subject.http, subject.settings.gateway_url, RATE) as searches:
        await subject.http.put(url, data="false")
        try:
            async with asyncio.timeout(30):
                while 2 in (off := await stops(subject)):
                    pass
        finally:
            await subject.http.delete(url)
        async with asyncio.timeout(30):
            while 2 not in (on := await stops(subject)):
                pass

    assert 2 in usual
    assert off == usual - {2}
    assert on == usual
    assert not summary(searches).failures
