"""C3: all processes are killed at once, Consul and the supervisor too, and started again."""

import asyncio
import statistics
import time
from typing import Final

import pytest

from tests.chaos.figures import LONG, at_most, figure
from tests.chaos.whole_system.system import WholeSystem, up

ROUNDS: Final = 20 if LONG else 1
CALM: Final = 3.0  # seconds of bookings before each end
READY_WITHIN: Final = 10.0 if LONG else 120.0  # seconds; a short run may share its machine


@pytest.mark.timeout(1800 if LONG else 600)
async def test_everything_is_killed_at_once(system: WholeSystem) -> None:
    """`up` is all it takes, and everything that was acknowledged is there."""
    starts: list[tuple[float, str]] = []
    processes = 0
    for _ in range(ROUNDS):
        async with system.load():
            await asyncio.sleep(CALM)
            processes = await asyncio.to_thread(system.kill_everything)
        began = time.monotonic()
        told = await asyncio.to_thread(up, system.settings, system.engine)
        starts.append((time.monotonic() - began, told))
    report = await system.judged()
    slowest, told = max(starts)
    usual = statistics.median(seconds for seconds, _ in starts)
    figure(
        "C3",
        f"{system.engine}: {processes} processes killed at once, {len(starts)} times; ready after "
        f"{usual:.1f} s, {slowest:.1f} s at most; {len(report.violations)} violations in "
        f"{report.counts['bookings']:,} bookings; a round breaks something: "
        f"{at_most(len(starts))}",
    )

    assert report.holds, report
    assert slowest <= READY_WITHIN, told
