from __future__ import annotations

import asyncio
import functools
import json
import socket
import sys
from typing import Any

from consulmesh.event_loop import EventLoop, is_of_poller
from tests.consulmesh.busy_loop import MANY


async def said(loop: str) -> dict[str, Any]:
    """What `tests.consulmesh.busy_loop` saw."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.consulmesh.busy_loop", loop), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    answer: dict[str, Any] = json.loads(output.splitlines()[-1])
    return answer


async def test_a_busy_loop_keeps_up_with_grpcs_completions() -> None:
    """All that gRPC's poller has written is taken in a turn, so that it never has to wait."""
    seen = await said("mesh")

    assert seen["sockets"] == 1  # what gRPC hands to add_reader is recognised
    assert seen["calls"] > 0
    assert seen["unread"] <= 16


async def test_uvloop_alone_falls_behind_grpcs_completions() -> None:
    """The defect of gRPC that our loop is for: one octet a turn is taken, whatever there is.

    When this fails after an upgrade of grpcio, look whether it takes all of them itself. Then
    `consulmesh.event_loop` can go.
    """
    seen = await said("plain")

    assert seen["sockets"] == 1
    assert seen["unread"] > MANY


async def test_processes_of_the_mesh_run_on_it() -> None:
    """`run` makes the loop."""
    assert await said("run") == {"loop": EventLoop.__qualname__}


def test_other_readers_are_left_alone() -> None:
    """What is not gRPC's finds all that was written, and gets its arguments."""
    loop = EventLoop()
    read, write = socket.socketpair()
    seen: list[tuple[str, bytes]] = []

    def reader(name: str) -> None:
        seen.append((name, read.recv(16)))
        loop.stop()

    try:
        read.setblocking(False)  # noqa: FBT003 - the socket's own signature
        write.send(b"abc")
        loop.add_reader(read, reader, "socket")
        loop.run_forever()
        loop.remove_reader(read)
        write.send(b"de")
        loop.add_reader(read.fileno(), reader, "descriptor")
        loop.run_forever()
        loop.remove_reader(read)
    finally:
        loop.close()
        read.close()
        write.close()

    assert seen == [("socket", b"abc"), ("descriptor", b"de")]


def test_nobody_else_is_taken_for_grpcs_poller() -> None:
    """Neither functions, nor methods, nor partials of them."""
    things: list[object] = []
    method = things.append
    others = (print, method, functools.partial(functools.partial(method), 1))

    assert not any(is_of_poller(each) for each in others)
