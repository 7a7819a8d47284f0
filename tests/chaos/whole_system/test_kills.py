"""C1: instances of the running system are killed one after the other while people book."""

import random
import statistics
from typing import Final

import pytest

from tests.chaos.figures import LONG, SHARE, at_most, figure
from tests.chaos.whole_system.system import WholeSystem

KILLS: Final = round(300 * SHARE) if LONG else 5
BOOKINGS: Final = round(50_000 * SHARE) if LONG else 0
# A short run is too few calls, on a machine that others may use, to say anything of a rate.
RAW_ERRORS: Final = 0.01 if LONG else 1.0
RETRIED_ERRORS: Final = 0.001 if LONG else 1.0
VICTIMS: Final = ("booking",) * 8 + ("schedule", "pricing")


@pytest.mark.timeout(3 * 3600 if LONG else 600)
async def test_instances_are_killed_under_load(system: WholeSystem) -> None:
    """No booking is lost, doubled, oversold or charged wrongly, and hardly a user notices.

    Kills are spread evenly over the bookings: starts of processes alone would fill the machine.
    """
    draw = random.Random(1)
    seconds: list[float] = []
    system.recount()
    async with system.load():
        while len(seconds) < KILLS or system.tally.settled.total() < BOOKINGS:
            service = draw.choice(VICTIMS)
            victim = await system.victim(service, draw)
            seconds.append(await system.kill(service, victim))
            await system.settled(BOOKINGS * len(seconds) // KILLS)
    tally = system.tally
    report = await system.judged()
    figure(
        "C1",
        f"{system.engine}: {len(seconds)} kills, back after {statistics.median(seconds):.1f} s; "
        f"capacity {system.capacity:.0f}/s, {tally}; {len(report.violations)} violations in "
        f"{report.counts['bookings']:,} bookings; a kill breaks something: {at_most(len(seconds))}",
    )

    assert report.holds, report
    assert not tally.unexpected
    assert tally.raw_failed <= RAW_ERRORS * tally.raw, tally.failures
    assert tally.calls_failed <= RETRIED_ERRORS * tally.calls, tally.failures
