"""What others notice of a client that misbehaves: X5.

    MESH_RATE_LIMITS='{}' MESH_REQUESTS_AT_ONCE=100 MESH_CONNECTIONS=1000 make up
    python -m bench.abuse

Searches go on at 15 a second from 127.0.0.1, each answer checked, while somebody at 127.0.0.2 does
one thing after the other for some seconds: holds ten thousand idle connections, sends headers an
octet at a time, asks for pages of a billion, sends bodies of a hundred thousand items, asks for
quotes without end, and for what everybody asks for. Printed are the others' times, before and
meanwhile, and what the other got.
"""

import argparse
import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Final

import orjson

from bench.overhead import Child
from bench.rest import popular
from bench.steady import load, summary
from bench.subject import Subject
from consulmesh import event_loop
from tools.programs import Settings

OTHERS: Final = 15.0  # searches a second: what the default limits allow one address
ABUSER: Final = "127.0.0.2"
IDLE: Final = 10_000
SLOW: Final = 500
AT_ONCE: Final = 64
ITEMS: Final = 100_000
CLOSED: Final = "closed"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Abuser:
    """Somebody at another address, and what became of what it did."""

    port: int
    got: Counter[str] = field(default_factory=Counter)

    async def connect(self) -> Streams:
        """A new connection."""
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(ABUSER, 0))

    async def hold(self, slowly: bytes) -> None:
        """Keep a connection for as long as it is let, sending this an octet a second."""
        reader, writer = await self.connect()
        self.got["opened"] += 1
        try:
            for octet in slowly:
                writer.write(bytes([octet]))
                await asyncio.sleep(1)
            while await reader.read(65536):
                pass
            self.got[CLOSED] += 1
        except OSError:
            self.got[CLOSED] += 1
        finally:
            writer.close()

    async def ask(self, request: bytes) -> None:
        """The same request again and again, on one connection if it is let."""
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await self.connect()
                try:
                    while True:
                        writer.write(request)
                        await self._answer(reader)
                finally:
                    writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.got[head[9:12].decode()] += 1
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))


def get(target: str) -> bytes:
    """A request."""
    return f"GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def post(target: str, body: bytes) -> bytes:
    """A request with a body."""
    head = f"POST {target} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


HUGE_PAGE: Final = get(popular().replace("page_size=20", f"page_size={10**9}"))
HUGE_BODY: Final = post("/v1/quotes", orjson.dumps({"itinerary_ids": ["itn_x"] * ITEMS}))
QUOTE: Final = post("/v1/quotes", orjson.dumps({"itinerary_id": "itn_x", "passengers": 1}))

ABUSES: Final[dict[str, tuple[int, Callable[[Abuser], Awaitable[None]]]]] = {
    "nothing": (0, lambda abuser: abuser.ask(b"")),
    f"{IDLE:,} idle connections": (IDLE, lambda abuser: abuser.hold(b"")),
    f"{SLOW} slow senders": (SLOW, lambda abuser: abuser.hold(get(popular()))),
    "pages of 10^9": (AT_ONCE, lambda abuser: abuser.ask(HUGE_PAGE)),
    "bodies of 100,000 items": (AT_ONCE, lambda abuser: abuser.ask(HUGE_BODY)),
    "quotes without end": (AT_ONCE, lambda abuser: abuser.ask(QUOTE)),
    "popular searches without end": (AT_ONCE, lambda abuser: abuser.ask(get(popular()))),
}


async def run_abuser(parent: Connection, port: int, name: str) -> None:
    """The process of the one that misbehaves, until it is told to end; says what it got."""
    abuser = Abuser(port)
    count, act = ABUSES[name]
    tasks = [asyncio.create_task(_quiet(act(abuser))) for _ in range(count)]
    parent.send("begun")
    await asyncio.to_thread(parent.recv)
    parent.send(abuser.got)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(parent.recv)


async def _quiet(act: Awaitable[None]) -> None:
    with suppress(OSError):
        await act


async def measure(subject: Subject, seconds: float) -> None:
    """One after the other, and print."""
    calm = math.nan
    for name in ABUSES:
        abuser = Child(run_abuser, subject.settings.ports.gateway, name)
        try:
            async with load(subject.http, subject.settings.gateway_url, OTHERS) as calls:
                await asyncio.sleep(seconds)
            others, gotten = summary(calls), await asyncio.to_thread(abuser.ask, "end")
        finally:
            abuser.close()
        p99 = others.percentile(0.99)
        calm = p99 if math.isnan(calm) else calm
        got = ", ".join(f"{what}: {count:,}" for what, count in sorted(gotten.items()))
        print(
            f"{name}: {others}; p99 {p99 / calm:.1f} x; the other got {got or 'nothing'}",
            flush=True,
        )


async def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.abuse", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each abuse")
    given: Any = parser.parse_args()
    async with Subject.attach(Settings()) as subject:
        await measure(subject, given.seconds)


if __name__ == "__main__":
    event_loop.run(main())
