"""Load on an HTTP server whose process is measured: closed loop, one request after the other.

The client is as cheap as it can be in Python, so that a server is busy all the time.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, cast

import psutil

from bench.rest import CONNECTIONS, Round

HOST: Final = "127.0.0.1"
_CPU_CLOCK: Final = 2  # of a whole process, in nanoseconds; the other bits are its id, inverted


@dataclass(slots=True)
class Until:
    """When to stop asking, and how many answers came till then."""

    end: float
    answers: int = 0


class Asker(asyncio.Protocol):
    """Sends one request, awaits its answer, sends the next."""

    def __init__(self, requests: Iterator[bytes], until: Until) -> None:
        self._requests = requests
        self._until = until
        self._due = 0  # octets of the body
        self._got = bytearray()
        self._transport: asyncio.Transport | None = None
        self._wrong: Exception | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self._transport = cast("asyncio.Transport", transport)  # what uvloop has is none
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        """Ask again, once the answer is whole."""
        if not self._due:
            self._got += data
            head = self._got.find(b"\r\n\r\n") + 4
            if head < 4:
                return
            self._due = self._length(bytes(self._got[:head])) - len(self._got) + head
            self._got.clear()
        else:
            self._due -= len(data)
        if self._due <= 0:
            self._due = 0
            self._answered()

    def connection_lost(self, exc: Exception | None) -> None:
        """Over."""
        if self._wrong is None and time.monotonic() < self._until.end:
            self._wrong = exc or ConnectionError("the server hung up")
        if self._wrong is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(self._wrong)

    def _answered(self) -> None:
        assert self._transport is not None
        self._until.answers += 1
        if time.monotonic() < self._until.end:
            self._transport.write(next(self._requests))
        else:
            self._transport.close()

    def _length(self, head: bytes) -> int:
        if not head.startswith(b"HTTP/1.1 200 "):
            assert self._transport is not None
            self._wrong = RuntimeError(head.decode())
            self._transport.abort()
        return int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)


async def load(
    port: int, server: psutil.Process, requests: Iterator[bytes], seconds: float
) -> Round:
    """Load a server for a while. The CPU is that of its children, too."""
    loop = asyncio.get_running_loop()
    processes = (server, *server.children())
    before, began = spent(processes), time.monotonic()
    until = Until(began + seconds)
    askers = [
        (await loop.create_connection(lambda: Asker(requests, until), HOST, port))[1]
        for _ in range(CONNECTIONS)
    ]
    await asyncio.gather(*(asker.done for asker in askers))
    took, cpu = time.monotonic() - began, spent(processes) - before
    return Round(rate=until.answers / took, cpu=cpu / until.answers)


def spent(processes: Iterable[psutil.Process]) -> float:
    """Seconds of CPU that processes have taken, to the nanosecond (Linux)."""
    return sum(time.clock_gettime(~process.pid << 3 | _CPU_CLOCK) for process in processes)
