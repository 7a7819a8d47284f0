import asyncio
import math
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from eventstream import Database, Follower, StorageUnavailableError
from flights.schedule.v1.schedule_pb2 import Flight, FlightEvent, WatchFlightsResponse
from streams.v1 import stream_pb2
from streams.v1.stream_pb2 import Cursor
from tests.databases import Databases
from tests.eventstream import mirror
from tests.eventstream.conftest import NOW

ROOT = Path(__file__).parents[2]
CONSUMER = """
import asyncio, sys
from eventstream import Follower
from tests.eventstream import mirror

async def main(url, port):
    async with mirror.copy(url) as copy, mirror.calling(port) as watch:
        inbox = mirror.inbox(copy, apply_many=mirror.apply_many)
        await Follower("flights", watch, inbox).run()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.fixture
async def source(databases: Databases) -> AsyncIterator[Database]:
    """Return a database of flights."""
    async with mirror.source(databases("source")) as database:
        yield database


@pytest.fixture
async def copy(databases: Databases) -> AsyncIterator[Database]:
    """Return a database for copies."""
    async with mirror.copy(databases("copy")) as database:
        yield database


@asynccontextmanager
async def following(follower: Follower[FlightEvent]) -> AsyncIterator[Follower[FlightEvent]]:
    """Run a follower for a while."""
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def equal(source: Database, copy: Database, within: float = 60) -> bool:
    """Wait until the copy says what the source says; whether that came to be."""
    try:
        async with asyncio.timeout(within):
            while True:
                seen = copy.version
                if await source.read(mirror.state) == await copy.read(mirror.copied):
                    return True
                await copy.changed(seen)
    except TimeoutError:
        return False


async def position_of(copy: Database) -> Cursor | None:
    """The stored position; the rows of a snapshot are all there a moment before it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(60):
            while True:
                seen = copy.version
                if position := await mirror.inbox(copy).position():
                    return position
                await copy.changed(seen)
    return None


def response(phase: stream_pb2.Phase.ValueType, seq: int, count: int = 0) -> WatchFlightsResponse:
    """Return a response of an invented stream."""
    now = Timestamp()
    now.FromNanoseconds(time.time_ns())
    flights = [
        Flight(flight_id=f"f{n}", version=n, distance_km=n) for n in range(seq - count + 1, seq + 1)
    ]
    return WatchFlightsResponse(
        phase=phase,
        cursor=Cursor(epoch="e", seq=seq),
        events=[FlightEvent(flight_changed=flight) for flight in flights],
        read_time=now,
    )


def scripted(
    *streams: Sequence[WatchFlightsResponse],
) -> tuple[Callable[[Cursor | None], AsyncIterator[WatchFlightsResponse]], list[Cursor | None]]:
    """Return a watch that plays one script for each connection and then hangs; and the cursors."""
    asked: list[Cursor | None] = []

    async def watch(cursor: Cursor | None) -> AsyncIterator[WatchFlightsResponse]:
        asked.append(cursor)
        for item in streams[len(asked) - 1] if len(asked) <= len(streams) else ():
            yield item
        if len(asked) >= len(streams):
            await asyncio.Event().wait()

    return watch, asked


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that nothing announces."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - as the docstring says
            await asyncio.sleep(0.005)


async def test_a_copy_follows_from_nothing_to_the_newest_change(
    source: Database, copy: Database
) -> None:
    """Over gRPC: a snapshot, then every change, removals too, within a fraction of a second."""
    await source.write(lambda c: [mirror.put(c, f"f{n:05}", n) for n in range(1200)])
    async with mirror.serving(source) as (watch, _):
        follower = Follower("flights", watch, mirror.inbox(copy))
        before = follower.lag()
        async with following(follower):
            await follower.caught_up.wait()
            first = await equal(source, copy, within=1)
            await source.write(lambda c: mirror.put(c, "f00007", 4711))
            await source.write(lambda c: mirror.remove(c, "f00008"))
            second = await equal(source, copy)
            lag, cursor = follower.lag(), follower.cursor

    assert before == math.inf
    assert first
    assert second
    assert lag < 1
    assert cursor
    assert cursor.seq == 1202


async def test_a_follower_goes_on_where_it_stood_when_the_producer_is_back(
    source: Database, copy: Database
) -> None:
    """Through a restart of the producer's server: no snapshot again, nothing missed."""
    await source.write(lambda c: [mirror.put(c, f"f{n:05}", n) for n in range(10)])
    async with AsyncExitStack() as stack:
        async with mirror.serving(source) as (_, port):
            watch = await stack.enter_async_context(mirror.calling(port))
            follower = Follower("flights", watch, mirror.inbox(copy))
            await stack.enter_async_context(following(follower))
            await follower.caught_up.wait()
        await source.write(lambda c: mirror.put(c, "late", 1))
        old = follower.lag()
        async with mirror.serving(source, port):
            same = await equal(source, copy)
            await until(lambda: follower.lag() < 1)

    assert same
    assert old > 0
    assert follower.cursor == await mirror.inbox(copy).position()


async def test_a_silent_stream_is_given_up(copy: Database) -> None:
    """A connection on which not even bookmarks come is left for a new one, at the same place."""
    snapshot = [
        response(stream_pb2.PHASE_SNAPSHOT_STARTED, 3),
        response(stream_pb2.PHASE_SNAPSHOT_COMPLETED, 3),
    ]
    asked: list[Cursor | None] = []

    async def watch(cursor: Cursor | None) -> AsyncIterator[WatchFlightsResponse]:
        asked.append(cursor)
        for item in snapshot if cursor is None else ():
            yield item
        await asyncio.Event().wait()

    inbox = mirror.inbox(copy)
    async with following(Follower("f", watch, inbox, silence=timedelta(milliseconds=500))):
        await until(lambda: len(asked) > 2)

    assert asked[:3] == [None, Cursor(epoch="e", seq=3), Cursor(epoch="e", seq=3)]


async def test_silence_is_not_followed_by_a_pause(copy: Database) -> None:
    """A call that waits for its source, given up again and again, misses it for no longer time."""
    asked: list[Cursor | None] = []
    pauses: list[float] = []

    async def watch(cursor: Cursor | None) -> AsyncIterator[WatchFlightsResponse]:
        asked.append(cursor)
        await asyncio.Event().wait()
        yield response(stream_pb2.PHASE_BOOKMARK, 0)

    def jitter() -> float:
        pauses.append(1.0)
        return 1.0

    silence = timedelta(milliseconds=5)
    follower = Follower("f", watch, mirror.inbox(copy), silence=silence, jitter=jitter)
    async with following(follower):
        await until(lambda: len(asked) > 9)

    assert pauses == []


async def test_what_does_not_continue_is_not_applied(copy: Database) -> None:
    """After a gap, a repetition or a bookmark that claims too much the stream is left."""
    start = [
        response(stream_pb2.PHASE_SNAPSHOT_STARTED, 3),
        response(stream_pb2.PHASE_SNAPSHOT_COMPLETED, 3),
    ]
    watch, asked = scripted(
        [*start, response(stream_pb2.PHASE_EVENTS, 5, count=1)],
        [response(stream_pb2.PHASE_EVENTS, 3, count=1)],
        [response(stream_pb2.PHASE_BOOKMARK, 4)],
        [response(stream_pb2.PHASE_SNAPSHOT, 4, count=1)],
        [response(stream_pb2.PHASE_EVENTS, 5, count=2)],
    )
    follower = Follower("f", watch, mirror.inbox(copy))
    async with following(follower):
        await follower.caught_up.wait()

    assert asked == [None, *[Cursor(epoch="e", seq=3)] * 4]
    assert sorted(await copy.read(mirror.copied)) == ["f4", "f5"]


async def test_half_a_snapshot_is_never_believed(copy: Database) -> None:
    """A stream that ends in the middle of a snapshot leaves no position: it starts again."""
    watch, asked = scripted(
        [
            response(stream_pb2.PHASE_SNAPSHOT_STARTED, 3),
            response(stream_pb2.PHASE_SNAPSHOT, 2, count=2),
        ],
        [
            response(stream_pb2.PHASE_SNAPSHOT_STARTED, 3),
            response(stream_pb2.PHASE_SNAPSHOT, 3, count=1),
            response(stream_pb2.PHASE_SNAPSHOT_COMPLETED, 3),
            response(stream_pb2.PHASE_BOOKMARK, 3),
        ],
    )
    follower = Follower("f", watch, mirror.inbox(copy))
    async with following(follower):
        await follower.caught_up.wait()

    assert asked == [None, None]
    assert await copy.read(mirror.copied) == {"f3": (3, 3)}


async def test_a_database_that_fails_is_tried_again(copy: Database) -> None:
    """What could not be stored comes again: it is neither skipped nor a dead letter."""
    failures = iter([True, True])

    def fails(*_: object) -> None:
        if next(failures, False):
            raise StorageUnavailableError("the disk is full")

    inbox = mirror.inbox(copy)
    start = [
        response(stream_pb2.PHASE_SNAPSHOT_STARTED, 0),
        response(stream_pb2.PHASE_SNAPSHOT_COMPLETED, 0),
    ]
    events = [response(stream_pb2.PHASE_EVENTS, 2, count=2)]
    watch, asked = scripted([*start, *events], events, events)

    class Failing:
        """The inbox, with a database that fails twice."""

        position = inbox.position
        start_snapshot = inbox.start_snapshot
        complete_snapshot = inbox.complete_snapshot

        async def apply(self, events: Sequence[FlightEvent], cursor: Cursor | None) -> None:
            fails()
            await inbox.apply(events, cursor)

    follower = Follower("f", watch, Failing())
    async with following(follower):
        await follower.caught_up.wait()

    assert asked == [None, Cursor(epoch="e", seq=0), Cursor(epoch="e", seq=0)]
    assert sorted(await copy.read(mirror.copied)) == ["f1", "f2"]
    assert await inbox.dead_letters() == []


async def test_lag_grows_although_the_wall_clock_steps(copy: Database) -> None:
    """The clocks are compared when a bookmark comes; after that the monotonic one counts."""
    clock = time.time()
    watch, _ = scripted(
        [
            response(stream_pb2.PHASE_SNAPSHOT_STARTED, 0),
            response(stream_pb2.PHASE_SNAPSHOT_COMPLETED, 0),
            response(stream_pb2.PHASE_BOOKMARK, 0),
        ]
    )
    follower = Follower("f", watch, mirror.inbox(copy), clock=lambda: clock)
    async with following(follower):
        await follower.caught_up.wait()
        first = follower.lag()
        clock -= 3600
        second = follower.lag()

    assert 0 <= first < second < 60


async def test_a_consumer_killed_at_any_time_ends_up_with_the_same_state(
    databases: Databases, source: Database
) -> None:
    """Kill -9 again and again, in snapshots and between events: no gap and no double."""
    url = databases("killed")
    chance = random.Random(7)
    await source.write(lambda c: [mirror.put(c, f"f{n:05}", n) for n in range(2000)])
    async with mirror.serving(source) as (_, port):
        writing = asyncio.create_task(_write_on(source, chance))
        for _ in range(5):
            consumer = start(url, port)
            await asyncio.sleep(chance.uniform(0.4, 1.2))
            consumer.kill()
            await asyncio.to_thread(consumer.wait)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        consumer = start(url, port)
        async with mirror.copy(url) as copy:
            same = await equal(source, copy, within=90)
            position = await position_of(copy)
        consumer.kill()
        await asyncio.to_thread(consumer.wait)
    head = await source.read(mirror.OUTBOX.head)

    assert same
    assert position
    assert head
    assert position.seq == head.seq


def start(url: str, port: int) -> "subprocess.Popen[bytes]":
    """Start a process that follows into a database of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", CONSUMER, url, str(port)],
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT}/gen"},
    )


async def _write_on(db: Database, chance: random.Random) -> None:
    while True:
        name = f"f{chance.randrange(2000):05}"
        if chance.random() < 0.2:
            await db.write(partial(mirror.remove, flight_id=name))
        else:
            await db.write(partial(mirror.put, flight_id=name, distance_km=chance.randrange(9000)))
        await asyncio.sleep(0.001)


async def test_a_copy_that_stood_before_the_trimmed_events_loses_deleted_rows(
    source: Database, copy: Database
) -> None:
    """What was deleted while nobody followed, and whose event is gone, is gone in the copy too."""
    await source.write(lambda c: [mirror.put(c, f"f{n:05}", n) for n in range(10)])

    async def watch(cursor: Cursor | None) -> AsyncIterator[WatchFlightsResponse]:
        async with aclosing(mirror.feed(source).watch(cursor)) as batches:
            async for batch in batches:
                yield mirror.answer(batch)

    async with following(Follower("f", watch, mirror.inbox(copy))) as follower:
        await follower.caught_up.wait()
    await source.write(lambda c: mirror.remove(c, "f00004"))
    await source.write(lambda c: mirror.OUTBOX.trim(c, keep=0, before=NOW))
    async with following(Follower("f", watch, mirror.inbox(copy))) as follower:
        await follower.caught_up.wait()

    assert "f00004" not in await copy.read(mirror.copied)
    assert await equal(source, copy, within=1)
