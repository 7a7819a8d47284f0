"""Processes of the mesh on a real Consul: signals, rolling restarts, the shared ADS."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

import aiohttp
import grpc
import pytest

from consulmesh.consul_api import ConsulApi, Query
from consulmesh.testing import RealConsul, real_consul
from consulmesh.testing.ports import free_port
from consulmesh.xds.bootstrap import channel_options
from tests.consulmesh.consuls import SLACK, asked_until
from tests.consulmesh.processes import Process, caller, passing, shared_ads
from tests.consulmesh.xds_process import SERVICE
from tests.consulmesh.xds_world import call, until

ROOT = Path(__file__).resolve().parents[2]
GRPCURL = ROOT / ".tools" / "bin" / "grpcurl"


@pytest.fixture(scope="module")
async def consul() -> AsyncIterator[RealConsul]:
    """One real Consul for these tests."""
    async with real_consul() as agent:
        yield agent


@asynccontextmanager
async def echo(consul: RealConsul, folder: Path, **env: str) -> AsyncIterator[Process]:
    """Run the echo service as a process; it is registered when the block begins."""
    process = await Process.start("tests.consulmesh.xds_process", consul, folder, **env)
    try:
        await process.logged("consul_registered")
        yield process
    finally:
        await process.kill()


async def until_passing(consul: RealConsul, *ids: str) -> float:
    """Wait until exactly these instances of echo pass; return when (monotonic seconds)."""
    async with ConsulApi(consul.url) as api:
        await asked_until(api, Query.health("echo"), lambda data: passing(data) == set(ids))
    return time.monotonic()


class Load:
    """Calls from several workers until the block ends; keeps who answered when, and what failed."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.first_answer: dict[str, float] = {}
        self.answered = 0
        self.failures: list[grpc.aio.AioRpcError] = []
        self._channel = channel
        self._workers: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._workers = [asyncio.create_task(self._work()) for _ in range(4)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._workers)

    async def answers_of(self, instance_id: str) -> float:
        """Wait for the first answer of an instance; return when it came."""
        await until(lambda: instance_id in self.first_answer)
        return self.first_answer[instance_id]

    async def _work(self) -> None:
        while not self._stop.is_set():
            try:
                answer = await call(self._channel)
            except grpc.aio.AioRpcError as error:
                self.failures.append(error)
            else:
                self.answered += 1
                self.first_answer.setdefault(answer, time.monotonic())
            await asyncio.sleep(0.005)  # a steady load, on a machine that others use too


async def test_a_rolling_restart_fails_no_call(consul: RealConsul, tmp_path: Path) -> None:
    """Each of two instances is replaced by a new process under load: no call fails."""
    async with AsyncExitStack() as stack:
        running = {
            name: await stack.enter_async_context(echo(consul, tmp_path))
            for name in ("echo-1", "echo-2")
        }
        await until_passing(consul, *running)
        mesh = await stack.enter_async_context(caller(consul, tmp_path))
        async with Load(mesh.channel("echo")) as load:
            statuses = []
            for name in ("echo-1", "echo-2"):
                await load.answers_of(name)
                running[name].signal(signal.SIGTERM)
                statuses.append(await running[name].ended())
                await stack.enter_async_context(echo(consul, tmp_path))
                await until_passing(consul, *running)

    assert load.failures == []
    assert load.answered > 200
    assert statuses == [0, 0]


async def test_a_new_instance_is_called_as_soon_as_it_passes(
    consul: RealConsul, tmp_path: Path
) -> None:
    """From passing in Consul to the first answered call nothing waits for its next turn."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(echo(consul, tmp_path))
        await until_passing(consul, "echo-1")
        mesh = await stack.enter_async_context(caller(consul, tmp_path))
        async with Load(mesh.channel("echo")) as load:
            await load.answers_of("echo-1")
            noticed = asyncio.create_task(until_passing(consul, "echo-1", "echo-2"))
            await stack.enter_async_context(echo(consul, tmp_path))
            delay = await load.answers_of("echo-2") - await noticed

    assert delay <= SLACK / 2
    assert load.failures == []


@pytest.fixture
async def retryable(consul: RealConsul) -> AsyncIterator[None]:
    """Let Consul say that Get may be retried, for one test."""
    entry = {
        "Kind": "service-defaults",
        "Name": "echo",
        "Protocol": "grpc",
        "Meta": {"grpc-service": SERVICE, "retryable-methods": "Get"},
    }
    async with aiohttp.ClientSession(consul.url, raise_for_status=True) as session:
        await session.put("/v1/config", json=entry)
        yield
        await session.delete("/v1/config/service-defaults/echo")


@pytest.mark.usefixtures("retryable")
async def test_a_killed_instance_costs_no_call_that_may_be_retried(
    consul: RealConsul, tmp_path: Path
) -> None:
    """After SIGKILL of one of two, what it was answering is answered by the other."""
    async with echo(consul, tmp_path) as one, echo(consul, tmp_path):
        await until_passing(consul, "echo-1", "echo-2")
        async with caller(consul, tmp_path) as mesh, Load(mesh.channel("echo")) as load:
            await load.answers_of("echo-1")
            await load.answers_of("echo-2")
            one.signal(signal.SIGKILL)
            await one.ended()
            await until_passing(consul, "echo-2")

    assert load.failures == []
    assert load.answered > 20


async def test_a_second_signal_exits_at_once(consul: RealConsul, tmp_path: Path) -> None:
    """While a call has its grace, a second SIGTERM ends the process with the signal's status."""
    async with echo(consul, tmp_path, MESH_DRAIN_GRACE="30s") as process:
        line = await process.logged("serving")
        async with grpc.aio.insecure_channel(line["address"]) as channel:
            sleeping = asyncio.create_task(call(channel, "Sleep", timeout=60))
            await call(channel)  # after it on the same connection: it has arrived
            process.signal(signal.SIGTERM)
            await process.logged("draining")
            begin = time.monotonic()
            process.signal(signal.SIGTERM)
            status = await process.ended()
            took = time.monotonic() - begin
            outcome = (await asyncio.gather(sleeping, return_exceptions=True))[0]

    assert status == 128 + signal.SIGTERM
    assert took < SLACK  # of the 30 seconds of its grace
    assert isinstance(outcome, grpc.aio.AioRpcError)


async def test_a_failed_job_ends_the_process_in_order(consul: RealConsul, tmp_path: Path) -> None:
    """A background job that fails: the process leaves Consul and exits with status 1."""
    async with echo(consul, tmp_path) as process:
        line = await process.logged("serving")
        async with grpc.aio.insecure_channel(line["address"]) as channel:
            await call(channel, "Fail")
            status = await process.ended()
        await until_passing(consul)

    assert status == 1
    assert [line["job"] for line in process.lines if line["event"] == "job_failed"] == ["failing"]


async def test_a_wrong_setting_is_named(consul: RealConsul, tmp_path: Path) -> None:
    """A process that is started wrongly says which variable it is, and exits with status 2."""
    module = "tests.consulmesh.xds_process"
    process = await Process.start(module, consul, tmp_path, MESH_PORT="http")
    status = await process.ended()

    assert status == 2
    assert process.lines[-1]["event"] == "cannot_start"
    assert "MESH_PORT" in process.lines[-1]["reason"]


async def test_the_shared_ads_serves_other_clients(consul: RealConsul, tmp_path: Path) -> None:
    """With the bootstrap that the shared ADS wrote, grpcurl finds a service by its name."""
    if not GRPCURL.is_file():
        pytest.skip("grpcurl is not built: make up gets it")
    async with (
        shared_ads(consul, tmp_path, MESH_XDS_PORT="0") as ads,
        echo(consul, tmp_path),
        ConsulApi(consul.url) as api,
    ):
        await asked_until(api, Query.health("mesh-ads"), lambda data: bool(passing(data)))
        await until_passing(consul, "echo-1")
        listed = await grpcurl(tmp_path, "list")
        ads.signal(signal.SIGTERM)
        status = await ads.ended()
        gone = (await api.ask(Query.health("mesh-ads"))).data

    assert SERVICE in listed
    assert status == 0
    assert gone == []


async def test_a_restart_of_the_shared_ads_is_not_noticed(
    consul: RealConsul, tmp_path: Path
) -> None:
    """Its clients go on with what they know, and hear news again when it is back."""
    env = {"MESH_XDS_PORT": str(free_port())}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(echo(consul, tmp_path))
        await until_passing(consul, "echo-1")
        ads = await stack.enter_async_context(shared_ads(consul, tmp_path, **env))
        options = channel_options((tmp_path / "xds-bootstrap.json").read_text(encoding="utf-8"))
        channel = grpc.aio.insecure_channel("xds:///echo", options=options)
        await stack.enter_async_context(channel)
        async with Load(channel) as load:
            await load.answers_of("echo-1")
            ads.signal(signal.SIGTERM)
            status = await ads.ended()
            await stack.enter_async_context(shared_ads(consul, tmp_path, **env))
            await stack.enter_async_context(echo(consul, tmp_path))
            await load.answers_of("echo-2")

    assert status == 0
    assert load.failures == []


async def grpcurl(folder: Path, *arguments: str) -> list[str]:
    """Run grpcurl against the echo service by xDS; return the lines it printed."""
    process = await asyncio.create_subprocess_exec(
        GRPCURL,
        *("-plaintext", "-max-time", "30", "xds:///echo", *arguments),
        env={"GRPC_XDS_BOOTSTRAP": str(folder / "xds-bootstrap.json")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return output.decode().splitlines()
