"""Hedged reads: what is late is asked again, within a budget, and what is no read never is."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from consulmesh.channel import MeshChannel
from consulmesh.hedging import Hedge, is_read
from consulmesh.metrics import HedgeMetrics, rpc_metrics
from tests.consulmesh.echo_proto import declare
from tests.consulmesh.xds_world import (
    SERVICE,
    Behaviour,
    Echo,
    World,
    call,
    echoing,
    instance,
    until,
    upstream,
    world,
)


@pytest.fixture(scope="module", autouse=True)
def _declared() -> None:
    """`Get` only reads, `Create` does not."""
    declare()


async def frozen(_context: Any, _count: int) -> None:
    """Accept a call and never answer."""
    await asyncio.Event().wait()


async def frozen_once_reached(_context: Any, count: int) -> None:
    """Answer the first call, and no other."""
    if count > 1:
        await asyncio.Event().wait()


def answers(code: grpc.StatusCode, *, after: float = 0.0) -> Behaviour:
    """Answer every call with a status, after so many seconds."""

    async def answer(context: Any, _count: int) -> None:
        await asyncio.sleep(after)
        await context.abort(code, "as told")

    return answer


@asynccontextmanager
async def hedged(mesh: World, *servers: Echo) -> AsyncIterator[MeshChannel]:
    """A channel to these servers that hedges, once it has reached what it can reach."""
    mesh.catalog.show(upstream([instance(server.port) for server in servers]))
    async with mesh.channel() as plain:
        yield MeshChannel(
            plain,
            upstream="echo",
            caller="test",
            choice=lambda: len(servers),
            metrics=rpc_metrics(CollectorRegistry()),
        )


def made(channel: MeshChannel) -> int:
    """How many hedges a channel made."""
    return sum(each.made for each in channel._metrics._hedged.values())


def test_reads_are_what_protos_say() -> None:
    """NO_SIDE_EFFECTS is a read; another level, or a method that nobody declared, is none."""
    assert is_read(f"/{SERVICE}/Get")
    assert not is_read(f"/{SERVICE}/Create")
    assert not is_read(f"/{SERVICE}/Unheard")


async def test_a_frozen_instance_delays_no_read() -> None:
    """Each of twenty reads is answered by the other instance, far within its deadline."""
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(world())
        well = await stack.enter_async_context(echoing())
        ill = await stack.enter_async_context(echoing(frozen))
        channel = await stack.enter_async_context(hedged(mesh, well, ill))
        await call(channel, timeout=20, wait_for_ready=True)
        found = [await call(channel, timeout=20) for _ in range(20)]

    assert set(found) == {str(well.port)}
    assert ill.calls
    assert made(channel) > 0


async def test_the_attempt_that_lost_is_cancelled() -> None:
    """The instance that answers too late learns that nobody waits."""
    cancelled = asyncio.Event()

    async def noticing(_context: Any, _count: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with (
        world() as mesh,
        echoing() as well,
        echoing(noticing) as ill,
        hedged(mesh, well, ill) as channel,
    ):
        async with asyncio.timeout(10):
            while not ill.calls:
                await call(channel, wait_for_ready=True)
            await cancelled.wait()

    assert ill.calls


async def test_a_write_is_asked_once() -> None:
    """What is not declared a read waits for its own answer."""
    async with (
        world() as mesh,
        echoing(frozen_once_reached) as ill,
        hedged(mesh, ill, ill) as channel,
    ):
        await call(channel, "Connect", wait_for_ready=True)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, "Create", timeout=0.5)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert ill.calls == ["Connect", "Create"]


async def test_all_attempts_have_one_deadline() -> None:
    """Where nobody answers, a call takes as long as it may, however often it is asked."""
    async with (
        world() as mesh,
        echoing(frozen_once_reached) as ill,
        hedged(mesh, ill, ill) as channel,
    ):
        await call(channel, "Connect", wait_for_ready=True)
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, timeout=1)
        took = time.monotonic() - began

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(ill.calls) > 2
    assert 0.9 < took < 10


async def test_alone_an_instance_is_asked_once() -> None:
    """With nobody else to ask, waiting is all that helps."""
    async with (
        world() as mesh,
        echoing(frozen_once_reached) as ill,
        hedged(mesh, ill) as channel,
    ):
        await call(channel, "Connect", wait_for_ready=True)
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel, timeout=0.5)

    assert ill.calls == ["Connect", "Get"]


async def test_a_refusal_of_the_call_is_an_answer() -> None:
    """NOT_FOUND of a later attempt counts, though the first is still under way."""
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(world())
        servers = [
            await stack.enter_async_context(echoing(behaviour))
            for behaviour in (frozen, answers(grpc.StatusCode.NOT_FOUND))
        ]
        channel = await stack.enter_async_context(hedged(mesh, *servers))
        codes = set()
        for _ in range(4):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, timeout=20, wait_for_ready=True)
            codes.add(caught.value.code())

    assert codes == {grpc.StatusCode.NOT_FOUND}


async def test_a_failed_attempt_leaves_the_call_to_the_others() -> None:
    """UNAVAILABLE of one attempt ends nothing while another is under way."""
    connected, both, failed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def fails(context: Any, _count: int) -> None:
        if connected.is_set():
            await both.wait()
            failed.set()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "as told")

    async def answers_after_it(_context: Any, _count: int) -> None:
        if connected.is_set():
            both.set()
            await failed.wait()
            await asyncio.sleep(0.2)  # until the caller has heard of the failure

    async with (
        world() as mesh,
        echoing(answers_after_it) as well,
        echoing(fails) as ill,
        hedged(mesh, well, ill) as channel,
    ):
        async with asyncio.timeout(10):
            while not (well.calls and ill.calls):
                await call(channel, wait_for_ready=True)
        connected.set()
        found = await call(channel, timeout=20)

    assert found == str(well.port)
    assert failed.is_set()


async def test_who_gives_up_cancels_every_attempt() -> None:
    """When the caller's task is cancelled, nothing of the call stays under way."""
    ended = 0

    async def noticing(_context: Any, _count: int) -> None:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            ended += 1

    async with world() as mesh, echoing(noticing) as ill, hedged(mesh, ill, ill) as channel:
        asking = asyncio.create_task(call(channel, timeout=20, wait_for_ready=True))
        await until(lambda: len(ill.calls) == 2)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: ended == len(ill.calls))

    assert asking.cancelled()
    assert ended >= 2


class Scene:
    """A hedge on a clock of its own, with calls of which some are late."""

    def __init__(self, latency: Callable[[], float]) -> None:
        self.now = 0.0
        self.metrics = HedgeMetrics("echo", "Get")
        self.hedge = Hedge(choice=lambda: 3, metrics=self.metrics, clock=lambda: self.now)
        self._latency = latency

    def run(self, calls: int, *, a_second: float = 100.0) -> None:
        """Make so many calls, each answered in its time, asked again once if late."""
        for _ in range(calls):
            self.now += 1 / a_second
            took = self._latency()
            again = took > self.hedge.delay and self.hedge.allows()
            self.hedge.ended()
            self.hedge.answered(took, again=again)


def test_little_is_asked_again_when_all_is_well() -> None:
    """Of 50,000 calls with ordinary latencies at most two in a hundred are."""
    chance = random.Random(1)
    scene = Scene(lambda: chance.lognormvariate(-4, 0.5))
    scene.run(50_000)

    assert 0 < scene.metrics.made <= 0.02 * 50_000 + 100


def test_the_budget_holds_when_all_is_late() -> None:
    """Where every call is slower than those before it, no more are asked again than are allowed."""
    step = iter(range(10_000_000))
    scene = Scene(lambda: 0.1 + next(step))
    scene.run(10_000)

    assert scene.metrics.made <= 0.02 * 10_000 + 100


def test_what_was_saved_lasts_for_a_frozen_instance() -> None:
    """After minutes of quiet each call of five seconds may be asked again."""
    late = False
    scene = Scene(lambda: 10.0 if late else 0.02)
    scene.run(60_000, a_second=200)
    before, late = scene.metrics.made, True
    asked = sum(scene.hedge.allows() for _ in range(1_000))

    assert scene.metrics.made - before == asked
    assert 950 <= asked <= 1_000
