import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from eventstream import Database, Follower
from flights.schedule.v1.schedule_pb2 import FlightEvent
from tests.eventstream import mirror


@asynccontextmanager
async def following(follower: Follower[FlightEvent]) -> AsyncIterator[None]:
    """Run a follower for a while."""
    task = asyncio.create_task(follower.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def equal(source: Database, copy: Database, within: float = 10) -> bool:
    """Wait until the copy says what the source says; whether that came to be."""
    try:
        async with asyncio.timeout(within):
            while await source.read(mirror.state) != await copy.read(mirror.copied):
                await copy.changed(copy.version)
    except TimeoutError:
        return False
    return True


async def test_a_copy_follows_from_nothing_to_the_newest_change(tmp_path: Path) -> None:
    """A new copy takes a snapshot, then every change, and removed rows go."""
    async with (
        mirror.source(f"sqlite:///{tmp_path}/source.db") as source,
        mirror.copy(f"sqlite:///{tmp_path}/copy.db") as copy,
        mirror.serving(source) as (watch, _),
    ):
        await source.write(lambda c: [mirror.put(c, f"f{n:05}", n) for n in range(1200)])
        follower = Follower("flights", watch, mirror.inbox(copy))
        async with following(follower):
            await follower.caught_up.wait()
            first = await equal(source, copy, within=1)
            await source.write(lambda c: mirror.put(c, "f00007", 4711))
            await source.write(lambda c: mirror.remove(c, "f00008"))
            second = await equal(source, copy)
            lag = follower.lag()

        assert first
        assert second
        assert lag < 1
