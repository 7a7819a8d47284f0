"""Operators' config entries on a real Consul, as calls of a real process meet them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from consulmesh import Mesh, MeshConfig
from consulmesh.instances import Locality
from consulmesh.testing import RealConsul, real_consul
from tests.chaos.figures import figure
from tests.consulmesh.xds_process import SERVICE, handlers
from tests.consulmesh.xds_world import call, until

CHANGES = 100


@pytest.fixture(scope="module")
async def consul() -> AsyncIterator[RealConsul]:
    """One real Consul for these tests."""
    async with real_consul() as agent:
        yield agent


@pytest.fixture
async def entries(consul: RealConsul) -> AsyncIterator["Entries"]:
    """Config entries of one test."""
    async with aiohttp.ClientSession(consul.url) as session:
        entries = Entries(session)
        try:
            yield entries
        finally:
            await entries.clear()


class Entries:
    """Writes config entries, and takes them back in the order in which Consul lets them go."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._written: list[str] = []

    async def write(self, kind: str, name: str, **fields: Any) -> None:
        """Write an entry as Consul's HTTP API has it; raises on what it refuses."""
        entry = {"Kind": kind, "Name": name, **fields}
        async with self._session.put("/v1/config", json=entry) as answer:
            assert answer.status == 200, await answer.text()
        self._written.append(f"/v1/config/{kind}/{name}")

    async def clear(self) -> None:
        """Delete all that were written, the last one first."""
        for path in reversed(dict.fromkeys(self._written)):
            async with self._session.delete(path) as answer:
                assert answer.status == 200, await answer.text()


@asynccontextmanager
async def served(
    consul: RealConsul, folder: Path, service: str, number: int, **changes: Any
) -> AsyncIterator[Mesh]:
    """Serve as an instance of a service; it answers `Get` with its id."""
    config = MeshConfig(
        **{
            "version": "1.0.0",
            "consul_url": consul.url,
            "state_dir": folder,
            "instance_id": f"{service}-{number}",
            "isolated": True,
            **changes,
        }
    )
    async with Mesh.join(service, config) as mesh:
        server = mesh.server(status_codes={})
        server.add_registered_method_handlers(SERVICE, handlers(mesh))
        serving = asyncio.create_task(mesh.serve(server))
        try:
            await until(lambda: bool(mesh.address))
            yield mesh
        finally:
            mesh.draining.set()
            await serving


@asynccontextmanager
async def caller(
    consul: RealConsul, folder: Path, *, locality: Locality | None = None
) -> AsyncIterator[Mesh]:
    """Join as who calls."""
    config = MeshConfig(
        version="1.0.0", consul_url=consul.url, state_dir=folder, isolated=True, locality=locality
    )
    async with Mesh.join("caller", config) as mesh:
        yield mesh


async def answers_of(channel: grpc.aio.Channel, instance: str, *, seconds: float = 60) -> float:
    """Call until an instance answers ten times in a row; return the seconds to its first answer."""
    began, in_a_row, first = time.monotonic(), 0, 0.0
    async with asyncio.timeout(seconds):
        while in_a_row < 10:
            answer = await call(channel, wait_for_ready=True)
            in_a_row = in_a_row + 1 if answer == instance else 0
            if in_a_row == 1:
                first = time.monotonic() - began
    return first


async def test_calls_fail_over_to_another_service(
    consul: RealConsul, entries: Entries, tmp_path: Path
) -> None:
    """A datacenter that Consul cannot reach is passed over; the service after it is called."""
    for name in ("main", "spare"):
        await entries.write("service-defaults", name, Protocol="grpc")
    targets = [{"Datacenter": "elsewhere"}, {"Service": "spare"}]
    await entries.write("service-resolver", "main", Failover={"*": {"Targets": targets}})
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(served(consul, tmp_path, "spare", 1))
        mesh = await stack.enter_async_context(caller(consul, tmp_path))
        channel = mesh.channel("main")
        await answers_of(channel, "spare-1")
        async with served(consul, tmp_path, "main", 1):
            await answers_of(channel, "main-1")
        await answers_of(channel, "spare-1")

        assert await call(channel) == "spare-1"


async def test_instances_of_the_own_zone_are_called(consul: RealConsul, tmp_path: Path) -> None:
    """A registered locality counts: calls stay in their zone while somebody is there."""
    zones = ["a", "b"]
    async with AsyncExitStack() as stack:
        meshes = [
            await stack.enter_async_context(
                served(consul, tmp_path, "zoned", n, locality=Locality(region="eu", zone=zone))
            )
            for n, zone in enumerate(zones, 1)
        ]
        mesh = await stack.enter_async_context(
            caller(consul, tmp_path, locality=Locality(region="eu", zone="b"))
        )
        channel = mesh.channel("zoned")
        await answers_of(channel, "zoned-2")
        meshes[1].draining.set()
        await answers_of(channel, "zoned-1")

        assert await call(channel) == "zoned-1"


async def test_the_callers_limits_are_applied(
    consul: RealConsul, entries: Entries, tmp_path: Path
) -> None:
    """MaxConcurrentRequests of the caller's service-defaults bounds its calls under way."""
    async with (
        served(consul, tmp_path, "bounded", 1),
        caller(consul, tmp_path) as mesh,
    ):
        channel = mesh.channel("bounded")
        await call(channel, wait_for_ready=True)
        limits = {"Overrides": [{"Name": "bounded", "Limits": {"MaxConcurrentRequests": 1}}]}
        await entries.write("service-defaults", "caller", Protocol="grpc", UpstreamConfig=limits)
        async with asyncio.timeout(60):
            while await refused_of_two(channel) == 0:
                pass

        assert await refused_of_two(channel) == 1


async def refused_of_two(channel: grpc.aio.Channel) -> int:
    """Make two slow calls at once; return how many were UNAVAILABLE."""
    outcomes = await asyncio.gather(
        *(call(channel, "Slow") for _ in range(2)), return_exceptions=True
    )
    errors = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert all(error.code() is grpc.StatusCode.UNAVAILABLE for error in errors)
    return len(errors)


async def test_a_change_of_policy_reaches_the_picks(
    consul: RealConsul, entries: Entries, tmp_path: Path
) -> None:
    """Each of a hundred changes of a splitter moves all calls to the other subset at once."""
    async with AsyncExitStack() as stack:
        for number, version in enumerate(("1.0.0", "2.0.0"), 1):
            await stack.enter_async_context(
                served(consul, tmp_path, "split", number, version=version)
            )
        await entries.write("service-defaults", "split", Protocol="grpc")
        subsets = {
            name: {"Filter": f'Service.Meta.version == "{name[1:]}.0.0"'} for name in ("v1", "v2")
        }
        await entries.write("service-resolver", "split", DefaultSubset="v1", Subsets=subsets)
        # only now: a call that waits for instances stays with the subset where it began to wait
        mesh = await stack.enter_async_context(caller(consul, tmp_path))
        channel = mesh.channel("split")
        await answers_of(channel, "split-1")
        times = []
        for turn in range(CHANGES):
            number = 2 - turn % 2
            splits = [
                {"Weight": 100, "ServiceSubset": f"v{number}"},
                {"Weight": 0, "ServiceSubset": f"v{3 - number}"},
            ]
            began = time.monotonic()
            await entries.write("service-splitter", "split", Splits=splits)
            written = time.monotonic() - began
            times.append(written + await answers_of(channel, f"split-{number}"))
    times.sort()
    median, most = (1000 * times[int(share * CHANGES)] for share in (0.5, 0.99))
    figure(
        "config entry to picks",
        f"{CHANGES} changes, p50 {median:.0f} ms, p99 {most:.0f} ms (goal 200)",
    )

    assert len(times) == CHANGES
