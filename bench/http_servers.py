"""uvicorn and granian as servers of the same ASGI applications: what ADR 14 decides by.

    pip install granian==2.8.7        (in an environment of its own: the project does without)
    python -m bench.http_servers --seconds 90

`uvicorn` is the gateway's own server, with its limits. `granian` is that program, whose one worker
has an event loop to itself; `embedded` is granian in a loop that runs already, which the gateway
needs. Each is a process with uvloop and 32 connections on which the next request follows the last
answer. The applications are ASGI alone, a route of FastAPI, and the gateway over a search that
answers at once.

Rounds alternate; printed are medians over the rounds, and ratios within a round against `uvicorn`.
CPU is all of the server's process, its other threads and the kernel's part too.
"""

import argparse
import asyncio
import importlib
import importlib.util
import itertools
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any, Final

import psutil
import uvloop
from fastapi import FastAPI, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.door import HOST, load
from bench.layers import World, a_world, gateway, searches
from bench.overhead import MICRO, Child
from bench.rest import LEAST_ROUNDS, ROUND_SECONDS, Round
from consulmesh.event_loop import EventLoop
from consulmesh.garbage import collected_rarely
from consulmesh.testing.ports import free_port
from gateway_bff.server import listening
from gateway_bff.settings import Settings

GRANIAN: Final = "2.8.7"
BACKLOG: Final = 4096
PATIENCE_SECONDS: Final = 10.0
PAGE: Final = b"x" * 10_000
BODIES: Final = {"/tiny": b'{"ok":true}', "/page": PAGE}
TESTS: Final = (("bare", "/tiny"), ("bare", "/page"), ("fastapi", "/page"))
GRACE: Final = timedelta(seconds=1)

Serving = Callable[[ASGIApp], AbstractAsyncContextManager[int]]


async def bare(scope: Scope, _receive: Receive, send: Send) -> None:
    """ASGI and nothing else."""
    body = BODIES[scope["path"]]
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


fastapi: Final = FastAPI()


@fastapi.get("/page")
async def page() -> Response:
    """The page as a route of FastAPI."""
    return Response(PAGE, media_type="application/json")


@asynccontextmanager
async def uvicorn(app: ASGIApp) -> AsyncIterator[int]:
    """The gateway's server; gives its port."""
    async with listening(app, host=HOST, port=0, settings=Settings(), grace=GRACE) as port:
        yield port


@asynccontextmanager
async def embedded(app: ASGIApp) -> AsyncIterator[int]:
    """Granian in this loop; gives its port."""
    embed = importlib.import_module("granian.server.embed")
    constants = importlib.import_module("granian.constants")
    port = free_port()
    server = embed.Server(
        app,
        address=HOST,
        port=port,
        interface=constants.Interfaces.ASGINL,
        http=constants.HTTPModes.http1,
        websockets=False,
        log_enabled=False,
        backlog=BACKLOG,
    )
    serving = asyncio.create_task(server.serve())
    await asyncio.to_thread(wait_for, port)
    try:
        yield port
    finally:
        server.stop()
        await serving


async def serve(parent: Connection, name: str, app: str) -> None:
    """The process of a server in a loop of ours."""
    async with SERVERS[name](APPLICATIONS[app]) as port:
        parent.send(port)
        await asyncio.to_thread(parent.recv)


async def serve_search(parent: Connection, name: str, world: World) -> None:
    """The same for the gateway, over a search that answers at once."""
    async with gateway(world) as app, SERVERS[name](app) as port:
        with collected_rarely():
            parent.send(port)
            await asyncio.to_thread(parent.recv)


@contextmanager
def in_our_loop(
    role: Callable[..., Coroutine[Any, Any, None]], *args: object
) -> Iterator[tuple[int, psutil.Process]]:
    """Port and process of such a server."""
    child = Child(role, *args, loop=EventLoop)
    try:
        yield child.said, psutil.Process(child.pid)
    finally:
        child.close()


@contextmanager
def granian(app: str) -> Iterator[tuple[int, psutil.Process]]:
    """Port and process of granian as a program; its worker is a child."""
    port = free_port()
    kind = ("--interface", "asginl", "--loop", "uvloop", "--workers", "1", "--http", "1", "--no-ws")
    place = ("--host", HOST, "--port", str(port), "--backlog", str(BACKLOG), "--no-log")
    program = (sys.executable, "-m", "granian", *kind, *place, f"{__spec__.name}:{app}")
    with subprocess.Popen(program) as process:
        try:
            wait_for(port)
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()


def wait_for(port: int) -> None:
    """Until there is a server."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection((HOST, port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


SERVERS: Final[dict[str, Serving]] = {"uvicorn": uvicorn, "embedded": embedded}
APPLICATIONS: Final[dict[str, ASGIApp]] = {"bare": bare, "fastapi": fastapi}


async def measure(
    servers: Mapping[str, tuple[int, psutil.Process]], requests: Iterator[bytes], seconds: float
) -> None:
    """Alternate rounds, after one of each that does not count, and print."""
    rounds: dict[str, list[Round]] = {name: [] for name in servers}
    for _ in range(1 + max(LEAST_ROUNDS, round(seconds / ROUND_SECONDS / len(servers)))):
        for name, (port, process) in servers.items():
            rounds[name].append(await load(port, process, requests, ROUND_SECONDS))
    report({name: its[1:] for name, its in rounds.items()})


def report(rounds: dict[str, list[Round]]) -> None:
    """Print what the servers did with an application."""
    first = rounds["uvicorn"]
    print(f"{len(first)} rounds")
    for name, its in rounds.items():
        rate = statistics.median(one.rate for one in its)
        cpu = statistics.median(one.cpu for one in its) * MICRO
        rates = statistics.median(
            one.rate / base.rate for one, base in zip(its, first, strict=True)
        )
        cpus = statistics.median(one.cpu / base.cpu for one, base in zip(its, first, strict=True))
        print(f"{name:9}{rate:9,.0f}/s ({rates:.2f}) {cpu:6.1f} µs of CPU ({cpus:.2f})")


async def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.http_servers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=90.0, help="of all tests together")
    given: Any = parser.parse_args()
    if importlib.util.find_spec("granian") is None:
        sys.exit(f"granian is not installed: pip install granian=={GRANIAN}")
    seconds = given.seconds / (1 + len(TESTS))
    for app, path in TESTS:
        print(f"\n{app} {path}")
        request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
        with (
            in_our_loop(serve, "uvicorn", app) as ours,
            granian(app) as program,
            in_our_loop(serve, "embedded", app) as within,
        ):
            servers = {"uvicorn": ours, "granian": program, "embedded": within}
            await measure(servers, itertools.repeat(request), seconds)
    print("\na search of the gateway")
    with (
        a_world() as (world, _),
        in_our_loop(serve_search, "uvicorn", world) as ours,
        in_our_loop(serve_search, "embedded", world) as within,
    ):
        await measure({"uvicorn": ours, "embedded": within}, searches(), seconds)


if __name__ == "__main__":
    uvloop.run(main())
