"""What mTLS costs: a call over the mesh with it against one without, and a new connection.

    python -m bench.secure --seconds 12

Both have joined a mesh on a real Consul with ACLs; `secure` has certificates of its CA and decides
by intentions. Servers and clients are processes of their own, rounds alternate; printed are
medians, and ratios within a round. A connection is counted until the first answer on it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
from grpc import aio

from bench.overhead import CALLERS, MICRO, REQUEST, Child, Pair, Round, add_echo, echo_stub, load
from bench.overhead import measure as rounds_of
from consulmesh.config import MeshConfig
from consulmesh.event_loop import EventLoop
from consulmesh.mesh import Mesh
from consulmesh.testing import real_consul

VARIANTS: Final = ("plain", "secure")
CONNECTIONS: Final = 100
CONNECT: Final = "connect"


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The Consul, and the tokens of services."""

    url: str
    grpc: str
    tokens: dict[str, str]


async def run_consul(parent: Connection) -> None:
    """The Consul's process."""
    async with real_consul(secure=True) as consul:
        headers = {"X-Consul-Token": consul.token or ""}
        async with aiohttp.ClientSession(
            consul.url, headers=headers, raise_for_status=True
        ) as http:
            tokens = {}
            for name in ("client", *(f"bench-{variant}" for variant in VARIANTS)):
                identity = {"ServiceIdentities": [{"ServiceName": name}]}
                async with http.put("/v1/acl/token", json=identity) as answer:
                    tokens[name] = (await answer.json())["SecretID"]
            entry = {"Kind": "service-intentions", "Name": "bench-secure"}
            sources = [{"Name": "client", "Action": "allow"}]
            await http.put("/v1/config", json=entry | {"Sources": sources})
        parent.send(Where(url=consul.url, grpc=consul.grpc, tokens=tokens))
        await asyncio.to_thread(parent.recv)


@asynccontextmanager
async def joined(where: Where, service: str, variant: str) -> AsyncIterator[tuple[Mesh, Path]]:
    """A process in the mesh, and its folder."""
    with tempfile.TemporaryDirectory() as folder:
        config = MeshConfig(
            version="0.0.0",
            consul_url=where.url,
            consul_grpc=where.grpc,
            consul_token=where.tokens[service],
            state_dir=Path(folder),
            secure=variant == "secure",
        )
        async with Mesh.join(service, config) as mesh:
            yield mesh, Path(folder)


async def run_server(parent: Connection, variant: str, where: Where) -> None:
    """A server's process: says its address, then its CPU time whenever it is asked."""
    async with joined(where, f"bench-{variant}", variant) as (mesh, _):
        server = mesh.server(status_codes={})
        add_echo(server)

        async def listening() -> None:
            parent.send(mesh.address)

        serving = asyncio.create_task(mesh.serve(server, warm=listening))
        while await asyncio.to_thread(parent.recv):
            parent.send(time.process_time())
        mesh.draining.set()
        await serving


async def run_client(parent: Connection, variant: str, where: Where, address: str) -> None:
    """A client's process: makes a round of calls, or connections, whenever it is told."""
    async with joined(where, "client", variant) as (mesh, folder):
        stub = echo_stub(mesh.channel(f"bench-{variant}"))
        await stub(REQUEST, timeout=60, wait_for_ready=True)
        parent.send("ready")
        while what := await asyncio.to_thread(parent.recv):
            if what == CONNECT:
                parent.send(await _connecting(variant, folder, mesh.instance_id, address))
            else:
                parent.send(await load(stub, what))


async def _connecting(variant: str, folder: Path, instance: str, address: str) -> list[float]:
    """Seconds from a new channel to the first answer on it."""
    took = []
    for _ in range(CONNECTIONS):
        began = time.perf_counter()
        async with _fresh(variant, folder / "identities" / instance, address) as channel:
            await echo_stub(channel)(REQUEST, timeout=10)
            took.append(time.perf_counter() - began)
    return took


def _fresh(variant: str, identity: Path, address: str) -> aio.Channel:
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
    if variant == "plain":
        return aio.insecure_channel(address, options=options)
    files = (identity / f"{name}.pem" for name in ("roots", "key", "certificate"))
    credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
    named = ("grpc.ssl_target_name_override", "bench-secure.service.consul")
    return aio.secure_channel(address, credentials, options=[*options, named])


def started(variant: str, where: Where) -> Pair:
    """The server and the client of a variant."""
    server = Child(run_server, variant, where, loop=EventLoop)
    return Pair(server, Child(run_client, variant, where, server.said, loop=EventLoop))


def report(callers: int, rounds: dict[str, list[Round]]) -> None:
    """Prints one line for each variant."""
    plain = rounds["plain"]
    for variant, own in rounds.items():
        ratio = statistics.median(a.rate / b.rate for a, b in zip(own, plain, strict=True))
        latency, client, server = (
            MICRO * statistics.median(figures)
            for figures in zip(
                *((each.latency, each.client_cpu, each.server_cpu) for each in own), strict=True
            )
        )
        print(
            f"{callers:3} caller(s)  {variant:7} ratio {ratio:.2f}  p50 {latency:6.0f} us"
            f"  client CPU {client:5.0f} us  server CPU {server:5.0f} us"
        )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="What mTLS costs over the mesh.")
    parser.add_argument("--seconds", type=float, default=12.0, help="for each number of callers")
    seconds = parser.parse_args().seconds
    consul = Child(run_consul)
    pairs = {variant: started(variant, consul.said) for variant in VARIANTS}
    for callers in CALLERS:
        report(callers, rounds_of(pairs, callers, seconds))
    for variant, pair in pairs.items():
        took = sorted(pair.client.ask(CONNECT))
        median, most = (1000 * took[int(share * len(took))] for share in (0.5, 0.99))
        print(f"new connection {variant:7} p50 {median:.1f} ms  p99 {most:.1f} ms")
    for pair in pairs.values():
        pair.close()
    consul.close()


if __name__ == "__main__":
    main()
