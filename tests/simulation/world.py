"""One simulation: a seed decides everything that happens, and the checker whether it was right."""

import asyncio
import gc
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import structlog
from sqlalchemy import select, text

import pricing.tables
import schedule.tables
from bench.checker import Recorder, Urls, judge, read
from bench.checker import Report as Verdict
from tests.simulation.clients import Customer, Doings, Flights, Operator
from tests.simulation.disk import prepare
from tests.simulation.fleet import Fleet
from tests.simulation.loop import VirtualLoop
from tests.simulation.nemesis import Nemesis
from tests.simulation.network import Network
from tests.simulation.sealed import sealed
from tests.simulation.timetable import ROUTES
from tests.simulation.trace import Trace

OPERATIONS: Final = 200
_CUSTOMERS: Final = 6
_SETTLED_WITHIN: Final = 300.0  # seconds: longer than the patience of a saga, and a lease
_LOOK_EVERY: Final = 0.5
_CANCELLED: Final = text("SELECT flight_id FROM flight WHERE status = 3")
_MARKED: Final = text("SELECT flight_id FROM cancelled_flight WHERE NOT pending")
_UNFINISHED: Final = text("SELECT booking_id, step, owner FROM saga WHERE due_time IS NOT NULL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of a seed; it holds where there are no violations."""

    seed: int
    violations: tuple[str, ...]
    trace: tuple[str, ...]
    digest: str
    done: Mapping[str, int]
    judged: Mapping[str, int]
    seconds: float  # of virtual time

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations


def simulate(seed: int, *, operations: int = OPERATIONS) -> Report:
    """Run a seed to its end and judge it."""
    prepare()
    loop = VirtualLoop()
    trace = Trace(loop)
    history = io.StringIO()
    recorder = Recorder(history, loop.time)
    network = Network(loop, Random(f"{seed}/network"), trace)
    fleet = Fleet(network, str(seed))
    world = _World(str(seed), fleet, network, recorder)
    doings = Doings(left=operations)
    asyncio.set_event_loop(loop)
    gc.disable()  # what is collected must not depend on what ran before
    try:
        with sealed(loop, Random(f"{seed}/secrets")), _logged(trace):
            left = loop.run_until_complete(world.live(doings))
    finally:
        asyncio.set_event_loop(None)
        loop.close()
        gc.enable()
    verdict = _judged(fleet, history)
    return Report(
        seed=seed,
        violations=(*trace.flaws, *left, *map(str, verdict.violations)),
        trace=tuple(trace.lines),
        digest=trace.digest(),
        done=doings.done,
        judged=verdict.counts,
        seconds=loop.time(),
    )


class _World:
    """Everything that lives in a simulation."""

    def __init__(self, seed: str, fleet: Fleet, network: Network, recorder: Recorder) -> None:
        self._seed = seed
        self._fleet = fleet
        self._network = network
        self._recorder = recorder

    async def live(self, doings: Doings) -> list[str]:
        """Live from the first start to the quiet after the last fault; what did not settle."""
        self._fleet.start()
        flights = await self._flights()
        nemesis = Nemesis(self._fleet, self._network, self._recorder, self._seed)
        operator = Operator(self._network, flights, self._seed)
        customers = [
            Customer(f"customer-{n}", self._network, self._recorder, flights, self._seed)
            for n in range(1, _CUSTOMERS + 1)
        ]
        async with asyncio.TaskGroup() as group:
            for life in (nemesis.live, operator.live, *(one.live for one in customers)):
                group.create_task(life(doings))
        nemesis.end()
        left = await self._settled()
        await self._end()
        return left

    async def _flights(self) -> Flights:
        """The flights, once they are there and priced."""
        await self._until(self._followed)
        flight = schedule.tables.flight.c
        query = select(flight.flight_id, flight.origin, flight.destination).order_by(
            flight.flight_id
        )
        rows = self._fleet.disks["schedule"].query(lambda c: c.execute(query).all())
        by_route = {
            (origin, destination): [
                row.flight_id
                for row in rows
                if (row.origin, row.destination) == (origin, destination)
            ]
            for origin, destination, _ in ROUTES
        }
        first, second, _ = by_route.values()
        single = [(flight_id,) for flights in by_route.values() for flight_id in flights]
        return Flights(journeys=[*single, *zip(first, second, strict=True)], routes=list(by_route))

    async def _settled(self) -> list[str]:
        """Wait until nothing is under way; what still is after a long time is a violation."""
        try:
            async with asyncio.timeout(_SETTLED_WITHIN):
                await self._until(lambda: not self._unfinished())
                await self._until(self._followed)
        except TimeoutError:
            return [f"unsettled after {_SETTLED_WITHIN} s: {self._unfinished() or 'streams'}"]
        return []

    def _unfinished(self) -> list[tuple[str, ...]]:
        rows = self._fleet.disks["booking"].query(lambda c: c.execute(_UNFINISHED).all())
        return [tuple(row) for row in rows]

    def _followed(self) -> bool:
        """Whether pricing has heard all that schedule says, and booking of what was cancelled.

        Booking does not store its position for other news.
        """
        disks = self._fleet.disks
        head = disks["schedule"].query(schedule.tables.outbox.head)
        position = pricing.tables.inbox.position.c
        query = select(position.epoch, position.seq)
        stored = disks["pricing"].query(lambda c: c.execute(query).one_or_none())
        if head is None or stored != (head.epoch, head.seq):
            return False
        cancelled = disks["schedule"].query(lambda c: set(c.execute(_CANCELLED).scalars()))
        marked = disks["booking"].query(lambda c: set(c.execute(_MARKED).scalars()))
        return cancelled <= marked

    async def _until(self, come: Callable[[], bool]) -> None:
        while not come():  # noqa: ASYNC110 - what it waits for is in a database
            await asyncio.sleep(_LOOK_EVERY)

    async def _end(self) -> None:
        """End every task; what they do in the end is of no consequence."""
        self._network.trace.close()
        for process in self._fleet.close():
            await self._network.loop.bury(process)


@contextmanager
def _logged(trace: Trace) -> Iterator[None]:
    """Let the program's log go to the trace."""
    before = structlog.get_config()
    structlog.configure(
        processors=[trace.log],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def _judged(fleet: Fleet, history: io.StringIO) -> Verdict:
    with tempfile.TemporaryDirectory() as folder:
        urls = {}
        for service, disk in fleet.disks.items():
            file = Path(folder) / f"{service}.db"
            disk.save(file)
            urls[service] = f"sqlite:///{file}"
        return judge(read(history.getvalue().splitlines()), Urls(**urls))
