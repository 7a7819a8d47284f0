"""Consul is killed, comes back empty, or tells nonsense, under load (D1, D2, D3, D12)."""

import asyncio
import signal
from collections import Counter
from pathlib import Path
from typing import Final

import grpc
import pytest

from consulmesh.instances import REREGISTRATION_WINDOW
from consulmesh.testing import FakeConsul, Fault, real_consul
from tests.chaos.figures import LONG, at_most, figure
from tests.chaos.mesh.arrivals import Outcomes
from tests.chaos.mesh.members import (
    BOTH,
    CALM,
    all_of,
    all_pass,
    both,
    callers,
    configure,
    endpoints,
    loads,
    party,
)
from tests.consulmesh.xds_world import call

AWAY: Final = 60.0 if LONG else 5.0  # seconds without Consul
WRONG: Final = 30.0 if LONG else 2.0  # seconds of each fault
OBSERVED: Final = 600.0 if LONG else 12.0  # seconds after Consul came back empty
DOUBTED: Final = 0.8 * REREGISTRATION_WINDOW.total_seconds()
STARTS: Final = 10 if LONG else 1
UNHEARD: Final = 15.0 if LONG else 4.0  # seconds for which a service that started goes on asking
BACK: Final = 10.0 if LONG else 30.0  # seconds in which all instances are in Consul again

pytestmark = pytest.mark.timeout(600 + 2 * OBSERVED)


async def test_d1_consul_and_a_backend_die(tmp_path: Path) -> None:
    """While Consul is away an instance is killed: gRPC core itself sees it, no read fails."""
    loop = asyncio.get_running_loop()
    async with real_consul() as consul:
        await configure(consul)
        async with (
            both(consul, tmp_path) as (victim, _),
            callers(consul, tmp_path, 2) as meshes,
            loads(meshes, "Get", "Slow") as (reads, writes),
        ):
            await consul.kill()
            await asyncio.sleep(AWAY / 2)
            killed = loop.time()
            victim.signal(signal.SIGKILL)
            await victim.ended()
            dead = loop.time()
            in_set = [endpoints(mesh) for mesh in meshes]
            await asyncio.sleep(AWAY / 2)
            await consul.start()
            back = loop.time()
            await all_pass(consul, "echo-2")
            believed = loop.time()
            await asyncio.sleep(CALM)
    read = all_of(reads)
    written = all_of(writes)
    figure(
        "D1",
        f"Consul killed for {back - killed + AWAY / 2:.0f} s, one of two instances killed "
        f"meanwhile: with retry {read}; without {written}, the last of those sent "
        f"{last_sent(written.failures, killed)} after the kill; Consul believed it gone "
        f"{believed - back:.1f} s after its return",
    )

    assert read.failures == ()
    assert in_set == [2, 2]
    assert read.due(dead + 1).instances == {"echo-2"}
    assert written.due(dead + 1).failures == ()


def last_sent(outcomes: Outcomes, since: float) -> str:
    """Say how long after a moment the last of some calls was sent."""
    if not outcomes:
        return "never"
    return f"{1000 * (max(each.sent for each in outcomes) - since):.0f} ms"


async def test_d2_consul_tells_nonsense(tmp_path: Path) -> None:
    """Whatever Consul says, calls go on, and each watch asks about once a second.

    That there is nobody is said for less than the window: then it is believed.
    """
    lines, most, kept = [], 0.0, set()
    async with (
        FakeConsul() as consul,
        both(consul, tmp_path),
        callers(consul, tmp_path, 1) as (mesh,),
        loads([mesh], "Put") as ((load,),),
    ):
        for fault in Fault:
            seconds = min(WRONG, DOUBTED) if fault is Fault.EMPTY_LISTS else WRONG
            rate = await rate_during(consul, fault, seconds)
            most = max(most, rate)
            kept.add(endpoints(mesh))
            consul.fault = None
            healed = asyncio.get_running_loop().time()
            returned = await all_pass(consul, *BOTH, patience=BACK) - healed
            lines.append(
                f"{fault}, {seconds:.0f} s: {rate:.1f} requests/s, listed after {returned:.1f} s"
            )
            await asyncio.sleep(CALM)
    figure(
        "D2",
        f"{'; '.join(lines)}; at least {min(kept)} of 2 endpoints kept, {load.outcomes}",
    )

    assert load.outcomes.failures == ()
    assert kept == {2}
    assert most <= 1 + 2 / WRONG


async def rate_during(consul: FakeConsul, fault: Fault, seconds: float) -> float:
    """Let something be wrong; requests per second of the watch that asked most often.

    It is wrong still when this returns.
    """
    loop = asyncio.get_running_loop()
    consul.requests.clear()
    consul.fault = fault
    began = loop.time()
    await asyncio.sleep(seconds)
    asked = Counter(request.path for request in consul.requests)
    most = max((asked[path] for path in asked if path not in SHARED), default=0)
    return most / (loop.time() - began)


SHARED: Final = {"/v1/config/service-defaults/echo"}
"""What more than one process watches."""


async def test_d2_consul_freezes(tmp_path: Path) -> None:
    """A real Consul that accepts connections and answers nothing costs no call."""
    async with (
        real_consul() as consul,
        both(consul, tmp_path),
        callers(consul, tmp_path, 1) as (mesh,),
        loads([mesh], "Put") as ((load,),),
    ):
        consul.pause()
        await asyncio.sleep(WRONG)
        consul.resume()
        healed = asyncio.get_running_loop().time()
        returned = await all_pass(consul, *BOTH) - healed
        await asyncio.sleep(CALM)
        kept = endpoints(mesh)
    figure(
        "D2",
        f"real Consul frozen for {WRONG:.0f} s: {load.outcomes}; all pass {returned:.1f} s after",
    )

    assert load.outcomes.failures == ()
    assert kept == 2
    assert returned <= BACK


async def test_d3_a_service_starts_without_consul(tmp_path: Path) -> None:
    """It serves, and is registered within seconds of Consul's return."""
    loop = asyncio.get_running_loop()
    spans = []
    async with real_consul() as consul:
        for _ in range(STARTS):
            await consul.kill()
            async with party(consul, tmp_path, registered=False) as process:
                line = await process.logged("serving")
                async with grpc.aio.insecure_channel(line["address"]) as direct:
                    answer = await call(direct, "Put")
                await process.logged("consul_unreachable")
                await asyncio.sleep(UNHEARD)
                await consul.start(empty=True)
                back = loop.time()
                await process.logged("consul_registered")
                spans.append(loop.time() - back)
    figure(
        "D3",
        f"{STARTS} starts without Consul: registered {max(spans):.1f} s after its return, "
        f"{UNHEARD:.0f} s later, at most",
    )

    assert answer == "echo-1"
    assert max(spans) <= BACK


async def test_d12_consul_comes_back_empty(tmp_path: Path) -> None:
    """A Consul that has forgotten everything is told it all again, and no call fails."""
    loop = asyncio.get_running_loop()
    least = 2
    async with (
        real_consul() as consul,
        both(consul, tmp_path),
        callers(consul, tmp_path, 2) as meshes,
        loads(meshes, "Put") as (writes,),
    ):
        await consul.kill()
        await consul.start(empty=True)
        back = loop.time()
        returned = await all_pass(consul, *BOTH) - back
        while loop.time() < back + OBSERVED:
            least = min(least, *map(endpoints, meshes))
            await asyncio.sleep(0.1)
        still = await all_pass(consul, *BOTH, patience=CALM)
    outcomes = all_of(writes)
    figure(
        "D12",
        f"Consul came back empty: all pass {returned:.1f} s after, observed for "
        f"{still - back:.0f} s: {outcomes}; at least {least} of 2 endpoints in each set; "
        f"{at_most(len(outcomes))}",
    )

    assert returned <= BACK
    assert outcomes.failures == ()
    assert outcomes.due(back + OBSERVED / 2).instances == set(BOTH)
    assert least == 2
