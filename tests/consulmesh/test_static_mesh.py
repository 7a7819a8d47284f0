"""A member of a mesh without Consul: fixed addresses, everything else as in the real one."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from consulmesh import MeshConfig
from consulmesh.lifecycle import JobFailedError
from consulmesh.testing import StaticMesh
from consulmesh.testing.ports import free_port
from tests.consulmesh.xds_process import SERVICE, handlers
from tests.consulmesh.xds_world import call


@asynccontextmanager
async def served(slot: int = 1, **changes: Any) -> AsyncIterator[StaticMesh]:
    """Serve `echo` for the block, and leave in order."""
    config = MeshConfig(version="1.2.3", metrics_port=None, **changes)
    async with StaticMesh("echo", {}, slot=slot, config=config) as mesh:
        server = mesh.server(status_codes={})
        server.add_registered_method_handlers(SERVICE, handlers(mesh))
        serving = asyncio.create_task(mesh.serve(server))
        try:
            await mesh.serving.wait()
            yield mesh
        finally:
            mesh.draining.set()
            await serving


async def test_calls_go_round_the_addresses_of_an_upstream() -> None:
    """A target of two addresses is one upstream, and both of its instances answer."""
    async with served(1) as one, served(2) as two:
        target = f"ipv4:{one.address},{two.address}"
        async with StaticMesh("caller", {"echo": target}) as caller:
            channel = caller.channel("echo")
            await channel.channel_ready()
            answers = Counter([await call(channel) for _ in range(40)])

    assert set(answers) == {"echo-1", "echo-2"}
    assert (one.slot, two.slot) == (1, 2)


async def test_an_instance_that_comes_back_at_its_address_is_found() -> None:
    """A caller that had lost the only instance reaches the next one at the same address."""
    port = free_port()
    async with StaticMesh("caller", {"echo": f"127.0.0.1:{port}"}) as caller:
        channel = caller.channel("echo")
        async with served(port=port):
            first = await call(channel)
        async with served(2, port=port):
            async with asyncio.timeout(20):
                await channel.channel_ready()
            second = await call(channel)

    assert (first, second) == ("echo-1", "echo-2")


async def test_a_failed_job_ends_the_member() -> None:
    """A background job that fails makes the process drain, and its error is raised at the end."""

    async def fail() -> None:
        raise ValueError("planned")

    async def live() -> None:
        async with StaticMesh("echo", {}) as mesh:
            mesh.start(fail(), name="fails")
            await mesh.draining.wait()

    with pytest.raises(JobFailedError) as raised:
        await live()

    assert isinstance(raised.value.__cause__, ValueError)


async def test_an_upstream_without_an_address_is_an_error() -> None:
    """Asking for an upstream that was not named fails at once instead of at the first call."""
    async with StaticMesh("echo", {}) as mesh:
        with pytest.raises(KeyError) as raised:
            mesh.channel("pricing")

    assert raised.value.args == ("pricing",)
