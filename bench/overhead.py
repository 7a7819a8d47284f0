"""What the mesh costs: a unary call through it against one over bare grpc.aio, in one run.

    python -m bench.overhead --seconds 12

`bare` is grpc.aio as it comes. `wrapped` adds our channel and server at a fixed address, with
deadline, trace, access log (to a file) and metrics. `mesh` is all of it: both processes have joined
a mesh on a Consul (the one of the tests), and the client calls `xds:///bench`.

Servers and clients are processes of their own. Rounds of the variants alternate, so that whatever
else the machine does hits all of them alike; printed are medians over the rounds, and ratios within
a round against `bare`.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Self

import grpc
import uvloop
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio

from consulmesh import logs
from consulmesh.channel import CHANNEL_OPTIONS, MeshChannel
from consulmesh.config import MeshConfig
from consulmesh.event_loop import EventLoop
from consulmesh.mesh import Mesh
from consulmesh.server import SERVER_OPTIONS, MeshServer
from consulmesh.testing import FakeConsul

SERVICE: Final = "bench.v1.EchoService"
REQUEST: Final = StringValue(value="x" * 100)
CALLERS: Final = (1, 32)
ROUND_SECONDS: Final = 0.5
LEAST_ROUNDS: Final = 3
MICRO: Final = 1e6

Stub = aio.UnaryUnaryMultiCallable[StringValue, StringValue]

_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One variant under load for a while; CPU and latency in seconds."""

    rate: float  # calls per second
    latency: float
    client_cpu: float  # of a call, as the next
    server_cpu: float


async def echo(request: StringValue, _context: object) -> StringValue:
    """The handler: next to nothing."""
    return request


def add_echo(server: aio.Server) -> None:
    """Adds the service as generated code does."""
    methods: Any = {
        "Echo": grpc.unary_unary_rpc_method_handler(
            echo,
            request_deserializer=StringValue.FromString,
            response_serializer=StringValue.SerializeToString,
        )
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_registered_method_handlers(SERVICE, methods)


def echo_stub(channel: aio.Channel) -> Stub:
    """The method as generated stubs have it."""
    generated: Any = {"_registered_method": True}
    return channel.unary_unary(
        f"/{SERVICE}/Echo",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
        **generated,
    )


@asynccontextmanager
async def served(server: aio.Server) -> AsyncIterator[str]:
    """The address of a server that runs for the block."""
    add_echo(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def joined(consul: str, service: str) -> AsyncIterator[Mesh]:
    """A process in the mesh."""
    with tempfile.TemporaryDirectory() as folder:
        config = MeshConfig(version="0.0.0", consul_url=consul, state_dir=Path(folder))
        async with Mesh.join(service, config) as mesh:
            yield mesh


@asynccontextmanager
async def mesh_server(consul: str) -> AsyncIterator[str]:
    """A server in the mesh, which is found by its name."""
    async with joined(consul, "bench") as mesh:
        server = mesh.server(status_codes={})
        add_echo(server)
        serving = asyncio.create_task(mesh.serve(server))
        yield "xds:///bench"
        mesh.draining.set()
        await serving


@asynccontextmanager
async def mesh_channel(consul: str, _address: str) -> AsyncIterator[aio.Channel]:
    """A channel of the mesh, once there is somebody to call."""
    async with joined(consul, "client") as mesh:
        channel = mesh.channel("bench")
        await echo_stub(channel)(REQUEST, timeout=30, wait_for_ready=True)
        yield channel


def bare_channel(_consul: str, address: str) -> aio.Channel:
    """A channel of grpc.aio, with the mesh's options."""
    return aio.insecure_channel(address, options=CHANNEL_OPTIONS)


def wrapped_channel(consul: str, address: str) -> MeshChannel:
    """The same in our wrapper."""
    return MeshChannel(bare_channel(consul, address), upstream="bench", caller="client")


SERVERS: Final[dict[str, Callable[[str], AbstractAsyncContextManager[str]]]] = {
    "bare": lambda _consul: served(aio.server(options=SERVER_OPTIONS)),
    "wrapped": lambda _consul: served(MeshServer("bench", instance="b/0.0.0", status_codes={})),
    "mesh": mesh_server,
}
CHANNELS: Final[dict[str, Callable[[str, str], AbstractAsyncContextManager[aio.Channel]]]] = {
    "bare": bare_channel,
    "wrapped": wrapped_channel,
    "mesh": mesh_channel,
}


async def run_consul(parent: Connection) -> None:
    """The Consul's process."""
    async with FakeConsul() as consul:
        parent.send(consul.url)
        await asyncio.to_thread(parent.recv)


async def run_server(parent: Connection, variant: str, consul: str) -> None:
    """A server's process: says its address, then its CPU time whenever it is asked."""
    async with SERVERS[variant](consul) as address:
        parent.send(address)
        while await asyncio.to_thread(parent.recv):
            parent.send(time.process_time())


async def run_client(parent: Connection, variant: str, consul: str, address: str) -> None:
    """A client's process: makes a round of calls whenever it is told."""
    async with CHANNELS[variant](consul, address) as channel:
        await channel.channel_ready()
        parent.send("ready")
        while callers := await asyncio.to_thread(parent.recv):
            parent.send(await load(echo_stub(channel), callers))


async def load(stub: Stub, callers: int) -> tuple[int, float, float, float]:
    """Calls without pause for one round: how many, seconds, CPU seconds, median latency."""
    took: list[float] = []
    cpu, start = time.process_time(), time.perf_counter()

    async def caller() -> None:
        now = time.perf_counter()
        while now < start + ROUND_SECONDS:
            await stub(REQUEST)
            before, now = now, time.perf_counter()
            took.append(now - before)

    await asyncio.gather(*(caller() for _ in range(callers)))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return len(took), seconds, cpu, statistics.median(took)


def in_process(
    loop: Callable[[], asyncio.AbstractEventLoop],
    role: Callable[..., Coroutine[Any, Any, None]],
    *args: Any,
) -> None:
    """What a child process does: the role on a loop of its own, with its log in a file."""
    with tempfile.TemporaryFile() as log, asyncio.Runner(loop_factory=loop) as runner:
        logs.configure(descriptor=log.fileno())
        runner.run(role(*args))
        logs.close()


class Child:
    """A process that is asked and answers."""

    def __init__(
        self,
        role: Callable[..., Coroutine[Any, Any, None]],
        *args: object,
        loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
    ) -> None:
        self._pipe, theirs = _spawn.Pipe()
        self._process = _spawn.Process(target=in_process, args=(loop, role, theirs, *args))
        self._process.start()
        theirs.close()  # so that its death ends our waiting
        self.said = self._pipe.recv()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid or 0

    def ask(self, question: object) -> Any:
        """Its answer."""
        self._pipe.send(question)
        return self._pipe.recv()

    def close(self) -> None:
        """Lets it end."""
        self._pipe.send(None)
        self._process.join()


class Pair:
    """The server and the client of a variant."""

    def __init__(self, server: Child, client: Child) -> None:
        self._server = server
        self.client = client

    @classmethod
    def of(cls, variant: str, consul: str) -> Self:
        """Start both."""
        loop = uvloop.new_event_loop if variant == "bare" else EventLoop
        server = Child(run_server, variant, consul, loop=loop)
        return cls(server, Child(run_client, variant, consul, server.said, loop=loop))

    def round(self, callers: int) -> Round:
        """One round of so many callers."""
        before: float = self._server.ask("cpu")
        calls, seconds, cpu, latency = self.client.ask(callers)
        return Round(
            rate=calls / seconds,
            latency=latency,
            client_cpu=cpu / calls,
            server_cpu=(self._server.ask("cpu") - before) / calls,
        )

    def close(self) -> None:
        """Client first."""
        self.client.close()
        self._server.close()


def measure(pairs: dict[str, Pair], callers: int, seconds: float) -> dict[str, list[Round]]:
    """Alternating rounds of all variants, after one of each that does not count."""
    for pair in pairs.values():
        pair.round(callers)
    count = max(LEAST_ROUNDS, round(seconds / ROUND_SECONDS / len(pairs)))
    rounds: dict[str, list[Round]] = {variant: [] for variant in pairs}
    for _ in range(count):
        for variant, pair in pairs.items():
            rounds[variant].append(pair.round(callers))
    return rounds


def report(callers: int, rounds: dict[str, list[Round]]) -> None:
    """Prints one table."""
    bare = rounds["bare"]
    print(f"\n{callers} caller(s), {len(bare)} rounds of {ROUND_SECONDS} s each")
    print(
        f"{'':9}{'calls/s':>9}{'ratio':>7}{'p50 us':>8}{'client CPU us':>15}{'server CPU us':>15}"
    )
    for variant, own in rounds.items():
        ratio = statistics.median(a.rate / b.rate for a, b in zip(own, bare, strict=True))
        print(
            f"{variant:9}{_median([each.rate for each in own]):9.0f}{ratio:7.2f}"
            f"{_median([each.latency for each in own]) * MICRO:8.0f}"
            f"{_median([each.client_cpu for each in own]) * MICRO:15.0f}"
            f"{_median([each.server_cpu for each in own]) * MICRO:15.0f}"
        )


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="What the mesh costs against bare grpc.aio.")
    parser.add_argument("--seconds", type=float, default=12.0, help="for each number of callers")
    seconds = parser.parse_args().seconds
    consul = Child(run_consul)
    pairs = {variant: Pair.of(variant, consul.said) for variant in SERVERS}
    for callers in CALLERS:
        report(callers, measure(pairs, callers, seconds))
    for pair in pairs.values():
        pair.close()
    consul.close()


if __name__ == "__main__":
    main()
