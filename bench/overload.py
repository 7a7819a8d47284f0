"""What the public API does with more than it can do: L3 and L4.

    make up && python -m bench.overload
    MESH_QUEUE_TARGET=off make up && python -m bench.overload    (the same, nothing shed)

Searches that nobody has asked before, first on 12 connections on which the next request follows the
last answer: that is what one gateway can do. Then open loop, requests come when they are due
whatever became of those before, at 0.6, 2 and 5 times of that, and at 0.6 again. One request in
twenty is about a quote, which is more important than a search.

Times count from when a request was due. CPU is the gateway's; rho is that of a refusal, which is
what its CPU was beyond that of the answers, over that of an answer. Nobody can serve more than
(1 - k rho)/(1 - rho) of their capacity under k times of it.
"""

import argparse
import asyncio
import itertools
import math
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, cast

import psutil
import uvloop

from bench.overhead import MICRO
from bench.rest import GATEWAY, Variant, cpu_of, load, unasked
from bench.steady import percentile
from bench.subject import Subject
from tools.programs import Settings

NORMAL: Final = 0.6
FACTORS: Final = (NORMAL, 2.0, 5.0, NORMAL)
CAPACITY_SECONDS: Final = 5.0
CRITICAL_EVERY: Final = 20
CRITICAL: Final = "/v1/quotes/00000000-0000-4000-8000-000000000000"
TICK_SECONDS: Final = 0.002
LONGEST_SECONDS: Final = 10.0  # that anybody waits for an answer
CONNECTIONS: Final = 1_000
FEW: Final = 12  # enough for the processes to be busy, and for nobody to wait long
SERVED: Final = frozenset({200, 404})
REFUSED: Final = 503
NOTHING: Final = 0  # the status of what got no answer


class Connection(asyncio.Protocol):
    """One connection to the gateway: a request, its answer, the next."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[int] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.transport = cast("asyncio.Transport", transport)  # what uvloop has is none

    def connection_lost(self, exc: Exception | None) -> None:
        """What was asked is not answered any more."""
        self.transport = None
        self._done(NOTHING)

    def data_received(self, data: bytes) -> None:
        """Wait for the end of the answer."""
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(rest) >= int(length or 0):
            self._buffer.clear()
            self._done(int(head[9:12]))

    async def ask(self, target: str) -> int:
        """Send a request; returns the status of its answer."""
        assert self.transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(f"GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        return await self._answer

    def close(self) -> None:
        """Let go."""
        if self.transport is not None:
            self.transport.close()

    def _done(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)


@dataclass(slots=True)
class Phase:
    """What became of the requests of some seconds: latencies by what they were, and status."""

    factor: float
    seconds: float
    cpu: float = 0.0
    own: list[float] = field(default_factory=list)  # how late this process itself was
    latencies: dict[tuple[bool, int], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def of(self, *, critical: bool, served: bool) -> list[float]:
        """The latencies of those requests that were served, or refused."""
        return [
            seconds
            for (is_critical, status), its in self.latencies.items()
            if is_critical is critical and (status in SERVED if served else status == REFUSED)
            for seconds in its
        ]

    @property
    def served(self) -> list[float]:
        """The latencies of all that was served."""
        return self.of(critical=True, served=True) + self.of(critical=False, served=True)

    @property
    def refused(self) -> list[float]:
        """The latencies of all that was refused."""
        return self.of(critical=True, served=False) + self.of(critical=False, served=False)

    @property
    def lost(self) -> int:
        """How many were neither: other statuses, none in time."""
        return sum(map(len, self.latencies.values())) - len(self.served) - len(self.refused)


class Door:
    """The gateway, over as many connections as there are requests at once."""

    def __init__(self, port: int, targets: Iterator[str]) -> None:
        self._port = port
        self._targets = targets
        self._free: deque[Connection] = deque()

    async def open(self) -> None:
        """Open the connections, as a proxy has them open.

        An event loop that is behind takes up one new connection a turn (libuv), and what is behind
        that measures the backlog of the kernel.
        """
        for _ in range(CONNECTIONS):
            self._free.append(await self._connected())

    async def phase(self, factor: float, rate: float, seconds: float) -> Phase:
        """Requests at constant arrivals for a while, until all of them are answered."""
        loop = asyncio.get_running_loop()
        phase = Phase(factor, seconds)
        began, count = loop.time(), 0
        tasks: set[asyncio.Task[None]] = set()
        while (now := loop.time() - began) < seconds:
            while count < now * rate:
                critical = count % CRITICAL_EVERY == 0
                task = asyncio.create_task(self._request(phase, began + count / rate, critical))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                count += 1
            slept = loop.time()
            await asyncio.sleep(TICK_SECONDS)
            phase.own.append(loop.time() - slept - TICK_SECONDS)
        await asyncio.gather(*tasks)
        return phase

    def close(self) -> None:
        """Close what is open."""
        for connection in self._free:
            connection.close()

    async def _request(self, phase: Phase, due: float, critical: bool) -> None:  # noqa: FBT001 - hot
        status = NOTHING
        connection: Connection | None = None
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                connection = await self._connection()
                status = await connection.ask(CRITICAL if critical else next(self._targets))
        except (TimeoutError, OSError):
            if connection is not None:
                connection.close()
        if connection is not None:
            self._free.append(connection)
        phase.latencies[critical, status].append(asyncio.get_running_loop().time() - due)

    async def _connection(self) -> Connection:
        if not self._free:
            raise OSError("all connections wait for an answer")
        connection = self._free.popleft()  # the one that was idle for longest
        return connection if connection.transport is not None else await self._connected()

    async def _connected(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
        return connection


def fresh() -> Iterator[str]:
    """Searches that nobody has asked before: those of `bench.rest`, from each minute of a night."""
    for minute in itertools.count(1):
        hours, minutes = divmod(minute, 60)
        for each in unasked_once():
            yield f"{each}&departs_from={hours:02}:{minutes:02}"


def unasked_once() -> Iterator[str]:
    """As `unasked`, but with an end."""
    try:
        yield from unasked()
    except RuntimeError:
        return


def row(phase: Phase, capacity: float, cost: float) -> str:
    """The figures of a phase; `cost` is the CPU of an answer."""
    served, refused = phase.served, phase.refused
    rest = phase.cpu - len(served) * cost
    rho = rest / len(refused) / cost if refused else math.nan
    bound = max(0.0, (1 - phase.factor * rho) / (1 - rho)) if refused else math.nan
    goodput = len(served) / phase.seconds / capacity
    return (
        f"{phase.factor:3.1f} x: served {len(served) / phase.seconds:6,.0f}/s, {goodput:.2f} of "
        f"capacity (bound {bound:.2f}); p50 {ms(served, 0.5)} p99 {ms(served, 0.99)} ms; "
        f"refused {len(refused):,}, p99 {ms(refused, 0.99)} ms, rho {rho:.3f}; lost {phase.lost}; "
        f"critical: {len(phase.of(critical=True, served=True))} served, "
        f"{len(phase.of(critical=True, served=False))} refused; "
        f"the client itself was late by p99 {ms(phase.own, 0.99)} ms"
    )


def ms(seconds: list[float], share: float) -> str:
    """A percentile in ms."""
    return f"{percentile(seconds, share) * 1000:,.0f}" if seconds else "-"


async def measure(subject: Subject, seconds: float) -> None:
    """Find the capacity, then load and print."""
    port = subject.settings.ports.gateway
    gateway = psutil.Process(subject.pid(GATEWAY))
    targets = fresh()
    asked = Variant(name="new", port=port, server=gateway, targets=targets)
    closed = await load(asked, CAPACITY_SECONDS, FEW)
    print(f"capacity: {closed.rate:,.0f} searches/s, {closed.cpu * MICRO:,.0f} µs of CPU each")
    door = Door(port, targets)
    try:
        await door.open()
        for factor in FACTORS:
            before = cpu_of(gateway)
            began = time.monotonic()
            phase = await door.phase(factor, factor * closed.rate, seconds)
            phase.seconds = time.monotonic() - began
            phase.cpu = cpu_of(gateway) - before
            print(row(phase, closed.rate, closed.cpu), flush=True)
    finally:
        door.close()


async def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    given: Any = parser.parse_args()
    async with Subject.attach(Settings()) as subject:
        await measure(subject, given.seconds)


if __name__ == "__main__":
    uvloop.run(main())
