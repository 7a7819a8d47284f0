"""The event loop of a process of the mesh: uvloop, and gRPC's completions as they come.

gRPC's poller thread writes an octet into a socket pair for each completion, and what reads them on
the loop takes one octet a turn, however many completions it finds. A loop that is busy falls behind
until the pair is full, after some 300: then the thread blocks, and gRPC gets one completion a turn
ever after. At turns of 3 ms that is 200 calls a second of 2,700, and a wait of a second for each.
"""

import asyncio
import functools
import socket
from collections.abc import Callable, Coroutine
from typing import Final, TypeVar, TypeVarTuple

import uvloop
from grpc._cython.cygrpc import (  # type: ignore[import-not-found]  # the stubs leave it out
    PollerCompletionQueue,
)

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_MOST: Final = 4096  # octets, far more than fit into the pair


class EventLoop(uvloop.Loop):
    """uvloop's, but all octets that gRPC's poller has written are taken at once."""

    def add_reader(self, fd: object, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """As the base does it."""
        if isinstance(fd, socket.socket) and is_of_poller(callback):
            super().add_reader(fd, _all_but_one, fd, functools.partial(callback, *args))
        else:
            super().add_reader(fd, callback, *args)


def run(main: Coroutine[object, object, _T]) -> _T:
    """As `asyncio.run`, on an EventLoop."""
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        return runner.run(main)


def is_of_poller(callback: Callable[..., object]) -> bool:
    """Whether this is what gRPC handles its completions with."""
    while isinstance(callback, functools.partial):
        callback = callback.func
    return isinstance(getattr(callback, "__self__", None), PollerCompletionQueue)


def _all_but_one(read: socket.socket, handle: Callable[[], object]) -> None:
    """Takes all octets but the one that gRPC takes itself.

    Completions are in its queue before their octets are here, and it handles all that are there.
    """
    waiting = len(read.recv(_MOST, socket.MSG_PEEK))
    if waiting > 1:
        read.recv(waiting - 1)
    handle()
