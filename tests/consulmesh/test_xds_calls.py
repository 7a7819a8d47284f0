"""What calls experience: real gRPC core, fed by our ADS server."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import pytest

from consulmesh.catalog import Upstream
from consulmesh.channel import MeshChannel
from consulmesh.instances import Locality
from consulmesh.xds.messages import Cluster, ResourceType, pack
from consulmesh.xds.resources import Resources, resources
from tests.chaos.figures import figure
from tests.consulmesh.xds_world import (
    SERVICE,
    Behaviour,
    Echo,
    call,
    echoing,
    instance,
    until,
    upstream,
    world,
)

META = {"grpc-service": SERVICE, "retryable-methods": "Get,List"}


async def unavailable_twice(context: Any, attempt: int) -> None:
    """Fail the first two calls."""
    if attempt <= 2:
        await context.abort(grpc.StatusCode.UNAVAILABLE, f"attempt {attempt}")


async def test_calls_go_round_the_instances() -> None:
    """Two instances of the same weight get half of the calls each."""
    async with world() as mesh, echoing() as one, echoing() as two, mesh.channel() as channel:
        mesh.catalog.show(upstream([instance(one.port), instance(two.port)]))
        await until_both(channel, one, two)
        answers = Counter([await call(channel) for _ in range(100)])

    assert answers == {str(one.port): 50, str(two.port): 50}


async def until_both(channel: grpc.aio.Channel, *echoes: Any) -> None:
    """Call until each server was reached, so that all connections stand."""
    ports = {str(echo.port) for echo in echoes}
    seen: set[str] = set()
    async with asyncio.timeout(20):
        while seen != ports:
            seen.add(await call(channel))


async def test_weights_share_the_calls() -> None:
    """An instance of three times the weight gets about three times the calls."""
    async with world() as mesh, echoing() as one, echoing() as two, mesh.channel() as channel:
        mesh.catalog.show(upstream([instance(one.port, weight=3), instance(two.port)]))
        await until_both(channel, one, two)
        answers = Counter([await call(channel) for _ in range(400)])

    assert 240 <= answers[str(one.port)] <= 360


async def test_instances_come_and_go_without_a_failed_call() -> None:
    """While instances are added and removed under load, every call is answered."""
    failures: list[grpc.aio.AioRpcError] = []
    answered = 0
    async with world() as mesh, echoing() as one, echoing() as two, mesh.channel() as channel:
        mesh.catalog.show(upstream([instance(one.port)]))
        stop = asyncio.Event()

        async def load() -> None:
            nonlocal answered
            while not stop.is_set():
                try:
                    answered += bool(await call(channel))
                except grpc.aio.AioRpcError as error:
                    failures.append(error)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(load())
            for turn in range(20):
                both = [instance(one.port), instance(two.port)]
                mesh.catalog.show(upstream(both if turn % 2 else both[turn // 2 % 2 :][:1]))
                enough = answered + 20
                await until(lambda: bool(failures) or answered >= enough)  # noqa: B023 - of this turn
            stop.set()

    assert failures == []
    assert one.calls
    assert two.calls


async def test_listed_methods_are_tried_three_times() -> None:
    """A retryable method that fails twice with UNAVAILABLE succeeds at the third attempt."""
    async with world() as mesh, echoing(unavailable_twice) as echo, mesh.channel() as channel:
        mesh.catalog.show(upstream([instance(echo.port)], ServiceMeta=META))
        answer = await call(channel, "List")

    assert answer == str(echo.port)
    assert echo.calls == ["List"] * 3


@pytest.mark.parametrize(
    ("method", "metadata"),
    [("Create", None), ("Getter", None), ("Get", (("mesh-no-retry", "1"),))],
    ids=["unlisted", "longer name", "no budget"],
)
async def test_other_calls_are_tried_once(method: str, metadata: Any) -> None:
    """Methods that are not listed, and calls that carry the no-retry header, have one attempt."""
    async with world() as mesh, echoing(unavailable_twice) as echo, mesh.channel() as channel:
        mesh.catalog.show(upstream([instance(echo.port)], ServiceMeta=META))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, method, metadata=metadata)

    assert caught.value.details() == "attempt 1"
    assert echo.calls == [method]


async def test_an_empty_service_fails_fast_and_recovers() -> None:
    """Calls to a service without instances are UNAVAILABLE at once, and work when one comes."""
    async with world() as mesh, echoing() as echo, mesh.channel() as channel:
        mesh.catalog.show(upstream())
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel)
        begin = time.perf_counter()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel)
        took = time.perf_counter() - begin
        mesh.catalog.show(upstream([instance(echo.port)]))
        answer = await call(channel, wait_for_ready=True)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert took < 5  # of the 20 seconds that it had
    assert answer == str(echo.port)


async def test_an_unknown_upstream_fails_after_patience_and_recovers() -> None:
    """While Consul told nothing of an upstream, calls fail after a bounded wait, not a deadline."""
    async with (
        world(patience=timedelta(milliseconds=50)) as mesh,
        echoing() as echo,
        mesh.channel() as channel,
    ):
        begin = time.perf_counter()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel)
        took = time.perf_counter() - begin
        mesh.catalog.show(upstream([instance(echo.port)]))
        answer = await call(channel, wait_for_ready=True)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert took < 10  # of the 20 seconds that it had
    assert answer == str(echo.port)


async def test_known_instances_outlive_the_ads_server() -> None:
    """When the ADS server dies, open channels go on with what they know."""
    async with world() as mesh, echoing() as echo, mesh.channel() as channel:
        mesh.catalog.show(upstream([instance(echo.port)]))
        await call(channel)
        await mesh.server.stop(None)
        answers = {await call(channel) for _ in range(20)}

    assert answers == {str(echo.port)}


async def test_the_last_subscriber_takes_the_watch_along() -> None:
    """When the last channel of an upstream is closed, its subscription ends."""
    async with world() as mesh, echoing() as echo:
        mesh.catalog.show(upstream([instance(echo.port)]))
        async with mesh.channel() as channel:
            await call(channel)
            during = set(mesh.catalog.subscribers)
        await until(lambda: not mesh.catalog.subscribers)

    assert during == {"echo"}
    assert mesh.servicer.states() == ()


async def test_a_refused_resource_is_reported_and_calls_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When gRPC core refuses a resource, the reason is kept, counted, and the old one holds."""

    def broken(view: Upstream, near: Locality | None, domains: Sequence[str]) -> Resources:
        good = resources(view, near, domains)
        cluster: Any = Cluster()
        good.by_type[ResourceType.CLUSTER]["echo"].Unpack(cluster)
        cluster.lb_policy = Cluster.LbPolicy.Value("MAGLEV")
        by_type = {**good.by_type, ResourceType.CLUSTER: {"echo": pack(cluster)}}
        return replace(good, by_type=by_type)

    async with world() as mesh, echoing() as echo, mesh.channel() as channel:
        mesh.catalog.show(upstream([instance(echo.port)]))
        await call(channel)
        monkeypatch.setattr("consulmesh.xds.directory.resources", broken)
        mesh.catalog.show(upstream([instance(echo.port)]))
        await until(lambda: mesh.servicer.nacks[ResourceType.CLUSTER] == 1)
        (nack,) = mesh.servicer.states()[0].nacks
        answer = await call(channel)

    assert nack.type is ResourceType.CLUSTER
    assert "LB policy is not supported" in nack.detail
    assert answer == str(echo.port)


async def test_retries_do_not_multiply_over_hops() -> None:
    """When the last of three services fails always, it gets no more than 1.1 of the first calls.

    With three attempts at each hop it would get 27 times as many.
    """
    calls = 400
    async with AsyncExitStack() as stack:

        async def hop(behaviour: Behaviour) -> tuple[Echo, MeshChannel]:
            """One more service, and the way to it."""
            mesh = await stack.enter_async_context(world())
            echo = await stack.enter_async_context(echoing(behaviour))
            channel = await stack.enter_async_context(mesh.channel())
            mesh.catalog.show(upstream([instance(echo.port)], ServiceMeta=META))
            return echo, MeshChannel(channel, upstream="echo", caller="test")

        async def failing(context: Any, _attempt: int) -> None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "always")

        def asking(next_hop: MeshChannel) -> Behaviour:
            async def behaviour(context: Any, _attempt: int) -> None:
                try:
                    await call(next_hop)
                except grpc.aio.AioRpcError as error:
                    await context.abort(error.code(), "as it said")

            return behaviour

        third, to_third = await hop(failing)
        second, to_second = await hop(asking(to_third))
        first, to_first = await hop(asking(to_second))
        for _ in range(calls):
            with pytest.raises(grpc.aio.AioRpcError):
                await call(to_first)
    figure("L5", f"{calls} calls over three hops that all fail: {len(third.calls)} at the last")

    assert calls <= len(first.calls) <= 1.1 * calls
    assert calls <= len(second.calls) <= 1.1 * calls
    assert calls <= len(third.calls) <= 1.1 * calls


async def test_retries_come_back_with_success() -> None:
    """Once an upstream that failed for long answers again, calls to it are tried again."""
    broken = True

    async def flapping(context: Any, attempt: int) -> None:
        if broken or attempt % 20 == 0:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "now and then")

    async with world() as mesh, echoing(flapping) as echo, mesh.channel() as plain:
        channel = MeshChannel(plain, upstream="echo", caller="test")
        mesh.catalog.show(upstream([instance(echo.port)], ServiceMeta=META))
        for _ in range(20):
            with pytest.raises(grpc.aio.AioRpcError):
                await call(channel)
        broken = False
        failures = [await failed(channel) for _ in range(400)]

    assert any(failures[:50])
    assert not any(failures[-50:])


async def failed(channel: grpc.aio.Channel) -> bool:
    """Whether a call failed."""
    try:
        await call(channel)
    except grpc.aio.AioRpcError:
        return True
    return False
