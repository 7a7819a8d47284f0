"""Producers and consumers as processes, and what is compared afterwards."""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, insert, select

from eventstream import Database, Follower
from eventstream.outbox import Head, Stored
from flights.schedule.v1.schedule_pb2 import Flight, FlightEvent
from streams.v1.stream_pb2 import Cursor
from tests.chaos.figures import LONG
from tests.chaos.stream_process import JOURNAL, Entry, entry, inbox
from tests.eventstream import mirror
from tests.eventstream.conftest import NOW
from tests.eventstream.test_follower import following

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 1_800 if LONG else 90
"""Seconds in which a row comes to its end."""
_AT_ONCE: Final = 5_000  # rows that one unit loads


class Party:
    """A producer or a consumer that is killed and started again."""

    def __init__(self, *arguments: object) -> None:
        self._command = [sys.executable, "-m", "tests.chaos.stream_process", *map(str, arguments)]
        self._process: subprocess.Popen[bytes] | None = None
        self.kills = 0

    def start(self, **environ: str) -> None:
        """Start it, with these variables."""
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env={"PYTHONPATH": f"{ROOT}:{ROOT}/gen"} | environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            self.kills += 1
            self._process.kill()
            self.wait()

    def wait(self) -> int:
        """Wait for its end; the status, negative for a signal."""
        assert self._process is not None
        status = self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        return status


@contextmanager
def parties(*started: Party) -> Iterator[None]:
    """Run them for a while."""
    for party in started:
        party.start()
    try:
        yield
    finally:
        for party in started:
            party.kill()


def digest(state: mirror.State) -> str:
    """Return a hash of all rows."""
    return hashlib.sha256(repr(sorted(state.items())).encode()).hexdigest()[:16]


async def history(source: Database) -> list[Stored]:
    """Return every event of a source, in order."""
    return await source.read(lambda connection: mirror.OUTBOX.after(connection, 0, 10_000_000))


def entries(events: Sequence[Stored]) -> list[Entry]:
    """Return events as a journal has them."""
    return [entry(FlightEvent.FromString(event.payload)) for event in events]


def journal(connection: Connection) -> list[Entry]:
    """Return what a consumer has applied, in the order in which it has."""
    rows = connection.execute(select(JOURNAL).order_by(JOURNAL.c.place))
    return [(row.flight_id, row.version) for row in rows]


async def head_of(source: Database) -> Head:
    """Return the end of a source's history, which begins where there is none."""
    await source.write(mirror.OUTBOX.begin)
    head = await source.read(mirror.OUTBOX.head)
    assert head is not None
    return head


async def stand_at(copy: Database, epoch: str, seq: int) -> None:
    """Let a copy stand at a position, as after a whole snapshot."""
    standing = inbox(copy)
    await standing.position()
    await standing.start_snapshot()
    await standing.complete_snapshot(Cursor(epoch=epoch, seq=seq))


async def complete(source: Database, copy: Database, seq: int, within: float) -> None:
    """Wait until a source has so many events and a copy has all of them."""
    async with asyncio.timeout(within):
        while True:
            seen = copy.version
            head, position = await head_of(source), await mirror.inbox(copy).position()
            if position and position.seq == head.seq >= seq:
                return
            await copy.changed(seen)


async def begun(copy: Database, within: float) -> int:
    """Wait until a copy has applied events; up to which number."""
    async with asyncio.timeout(within):
        while True:
            seen, position = copy.version, await mirror.inbox(copy).position()
            if position and position.seq:
                return position.seq
            await copy.changed(seen)


async def load(source: Database, flights: int) -> None:
    """Fill a source with flights that no event tells of."""
    for first in range(0, flights, _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, flights))
        rows: list[dict[str, object]] = [
            {"flight_id": f"f{n:07}", "version": 1, "distance_km": n} for n in numbers
        ]
        await source.write(partial(_insert, rows=rows))
    await source.write(mirror.OUTBOX.start_epoch)


async def tell(source: Database, events: int, flights: int) -> None:
    """Write so many changes of `flights` flights, all of them into the history."""
    for first in range(0, events, _AT_ONCE):
        rows = []
        for n in range(first, min(first + _AT_ONCE, events)):
            flight = Flight(flight_id=f"f{n % flights:07}", version=n + 1, distance_km=n % 9_000)
            event = FlightEvent(flight_changed=flight)
            rows.append((flight.flight_id, event.SerializeToString(), NOW))
        await source.write(partial(mirror.OUTBOX.append_many, rows=rows))
    last = range(max(0, events - flights), events)
    state: list[dict[str, object]] = [
        {"flight_id": f"f{n % flights:07}", "version": n + 1, "distance_km": n % 9_000}
        for n in last
    ]
    await source.write(partial(_insert, rows=state))


def _insert(connection: Connection, rows: Sequence[dict[str, object]]) -> None:
    connection.execute(insert(mirror.FLIGHTS), rows)


@asynccontextmanager
async def followed(source: Database, copy: Database) -> AsyncIterator[None]:
    """Follow, from when everything has been caught up with."""
    async with mirror.serving(source) as (watch, _):
        inbox = mirror.inbox(copy, apply_many=mirror.apply_many)
        async with following(Follower("flights", watch, inbox)) as follower:
            async with asyncio.timeout(PATIENCE):
                await follower.caught_up.wait()
            yield


def left_over() -> FlightEvent:
    """Return the event of a flight that no source has."""
    event = FlightEvent()
    event.flight_changed.flight_id = "gone"
    return event
