"""Thousands of live streams on one gateway: what they cost, and how soon a change is everywhere.

    python -m bench.live --clients 5000 --changes 60

Three processes: pricing's part (a real outbox in SQLite, served by a real feed), one gateway with
its HTTP server on a core of its own, and on the other core the clients, who all watch the same
flight. Printed are the gateway's memory and CPU without clients, with all of them, and in silence;
then, over all clients and changes, the time from before the change's transaction until the event
was read; then how long it took until the last one had it. The clients' own work is in these times.
"""

import argparse
import asyncio
import os
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import psutil
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection as SqlConnection
from sqlalchemy import MetaData

from bench.overhead import Child
from bench.steady import times
from consulmesh import event_loop, wellknown
from consulmesh.local_issuer import LocalIssuer
from consulmesh.testing import StaticMesh, running
from consulmesh.topology import Topology
from consulmesh.users import TokenVerifier
from eventstream import Database, Feed, Outbox
from flights.booking.v1.booking_pb2_grpc import BookingServiceStub
from flights.pricing.v1 import pricing_pb2 as pb
from flights.pricing.v1.pricing_pb2_grpc import (
    PricingServiceServicer,
    PricingServiceStub,
    add_PricingServiceServicer_to_server,
)
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from flights.search.v1.search_pb2_grpc import SearchServiceStub
from flights.type.v1.cabin_pb2 import CABIN_BUSINESS, CABIN_ECONOMY
from gateway_bff.app import create_app
from gateway_bff.readiness import Readiness
from gateway_bff.server import listening
from gateway_bff.settings import Settings
from gateway_bff.upstreams import Upstreams

FLIGHT: Final = "flt_abcdefgh23456723"
PATH: Final = f"/v1/prices/stream?flight_id={FLIGHT}"
OPENING_AT_ONCE: Final = 100
PATIENCE: Final = 60.0
SILENCE: Final = 20.0  # longer than between two heartbeats
METADATA: Final = MetaData()
OUTBOX: Final = Outbox(METADATA, "price")
MILLI: Final = 1e3
KIBI: Final = 1 << 10
MEBI: Final = 1 << 20


class Pricing(PricingServiceServicer):
    """The owner of one flight's prices."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._version = 0
        self._feed = Feed(db, OUTBOX, event=pb.PriceEvent, snapshot=lambda *_: ())

    async def GetPrices(self, request: pb.GetPricesRequest, context: Any) -> pb.GetPricesResponse:
        """The prices."""
        return pb.GetPricesResponse(prices=self._prices())

    async def WatchPrices(
        self, request: pb.WatchPricesRequest, context: Any
    ) -> AsyncIterator[pb.WatchPricesResponse]:
        """Every change."""
        cursor = request.cursor if request.HasField("cursor") else None
        watch = self._feed.watch(cursor, rows=not request.changes_only)
        async with aclosing(watch) as batches:
            async for batch in batches:
                yield pb.WatchPricesResponse(
                    phase=batch.phase,
                    cursor=batch.cursor,
                    events=batch.events,
                    read_time=batch.read_time,
                )

    async def change(self) -> float:
        """Change the prices; when that was begun."""
        began = time.monotonic()
        self._version += 1
        prices = pb.FlightPrices(flight_id=FLIGHT, version=self._version, prices=self._prices())
        event = pb.PriceEvent(prices_changed=prices).SerializeToString()
        now = datetime.now(UTC)

        def append(connection: SqlConnection) -> int:
            return OUTBOX.append(connection, FLIGHT, event, now)

        await self._db.write(append)
        return began

    def _prices(self) -> list[pb.Price]:
        return [
            pb.Price(
                flight_id=FLIGHT,
                cabin=cabin,
                version=self._version,
                fare=wellknown.money(Decimal(100 + self._version), "USD"),
                taxes=wellknown.money(Decimal("29.10"), "USD"),
            )
            for cabin in (CABIN_ECONOMY, CABIN_BUSINESS)
        ]


async def run_owner(parent: Connection, folder: str) -> None:
    """The owner's process: says its port, then changes the prices whenever it is asked."""
    async with Database.open(f"sqlite:///{folder}/pricing.db") as db:
        await db.write(METADATA.create_all)
        pricing = Pricing(db)  # type: ignore[abstract]  # the rest is not called
        async with running(
            lambda server: add_PricingServiceServicer_to_server(pricing, server)
        ) as (_, port):
            parent.send(port)
            while await asyncio.to_thread(parent.recv):
                parent.send(await pricing.change())


async def no_consul() -> Topology:
    """A mesh that nobody lists."""
    return Topology(services=(), edges=())


async def run_gateway(parent: Connection, folder: str, owner: int) -> None:
    """The gateway's process: says its port, then what it has used whenever it is asked."""
    os.sched_setaffinity(0, {0})
    allow_many_files()
    state, settings = Path(folder), Settings(limits={}, at_once=0)
    LocalIssuer(state / "issuer")
    target = f"127.0.0.1:{owner}"
    names = ("flight-search", "schedule", "pricing", "booking")
    async with StaticMesh("gateway-bff", dict.fromkeys(names, target)) as mesh:
        upstreams = Upstreams(
            search=SearchServiceStub(mesh.channel("flight-search")),
            schedule=ScheduleServiceStub(mesh.channel("schedule")),
            pricing=PricingServiceStub(mesh.channel("pricing")),
            booking=BookingServiceStub(mesh.channel("booking")),
            users=TokenVerifier.from_env({}, state),
            is_reachable=Readiness(mesh.channel("flight-search")),
            topology=no_consul,
        )
        app = create_app(upstreams, settings, registry=CollectorRegistry())
        for name, job in app.state.live.jobs().items():
            mesh.start(job, name=name)
        async with listening(
            app, host="127.0.0.1", port=0, settings=settings, grace=timedelta(seconds=5)
        ) as port:
            while await app.state.live.prices.position() is None:
                await asyncio.sleep(0.01)
            parent.send(port)
            while await asyncio.to_thread(parent.recv):
                parent.send((psutil.Process().memory_info().rss, time.process_time()))
            await app.state.streams.end(timedelta(0))


class Reader(asyncio.Protocol):
    """One client; `told` is when it read the newest price, `count` how many it read."""

    def __init__(self, crowd: "Crowd") -> None:
        self._crowd = crowd
        self._text = b""
        self.count = 0
        self.told = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        assert isinstance(transport, asyncio.Transport)
        transport.write(f"GET {PATH} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        """Count whole events; what else there is between the chunks is left alone."""
        *blocks, self._text = (self._text + data).split(b"\n\n")
        if prices := sum(b"event: price" in block for block in blocks):
            self.count += prices
            self.told = time.monotonic()
            self._crowd.heard()

    def connection_lost(self, exc: Exception | None) -> None:
        """A reader that is cut off spoils the run."""
        self._crowd.lost += 1


class Crowd:
    """All clients."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._heard = asyncio.Event()
        self._left = 0
        self.readers: list[Reader] = []
        self.lost = 0

    def heard(self) -> None:
        """A client has read a price."""
        self._left -= 1
        if self._left <= 0:
            self._heard.set()

    async def grow(self, clients: int) -> None:
        """Open so many streams, and wait until each has the state."""
        while len(self.readers) < clients:
            size = min(OPENING_AT_ONCE, clients - len(self.readers))
            await self._all(size, self._open(size))

    async def tell(self, owner: Child) -> list[float]:
        """Change the price; seconds until each client had it."""
        began = await self._all(len(self.readers), asyncio.to_thread(owner.ask, "change"))
        return [reader.told - began for reader in self.readers]

    async def _all(self, count: int, news: Awaitable[Any]) -> Any:
        """Wait until so many prices were read of what this brings about; its result."""
        self._left = count
        self._heard.clear()
        result = await news
        async with asyncio.timeout(PATIENCE):
            await self._heard.wait()
        return result

    async def _open(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            reader = Reader(self)
            await loop.create_connection(lambda made=reader: made, "127.0.0.1", self._port)  # type: ignore[misc]  # mypy can't infer it
            self.readers.append(reader)


def allow_many_files() -> None:
    """Raise the limit of open files as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def measure(gateway: Child, owner: Child, clients: int, changes: int) -> None:
    """Open all streams, be silent, then change the price again and again."""
    crowd = Crowd(gateway.said)
    empty, cpu = gateway.ask("usage")
    began = time.monotonic()
    await crowd.grow(clients)
    took = time.monotonic() - began
    full, opened = gateway.ask("usage")
    print(
        f"{clients:,} streams opened in {took:.1f} s: CPU {opened - cpu:.1f} s, "
        f"RSS {empty / MEBI:.0f} to {full / MEBI:.0f} MiB, "
        f"{(full - empty) / clients / KIBI:.1f} KiB a stream",
        flush=True,
    )
    await asyncio.sleep(SILENCE)
    rss, silent = gateway.ask("usage")
    print(f"silence: CPU {(silent - opened) / SILENCE:.3f}, RSS {rss / MEBI:.0f} MiB", flush=True)
    told = [await crowd.tell(owner) for _ in range(changes)]
    rss, spent = gateway.ask("usage")
    print(
        f"{changes} changes: {times('a client', [each for one in told for each in one])}; "
        f"{times('the last one', [max(one) for one in told])}; CPU "
        f"{(spent - silent) / changes / clients * MILLI * MILLI:.0f} µs an event, "
        f"RSS {rss / MEBI:.0f} MiB, streams lost: {crowd.lost}",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Thousands of live streams on one gateway.")
    parser.add_argument("--clients", type=int, default=5_000)
    parser.add_argument("--changes", type=int, default=60)
    given = parser.parse_args()
    os.sched_setaffinity(0, {1})  # children inherit it; the gateway moves to the other core
    allow_many_files()
    with tempfile.TemporaryDirectory(prefix="flightmesh-bench-") as folder:
        owner = Child(run_owner, folder)
        gateway = Child(run_gateway, folder, owner.said)
        event_loop.run(measure(gateway, owner, given.clients, given.changes))
        gateway.close()
        owner.close()


if __name__ == "__main__":
    main()
