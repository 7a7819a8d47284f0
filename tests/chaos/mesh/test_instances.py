"""Instances die, all of them too; new ones come; strangers take their ports (D6, D9 to D11)."""

import asyncio
import signal
import statistics
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from bench.steady import percentile
from consulmesh.consul_api import ConsulApi
from consulmesh.registration import Check
from consulmesh.testing import RealConsul, real_consul
from tests.chaos.figures import LONG, at_most, figure
from tests.chaos.mesh.arrivals import DEADLINE
from tests.chaos.mesh.members import (
    BOTH,
    CALM,
    all_of,
    all_pass,
    both,
    callers,
    configure,
    endpoints,
    knows,
    loads,
    party,
)
from tests.chaos.mesh.toxiproxy import Toxiproxy
from tests.consulmesh.consuls import health_server, registration, tell, withdraw
from tests.consulmesh.processes import Process
from tests.consulmesh.xds_process import SERVICE

GONE: Final = 30.0 if LONG else 2.0  # seconds without any instance
KILLS: Final = 20 if LONG else 1
ARRIVALS: Final = 200 if LONG else 10  # of a new instance
CALLERS: Final = 3
STRANGER: Final = 12.0 if LONG else 4.0  # seconds for which somebody else has the port
SOON: Final = 10.0 if LONG else 30.0  # seconds in which a slow machine recovers too

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
async def consul() -> AsyncIterator[RealConsul]:
    """One real Consul for these rows; it says that `Get` of echo may be tried again."""
    async with real_consul() as agent:
        await configure(agent)
        yield agent


async def kill(process: Process) -> float:
    """Kill a process; returns when it was sure to be dead."""
    process.signal(signal.SIGKILL)
    await process.ended()
    return asyncio.get_running_loop().time()


async def test_d9_an_instance_is_killed(consul: RealConsul, tmp_path: Path) -> None:
    """Only what it was answering fails; with a retry nothing does; all callers drop it soon."""
    loop = asyncio.get_running_loop()
    out: list[float] = []
    kills: list[float] = []
    async with AsyncExitStack() as stack:
        processes = dict(
            zip(BOTH, await stack.enter_async_context(both(consul, tmp_path)), strict=True)
        )
        meshes = await stack.enter_async_context(callers(consul, tmp_path, CALLERS))
        async with loads(meshes, "Get", "Slow") as (reads, writes):
            for number in range(KILLS):
                name = BOTH[number % 2]
                began = loop.time()
                dead = await kill(processes[name])
                kills.append(began)
                out.append(max(await asyncio.gather(*(knows(mesh, 1) for mesh in meshes))) - began)
                processes[name] = await stack.enter_async_context(party(consul, tmp_path, name))
                await all_pass(consul, *BOTH)
                await asyncio.gather(*(knows(mesh, 2) for mesh in meshes))
                for load in (*reads, *writes):
                    await load.answered(BOTH, since=dead)
                await asyncio.sleep(CALM)
    read = all_of(reads)
    written = all_of(writes)
    late = [
        min((each.sent - began for began in kills if each.ended > began), default=float("inf"))
        for each in written.failures
    ]
    under_way = [
        len([each for each in written if each.sent < began < each.ended]) for began in kills
    ]
    figure(
        "D9",
        f"{KILLS} kills of one of two instances, {CALLERS} callers: with retry {read}, "
        f"{at_most(len(read))}; without {written}, of {sum(under_way)} under way at the kills, the "
        f"last sent {1000 * max(late, default=0):.0f} ms after one; out of every set after "
        f"{statistics.median(out):.1f} s (median), {max(out):.1f} s at most",
    )

    assert read.failures == ()
    assert len(written.failures) <= sum(under_way) + KILLS * CALLERS
    assert max(late, default=0) < (1 if LONG else SOON / 2)
    assert max(out) <= SOON


async def test_d6_all_instances_are_gone(consul: RealConsul, tmp_path: Path) -> None:
    """Calls fail at once, not at their deadline, and succeed as soon as somebody is back."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(both(consul, tmp_path))
        meshes = await stack.enter_async_context(callers(consul, tmp_path, 2))
        async with loads(meshes, "Get", "Put") as (reads, writes):
            dead = max(await asyncio.gather(*map(kill, processes)))
            await asyncio.sleep(GONE)
            gone = loop.time()
            again = await stack.enter_async_context(party(consul, tmp_path))
            await again.logged("serving")
            serving = loop.time()
            back = max([await load.answered(since=gone) for load in (*reads, *writes)])
            await asyncio.sleep(CALM)
            steady = loop.time()
    read = all_of(reads)
    written = all_of(writes)
    refused = written.due(dead, gone).failures
    figure(
        "D6",
        f"both instances gone for {gone - dead:.0f} s: calls fail after "
        f"{refused.percentile(0.5):.1f} ms (median), {refused.percentile(0.99):.1f} ms (p99), "
        "those that may be tried again after "
        f"{read.due(dead, gone).failures.percentile(0.99):.1f} ms (p99); answered by all callers "
        f"{back - serving:.1f} s after an instance served again",
    )

    assert set(refused.codes) == {"UNAVAILABLE"}
    assert len(refused) == len(written.due(dead, gone))
    assert refused.percentile(0.99) < (1000 if LONG else 1000 * DEADLINE / 2)
    assert back - serving <= SOON
    assert written.due(steady - CALM / 2).failures == ()


async def test_d10_a_new_instance_is_called(consul: RealConsul, tmp_path: Path) -> None:
    """From passing in Consul to the first answer to each caller, again and again."""
    loop = asyncio.get_running_loop()
    took: list[float] = []
    async with (
        both(consul, tmp_path) as processes,
        callers(consul, tmp_path, CALLERS) as meshes,
        ConsulApi(consul.url) as api,
    ):
        there, newcomer = [
            registration("fresh", await port_of(each), number=number, check=Check.grpc(SERVICE))
            for number, each in enumerate(processes, 1)
        ]
        await tell(api, there, proven=True)
        async with loads(meshes, "Put", service="fresh") as (writes,):
            for _ in range(ARRIVALS):
                await tell(api, newcomer, proven=True)
                told = loop.time()
                firsts = [await load.answered(["echo-2"], since=told) for load in writes]
                took += [first - told for first in firsts]
                await withdraw(api, newcomer)
                await asyncio.gather(*(knows(mesh, 1, "fresh") for mesh in meshes))
    outcomes = all_of(writes)
    figure(
        "D10",
        f"{ARRIVALS} times a new instance, {CALLERS} callers with a call every 20 ms: first "
        f"answer {1000 * percentile(took, 0.5):.0f} ms (median), "
        f"{1000 * percentile(took, 0.99):.0f} ms (p99) after it passed; {outcomes}",
    )

    assert len(took) == ARRIVALS * CALLERS
    assert max(took) <= SOON
    assert outcomes.failures == ()


async def port_of(process: Process) -> int:
    """Return the port at which a process serves."""
    address: str = (await process.logged("serving"))["address"]
    return int(address.rpartition(":")[2])


async def test_d11_a_stranger_takes_the_port(
    consul: RealConsul, toxics: Toxiproxy, tmp_path: Path
) -> None:
    """A server of something else at a dead instance's address is out soon, and never believed.

    It is there in the moment of the death, which a proxy at that address brings about: callers and
    check find it as soon as they connect again.
    """
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        victim = await stack.enter_async_context(party(consul, tmp_path, "hidden-1"))
        await stack.enter_async_context(party(consul, tmp_path, BOTH[1]))
        stranger = await stack.enter_async_context(health_server("stranger.v1.OtherService"))
        api = await stack.enter_async_context(ConsulApi(consul.url))
        proxy = await toxics.proxy(await port_of(victim))
        entry = registration("echo", proxy.port, check=Check.grpc(SERVICE))
        await tell(api, entry, proven=True)
        await all_pass(consul, *BOTH)
        meshes = await stack.enter_async_context(callers(consul, tmp_path, 2))
        async with loads(meshes, "Get", "Put") as (reads, writes):
            for load in (*reads, *writes):
                await load.answered(EITHER)
            began = loop.time()
            await asyncio.gather(kill(victim), proxy.lead_to(stranger.port))
            out = max(await asyncio.gather(*(knows(mesh, 1) for mesh in meshes)))
            await asyncio.sleep(max(0.0, began + STRANGER - loop.time()))
            stayed_out = [endpoints(mesh) for mesh in meshes] == [1, 1]
            again = await stack.enter_async_context(party(consul, tmp_path, "hidden-1"))
            await proxy.lead_to(await port_of(again))
            back = await all_pass(consul, *BOTH)
            for load in (*reads, *writes):
                await load.answered(EITHER, since=back)
        await withdraw(api, entry)
    outcomes = all_of((*reads, *writes))
    answers = [each for each in outcomes if not each.failed]
    wrong = [each for each in answers if each.body.decode() != each.instance]
    figure(
        "D11",
        f"a server of something else at a dead instance's address for {STRANGER:.0f} s: out of "
        f"every set after {out - began:.1f} s, {outcomes}, {len(wrong)} answers wrong, "
        f"{at_most(len(answers))}",
    )

    assert wrong == []
    assert outcomes.instances == EITHER
    assert set(outcomes.failures.codes) <= {"UNIMPLEMENTED", "UNAVAILABLE"}
    assert out - began <= SOON
    assert stayed_out
    assert outcomes.due(out + CALM, began + STRANGER).failures == ()


EITHER: Final = {"hidden-1", "echo-2"}
"""As whom the two instances answer: the first is known to Consul by another name."""
