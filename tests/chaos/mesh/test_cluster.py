"""A cluster of three Consul servers loses its leader under load."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp
import pytest

from consulmesh.catalog import Catalog, Upstream
from consulmesh.consul_api import ConsulApi
from consulmesh.testing import RealConsul
from tests.chaos.figures import LONG, at_most, figure
from tests.chaos.mesh.cluster import cluster
from tests.chaos.mesh.members import (
    BOTH,
    POLL,
    all_of,
    all_pass,
    both,
    callers,
    configure,
    knows,
    loads,
    party,
)
from tests.consulmesh.consuls import Views

LEADERS: Final = 5 if LONG else 1
PATIENCE: Final = 60.0

pytestmark = pytest.mark.timeout(600)


class Probe:
    """Asks again and again, while the block runs, whether something is broken.

    State: the moments at which it was, on the loop's clock.
    """

    def __init__(self, broken: Callable[[], Awaitable[bool]]) -> None:
        self._broken = broken
        self._task: asyncio.Task[None] | None = None
        self.seen: list[float] = []

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if await self._broken():
                self.seen.append(loop.time())
            await asyncio.sleep(POLL)

    def since(self, moment: float) -> float:
        """Return how many seconds later it was last broken; 0 where it never was."""
        return max((at - moment for at in self.seen if at > moment), default=0.0)


async def test_cluster_its_leader_is_killed(tmp_path: Path) -> None:
    """No call fails, though an instance dies in the same moment; all watches go on."""
    loop = asyncio.get_running_loop()
    elections, unread, failing, out, told = [], [], [], [], []
    async with AsyncExitStack() as stack:
        consuls = await stack.enter_async_context(cluster())
        agent = consuls.agent
        await configure(agent)
        _, victim = await stack.enter_async_context(both(agent, tmp_path))
        meshes = await stack.enter_async_context(callers(agent, tmp_path, 2))
        api = await stack.enter_async_context(ConsulApi(agent.url))
        catalog = await stack.enter_async_context(Catalog(api, "observer"))
        http = await stack.enter_async_context(aiohttp.ClientSession(agent.url))
        views = Views(catalog, "echo")
        await catalog.known("echo")

        async def unreadable() -> bool:
            async with http.get("/v1/config/service-defaults/echo") as answer:
                return not answer.ok

        async def interrupted() -> bool:
            return any(state.error for state in catalog.states())

        async with (
            loads(meshes, "Get") as (calls,),
            Probe(unreadable) as reads,
            Probe(interrupted) as watches,
        ):
            for number in range(LEADERS):
                leader = await consuls.leader()
                began = loop.time()
                await leader.kill()
                victim.signal(signal.SIGKILL)
                await victim.ended()
                dropping = asyncio.gather(*(knows(mesh, 1) for mesh in meshes))
                await consuls.leader(other_than=leader)
                elections.append(loop.time() - began)
                written = await until_written(agent, f"Work={number + 10}s")
                await views.until(partial(says, timeouts=f"Work={number + 10}s"), PATIENCE)
                told.append(loop.time() - written)
                out.append(max(await dropping) - began)
                while await interrupted():  # noqa: ASYNC110 - watches tell nobody
                    await asyncio.sleep(POLL)
                unread.append(reads.since(began))
                failing.append(watches.since(began))
                await leader.start()
                victim = await stack.enter_async_context(party(agent, tmp_path, BOTH[1]))
                await all_pass(agent, *BOTH)
                for load in calls:
                    await load.answered(BOTH, since=loop.time())
    outcomes = all_of(calls)
    figure(
        "Consul cluster",
        f"leader of three killed {LEADERS} times, and an instance with it: {outcomes}, "
        f"{at_most(len(outcomes))}; another leader after {max(elections):.1f} s at most, config "
        f"reads failed until {max(unread):.1f} s, a watch until {max(failing):.1f} s; a change "
        f"then written was told {max(told):.2f} s later, the dead instance out of every set after "
        f"{max(out):.1f} s",
    )

    assert outcomes.failures == ()
    assert not any(state.error for state in catalog.states())
    assert max(out) <= PATIENCE


async def until_written(consul: RealConsul, timeouts: str) -> float:
    """Write other request timeouts as soon as Consul takes them; returns when it has."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await configure(consul, **{"request-timeouts": timeouts})
            except aiohttp.ClientResponseError:
                await asyncio.sleep(POLL)
            else:
                return asyncio.get_running_loop().time()


def says(view: Upstream, timeouts: str) -> bool:
    """Whether a view has these request timeouts."""
    return bool(view.chain["ServiceMeta"].get("request-timeouts") == timeouts)
