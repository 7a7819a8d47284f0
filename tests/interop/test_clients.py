"""Clients in Go and Node follow what Consul says, as those in Python do."""

from collections import Counter
from pathlib import Path

import pytest

from consulmesh.consul_api import ConsulApi
from consulmesh.testing import RealConsul
from tests.interop.conftest import Join
from tests.interop.world import (
    SERVICE,
    Answer,
    Client,
    Echo,
    Entry,
    entry,
    of_version,
    write,
    written,
)

OK, UNAVAILABLE = 0, 14
OLD, NEW = Answer(code=OK, instance="1.0.0"), Answer(code=OK, instance="2.0.0")
NOBODY = Answer(code=UNAVAILABLE, instance="")

GRPC = entry("service-defaults", Protocol="grpc")
SUBSETS = entry(
    "service-resolver",
    DefaultSubset="old",
    Subsets={"old": of_version("1.0.0"), "new": of_version("2.0.0")},
)


def split(old: int, new: int) -> Entry:
    """Return a splitter."""
    splits = [{"Weight": old, "ServiceSubset": "old"}, {"Weight": new, "ServiceSubset": "new"}]
    return entry("service-splitter", Splits=splits)


def preview(**header: str) -> Entry:
    """Return a route that sends calls with a header to the new version."""
    return {
        "Match": {"HTTP": {"PathPrefix": f"/{SERVICE}/", "Header": [header]}},
        "Destination": {"ServiceSubset": "new"},
    }


@pytest.mark.usefixtures("echoes")
async def test_calls_are_split_as_the_splitter_says(consul: RealConsul, join: Join) -> None:
    """One call in ten goes to the canary; other shares reach the open channel."""
    async with written(consul, GRPC, SUBSETS, split(90, 10)):
        client = await join("echo")
        await client.until(OLD)
        canary = Counter([await client.call() for _ in range(500)])
        await write(consul, split(0, 100))
        await client.until(NEW)
        after = {await client.call() for _ in range(50)}

    assert canary.keys() == {OLD, NEW}
    assert 15 <= canary[NEW] <= 100
    assert after == {NEW}


@pytest.mark.usefixtures("echoes")
async def test_calls_are_routed_by_header(consul: RealConsul, join: Join) -> None:
    """Who asks for the preview gets it, by any kind of match, and nobody else does."""
    routes = [
        preview(Name="x-preview", Exact="yes"),
        preview(Name="x-user", Regex="(ann|bo)@.*"),
        preview(Name="x-agent", Suffix="-Beta"),
    ]
    async with written(consul, GRPC, SUBSETS, entry("service-router", Routes=routes)):
        client = await join("echo")
        await client.until(OLD)
        previews = [
            await client.call(x_preview="yes"),
            await client.call(x_user="ann@example.org"),
            await client.call(x_agent="shop/2-Beta"),
        ]
        others = [
            await client.call(),
            await client.call(x_preview="no"),
            await client.call(x_user="cy+ann@example.org"),
            await client.call(x_agent="shop/2-beta"),
        ]

    assert previews == [NEW] * 3
    assert others == [OLD] * 4


async def test_retryable_methods_are_retried(
    consul: RealConsul, join: Join, echoes: tuple[Echo, Echo]
) -> None:
    """What the service's Meta lists is tried again, unless the call says that it must not be."""
    meta = {"grpc-service": SERVICE, "retryable-methods": "Flaky"}
    async with written(consul, GRPC | {"Meta": meta}, SUBSETS):
        client = await join("echo")
        await client.until(OLD)
        before = echoes[0].calls
        answers = [await client.call("Flaky"), await client.call("Flaky", mesh_no_retry="1")]

    assert answers == [OLD, Answer(code=UNAVAILABLE, instance="1.0.0")]
    assert echoes[0].calls == before + 3


async def test_a_service_is_called_once_it_is_there(api: ConsulApi, join: Join) -> None:
    """Until then a call to it fails as UNAVAILABLE, long before its deadline."""
    client = await join("echo")
    before = await client.call()
    async with Echo(1, "1.0.0").listed(api):
        await client.until(OLD)

    assert before == NOBODY


@pytest.mark.usefixtures("echoes")
async def test_every_load_balancer_is_understood(consul: RealConsul, join: Join) -> None:
    """least_request reaches all instances; ring_hash one, which depends on the header."""
    by_user = {"Policy": "ring_hash", "HashPolicies": [{"Field": "header", "FieldValue": "x-user"}]}
    least = entry("service-resolver", LoadBalancer={"Policy": "least_request"})
    async with written(consul, GRPC, least):
        client = await join("echo")
        await client.until(OLD)
        anyones = {await client.call() for _ in range(20)}
    async with written(consul, GRPC, entry("service-resolver", LoadBalancer=by_user)):
        client = await join("echo")
        await client.until(OLD)
        of_each = [
            {await client.call(x_user=f"user-{number}") for _ in range(3)} for number in range(30)
        ]

    assert anyones == {OLD, NEW}
    assert {len(answers) for answers in of_each} == {1}
    assert set().union(*of_each) == {OLD, NEW}


async def test_calls_fail_over(
    consul: RealConsul, api: ConsulApi, join: Join, echoes: tuple[Echo, Echo]
) -> None:
    """What goes without Consul's noticing costs no call, what comes back is called again."""
    resolver = SUBSETS | {"Failover": {"old": {"ServiceSubset": "new"}}}
    async with written(consul, GRPC, resolver):
        client = await join("echo")
        await client.until(OLD)
        before = {await client.call() for _ in range(20)}
        await echoes[0].stop()
        meanwhile = {await client.call() for _ in range(20)}
        async with Echo(3, "1.0.0").listed(api):
            await client.until(OLD)
            after = {await client.call() for _ in range(20)}

    assert before == {OLD}
    assert meanwhile == {NEW}
    assert after == {OLD}


@pytest.mark.usefixtures("echoes")
async def test_instances_that_fail_are_ejected(consul: RealConsul, join: Join) -> None:
    """What Consul says of the calls of mesh-ads holds for all clients that it serves."""
    passive = {"Interval": "500ms", "MaxFailures": 3, "MaxEjectionPercent": 100}
    outside = entry(
        "service-defaults", UpstreamConfig={"Defaults": {"PassiveHealthCheck": passive}}
    )
    async with written(consul, GRPC, outside | {"Name": "mesh-ads"}):
        client = await join("echo")
        await client.until(OLD)
        before = {await client.call() for _ in range(10)}
        await client.until(NOBODY, "Flaky")
        after = await client.call()

    assert before == {OLD, NEW}
    assert after == NOBODY


async def test_xds_cannot_turn_mtls_off(
    join: Join, command: list[str], echoes: tuple[Echo, Echo], state_dir: Path
) -> None:
    """A client that asks for mTLS makes no call in plain text because an ADS names nobody."""
    await (await join("echo")).until(OLD)
    before = [echo.calls for echo in echoes]
    bootstrap = state_dir / "xds-bootstrap.json"
    async with Client.calling([*command, "--secure"], "echo", bootstrap) as client:
        answers = {await client.call() for _ in range(5)}

    assert answers == {NOBODY}
    assert [echo.calls for echo in echoes] == before
