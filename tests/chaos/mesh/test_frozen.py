"""One of three instances is frozen: with hedged reads, and without (D5)."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from consulmesh import Mesh
from consulmesh.testing import RealConsul, real_consul
from tests.chaos.figures import LONG, figure
from tests.chaos.mesh.arrivals import Arrivals
from tests.chaos.mesh.members import CALM, all_pass, configure, knows, party
from tests.consulmesh.echo_proto import declare
from tests.consulmesh.processes import caller

THREE: Final = ("echo-1", "echo-2", "echo-3")
FROZEN: Final = 30.0 if LONG else 5.0  # seconds
QUIET: Final = 60.0 if LONG else 5.0  # seconds of calls before, which fill the budget
DEADLINE: Final = 2.0
SOON: Final = 15.0  # seconds in which a slow machine notices too

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", autouse=True)
def _declared() -> None:
    """`Get` has no side effects, so that it may be hedged."""
    declare()


@pytest.fixture(scope="module")
async def consul() -> AsyncIterator[RealConsul]:
    """One real Consul for these rows; it says that `Get` of echo may be tried again."""
    async with real_consul() as agent:
        await configure(agent)
        yield agent


def hedges(mesh: Mesh) -> tuple[int, int]:
    """How many attempts a caller has made beside others, and how many of them answered first."""
    (channel,) = (each for (_, _, hedged), each in mesh._channels.items() if hedged)
    (counts,) = channel._metrics._hedged.values()
    return counts.made, counts.won


async def test_d5_an_instance_is_frozen(consul: RealConsul, tmp_path: Path) -> None:
    """Hedged reads hardly notice; others wait for their deadlines until it is out."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        async with asyncio.TaskGroup() as group:
            starting = [
                group.create_task(stack.enter_async_context(party(consul, tmp_path, name)))
                for name in THREE
            ]
        frozen = starting[0].result()
        await all_pass(consul, *THREE)
        mesh = await stack.enter_async_context(caller(consul, tmp_path))
        loads = [
            await stack.enter_async_context(
                Arrivals(mesh.channel("echo", hedged=hedged), method, deadline=DEADLINE)
            )
            for method, hedged in (("Get", True), ("Get", False), ("Put", False))
        ]
        for load in loads:
            await load.answered(THREE)
        await asyncio.sleep(QUIET)
        before = hedges(mesh)
        calls = len(loads[0].outcomes)
        stopped = loop.time()
        frozen.signal(signal.SIGSTOP)
        out = await knows(mesh, 2) - stopped
        await asyncio.sleep(max(0.0, stopped + FROZEN - loop.time()))
        frozen.signal(signal.SIGCONT)
        woken = loop.time()
        await knows(mesh, 3)
        back = max([await load.answered(THREE[:1], since=woken) for load in loads]) - woken
        await asyncio.sleep(CALM)
        after = hedges(mesh)
    reads, plain, writes = (load.outcomes.due(stopped, woken) for load in loads)
    figure(
        "D5",
        f"1 of 3 frozen for {FROZEN:.0f} s, deadlines of {DEADLINE:.0f} s: hedged reads {reads}; "
        f"without hedging {plain}; writes {writes}; out of the set after {out:.1f} s, answering "
        f"{back:.1f} s after it woke up; {before[0]} of {calls} calls asked again before, "
        f"{after[0] - before[0]} since, of which {after[1] - before[1]} answered first",
    )

    assert len(reads.failures) <= len(plain.failures)
    assert len(reads.failures) <= max(1, len(reads) // 100)
    assert max(each.waited for each in writes) < DEADLINE + (1 if LONG else 2)
    assert out < SOON
    assert before[0] <= 0.02 * calls + 100
