import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import gateway_bff
from consulmesh.testing import FakeConsul, running
from flights.search.v1.search_pb2 import SearchAirportsResponse, StreamItinerariesResponse
from tests.gateway_bff import examples
from tests.gateway_bff.fakes import Fakes, forever
from tests.oidc_provider import OidcProvider

ROOT = Path(gateway_bff.__file__).parent.parent
STREAM = "/v1/itineraries?origin=JFK&destination=LAX&date=2026-12-01"


@asynccontextmanager
async def started(consul: FakeConsul, state: Path, **more: str) -> AsyncIterator[Process]:
    """A gateway as `make up` starts it; killed at the end where it is still there."""
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
        "CONSUL_HTTP_ADDR": consul.url,
        "MESH_STATE_DIR": str(state),
        "MESH_PORT": "0",
        "MESH_CHECK_INTERVAL": "100ms",
        **more,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway_bff", env=environ, stdout=PIPE, cwd=state
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def said(process: Process, event: str) -> dict[str, Any]:
    """The first line of the log with this event."""
    assert process.stdout is not None
    while line := await process.stdout.readline():
        entry: dict[str, Any] = json.loads(line)
        if entry["event"] == event:
            return entry
    raise AssertionError(f"the process ended without {event}")


@pytest.fixture
async def consul() -> AsyncIterator[FakeConsul]:
    """A Consul that knows nobody."""
    async with FakeConsul() as fake:
        yield fake


@pytest.fixture
async def fakes(consul: FakeConsul) -> AsyncIterator[Fakes]:
    """A search that Consul lists as passing."""
    fakes = Fakes()
    async with running(fakes.add_to, service="flight-search") as (_, port):
        definition = {
            "ID": "flight-search-1",
            "Name": "flight-search",
            "Address": "127.0.0.1",
            "Port": port,
            "Check": {"GRPC": f"127.0.0.1:{port}", "Interval": "1s", "Status": "passing"},
        }
        async with (
            aiohttp.ClientSession() as client,
            client.put(f"{consul.url}/v1/agent/service/register", json=definition) as response,
        ):
            response.raise_for_status()
        yield fakes


async def test_a_gateway_joins_serves_and_leaves(
    consul: FakeConsul, fakes: Fakes, tmp_path: Path
) -> None:
    """The process finds search through Consul, is listed, and goes on SIGTERM without a failure."""
    fakes.search.answers["SearchAirports"] = SearchAirportsResponse(airports=[examples.airport()])
    fakes.search.answers["StreamItineraries"] = [
        StreamItinerariesResponse(itineraries=[examples.itinerary()]),
        forever,
    ]

    async with started(consul, tmp_path) as process:
        address = (await said(process, "serving"))["address"]
        async with aiohttp.ClientSession(f"http://{address}") as client:
            await consul.agent.until(lambda: _passing(consul, "gateway-bff"), 30)
            listed = _passing(consul, "gateway-bff")
            async with client.get("/v1/airports?q=jfk") as response:
                body = await response.json()
            async with client.get("/metrics") as metrics:
                text = await metrics.text()
            async with client.get(STREAM, headers={"Accept": "text/event-stream"}) as stream:
                await stream.content.readuntil(b"\n\n")
                process.send_signal(signal.SIGTERM)
                rest = await stream.content.read()
        status = await asyncio.wait_for(process.wait(), 30)

    assert listed
    assert body["airports"][0]["code"] == "JFK"
    assert "http_server_request_duration_seconds" in text
    assert "rpc_client_call_duration_seconds" in text
    assert b"event: problem" in rest
    assert b"SHUTTING_DOWN" in rest
    assert status == 0
    assert consul.state.health("gateway-bff") == []


async def test_a_gateway_that_leaves_serves_for_a_while(
    consul: FakeConsul, fakes: Fakes, tmp_path: Path
) -> None:
    """Told to stop, it says so where a balancer asks, and answers whoever comes meanwhile."""
    fakes.search.answers["SearchAirports"] = SearchAirportsResponse(airports=[examples.airport()])

    async with started(consul, tmp_path, MESH_SHUTDOWN_DELAY="60s") as process:
        address = (await said(process, "serving"))["address"]
        async with aiohttp.ClientSession(f"http://{address}") as client:
            async with client.get("/v1/airports?q=jfk") as before:
                await before.read()
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                while (problem := await _readiness(client))["status"] != 503:
                    pass
            await consul.agent.until(lambda: not _passing(consul, "gateway-bff"), 20)
            async with client.get("/v1/airports?q=jfk") as after:
                body = await after.json()
        still = process.returncode

    assert "Connection" not in before.headers
    assert problem["code"] == "SHUTTING_DOWN"
    assert after.headers["Connection"] == "close"
    assert body["airports"][0]["code"] == "JFK"
    assert still is None


async def _readiness(client: aiohttp.ClientSession) -> dict[str, Any]:
    async with client.get("/readyz") as answer:
        body: dict[str, Any] = await answer.json()
    return {"status": answer.status, **body}


async def test_a_gateway_without_search_serves_and_is_not_ready(
    consul: FakeConsul, tmp_path: Path
) -> None:
    """Without search the process lives, says 503 in time, and stops as any other."""
    async with started(consul, tmp_path) as process:
        address = (await said(process, "serving"))["address"]
        async with aiohttp.ClientSession(f"http://{address}") as client:
            async with client.get("/livez") as live:
                await live.read()
            async with client.get("/readyz") as ready:
                problem = await ready.json()
            async with client.get("/v1/airports?q=jfk") as search:
                away = await search.json()
        process.send_signal(signal.SIGTERM)
        status = await asyncio.wait_for(process.wait(), 30)

    assert live.status == 200
    assert (ready.status, problem["code"]) == (503, "NOT_READY")
    assert (search.status, away["code"]) == (503, "UPSTREAM_UNAVAILABLE")
    assert status == 0


@pytest.mark.parametrize(
    ("setting", "value"), [("MESH_ROUTE_BUDGETS", "{"), ("MESH_TOKEN_ALGORITHMS", "HS256")]
)
async def test_a_wrong_setting_stops_the_start(
    consul: FakeConsul, tmp_path: Path, setting: str, value: str
) -> None:
    """What can't be is named in the log, and the exit status says so."""
    async with started(consul, tmp_path, **{setting: value}) as process:
        entry = await said(process, "cannot_start")
        status = await process.wait()

    assert setting in entry["reason"]
    assert status == 2


async def test_a_gateway_knows_the_users_of_its_provider(
    consul: FakeConsul, tmp_path: Path
) -> None:
    """The process looks for the keys by itself; a user of the provider gets past the door."""
    async with OidcProvider().running() as provider:
        environ = {"MESH_OIDC_ISSUER": provider.issuer}
        async with started(consul, tmp_path, **environ) as process:
            address = (await said(process, "serving"))["address"]
            headers = {"Authorization": f"Bearer {provider.sign(roles=['operator'])}"}
            async with (
                aiohttp.ClientSession(f"http://{address}") as client,
                client.get("/v1/bookings", headers=headers) as response,
            ):
                problem = await response.json()
            process.send_signal(signal.SIGTERM)
            status = await asyncio.wait_for(process.wait(), 30)

    assert (response.status, problem["code"]) == (403, "FORBIDDEN")
    assert status == 0


def _passing(consul: FakeConsul, service: str) -> bool:
    return any(
        check["Status"] == "passing"
        for entry in consul.state.health(service)
        for check in entry["Checks"]
    )
