"""Three instances, one of them of a quarter of the speed: what each balancer makes of it.

    python -m bench.skew --seconds 20

Instances are processes; each serves one call at a time, in an exponential time around 10 ms, or
40 ms. Calls come at a constant rate, whether those before are answered or not, of which the three
together could do 60 %: round robin gives the slow one more than it can do. The balancers take
turns; what a turn begins with (connecting, learning weights) is not counted.
"""

import argparse
import asyncio
import multiprocessing
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import grpc
from grpc import aio

from bench.steady import percentile
from consulmesh import event_loop
from consulmesh.catalog import Upstream
from consulmesh.instances import Instance, Status
from consulmesh.server import MeshServer
from consulmesh.xds.bootstrap import bootstrap, channel_options
from consulmesh.xds.directory import Directory
from consulmesh.xds.messages import add_AggregatedDiscoveryServiceServicer_to_server
from consulmesh.xds.servicer import AdsServicer

METHOD: Final = "/bench.v1.SkewService/Get"
SECONDS: Final = (0.010, 0.010, 0.040)
SHARE: Final = 0.6
WARM_SECONDS: Final = 5.0
TIMEOUT: Final = 2.0
BALANCERS: Final = ("round_robin", "least_request")
TARGET: Final = "skew.default.default.dc1"

_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of a balancer: latencies of answered calls in seconds, calls of each instance."""

    latencies: list[float]
    calls: Counter[str]
    failed: int


class OneCatalog:
    """A catalog of one upstream that is balanced as told."""

    def __init__(self, ports: list[int]) -> None:
        self._instances = tuple(
            Instance(
                id=f"skew-{port}",
                address="127.0.0.1",
                port=port,
                weight=1,
                version="1.0.0",
                status=Status.PASSING,
                meta={},
            )
            for port in ports
        )
        self.balancer = ""

    def subscribe(self, name: str, on_change: Any) -> Any:
        """Tell what there is; nothing changes."""
        on_change(self._view(name))
        return lambda: None

    def _view(self, name: str) -> Upstream:
        place = {"Namespace": "default", "Partition": "default", "Datacenter": "dc1"}
        node = {
            "Type": "resolver",
            "Name": TARGET,
            "Resolver": {"Target": TARGET},
            "LoadBalancer": {"Policy": self.balancer},
        }
        return Upstream(
            name=name,
            chain={
                "ServiceName": name,
                **place,
                "StartNode": "start",
                "Nodes": {"start": node},
                "Targets": {TARGET: {"ID": TARGET, "Service": name, **place}},
            },
            instances_by_target={TARGET: self._instances},
            defaults={},
        )


def instance(parent: Connection, seconds: float) -> None:
    """The process of an instance: tells its port, and serves until it is told to end."""
    event_loop.run(_serve(parent, seconds))


async def _serve(parent: Connection, seconds: float) -> None:
    one_at_a_time = asyncio.Lock()
    server = MeshServer("skew", instance="skew/1", status_codes={}, access_log=lambda _record: None)

    async def get(_request: bytes, _context: object) -> bytes:
        async with one_at_a_time:
            await asyncio.sleep(random.expovariate(1 / seconds))
        return str(port).encode()

    handler: Any = grpc.unary_unary_rpc_method_handler(get)
    service, _, name = METHOD.lstrip("/").partition("/")
    server.add_registered_method_handlers(service, {name: handler})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    parent.send(port)
    await asyncio.to_thread(parent.recv)
    await server.stop(None)


async def turn(catalog: OneCatalog, balancer: str, seconds: float) -> Turn:
    """Call for so long through a channel of its own."""
    catalog.balancer = balancer
    async with AsyncExitStack() as stack:
        server = aio.server(options=[("grpc.so_reuseport", 0)])
        add_AggregatedDiscoveryServiceServicer_to_server(AdsServicer(Directory(catalog)), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, None)
        options = channel_options(bootstrap(f"127.0.0.1:{port}", node="bench"))
        channel = await stack.enter_async_context(
            aio.insecure_channel(f"xds:///{balancer}", options=options)
        )
        return await _load(channel, seconds)


async def _load(channel: aio.Channel, seconds: float) -> Turn:
    get: Any = channel.unary_unary(METHOD)
    rate = SHARE * sum(1 / each for each in SECONDS)
    made = Turn(latencies=[], calls=Counter(), failed=0)
    failed = 0

    async def one(*, counted: bool) -> None:
        nonlocal failed
        began = time.perf_counter()
        try:
            answer = (await get(b"", timeout=TIMEOUT)).decode()
        except aio.AioRpcError:
            failed += counted
            return
        if counted:
            made.latencies.append(time.perf_counter() - began)
            made.calls[answer] += 1

    await get(b"", timeout=10, wait_for_ready=True)
    start = time.monotonic()
    calls = []
    for number in range(round((WARM_SECONDS + seconds) * rate)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        calls.append(asyncio.create_task(one(counted=due - start >= WARM_SECONDS)))
    await asyncio.gather(*calls)
    return Turn(latencies=made.latencies, calls=made.calls, failed=failed)


def told(balancer: str, done: Turn, ports: list[int]) -> str:
    """One line of figures."""
    total = done.calls.total()
    shares = " ".join(f"{done.calls[str(port)] / total:.0%}" for port in ports)
    median, tail = (1000 * percentile(done.latencies, share) for share in (0.5, 0.99))
    return (
        f"{balancer:14} shares {shares}  p50 {median:6.1f} ms  p99 {tail:7.1f} ms"
        f"  failed {done.failed} of {total + done.failed}"
    )


async def compare(ports: list[int], seconds: float, rounds: int) -> None:
    """Let the balancers take turns, and print the figures of each."""
    catalog = OneCatalog(ports)
    for _ in range(rounds):
        for balancer in BALANCERS:
            print(told(balancer, await turn(catalog, balancer, seconds), ports), flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.skew", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    pipes, processes = [], []
    for seconds in SECONDS:
        ours, theirs = _spawn.Pipe()
        process = _spawn.Process(target=instance, args=(theirs, seconds), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    try:
        ports = [pipe.recv() for pipe in pipes]
        event_loop.run(compare(ports, arguments.seconds, arguments.rounds))
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            pipe.send(None)
            process.join(5)


if __name__ == "__main__":
    main()
