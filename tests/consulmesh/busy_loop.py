"""An event loop that is busy while gRPC calls go on: `python -m tests.consulmesh.busy_loop LOOP`.

LOOP is "plain" (uvloop's own), "mesh" (ours) or "run" (the one that processes of the mesh have).
A process of its own, as one poller serves all loops of a process. Says in JSON what was seen.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVarTuple

import grpc
import uvloop
from grpc import aio

from consulmesh import run
from consulmesh.event_loop import EventLoop, is_of_poller

_Ts = TypeVarTuple("_Ts")

CALLERS: Final = 64
TURNS: Final = 600
MOST_TURNS: Final = 10 * TURNS
LAST: Final = 100
MANY: Final = 128  # octets, half of what fits into the pair
TURN_SECONDS: Final = 0.002


_of_poller: Final[list[socket.socket]] = []
"""The sockets that gRPC's completions are announced on."""


class Plain(uvloop.Loop):
    """Uvloop's, and what gRPC hands to it is remembered."""

    def add_reader(self, fd: object, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """As the base does it."""
        remember(fd, callback)
        super().add_reader(fd, callback, *args)


class Mesh(EventLoop):
    """Ours, and what gRPC hands to it is remembered."""

    def add_reader(self, fd: object, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """As the base does it."""
        remember(fd, callback)
        super().add_reader(fd, callback, *args)


def remember(fd: object, callback: Callable[..., object]) -> None:
    """Keeps the socket if it is the poller's."""
    if isinstance(fd, socket.socket) and is_of_poller(callback):
        _of_poller.append(fd)


def server() -> tuple[grpc.Server, int]:
    """A server with threads of its own, which nothing here slows down, and its port."""
    made = grpc.server(ThreadPoolExecutor(4))
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
        lambda request, _context: request
    )
    made.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("echo", {"Echo": handler}),)
    )
    port = made.add_insecure_port("127.0.0.1:0")
    made.start()
    return made, port


def unread(read: socket.socket) -> int:
    """How many octets wait in a socket."""
    try:
        return len(read.recv(65536, socket.MSG_PEEK))
    except BlockingIOError:
        return 0


async def load(enough: float) -> dict[str, object]:
    """Keeps the loop busy in each of its turns, beside callers that never rest.

    For longer where no more than `enough` octets were left: a slow machine answers fewer calls.
    """
    left: list[int] = []
    calls = 0

    async def call(echo: aio.UnaryUnaryMultiCallable[bytes, bytes]) -> None:
        nonlocal calls
        while True:
            await echo(b"x", timeout=60)
            calls += 1

    serving, port = server()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        echo: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/echo/Echo")
        callers = [asyncio.create_task(call(echo)) for _ in range(CALLERS)]
        while len(left) < TURNS or (
            len(left) < MOST_TURNS and statistics.median(left[-LAST:]) <= enough
        ):
            await asyncio.sleep(0)  # a turn of the loop
            left.append(unread(_of_poller[0]))
            time.sleep(TURN_SECONDS)  # noqa: ASYNC251 - this is what is tested
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    serving.stop(None).wait()
    unread_octets = statistics.median(left[-LAST:])
    return {"sockets": len(_of_poller), "unread": unread_octets, "calls": calls}


async def which() -> None:
    """Says what loop it runs on."""
    print(json.dumps({"loop": type(asyncio.get_running_loop()).__qualname__}))


def main(name: str) -> None:
    """Entry point."""
    if name == "run":
        run(which)
        return
    factory, enough = {"plain": (Plain, MANY), "mesh": (Mesh, -1)}[name]
    with asyncio.Runner(loop_factory=factory) as runner:
        print(json.dumps(runner.run(load(enough))))


if __name__ == "__main__":
    main(sys.argv[1])
