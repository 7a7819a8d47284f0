"""A process of the mesh: joins, calls, serves and leaves. In process, against FakeConsul."""

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from prometheus_client import REGISTRY

from consulmesh import Mesh, MeshConfig
from consulmesh.context import CallContext, current, use
from consulmesh.garbage import THRESHOLDS
from consulmesh.lifecycle import JobFailedError
from consulmesh.registration import Check
from consulmesh.testing import FakeConsul
from consulmesh.testing.ports import free_port
from tests.consulmesh.consuls import SLACK
from tests.consulmesh.xds_process import SERVICE, handlers
from tests.consulmesh.xds_world import call, until


def config(consul: FakeConsul, folder: Path, **changes: Any) -> MeshConfig:
    """Return the configuration of a process that is alone with its Consul."""
    settings = {"version": "1.2.3", "isolated": True, "drain_grace": timedelta(seconds=2)}
    return MeshConfig(**{"consul_url": consul.url, "state_dir": folder, **settings, **changes})


@asynccontextmanager
async def served(
    consul: FakeConsul, folder: Path, *, registered: bool = True, **changes: Any
) -> AsyncIterator[Mesh]:
    """Serve `echo` for the block, and leave in order."""
    async with Mesh.join("echo", config(consul, folder, **changes)) as mesh:
        server = mesh.server(status_codes={})
        server.add_registered_method_handlers(SERVICE, handlers(mesh))
        serving = asyncio.create_task(mesh.serve(server))
        try:
            if registered:
                await until(lambda: mesh.instance_id in listed(consul))
            yield mesh
        finally:
            mesh.draining.set()
            await serving


def listed(consul: FakeConsul) -> list[str]:
    """Return the ids of the instances of `echo` that Consul calls passing."""
    return [
        entry["Service"]["ID"]
        for entry in consul.state.health("echo")
        if all(check["Status"] == "passing" for check in entry["Checks"])
    ]


async def test_a_caller_reaches_every_instance(tmp_path: Path) -> None:
    """Two servers and a caller find each other through Consul alone."""
    async with (
        FakeConsul() as consul,
        served(consul, tmp_path) as one,
        served(consul, tmp_path) as two,
        Mesh.join("caller", config(consul, tmp_path)) as caller,
    ):
        answers = {await call(caller.channel("echo")) for _ in range(20)}

    assert (one.instance_id, two.instance_id) == ("echo-1", "echo-2")
    assert (one.slot, two.slot) == (1, 2)
    assert answers == {"echo-1", "echo-2"}


async def test_a_serving_process_looks_for_garbage_rarely(tmp_path: Path) -> None:
    """Until it leaves, what it holds is left alone, and cycles that come up are collected."""
    usual, frozen = gc.get_threshold(), gc.get_freeze_count()
    async with FakeConsul() as consul, served(consul, tmp_path):
        serving, left_alone = gc.get_threshold(), gc.get_freeze_count()
        cycle = Cycle()
        collected = weakref.ref(cycle)
        del cycle
        for _ in range(2 * THRESHOLDS[0]):
            Cycle()

    assert serving == THRESHOLDS
    assert left_alone > frozen
    assert collected() is None
    assert (gc.get_threshold(), gc.get_freeze_count()) == (usual, frozen)


class Cycle:
    """What no reference count frees."""

    def __init__(self) -> None:
        self.itself = self


async def test_leaving_takes_the_instance_out_before_it_stops(tmp_path: Path) -> None:
    """One of two instances leaves under load: it is deregistered, and no call fails."""
    answers: list[str] = []
    async with (
        FakeConsul() as consul,
        served(consul, tmp_path) as stays,
        Mesh.join("caller", config(consul, tmp_path)) as caller,
    ):
        channel = caller.channel("echo")
        async with served(consul, tmp_path):
            stop = asyncio.Event()
            load = asyncio.create_task(keep_calling(channel, stop, answers))
            await until(lambda: "echo-2" in answers)
        stop.set()
        await load
        remaining = listed(consul)
        late = {await call(channel) for _ in range(10)}

    assert remaining == [stays.instance_id]
    assert late == {stays.instance_id}


async def keep_calling(channel: grpc.aio.Channel, stop: asyncio.Event, answers: list[str]) -> None:
    """Call until told to stop; raises what a call raises."""
    while not stop.is_set():
        answers.append(await call(channel))


async def test_calls_in_flight_have_the_grace_and_streams_end(tmp_path: Path) -> None:
    """While draining a slow call is answered; an endless stream ends with UNAVAILABLE."""
    async with (
        FakeConsul() as consul,
        Mesh.join("caller", config(consul, tmp_path)) as caller,
    ):
        async with served(consul, tmp_path):
            channel = caller.channel("echo")
            watching = asyncio.create_task(watch(channel))
            slow = asyncio.create_task(call(channel, "Slow"))
            await until(lambda: in_flight() == 2)
        answer = await slow
        code = await watching

    assert answer == "echo-1"
    assert code is grpc.StatusCode.UNAVAILABLE


def in_flight() -> float:
    """Return how many calls of the echo service are being served in this process."""
    return sum(
        REGISTRY.get_sample_value("rpc_server_active_calls", {"rpc_method": f"{SERVICE}/{name}"})
        or 0
        for name in ("Slow", "Watch")
    )


async def watch(channel: grpc.aio.Channel) -> grpc.StatusCode:
    """Read an endless stream until it ends, and return how."""
    method: Any = channel.unary_stream(f"/{SERVICE}/Watch")
    stream = method(b"")
    try:
        async for _ in stream:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        stream.cancel()
    return grpc.StatusCode.OK


async def test_a_start_without_consul_is_made_up_for(tmp_path: Path) -> None:
    """A server that starts while Consul is away serves, and is listed ≤ 5 s after its return."""
    async with FakeConsul() as consul:
        await consul.stop()
        async with served(consul, tmp_path, registered=False) as mesh:
            await until(lambda: bool(mesh.address))
            async with grpc.aio.insecure_channel(mesh.address) as direct:
                answer = await call(direct)
            await asyncio.sleep(1.5)  # the first attempts have failed, and the pauses grow
            await consul.start()
            begin = time.monotonic()
            await until(lambda: mesh.instance_id in listed(consul), seconds=30)
            took = time.monotonic() - begin

    assert answer == "echo-1"
    assert took <= 5 + SLACK


async def test_calls_without_consul_fail_before_their_deadline(tmp_path: Path) -> None:
    """A caller that never saw Consul is told UNAVAILABLE, and recovers by itself."""
    async with FakeConsul() as consul, served(consul, tmp_path):
        await consul.stop()
        async with Mesh.join("caller", config(consul, tmp_path)) as caller:
            channel = caller.channel("echo")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, timeout=30)
            await consul.start()
            answer = await call(channel, timeout=30, wait_for_ready=True)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert answer == "echo-1"


async def test_an_instance_that_is_cut_off_is_tried_every_other_second(tmp_path: Path) -> None:
    """The pauses between connections grow to two seconds, not to gRPC's own two minutes."""
    loop = asyncio.get_running_loop()
    tried: asyncio.Queue[float] = asyncio.Queue()

    async def cut(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tried.put_nowait(loop.time())
        writer.close()

    async with (
        await asyncio.start_server(cut, "127.0.0.1", 0) as listener,
        FakeConsul() as consul,
        Mesh.join("caller", config(consul, tmp_path)) as caller,
    ):
        port = listener.sockets[0].getsockname()[1]
        consul.state.register({"Name": "echo", "Address": "127.0.0.1", "Port": port})
        calling = asyncio.create_task(call(caller.channel("echo"), timeout=60, wait_for_ready=True))
        moments = [await tried.get() for _ in range(6)]
        calling.cancel()
        await asyncio.wait([calling])
    pauses = [after - before for before, after in pairwise(moments)]

    assert min(pauses[-2:]) < 2.8  # 2 of theirs; 4.1 and 6.5 of gRPC's; all vary by a fifth


async def test_nothing_is_registered_before_it_is_warm(tmp_path: Path) -> None:
    """Registration waits for the warm-up, which draining cuts short."""
    warm = asyncio.Event()
    async with (
        FakeConsul() as consul,
        Mesh.join("echo", config(consul, tmp_path)) as mesh,
    ):
        server = mesh.server(status_codes={})
        server.add_registered_method_handlers(SERVICE, handlers(mesh))
        serving = asyncio.create_task(mesh.serve(server, warm=until_set(warm)))
        await until(lambda: bool(mesh.address))
        mesh.draining.set()
        await serving
        told = consul.requests_of("/v1/agent/service/register")

    assert told == []


def until_set(event: asyncio.Event) -> Callable[[], Any]:
    """Return a warm-up that takes until the event is set."""

    async def wait() -> None:
        await event.wait()

    return wait


async def test_a_failed_job_drains_and_is_raised(tmp_path: Path) -> None:
    """A background job that fails takes the process out of the mesh, and says why."""

    async def job() -> None:
        raise RuntimeError("lost its way")

    async def live(consul: FakeConsul) -> None:
        async with Mesh.join("echo", config(consul, tmp_path)) as mesh:
            server = mesh.server(status_codes={})
            server.add_registered_method_handlers(SERVICE, handlers(mesh))
            mesh.start(job(), name="lost")
            await mesh.serve(server)

    async with FakeConsul() as consul:
        with pytest.raises(JobFailedError, match="lost") as caught:
            await live(consul)

    assert isinstance(caught.value.__cause__, RuntimeError)
    assert listed(consul) == []


async def test_a_job_inherits_nothing_from_who_started_it(tmp_path: Path) -> None:
    """A job that a request starts has neither the request's deadline nor its identity."""
    seen: list[CallContext] = []

    async def job() -> None:
        seen.append(current())

    request = CallContext(deadline=time.monotonic() + 1, request_id="r", caller="web")
    async with FakeConsul() as consul, Mesh.join("echo", config(consul, tmp_path)) as mesh:
        with use(request):
            await mesh.start(job(), name="detached")

    assert (seen[0].deadline, seen[0].caller) == (None, None)


async def test_a_job_is_cancelled_when_the_mesh_is_left(tmp_path: Path) -> None:
    """No job outlives the block, and a cancelled one is no failure."""
    async with FakeConsul() as consul, Mesh.join("echo", config(consul, tmp_path)) as mesh:
        task = mesh.start(asyncio.Event().wait(), name="waits")

    assert task.cancelled()


async def test_any_server_can_be_announced(tmp_path: Path) -> None:
    """A server that is not gRPC is listed for the block, with its check, and gone after it."""
    async with (
        FakeConsul() as consul,
        Mesh.join("web", config(consul, tmp_path)) as mesh,
    ):
        async with mesh.announced(4711, Check.http("/readyz")):
            await until(lambda: bool(consul.state.health("web")))
            (entry,) = consul.state.health("web")
        after = consul.state.health("web")

    assert entry["Service"]["Port"] == 4711
    assert entry["Service"]["Meta"]["version"] == "1.2.3"
    assert entry["Service"]["Meta"]["metrics_port"] == str(mesh.metrics_port)
    assert after == []


async def test_channels_are_made_once(tmp_path: Path) -> None:
    """One channel for each upstream, and one more that relays the user's token."""
    async with FakeConsul() as consul, Mesh.join("web", config(consul, tmp_path)) as mesh:
        channels = [mesh.channel("a"), mesh.channel("a"), mesh.channel("b")]
        relaying = mesh.channel("a", relay_token=True)

    assert channels[0] is channels[1]
    assert len({id(channel) for channel in (*channels, relaying)}) == 3


async def test_consul_allows_methods_their_time(tmp_path: Path) -> None:
    """The timeouts in a service's Meta are the deadlines of calls to it."""
    meta = {"grpc-service": SERVICE, "request-timeouts": "Sleep=50ms"}
    entry = {"Kind": "service-defaults", "Name": "echo", "Protocol": "grpc", "Meta": meta}
    async with (
        FakeConsul() as consul,
        served(consul, tmp_path),
        Mesh.join("caller", config(consul, tmp_path)) as caller,
    ):
        consul.state.put_config(entry)
        channel = caller.channel("echo")
        await call(channel)
        begin = time.perf_counter()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, "Sleep")
        took = time.perf_counter() - begin

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert took < 10  # of the 20 seconds that the caller allowed


async def test_metrics_say_what_is_known_of_each_upstream(tmp_path: Path) -> None:
    """A scrape shows endpoints by upstream, pushes and refusals, and how old each answer is."""
    async with (
        FakeConsul() as consul,
        served(consul, tmp_path),
        Mesh.join("caller", config(consul, tmp_path)) as caller,
        aiohttp.ClientSession() as session,
    ):
        await call(caller.channel("echo"))
        url = f"http://127.0.0.1:{caller.metrics_port}/metrics"
        async with session.get(url) as response:
            lines = (await response.text()).splitlines()

    assert 'mesh_upstream_endpoints{server_address="echo"} 1.0' in lines
    assert 'mesh_upstream_policy_warnings{server_address="echo"} 0.0' in lines
    assert 'mesh_xds_pushes_total{type="listener"} 1.0' in lines
    assert 'mesh_xds_nacks_total{type="cluster"} 0.0' in lines
    assert any(
        line.startswith('mesh_watch_age_seconds{query="/v1/health/service/echo"') for line in lines
    )


async def test_a_health_port_is_there_without_mtls_too(tmp_path: Path) -> None:
    """Where one is asked for, the check goes there in either profile, and calls to their port."""
    port = free_port()
    async with FakeConsul() as consul, served(consul, tmp_path, health_port=port) as mesh:
        checks = [
            check["Definition"].get("grpc")
            for check in consul.state.services[mesh.instance_id].checks.values()
        ]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(channel, timeout=10)
        async with grpc.aio.insecure_channel(mesh.address) as channel:
            answer = await call(channel, timeout=10)

    assert checks == [f"127.0.0.1:{port}/{SERVICE}"]
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert answer == "echo-1"
