"""C3: all processes are killed at once, Consul and the supervisor too, and started again."""

import asyncio
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
    seconds: list[float] = []
    processes = 0
    for _ in range(ROUNDS):
        async with system.load():
            await asyncio.sleep(CALM)
            processes = await asyncio.to_thread(system.kill_everything)
        began = time.monotonic()
        await asyncio.to_thread(up, system.settings, system.engine)
        seconds.append(time.monotonic() - began)
    report = await system.judged()
    figure(
        "C3",
        f"{system.engine}: {processes} processes killed at once, {len(seconds)} times; ready after "
        f"{max(seconds):.1f} s at most; {len(report.violations)} violations in "
        f"{report.counts['bookings']:,} bookings; a round breaks something: "
        f"{at_most(len(seconds))}",
    )

    assert report.holds, report
    assert max(seconds) <= READY_WITHIN
