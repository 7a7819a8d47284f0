"""Two versions of a service on a real Consul, the shared ADS, and a client in each language."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from consulmesh.consul_api import ConsulApi
from consulmesh.testing import RealConsul, real_consul
from tests.consulmesh.processes import Process, shared_ads
from tests.consulmesh.secured import authority
from tests.interop.programs import BUILD_SECONDS, Go, Language, MissingError, Node, client
from tests.interop.world import Client, Echo

__all__ = ["authority"]

Join = Callable[[str], Awaitable[Client]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first test of each language the time that its client's build may take."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(BUILD_SECONDS + 120))


@pytest.fixture(scope="session", params=[Go(), Node()], ids=["go", "node"])
def command(request: pytest.FixtureRequest) -> list[str]:
    """How the client of a language is started."""
    language: Language = request.param
    try:
        return client(language)
    except MissingError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="package")
async def consul() -> AsyncIterator[RealConsul]:
    """One real Consul for these tests."""
    async with real_consul() as agent:
        yield agent


@pytest.fixture(scope="package")
async def api(consul: RealConsul) -> AsyncIterator[ConsulApi]:
    """Its API."""
    async with ConsulApi(consul.url) as api:
        yield api


@pytest.fixture
async def echoes(api: ConsulApi) -> AsyncIterator[tuple[Echo, Echo]]:
    """Two instances, the second of a newer version."""
    async with Echo(1, "1.0.0").listed(api) as old, Echo(2, "2.0.0").listed(api) as new:
        yield old, new


@pytest.fixture(scope="package")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shared ADS leaves its bootstrap."""
    return tmp_path_factory.mktemp("ads")


@pytest.fixture(scope="package")
async def ads(consul: RealConsul, state_dir: Path) -> AsyncIterator[Process]:
    """The shared ADS, as a process."""
    async with shared_ads(consul, state_dir, MESH_XDS_PORT="0") as process:
        yield process


@pytest.fixture
async def join(command: list[str], ads: Process, state_dir: Path) -> AsyncIterator[Join]:
    """Lets a client in one language call an upstream until the test is over."""
    before = len(ads.lines)
    async with AsyncExitStack() as stack:

        async def joined(upstream: str) -> Client:
            bootstrap = state_dir / "xds-bootstrap.json"
            return await stack.enter_async_context(Client.calling(command, upstream, bootstrap))

        yield joined
    assert [line for line in ads.lines[before:] if line["event"] == "xds_nack"] == []
