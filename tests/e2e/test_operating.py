"""What operators do to the running system, by its commands, costs its users no call."""

import asyncio
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
from consulmesh.propagation import NO_RETRY
from tests.e2e.conftest import SERVICES, run
from tools.programs import Settings

RATE: Final = 20.0  # searches per second
PAUSE: Final = 0.05  # seconds between two calls to each service
METHODS: Final = {
    "schedule": "/flights.schedule.v1.ScheduleService/GetFlight",
    "pricing": "/flights.pricing.v1.PricingService/GetPrices",
    "flight-search": "/flights.search.v1.SearchService/SearchAirports",
    "booking": "/flights.booking.v1.BookingService/GetBooking",
}
ANSWERS: Final = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAUTHENTICATED,
}
"""What handlers say to an empty request; anything else came instead of an answer."""


@asynccontextmanager
async def raw_calls(settings: Settings, folder: Path) -> AsyncIterator[Counter[Any]]:
    """Call a method of every service all the time, each call once, and count how it ends."""
    config = MeshConfig(
        version="1.0.0", consul_url=settings.consul_url, state_dir=folder, isolated=True
    )
    ends: Counter[Any] = Counter()
    stop = asyncio.Event()

    async def keep_calling(channel: grpc.aio.Channel, service: str) -> None:
        method: Any = channel.unary_unary(METHODS[service])
        while not stop.is_set():
            code = grpc.StatusCode.OK
            try:
                await method(b"", metadata=((NO_RETRY, "1"),), timeout=5)
            except grpc.aio.AioRpcError as error:
                code = error.code()
            ends[service, code] += 1
            await asyncio.sleep(PAUSE)

    async with Mesh.join("operator", config) as mesh:
        calling = [
            asyncio.create_task(keep_calling(mesh.channel(service), service)) for service in METHODS
        ]
        try:
            yield ends
        finally:
            stop.set()
            await asyncio.gather(*calling)


@pytest.mark.timeout(300)
async def test_a_rolling_restart_costs_no_call(subject: Subject, tmp_path: Path) -> None:
    """`make restart` renews every instance: no search fails, and no call that is tried once."""
    settings = subject.settings
    names = [f"{service}-{slot}" for service in SERVICES for slot in (1, 2)]
    before = [subject.pid(name) for name in names]
    async with (
        load(subject.http, settings.gateway_url, RATE) as searches,
        raw_calls(settings, tmp_path) as ends,
    ):
        await asyncio.sleep(1)  # of load before anything is stopped
        done = await asyncio.to_thread(run, settings, "restart")
        await asyncio.sleep(1)
    after = [subject.pid(name) for name in names]
    print(done.stdout, summary(searches), f"{ends.total()} raw calls: {dict(ends)}", sep="\n")

    assert done.returncode == 0, done.stdout + done.stderr
    assert not set(before) & set(after)
    assert not summary(searches).failures
    assert {code for _, code in ends} <= ANSWERS
    assert {service for service, _ in ends} == set(METHODS)


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
