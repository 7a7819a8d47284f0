"""Two services are parted while bookings are made (D7): what the customers were told stays true."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from bench.checker import Recorder, judge, read_file
from tests.chaos.figures import LONG, at_most, figure
from tests.chaos.mesh.test_network import mute, refusing
from tests.chaos.mesh.toxiproxy import Proxy, Toxiproxy
from tests.chaos.processes import Zygote
from tests.chaos.rest import at_rest
from tests.chaos.test_backends import Progress, customers
from tests.chaos.world import World
from tests.databases import ON_SQLITE, Databases

CUT: Final = 30.0 if LONG else 4.0  # seconds of a partition
PARTITIONS: Final = 6 if LONG else 2
BETWEEN: Final = 10  # bookings that are acknowledged before each
USABLE_WITHIN: Final = 10.0 if LONG else 30.0  # seconds after a partition


@ON_SQLITE
@pytest.mark.timeout(900 if LONG else 600)
async def test_d7_booking_and_schedule_are_parted(
    forks: Zygote, toxics: Toxiproxy, tmp_path: Path, databases: Databases
) -> None:
    """Bookings wait or are refused meanwhile; soon they are made again, and none was wrong."""
    loop = asyncio.get_running_loop()
    instances = {"booking": 2, "schedule": 2, "pricing": 1}
    world = World(forks, tmp_path, databases, instances=instances)
    proxies = [await toxics.proxy(port) for port in world.ports("schedule")]
    world.detour("booking", "schedule", [proxy.port for proxy in proxies])
    history, progress = tmp_path / "history.jsonl", Progress()
    made, spans = [], []
    try:
        await world.up()
        with Recorder.open(history) as recorder:
            async with customers(world, recorder, progress):
                for number in range(PARTITIONS):
                    await progress.more(BETWEEN)
                    recorder.nemesis("part")
                    async with parted(proxies, refuse=number % 2 == 1):
                        before = progress.bookings
                        await asyncio.sleep(CUT)
                        made.append(progress.bookings - before)
                    recorder.nemesis("join")
                    began = loop.time()
                    await progress.more(BETWEEN)
                    spans.append(loop.time() - began)
            began = loop.time()
            await at_rest(world)
            settled = loop.time() - began
        report = judge(read_file(history), world.databases)
    finally:
        await world.down()
    figure(
        "D7",
        f"booking and schedule parted {PARTITIONS} times for {CUT:.0f} s: "
        f"{report.counts['bookings']:,} bookings, {len(report.violations)} violations, "
        f"{at_most(PARTITIONS)}; {sum(made)} answered in a partition, the first {BETWEEN} after it "
        f"within {max(spans):.1f} s, all sagas settled {settled:.1f} s after the last customer",
    )

    assert report.holds, report
    assert max(spans) <= USABLE_WITHIN


@asynccontextmanager
async def parted(proxies: list[Proxy], *, refuse: bool) -> AsyncIterator[None]:
    """Let none of the proxies pass anything on for the block."""
    async with AsyncExitStack() as stack:
        for proxy in proxies:
            cut: AbstractAsyncContextManager[None] = refusing(proxy) if refuse else mute(proxy)
            await stack.enter_async_context(cut)
        yield
