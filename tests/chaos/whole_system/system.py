"""The whole real system under bookings: killed, waited for, and judged."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from bench.checker import Recorder, Report, Urls, judge, read_file, under_way
from bench.recorded_api import RecordedApi, Tally, User
from bench.subject import POLL, Subject
from bench.travellers import Market, Travellers
from consulmesh.local_issuer import LocalIssuer
from consulmesh.testing.ports import free_port
from eventstream import database_url
from tests.chaos.figures import LONG
from tests.e2e.conftest import last_words, run
from tests.loaded_timetable import LoadedTimetable
from tools import databases
from tools.programs import Ports, Settings

REPLICAS: Final = 2
USERS: Final = 50
SHARE: Final = 0.6  # of the capacity is the load
AT_ONCE: Final = 16  # travellers, while capacity is measured
DAYS: Final = 24 if LONG else 3  # of flights that are for sale: they must not all sell out
MEASURED: Final = 20.0 if LONG else 4.0  # seconds
PATIENCE: Final = 60.0  # seconds until an instance is back, or all is at rest
LIFETIME: Final = timedelta(hours=8)  # of tokens


@contextmanager
def started(folder: Path, engine: str, timetable: LoadedTimetable) -> Iterator[Settings]:
    """A system of two instances of each service, in a folder and on ports of its own."""
    ports = Ports(
        gateway=free_port(),
        consul=free_port(),
        ads=free_port(),
        consul_server=free_port(),
        consul_serf=free_port(),
    )
    settings = Settings(run=folder, ports=ports)
    try:
        if engine == "sqlite":
            timetable.give(folder)
        up(settings, engine)
        if engine == "sqlite":
            timetable.keep(folder)
        yield settings
    finally:
        run(settings, "down")


def up(settings: Settings, engine: str) -> str:
    """Bring it up; returns what the command said once all of it is ready."""
    done = run(settings, "up", "--replicas", str(REPLICAS), "--database", engine)
    assert done.returncode == 0, done.stdout + done.stderr + last_words(settings.logs)
    return done.stdout


@dataclass(slots=True)
class WholeSystem:
    """A running system, those who book in it, and the history of what they were told."""

    settings: Settings
    engine: str
    urls: Urls
    subject: Subject
    history: Path
    recorder: Recorder
    travellers: Travellers
    capacity: float = 0.0  # travellers per second

    @property
    def tally(self) -> Tally:
        """How calls went since the last `recount`."""
        return self.travellers.api.tally

    def recount(self) -> None:
        """Count from here on."""
        self.travellers.api.tally = Tally()

    @asynccontextmanager
    async def load(
        self, share: float = SHARE, api: RecordedApi | None = None
    ) -> AsyncIterator[None]:
        """A share of the capacity is the load while the block runs, by another way if one is given.

        Those who came are done when it ends.
        """
        usual = self.travellers.api
        self.travellers.api = api or usual
        try:
            async with self.travellers.arriving(share * self.capacity):
                yield
        finally:
            self.travellers.api = usual

    async def kill(self, service: str, instance: str) -> float:
        """`kill -9` an instance and wait until its successor passes; returns the seconds."""
        before = await self._port(service, instance)
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.recorder.nemesis("kill", victim=instance)
        self.subject.signal(instance, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE):
            while await self._port(service, instance) in {None, before}:  # noqa: ASYNC110 - Consul tells nobody
                await asyncio.sleep(POLL)
        return loop.time() - began

    async def victim(self, service: str, draw: random.Random) -> str:
        """Some instance of a service that supervisor calls running, once there is one.

        Supervisor takes longer over one that has died within three seconds of its start.
        """
        while not (running := self.subject.running(service)):  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(POLL)
        return draw.choice(running)

    async def _port(self, service: str, instance: str) -> int | None:
        """Where an instance is that passes; its successor takes another port."""
        return next(
            (
                one.port
                for one in await self.subject.instances(service)
                if one.instance_id == instance and one.status == "passing"
            ),
            None,
        )

    async def settled(self, bookings: int) -> None:
        """Wait until so many bookings were decided since the last `recount`."""
        while self.tally.settled.total() < bookings:  # noqa: ASYNC110 - counted from outside
            await asyncio.sleep(POLL)

    def kill_everything(self) -> int:
        """`kill -9` the supervisor and all that it started; returns how many processes."""
        self.recorder.nemesis("kill", victim="everything")
        return self.subject.kill_everything()

    async def judged(self) -> Report:
        """Wait until all is at rest, and judge everything since the system was new."""
        async with asyncio.timeout(PATIENCE):
            while await asyncio.to_thread(under_way, self.urls):  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(POLL)
        return await asyncio.to_thread(lambda: judge(read_file(self.history), self.urls))


@asynccontextmanager
async def whole_system(
    folder: Path, engine: str, timetable: LoadedTimetable
) -> AsyncIterator[WholeSystem]:
    """A new system and its load, whose capacity has been measured."""
    history = folder / "history.jsonl"
    with started(folder, engine, timetable) as settings, Recorder.open(history) as recorder:
        async with Subject.attach(settings) as subject:
            system = WholeSystem(
                settings=settings,
                engine=engine,
                urls=_urls(settings),
                subject=subject,
                history=history,
                recorder=recorder,
                travellers=await _travellers(subject, recorder),
            )
            system.capacity = await system.travellers.capacity(MEASURED, AT_ONCE)
            yield system


async def _travellers(subject: Subject, recorder: Recorder) -> Travellers:
    gateway = subject.settings.gateway_url
    issuer = LocalIssuer(subject.settings.run / "issuer")
    users = [
        User(f"user-{n}", issuer.token(f"user-{n}", {"customer"}, LIFETIME)) for n in range(USERS)
    ]
    market = await Market.survey(subject.http, gateway, DAYS)
    return Travellers(RecordedApi(subject.http, gateway, recorder), market, users, seed=1)


def _urls(settings: Settings) -> Urls:
    chosen = databases.remembered(settings)
    environ = {"DATABASE_URL": chosen.url} if chosen and chosen.url else {}
    return Urls(
        **{
            name: database_url(environ, name, settings.run)
            for name in ("booking", "schedule", "pricing")
        }
    )
