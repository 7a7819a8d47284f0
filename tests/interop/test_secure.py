"""Clients in Go and Node are members of the secure profile, by the companion beside them."""

import asyncio
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from consulmesh import Mesh
from consulmesh.xds.bootstrap import channel_options
from consulmesh.xds.messages import add_AggregatedDiscoveryServiceServicer_to_server
from tests.consulmesh.processes import Process, shared_ads
from tests.consulmesh.secured import Authority, joined
from tests.consulmesh.xds_process import SERVICE, handlers
from tests.consulmesh.xds_world import call, until
from tests.interop.programs import Go
from tests.interop.world import Answer, Client, Entry, entry, of_version

OK, DENIED, UNAVAILABLE = 0, 7, 14
OLD, NEW = Answer(code=OK, instance="echo-1/1.0.0"), Answer(code=OK, instance="echo-2/2.0.0")
NOBODY = Answer(code=UNAVAILABLE, instance="")
WEB = {"Name": "web", "Action": "allow"}
RESOLVER = entry(
    "service-resolver",
    DefaultSubset="old",
    Subsets={"old": of_version("1.0.0"), "new": of_version("2.0.0")},
    Failover={"old": {"ServiceSubset": "new"}},
)

DISGUISES = {
    "spelt": "{id}",
    "with a wildcard": "*{end}",
    "with a comma": "x, URI:{id}, y.service.consul",
}

REFUSED = re.compile(
    "not match any of the accepted SANs|No matching subject alternative name"  # of another service
    "|not authorized to sign for this name|permitted subtree violation"  # a name in disguise
)

Join = Callable[[], Awaitable[Client]]


@asynccontextmanager
async def written(authority: Authority, *entries: Entry) -> AsyncIterator[None]:
    """Let Consul have config entries, in this order, for the block."""
    for each in entries:
        await authority.put("/v1/config", each)
    try:
        yield
    finally:
        for each in reversed(entries):
            await authority.delete(f"/v1/config/{each['Kind']}/{each['Name']}")


@asynccontextmanager
async def running(
    authority: Authority, folder: Path, service: str, module: str, *words: str, **env: str
) -> AsyncIterator[Process]:
    """Run a program of a service for the block."""
    own = authority.environment(service) | env
    process = await Process.start(module, authority.consul, folder, *words, **own)
    try:
        yield process
    finally:
        await process.kill()


@asynccontextmanager
async def echo(
    authority: Authority, folder: Path, number: int, version: str
) -> AsyncIterator[Process]:
    """Run an instance of echo; it is registered when the block begins."""
    own = {"MESH_INSTANCE_ID": f"echo-{number}", "MESH_VERSION": version}
    module = "tests.consulmesh.xds_process"
    async with running(authority, folder, "echo", module, **own) as process:
        await process.logged("consul_registered")
        yield process


@asynccontextmanager
async def impostor(authority: Authority, folder: Path, listed_as: str) -> AsyncIterator[Mesh]:
    """Run a process of app that Consul lists as another service."""
    async with joined(authority, folder, "app") as mesh:
        server = mesh.server(status_codes={})
        server.add_registered_method_handlers(SERVICE, handlers(mesh))
        add_AggregatedDiscoveryServiceServicer_to_server(mesh.ads, server)
        serving = asyncio.create_task(mesh.serve(server))
        await until(lambda: bool(mesh.address), seconds=20)
        port = int(mesh.address.rpartition(":")[2])
        listed = {"Name": listed_as, "ID": "listed-9", "Address": "127.0.0.1", "Port": port}
        await authority.put("/v1/agent/service/register", listed)
        try:
            yield mesh
        finally:
            await authority.put("/v1/agent/service/deregister/listed-9", None)
            mesh.draining.set()
            await serving


@pytest.fixture
async def echoes(authority: Authority, tmp_path: Path) -> AsyncIterator[tuple[Process, Process]]:
    """Two instances, the second of a newer version."""
    async with (
        echo(authority, tmp_path, 1, "1.0.0") as old,
        echo(authority, tmp_path, 2, "2.0.0") as new,
    ):
        yield old, new


@asynccontextmanager
async def companion_of_web(authority: Authority, folder: Path) -> AsyncIterator[Process]:
    """Run the companion of programs that are web; what it sends is understood."""
    async with running(authority, folder, "web", "consulmesh.companion", "web") as process:
        yield process
        assert [line for line in process.lines if line["event"] == "xds_nack"] == []


@asynccontextmanager
async def calling(command: list[str], companion: Process) -> AsyncIterator[Client]:
    """Run a client of echo that is what its companion is."""
    bootstrap = Path((await companion.logged("bootstrap"))["file"])
    async with Client.calling([*command, "--secure"], "echo", bootstrap) as client:
        yield client


@pytest.fixture
async def join(authority: Authority, tmp_path: Path, command: list[str]) -> AsyncIterator[Join]:
    """Lets a client in one language call echo, as web, until the test is over."""
    async with AsyncExitStack() as stack:
        companion = await stack.enter_async_context(companion_of_web(authority, tmp_path))
        yield lambda: stack.enter_async_context(calling(command, companion))


async def test_intentions_and_splits_hold_for_other_languages(
    authority: Authority, join: Join, echoes: tuple[Process, Process]
) -> None:
    """A client is served as web, which its certificate says, and by method; a split is kept."""
    ping = {"Action": "allow", "HTTP": {"PathExact": f"/{SERVICE}/Ping"}}
    await authority.allow({"Name": "web", "Permissions": [ping]})
    splits = [{"Weight": 80, "ServiceSubset": "old"}, {"Weight": 20, "ServiceSubset": "new"}]
    async with written(authority, RESOLVER, entry("service-splitter", Splits=splits)):
        client = await join()
        await client.until(OLD, "Ping")
        await client.until(NEW, "Ping")
        answers = Counter([await client.call("Ping") for _ in range(200)])
        slow = [await client.call("Slow", mesh_caller="app") for _ in range(3)]
        await authority.allow({"Name": "app", "Action": "allow"})
        await client.until(Answer(code=DENIED, instance=OLD.instance), "Ping")

    assert answers.keys() == {OLD, NEW}
    assert 15 <= answers[NEW] <= 75
    assert {answer.code for answer in slow} == {DENIED}
    assert {line["caller"] for echo in echoes for line in calls_of(echo)} == {"web"}


async def test_calls_of_other_languages_fail_over(
    authority: Authority, tmp_path: Path, join: Join, echoes: tuple[Process, Process]
) -> None:
    """When an instance dies the next is called, and the first again when it is back."""
    await authority.allow(WEB)
    async with written(authority, RESOLVER):
        client = await join()
        await client.until(OLD, "Ping")
        before = {await client.call("Ping") for _ in range(20)}
        await echoes[0].kill()
        await client.until(NEW, "Ping")
        meanwhile = {await client.call("Ping") for _ in range(20)}
        async with echo(authority, tmp_path, 1, "1.0.0"):
            await client.until(OLD, "Ping")
            after = {await client.call("Ping") for _ in range(20)}

    assert before == {OLD}
    assert meanwhile == {NEW}
    assert after == {OLD}


@pytest.mark.parametrize("disguise", ["", *DISGUISES], ids=["as itself", *DISGUISES])
async def test_another_service_is_refused_by_other_languages(
    authority: Authority,
    tmp_path: Path,
    join: Join,
    monkeypatch: pytest.MonkeyPatch,
    disguise: str,
) -> None:
    """A process of app that Consul lists as echo gets no call, whatever DNS name it had signed."""
    await authority.allow({"Name": "*", "Action": "allow"})
    if disguise:
        domain = (await authority.get("/v1/connect/ca/roots"))["TrustDomain"]
        echo_id = f"spiffe://{domain}/ns/default/dc/dc1/svc/echo"
        spelt = DISGUISES[disguise].format(id=echo_id, end=echo_id[echo_id.index(".consul") :])
        monkeypatch.setattr("consulmesh.identity.dns_name", lambda _service: spelt)
    async with impostor(authority, tmp_path, "echo"):
        client = await join()
        answers = [await client.call("Ping")]
        async with asyncio.timeout(30):
            while not REFUSED.search(answers[-1].details):
                answers.append(await client.call("Ping"))
        answers += [await client.call("Ping") for _ in range(3)]

    assert set(answers) == {NOBODY}


async def test_new_roots_and_a_new_companion_cost_other_languages_nothing(
    authority: Authority, tmp_path: Path, command: list[str], echoes: tuple[Process, Process]
) -> None:
    """Calls go on while everybody is signed anew, and while the companion is away."""
    await authority.allow(WEB)
    answers: list[Answer] = []
    async with written(authority, RESOLVER), AsyncExitStack() as stack:
        first = await stack.enter_async_context(companion_of_web(authority, tmp_path))
        client = await stack.enter_async_context(calling(command, first))
        await client.until(OLD, "Ping")
        stop = asyncio.Event()

        async def load() -> None:
            while not stop.is_set():
                answers.append(await client.call("Ping"))

        calls = asyncio.create_task(load())
        await authority.rotate()
        for process in (first, *echoes):
            await until(partial(signed_again, process), seconds=30)
        first.signal(signal.SIGTERM)
        status = await first.ended()
        second = await stack.enter_async_context(companion_of_web(authority, tmp_path))
        await second.logged("bootstrap")
        await echoes[0].kill()  # so that another connection is made, with what is there now
        await until(lambda: NEW in answers, seconds=30)
        stop.set()
        await calls

    assert status == 0
    assert set(answers) <= {OLD, NEW, NOBODY}
    assert answers.count(NOBODY) <= 1


@pytest.mark.parametrize("command", [Go()], ids=["go"], indirect=True)
async def test_a_job_asks_the_shared_ads_by_mtls(
    authority: Authority, tmp_path: Path, command: list[str]
) -> None:
    """What `--once` leaves is enough for Go and for Python; who is not mesh-ads is not asked."""
    await authority.allow(WEB)
    await authority.allow(WEB, service="mesh-ads")
    ads = shared_ads(
        authority.consul, tmp_path, MESH_XDS_PORT="0", **authority.environment("mesh-ads")
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(echo(authority, tmp_path, 1, "1.0.0"))
        async with ads:
            bootstrap = await once(authority, tmp_path)
            go = await stack.enter_async_context(
                Client.calling([*command, "--secure"], "echo", bootstrap)
            )
            await go.until(OLD, "Ping")
            async with aio_channel(bootstrap) as channel:
                in_python = await call(channel, timeout=20, wait_for_ready=True)
        async with impostor(authority, tmp_path, "mesh-ads"):
            bootstrap = await once(authority, tmp_path)
            deceived = await stack.enter_async_context(
                Client.calling([*command, "--secure"], "echo", bootstrap)
            )
            refused = await deceived.call("Ping")

    assert in_python == "echo-1"
    assert refused == NOBODY
    assert "cannot validate certificate for 127.0.0.1" in refused.details


async def once(authority: Authority, folder: Path) -> Path:
    """Have a certificate of web; return the bootstrap."""
    words = ("--once", "web")
    async with running(authority, folder, "web", "consulmesh.companion", *words) as process:
        assert await process.ended() == 0
        return Path((await process.logged("bootstrap"))["file"])


def aio_channel(bootstrap: Path) -> grpc.aio.Channel:
    """A channel to echo in Python, by a bootstrap and nothing else."""
    credentials = grpc.xds_channel_credentials(grpc.ssl_channel_credentials())
    options = channel_options(bootstrap.read_text(encoding="utf-8"))
    return grpc.aio.secure_channel("xds:///echo", credentials, options=options)


def calls_of(process: Process) -> list[dict[str, Any]]:
    """The lines of a process about calls that it answered."""
    return [line for line in process.lines if line["event"] == "call"]


def signed_again(process: Process) -> bool:
    """Whether a process has had its key signed twice."""
    return [line["event"] for line in process.lines].count("certificate") > 1
