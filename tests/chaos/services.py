"""The durable services as the processes of a test: wired as ever, without Consul.

Importing this imports all of them, and starts nothing: no thread, no gRPC.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import booking.__main__
import pricing.__main__
import schedule.__main__
from booking.runner import Terms
from consulmesh import MeshConfig
from consulmesh.testing import StaticMesh
from consulmesh.users import TokenVerifier
from eventstream import Database
from schedule.timetable import Airports
from tests.chaos.launch import Launch, Pace
from tests.chaos.timetable import tiny

Serve = Callable[[StaticMesh, Database, Launch], Awaitable[None]]

AIRPORTS: Final = Airports.load()
GRACE: Final = timedelta(seconds=2)
FIRST_RETRY: Final = timedelta(milliseconds=20)
LAST_RETRY: Final = timedelta(milliseconds=200)


async def _booking(mesh: StaticMesh, db: Database, launch: Launch) -> None:
    users = TokenVerifier.from_env(os.environ, mesh.config.state_dir)
    await booking.__main__.serve(
        mesh,
        db,
        users,
        terms=_terms(launch.pace),
        hold=timedelta(seconds=launch.pace.hold),
        takeover=timedelta(seconds=launch.pace.takeover),
    )


async def _schedule(mesh: StaticMesh, db: Database, launch: Launch) -> None:
    timetable = tiny(date.fromordinal(launch.first_day))
    takeover = timedelta(seconds=launch.pace.takeover)
    await schedule.__main__.serve(mesh, db, AIRPORTS, timetable, takeover=takeover)


async def _pricing(mesh: StaticMesh, db: Database, launch: Launch) -> None:
    takeover = timedelta(seconds=launch.pace.takeover)
    await pricing.__main__.serve(mesh, db, takeover=takeover)


SERVICES: Final[Mapping[str, Serve]] = {
    "booking": _booking,
    "schedule": _schedule,
    "pricing": _pricing,
}


async def run(launch: Launch, serving: Callable[[], object]) -> None:
    """Be the process; `serving` is called when a Consul would list it."""
    config = MeshConfig(
        version="0.0.0",
        port=launch.port,
        state_dir=Path(launch.folder),
        metrics_port=None,
        drain_grace=GRACE,
    )
    async with (
        Database.open(launch.url, migrations=f"{launch.service}:migrations") as db,
        StaticMesh(launch.service, launch.targets, slot=launch.slot, config=config) as mesh,
    ):
        mesh.start(_tell(mesh, serving), name="tell the test")
        await SERVICES[launch.service](mesh, db, launch)


async def _tell(mesh: StaticMesh, serving: Callable[[], object]) -> None:
    await mesh.serving.wait()
    serving()


def _terms(pace: Pace) -> Terms:
    return Terms(
        lease=timedelta(seconds=pace.lease),
        patience=timedelta(seconds=pace.patience),
        first_retry=FIRST_RETRY,
        last_retry=LAST_RETRY,
        grace=GRACE,
    )
