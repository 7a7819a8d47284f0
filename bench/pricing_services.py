"""Pricing, as a process of a benchmark, and the schedule that it follows, as another.

Pricing is wired as ever, without Consul, but for its clock: a benchmark can set that forward. The
schedule is that of `bench.search_owners`, and sells seats.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
import sqlalchemy

import pricing.__main__
from bench.search_owners import Owners, World
from consulmesh import MeshConfig
from consulmesh.server import SERVER_OPTIONS
from consulmesh.testing import StaticMesh
from consulmesh.testing.ports import free_port
from eventstream import Database
from flights.schedule.v1 import schedule_pb2
from pricing import tables

MOST_SEATS: Final = 4  # that somebody buys at once
FORWARD: Final = timedelta(days=1)
TICKS: Final = 20  # a second: a feed puts together what has gathered while its reader was busy
SERVER: Final = "postgresql"


class Selling(World):
    """A timetable of which seats are sold, and nothing else happens."""

    def changed(self) -> tuple[str, Any]:
        """Some seats of some flight are sold."""
        number = self.draw.randrange(len(self.flights))
        event = self.flight(number)
        flight = event.flight_changed
        flight.version += 1
        cabin = self.draw.choice(flight.cabins)
        cabin.available = max(0, cabin.available - self.draw.randint(1, MOST_SEATS))
        self.flights[number] = event.SerializeToString()
        return "schedule", event

    def busiest(self) -> tuple[str, str, list[str]]:
        """The route with the most flights, and those, nearest departures first."""
        routes: Counter[tuple[str, str]] = Counter()
        for flight in map(self._flight, self.flights):
            routes[flight.origin, flight.destination] += 1
        route = max(routes, key=lambda each: (routes[each], each))
        found = [f for f in map(self._flight, self.flights) if (f.origin, f.destination) == route]
        found.sort(key=lambda flight: (flight.departure_time.seconds, flight.flight_id))
        return *route, [flight.flight_id for flight in found]

    def some(self, count: int) -> list[str]:
        """Ids of some flights of the last days of the window."""
        last = range(len(self.flights) * 4 // 5, len(self.flights))
        return [self.flight(n).flight_changed.flight_id for n in self.draw.sample(last, count)]

    @staticmethod
    def _flight(event: bytes) -> schedule_pb2.Flight:
        return schedule_pb2.FlightEvent.FromString(event).flight_changed


async def run_schedule(parent: Connection, source: str) -> None:
    """The process: says its address and how many flights there are, then does what it is told.

    "now" is answered by its position, "busiest" by a route with its flights, a number by some
    flights. A pair is so many changes a second for so many seconds: prepared, then begun and
    answered.
    """
    world = Selling(source)
    owners = Owners(world, TICKS)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    owners.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    parent.send((f"127.0.0.1:{port}", len(world.flights)))
    jobs = [asyncio.create_task(owners.mark())]
    while (told := await asyncio.to_thread(parent.recv)) is not None:
        match told:
            case "now":
                parent.send(owners.now()["schedule"])
            case "busiest":
                parent.send(await asyncio.to_thread(world.busiest))
            case int():
                parent.send(await asyncio.to_thread(world.some, told))
            case per_second, seconds:
                ticks = await asyncio.to_thread(owners.prepare, per_second, seconds)
                jobs.append(asyncio.create_task(owners.change(ticks)))
                parent.send("begun")
    for job in jobs:
        job.cancel()
    await server.stop(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What pricing has used and where it is."""

    cpu: float  # seconds
    rss: int  # bytes
    at: int  # position in schedule's stream; -1 during a snapshot
    due: int  # flights whose time has come


class Clock:
    """The wall clock, set forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        """The instant it shows."""
        return datetime.now(UTC) + self.ahead


async def run_pricing(parent: Connection, url: str, folder: str, schedule: str) -> None:
    """The process: says its address once it serves, then what it is asked.

    "forward" sets its clock a day forward, "spread" is answered by how many flights are due in each
    minute, "size" by the bytes of the database; anything else by its state.
    """
    clock = Clock()
    pricing.__main__.now = clock
    port = free_port()
    config = MeshConfig(version="0.0.0", port=port, state_dir=Path(folder), metrics_port=None)
    async with (
        Database.open(url, migrations="pricing:migrations") as database,
        StaticMesh("pricing", {"schedule": schedule}, config=config) as mesh,
    ):
        served = asyncio.create_task(pricing.__main__.serve(mesh, database))
        serving = asyncio.create_task(mesh.serving.wait())
        await asyncio.wait({served, serving}, return_when=asyncio.FIRST_COMPLETED)
        if not served.done():
            parent.send(f"127.0.0.1:{port}")
            while (asked := await asyncio.to_thread(parent.recv)) is not None:
                match asked:
                    case "forward":
                        clock.ahead += FORWARD
                        parent.send("done")
                    case "spread":
                        parent.send(await database.read(spread))
                    case "size":
                        parent.send(await database.read(lambda c: size(c, url)))
                    case _:
                        parent.send(await database.read(lambda c: state(c, clock())))
            mesh.draining.set()
        await served


def state(connection: sqlalchemy.Connection, now: datetime) -> State:
    """What there is to be said now."""
    flight = tables.flights.c
    due = sqlalchemy.select(sqlalchemy.func.count()).where(flight.reprice_time <= now)
    at = connection.execute(sqlalchemy.select(tables.inbox.position.c.seq)).scalar_one_or_none()
    return State(
        cpu=time.process_time(),
        rss=psutil.Process().memory_info().rss,
        at=-1 if at is None else at,
        due=connection.execute(due).scalar_one(),
    )


def spread(connection: sqlalchemy.Connection) -> Counter[datetime]:
    """How many flights are due in each minute."""
    times = connection.execute(
        sqlalchemy.select(tables.flights.c.reprice_time).where(
            tables.flights.c.reprice_time.is_not(None)
        )
    )
    return Counter(each.replace(second=0, microsecond=0) for (each,) in times)


def size(connection: sqlalchemy.Connection, url: str) -> int:
    """Bytes of the database."""
    if url.startswith(SERVER):
        asked = sqlalchemy.text("SELECT pg_database_size(current_database())")
        return int(connection.execute(asked).scalar_one())
    file = Path(str(sqlalchemy.make_url(url).database))
    return sum(each.stat().st_size for each in file.parent.glob(f"{file.name}*"))
