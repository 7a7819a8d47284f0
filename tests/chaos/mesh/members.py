"""Members of a mesh for the fault rows: instances as processes, and who calls them."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp

from consulmesh import Mesh
from consulmesh.consul_api import ConsulApi, Query
from tests.chaos.mesh.arrivals import DEADLINE, Arrivals, Outcomes
from tests.consulmesh.consuls import AnyConsul
from tests.consulmesh.processes import Process, caller, passing
from tests.consulmesh.xds_process import SERVICE

ECHO: Final = "echo"
BOTH: Final = ("echo-1", "echo-2")
CALM: Final = 1.0  # seconds of load before something is broken, and after it is mended
POLL: Final = 0.005  # seconds; a set of endpoints tells nobody of us
PATIENCE: Final = 60.0


@asynccontextmanager
async def party(
    consul: AnyConsul,
    folder: Path,
    name: str = f"{ECHO}-1",
    *,
    registered: bool = True,
    **env: str,
) -> AsyncIterator[Process]:
    """Run an instance for the block; Consul knows it when that begins, unless it can't."""
    own = {"MESH_INSTANCE_ID": name, "PARTY_SERVICE": name.rpartition("-")[0]}
    process = await Process.start("tests.chaos.mesh.party", consul, folder, **own, **env)
    try:
        await process.logged("consul_registered" if registered else "serving")
        yield process
    finally:
        await process.kill()


@asynccontextmanager
async def both(consul: AnyConsul, folder: Path) -> AsyncIterator[list[Process]]:
    """Run two instances of echo, `echo-1` and `echo-2`; both pass when the block begins."""
    async with AsyncExitStack() as stack:
        async with asyncio.TaskGroup() as group:
            started = [
                group.create_task(stack.enter_async_context(party(consul, folder, name)))
                for name in BOTH
            ]
        await all_pass(consul, *BOTH)
        yield [each.result() for each in started]


@asynccontextmanager
async def callers(consul: AnyConsul, folder: Path, count: int) -> AsyncIterator[list[Mesh]]:
    """Join the mesh so many times, as who calls."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(caller(consul, folder)) for _ in range(count)]


@asynccontextmanager
async def loads(
    meshes: Sequence[Mesh], *methods: str, service: str = ECHO, deadline: float = DEADLINE
) -> AsyncIterator[list[list[Arrivals]]]:
    """Let everybody call each method while the block runs; gives a list for each method.

    It begins when each of them has been answered.
    """
    async with AsyncExitStack() as stack:
        started = [
            [
                await stack.enter_async_context(
                    Arrivals(mesh.channel(service), method, deadline=deadline)
                )
                for mesh in meshes
            ]
            for method in methods
        ]
        for each in started:
            for load in each:
                await load.answered()
        await asyncio.sleep(CALM)
        yield started


def all_of(loads: Iterable[Arrivals]) -> Outcomes:
    """Return what became of the calls of some loads."""
    return Outcomes(each for load in loads for each in load.outcomes)


async def configure(consul: AnyConsul, **meta: str) -> None:
    """Let Consul say that echo's `Get` may be tried again, and whatever else its Meta may say.

    Raises aiohttp.ClientResponseError where Consul can't take it.
    """
    entry = {
        "Kind": "service-defaults",
        "Name": ECHO,
        "Protocol": "grpc",
        "Meta": {"grpc-service": SERVICE, "retryable-methods": "Get", **meta},
    }
    async with aiohttp.ClientSession(consul.url, raise_for_status=True) as http:
        await http.put("/v1/config", json=entry)


async def all_pass(
    consul: AnyConsul, *ids: str, service: str = ECHO, patience: float = PATIENCE
) -> float:
    """Wait until exactly these instances pass, whatever Consul answers until then.

    Returns when that was seen. It is polled: a blocking query would not survive what is done to
    Consul here.
    """
    loop = asyncio.get_running_loop()
    async with ConsulApi(consul.url) as api, asyncio.timeout(patience):
        while passing((await api.ask(Query.health(service))).data) != set(ids):  # noqa: ASYNC110 - see above
            await asyncio.sleep(POLL)
    return loop.time()


async def knows(mesh: Mesh, count: int, service: str = ECHO) -> float:
    """Wait until so many endpoints are in a caller's set; return when that was seen."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE):
        while endpoints(mesh, service) != count:  # noqa: ASYNC110 - it tells nobody of us
            await asyncio.sleep(POLL)
    return loop.time()


def endpoints(mesh: Mesh, service: str = ECHO) -> int:
    """Return how many endpoints a caller gives to gRPC core; -1 while it knows nothing."""
    known = mesh._directory.resources(service)
    return -1 if known is None else known.endpoint_count
