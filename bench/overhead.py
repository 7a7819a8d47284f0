"""What the mesh costs: a unary call through it against one over bare grpc.aio, in one run.

    python -m bench.overhead --seconds 12

Servers and clients are processes of their own; rounds of the variants alternate, so that whatever
else the machine does hits all of them alike. Printed are the calls per second and the CPU time of
both sides per call; the ratios are the medians over the rounds. The mesh's server writes its access
log to a file, and both sides count metrics.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import grpc
import uvloop
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio

from consulmesh import logs
from consulmesh.channel import CHANNEL_OPTIONS, MeshChannel
from consulmesh.server import SERVER_OPTIONS, MeshServer

SERVICE: Final = "bench.v1.EchoService"
METHOD: Final = f"/{SERVICE}/Echo"
VARIANTS: Final = ("bare", "mesh")
CALLERS: Final = (1, 32)
REQUEST: Final = StringValue(value="x" * 100)

_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One variant under load for a while."""

    calls: int
    seconds: float
    client_cpu: float
    server_cpu: float
    median: float

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds


async def echo(request: StringValue, _context: object) -> StringValue:
    """The handler: next to nothing."""
    return request


def add_echo(server: aio.Server) -> None:
    """As generated code adds a servicer."""
    methods: Any = {
        "Echo": grpc.unary_unary_rpc_method_handler(
            echo,
            request_deserializer=StringValue.FromString,
            response_serializer=StringValue.SerializeToString,
        )
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_registered_method_handlers(SERVICE, methods)


def make_server(variant: str) -> aio.Server:
    """The server of a variant; the options are the same for all."""
    if variant == "bare":
        return aio.server(options=SERVER_OPTIONS)
    return MeshServer("bench", instance="bench-1/0.0.0", status_codes={})


def make_channel(variant: str, target: str) -> aio.Channel:
    """The channel of a variant."""
    bare = aio.insecure_channel(target, options=CHANNEL_OPTIONS)
    return bare if variant == "bare" else MeshChannel(bare, upstream="bench", caller="client")


def serve(variant: str, parent: Connection) -> None:
    """A server process: says its port, then its CPU time each time that it is asked."""

    async def main() -> None:
        server = make_server(variant)
        add_echo(server)
        parent.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        while await asyncio.to_thread(parent.recv):
            parent.send(time.process_time())
        await server.stop(None)

    with tempfile.TemporaryFile() as log:
        logs.configure(descriptor=log.fileno())
        uvloop.run(main())
        logs.close()


def call(variant: str, port: int, parent: Connection) -> None:
    """A client process: makes rounds of calls as it is told."""

    async def main() -> None:
        async with make_channel(variant, f"127.0.0.1:{port}") as channel:
            stub = channel.unary_unary(
                METHOD,
                request_serializer=StringValue.SerializeToString,
                response_deserializer=StringValue.FromString,
                _registered_method=True,  # type: ignore[call-arg]  # as generated stubs do
            )
            await channel.channel_ready()
            while order := await asyncio.to_thread(parent.recv):
                parent.send(await load(stub, *order))

    uvloop.run(main())


async def load(
    stub: Callable[[StringValue], Awaitable[StringValue]], callers: int, seconds: float
) -> tuple[int, float, float, float]:
    """Calls without pause for so long: how many, seconds, CPU seconds, median latency."""
    took: list[float] = []
    cpu, start = time.process_time(), time.perf_counter()
    end = start + seconds

    async def caller() -> None:
        now = time.perf_counter()
        while now < end:
            await stub(REQUEST)
            before, now = now, time.perf_counter()
            took.append(now - before)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return (
        len(took),
        time.perf_counter() - start,
        time.process_time() - cpu,
        statistics.median(took),
    )


class Pair:
    """The server and the client of a variant."""

    def __init__(self, variant: str) -> None:
        self._server, port = self._started(serve, variant)
        self._client, _ = self._started(call, variant, port)

    def _started(self, role: Callable[..., None], *args: Any) -> tuple[Connection, Any]:
        ours, theirs = _spawn.Pipe()
        _spawn.Process(target=role, args=(*args, theirs), daemon=True).start()
        return ours, ours.recv() if role is serve else None

    def round(self, callers: int, seconds: float) -> Round:
        """Lets the client call for so long."""
        before = self._server_cpu()
        self._client.send((callers, seconds))
        calls, took, cpu, median = self._client.recv()
        return Round(
            calls=calls,
            seconds=took,
            client_cpu=cpu,
            server_cpu=self._server_cpu() - before,
            median=median,
        )

    def close(self) -> None:
        """Lets both end."""
        self._client.send(None)
        self._server.send(None)

    def _server_cpu(self) -> float:
        self._server.send("cpu")
        cpu: float = self._server.recv()
        return cpu


def measure(pairs: dict[str, Pair], callers: int, seconds: float) -> dict[str, list[Round]]:
    """Alternating rounds of all variants, after one of each that does not count."""
    rounds: dict[str, list[Round]] = {variant: [] for variant in pairs}
    length = 0.5
    for pair in pairs.values():
        pair.round(callers, length)
    for _ in range(max(3, round(seconds / length / len(pairs)))):
        for variant, pair in pairs.items():
            rounds[variant].append(pair.round(callers, length))
    return rounds


def report(callers: int, rounds: dict[str, list[Round]]) -> None:
    """Prints a table, ratios against the first variant."""
    print(f"\n{callers} caller(s), {len(rounds['bare'])} rounds each")
    print(f"{'':10}{'calls/s':>9}{'ratio':>7}{'p50 us':>8}{'client us':>11}{'server us':>11}")
    for variant, own in rounds.items():
        ratios = [mine.rate / bare.rate for mine, bare in zip(own, rounds["bare"], strict=True)]
        calls = sum(each.calls for each in own)
        print(
            f"{variant:10}"
            f"{statistics.median(each.rate for each in own):9.0f}"
            f"{statistics.median(ratios):7.2f}"
            f"{statistics.median(each.median for each in own) * 1e6:8.0f}"
            f"{sum(each.client_cpu for each in own) / calls * 1e6:11.1f}"
            f"{sum(each.server_cpu for each in own) / calls * 1e6:11.1f}"
        )


def main() -> None:
    """Measures and prints."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=12.0, help="for each number of callers")
    seconds = arguments.parse_args().seconds
    pairs = {variant: Pair(variant) for variant in VARIANTS}
    for callers in CALLERS:
        report(callers, measure(pairs, callers, seconds))
    for pair in pairs.values():
        pair.close()


if __name__ == "__main__":
    main()
