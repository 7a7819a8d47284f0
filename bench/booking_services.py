"""Booking, schedule and pricing as processes of a benchmark: wired as ever, without Consul."""

import asyncio
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import booking.__main__
import pricing.__main__
import schedule.__main__
from bench.durable import Storage
from bench.overhead import Child
from consulmesh import MeshConfig
from consulmesh.testing import StaticMesh
from consulmesh.testing.ports import free_port
from consulmesh.users import TokenVerifier
from eventstream import Database
from eventstream.metrics import GROUP_UNITS
from schedule.domain import Cabin, Flight
from schedule.sources import Nycflights13
from schedule.timetable import Airports, window
from schedule.window import DAYS, HOME, FlightsOf

SERVICES: Final = ("schedule", "pricing", "booking")
"""In the order in which they can start: each waits for those before it."""
AHEAD: Final = timedelta(days=10)
SEATS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process has used: CPU seconds, durable commits, units of work in them."""

    cpu: float = 0.0
    commits: float = 0.0
    units: float = 0.0

    def since(self, before: "Usage") -> "Usage":
        """What was used meanwhile."""
        return Usage(
            cpu=self.cpu - before.cpu,
            commits=self.commits - before.commits,
            units=self.units - before.units,
        )


class Fleet:
    """The services, and what they and everything else use. `targets` are gRPC's."""

    def __init__(
        self, children: dict[str, Child], targets: dict[str, str], storage: Storage
    ) -> None:
        self.targets = targets
        self.storage = storage
        self._children = children

    def usage(self) -> dict[str, Usage]:
        """What each process has used so far, this one as the client."""
        return {
            **{name: child.ask("usage") for name, child in self._children.items()},
            "client": Usage(cpu=time.process_time()),
            "database server": Usage(cpu=self.storage.server_cpu()),
        }


@contextmanager
def fleet(folder: Path, storage: Storage) -> Iterator[Fleet]:
    """One instance of each service for the block."""
    targets = {service: f"127.0.0.1:{free_port()}" for service in SERVICES}
    with ExitStack() as stack:
        children: dict[str, Child] = {}
        for service in SERVICES:
            url = storage.urls[service]
            child = Child(run_service, service, url, str(folder), json.dumps(targets))
            stack.callback(child.close)
            children[service] = child
        yield Fleet(children, targets, storage)


async def run_service(
    parent: Connection, service: str, url: str, folder: str, targets: str
) -> None:
    """A service's process: says when it serves, then what it has used whenever it is asked."""
    known: dict[str, str] = json.loads(targets)
    config = MeshConfig(
        version="0.0.0",
        port=int(known[service].rpartition(":")[2]),
        state_dir=Path(folder),
        metrics_port=None,
    )
    async with (
        Database.open(url, migrations=f"{service}:migrations") as db,
        StaticMesh(service, known, config=config) as mesh,
    ):
        served = asyncio.create_task(serve(mesh, db))
        serving = asyncio.create_task(mesh.serving.wait())
        await asyncio.wait({served, serving}, return_when=asyncio.FIRST_COMPLETED)
        if not served.done():
            parent.send("serving")
            while await asyncio.to_thread(parent.recv):
                parent.send(usage())
            mesh.draining.set()
        await served


async def serve(mesh: StaticMesh, db: Database) -> None:
    """What `python -m <service>` does once it has joined the mesh."""
    match mesh.service:
        case "schedule":
            airports = await asyncio.to_thread(Airports.load)
            await schedule.__main__.serve(mesh, db, airports, one_day(airports))
        case "pricing":
            await pricing.__main__.serve(mesh, db)
        case _:
            users = TokenVerifier.from_env(os.environ, mesh.config.state_dir)
            await booking.__main__.serve(mesh, db, users)


def usage() -> Usage:
    """What this process has used so far."""
    [histogram] = GROUP_UNITS.collect()
    told = {sample.name.rpartition("_")[2]: sample.value for sample in histogram.samples}
    return Usage(cpu=time.process_time(), commits=told["count"], units=told["sum"])


def flights_to_book() -> list[str]:
    """Ids of the flights of that day on which there is room for many."""
    days = window(datetime.now(HOME).date(), DAYS)
    return [
        flight.flight_id
        for _, flights in one_day(Airports.load())(days)
        for flight in flights
        if any(c.cabin is Cabin.ECONOMY and c.capacity >= SEATS for c in flight.cabins)
    ]


def one_day(airports: Airports) -> FlightsOf:
    """The real timetable of one day: flights enough for the bookings, and soon loaded."""
    of_days = Nycflights13(airports)

    def flights_of(days: Sequence[date]) -> Iterator[tuple[date, list[Flight]]]:
        yield from of_days([day for day in days if day == days[0] + AHEAD])

    return flights_of
