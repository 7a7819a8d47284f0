"""All four services in one process, wired as ever, without Consul: `-m tests.fuzz.served FOLDER`.

Says where they serve in one line of JSON. Each line it reads then it answers by how many tasks its
event loop has, after it has collected its garbage if the line says so; at the end of its input it
leaves. It logs to its standard error.
"""

import asyncio
import gc
import json
import os
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import booking.__main__
import consulmesh
import flight_search.__main__
import pricing.__main__
import schedule.__main__
from booking.runner import Terms
from consulmesh import MeshConfig
from consulmesh.testing import StaticMesh
from consulmesh.testing.ports import free_port
from consulmesh.users import TokenVerifier
from eventstream import Database
from flight_search.airports import AirportDirectory
from flight_search.read_model import ReadModel
from schedule.timetable import Airports
from tests.chaos.timetable import first_day, tiny

SERVICES: Final = ("schedule", "pricing", "booking", "flight-search")
"""In the order in which they can start: each waits for those before it."""
COLLECT: Final = b"collect\n"
_OURS: Final = ("MESH_", "DATABASE_", "CONSUL_", "GRPC_")


class Served:
    """The services. State: the member that each of them is, and its task."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ports: Mapping[str, int] = {service: free_port() for service in SERVICES}
        self._members: dict[str, StaticMesh] = {}
        self._running: list[asyncio.Task[None]] = []

    async def up(self) -> None:
        """Start all of them; returns once they serve."""
        for service in SERVICES:
            member = self._member(service)
            running = asyncio.create_task(self._run(service, member))
            self._running.append(running)
            serving = asyncio.create_task(member.serving.wait())
            await asyncio.wait({running, serving}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()

    async def down(self) -> None:
        """Let all of them leave, the last first."""
        for member, running in reversed([*zip(self._members.values(), self._running, strict=True)]):
            member.draining.set()
            await running

    def _member(self, service: str) -> StaticMesh:
        config = MeshConfig(
            version="0.0.0",
            port=self.ports[service],
            state_dir=self._folder,
            metrics_port=None,
            queue=None,  # what is refused because this machine is busy says nothing of a request
        )
        targets = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        member = self._members[service] = StaticMesh(service, targets, config=config)
        return member

    async def _run(self, service: str, member: StaticMesh) -> None:
        async with AsyncExitStack() as stack:
            if service == "flight-search":
                airports = AirportDirectory.load()
                path = self._folder / "search.db"
                model = stack.enter_context(ReadModel(path, airports))
                await stack.enter_async_context(member)
                await flight_search.__main__.serve(member, model, airports)
                return
            url = f"sqlite:///{self._folder}/{service}.db"
            database = Database.open(url, migrations=f"{service}:migrations")
            db = await stack.enter_async_context(database)
            await stack.enter_async_context(member)
            if service == "schedule":
                source = tiny(first_day())
                await schedule.__main__.serve(member, db, Airports.load(), source)
            elif service == "pricing":
                await pricing.__main__.serve(member, db)
            else:
                users = TokenVerifier.from_env({}, self._folder)
                await booking.__main__.serve(member, db, users, terms=Terms())


async def main() -> None:
    """Serve until the input ends."""
    news = os.dup(1)
    os.dup2(2, 1)  # the log goes where errors go
    served = Served(Path(sys.argv[1]))
    await served.up()
    _say(news, served.ports)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    while line := await lines.readline():
        if line == COLLECT:
            gc.collect()
        _say(news, len(asyncio.all_tasks()))
    await served.down()


def _say(to: int, what: object) -> None:
    os.write(to, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    for variable in [name for name in os.environ if name.startswith(_OURS)]:
        del os.environ[variable]
    consulmesh.run(main)
