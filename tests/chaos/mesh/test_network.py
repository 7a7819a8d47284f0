"""What lies between two services is cut, mute or slow (D7, L1)."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
import pytest

from consulmesh import Mesh
from consulmesh.consul_api import ConsulApi
from consulmesh.registration import Check
from consulmesh.testing import RealConsul, real_consul
from tests.chaos.figures import LONG, figure
from tests.chaos.mesh.arrivals import Arrivals
from tests.chaos.mesh.members import all_pass, callers, loads, party
from tests.chaos.mesh.party import WORK
from tests.chaos.mesh.toxiproxy import Proxy, Toxiproxy
from tests.consulmesh.consuls import registration, tell
from tests.consulmesh.processes import Process
from tests.consulmesh.xds_process import SERVICE

CUT: Final = 30.0 if LONG else 5.0  # seconds of a partition
SLOW: Final = 60.0 if LONG else 5.0  # seconds for which a dependency is slow
LATENCY: Final = 5000  # milliseconds
DEADLINE: Final = 0.8  # seconds
CONVERGED: Final = 5.0  # seconds after a partition
SETTLED: Final = 10.0  # seconds after a slow dependency
ALLOWED: Final = 0.05  # of descriptors, threads and tasks that may be more than before

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
async def consul() -> AsyncIterator[RealConsul]:
    """One real Consul for these rows."""
    async with real_consul() as agent:
        yield agent


@dataclass(frozen=True, slots=True)
class Link:
    """A service `near` whose calls to the service `far` go through a proxy.

    Consul checks `far` where it is: what is between the two is no concern of the check.
    """

    near: Process
    far: Process
    proxy: Proxy
    caller: Mesh

    async def census(self, service: str) -> dict[str, Any]:
        """Ask an instance what is there, past all proxies."""
        process = self.near if service == "near" else self.far
        address = (await process.logged("serving"))["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            ask: Any = channel.unary_unary(f"/{SERVICE}/Census")
            census: dict[str, Any] = json.loads(await ask(b"", timeout=5))
        return census

    async def resources(self) -> dict[str, int]:
        """Count what the process of `near` holds."""
        process = psutil.Process(self.near.pid)
        return {
            "descriptors": process.num_fds(),
            "threads": process.num_threads(),
            "tasks": (await self.census("near"))["tasks"],
        }


@asynccontextmanager
async def link(consul: RealConsul, toxics: Toxiproxy, folder: Path) -> AsyncIterator[Link]:
    """Run both services for the block, and somebody who calls `near`."""
    async with (
        party(consul, folder, "hidden-1") as far,
        party(consul, folder, "near-1", PARTY_UPSTREAM="far") as near,
        callers(consul, folder, 1) as (caller,),
        ConsulApi(consul.url) as api,
    ):
        port = int((await far.logged("serving"))["address"].rpartition(":")[2])
        proxy = await toxics.proxy(port)
        check = Check(grpc_service=SERVICE, port=port)
        await tell(api, registration("far", proxy.port, check=check), proven=True)
        await all_pass(consul, "far-1", service="far")
        await all_pass(consul, "near-1", service="near")
        yield Link(near, far, proxy, caller)


def mute(proxy: Proxy) -> AbstractAsyncContextManager[None]:
    """Let nothing pass in either direction; connections stay open, as with a pulled cable."""
    return proxy.toxic("timeout", "upstream", "downstream", timeout=0)


def resetting(proxy: Proxy) -> AbstractAsyncContextManager[None]:
    """Reset every connection as soon as it is made."""
    return proxy.toxic("reset_peer", "upstream", "downstream", timeout=0)


@asynccontextmanager
async def refusing(proxy: Proxy) -> AsyncIterator[None]:
    """Cut all connections and refuse new ones."""
    await proxy.open(enabled=False)
    try:
        yield
    finally:
        await proxy.open()


@pytest.mark.parametrize("cut", [mute, resetting, refusing])
async def test_d7_two_services_are_parted(
    consul: RealConsul, toxics: Toxiproxy, tmp_path: Path, cut: Any
) -> None:
    """While they are, every call ends by its deadline; afterwards all is as before, soon."""
    loop = asyncio.get_running_loop()
    async with link(consul, toxics, tmp_path) as parted:
        calling = loads([parted.caller], "Relay", service="near", deadline=DEADLINE)
        async with calling as ((load,),):
            async with cut(parted.proxy):
                began = loop.time()
                await asyncio.sleep(CUT)
                ended = loop.time()
            healed = loop.time()
            await load.answered(["near-1"], since=healed)
            await asyncio.sleep(CONVERGED)
    outcomes = load.outcomes
    during = outcomes.due(began + DEADLINE, ended - DEADLINE)
    converged = max((each.due for each in outcomes.failures), default=healed) - healed
    figure(
        "D7",
        f"{cut.__name__} for {ended - began:.0f} s: {during}; a caller with a deadline of "
        f"{1000 * DEADLINE:.0f} ms waited {during.waited(0.99):.0f} ms (p99), "
        f"{during.waited(1):.0f} ms at most; the last failure "
        f"{max(converged, 0):.2f} s after the end",
    )

    assert set(during.codes) <= {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
    assert during.waited(0.5) <= 2000 * DEADLINE
    assert converged < CONVERGED


@asynccontextmanager
async def slow_network(proxy: Proxy) -> AsyncIterator[str]:
    """Answers take 5 s on their way; gives the method to call."""
    async with proxy.toxic("latency", "downstream", latency=LATENCY):
        yield "Relay"


@asynccontextmanager
async def slow_handler(_proxy: Proxy) -> AsyncIterator[str]:
    """The handler takes 5 s; gives the method to call."""
    yield "RelayWork"


@pytest.mark.parametrize("slow", [slow_network, slow_handler])
async def test_l1_a_dependency_is_slow(
    consul: RealConsul, toxics: Toxiproxy, tmp_path: Path, slow: Any
) -> None:
    """Callers wait until their deadline and no longer, its work ends, and nothing is left over."""
    loop = asyncio.get_running_loop()
    async with link(consul, toxics, tmp_path) as between:
        channel = between.caller.channel("near")
        async with loads([between.caller], "Relay", service="near") as ((usual,),):
            pass
        before = await between.resources()
        async with (
            slow(between.proxy) as method,
            Arrivals(channel, method, deadline=DEADLINE) as load,
        ):
            await asyncio.sleep(SLOW)
            most = await between.resources()
        over = loop.time()
        after, took = await settled(between, before, over)
        far = await between.census("far")
    outcomes = load.outcomes
    held = ", ".join(f"{name} {before[name]} → {most[name]} → {after[name]}" for name in before)
    cancelled = far["late"]
    work = (
        f"; {len(cancelled)} works cut off {1000 * max(cancelled):.0f} ms after their deadline at "
        "most"
        if cancelled
        else ""
    )
    figure(
        "L1",
        f"{slow.__name__}, {WORK:.0f} s for {SLOW:.0f} s, deadline {1000 * DEADLINE:.0f} ms: "
        f"callers waited {outcomes.waited(0.99):.0f} ms (p99), {outcomes.waited(1):.0f} ms at "
        f"most, {dict(outcomes.codes)}; {held}, settled after {took:.1f} s{work}",
    )

    assert usual.outcomes.failures == ()
    assert len(outcomes.failures) == len(outcomes)
    assert outcomes.waited(0.5) <= 2000 * DEADLINE
    assert outcomes.waited(0.99) < LATENCY
    assert not too_much(before, after)
    assert far["working"] == 0
    assert bool(cancelled) is (slow is slow_handler)


async def settled(
    between: Link, before: dict[str, int], since: float
) -> tuple[dict[str, int], float]:
    """Wait until `near` holds no more than before, 10 s at most; how much, and after how long."""
    loop = asyncio.get_running_loop()
    while True:
        after, now = await between.resources(), loop.time()
        if not too_much(before, after) or now > since + SETTLED:
            return after, now - since
        await asyncio.sleep(0.1)


def too_much(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Name what there is more of than before, give or take one."""
    allowed = {name: max(count * (1 + ALLOWED), count + 1) for name, count in before.items()}
    return [name for name, most in allowed.items() if after[name] > most]
