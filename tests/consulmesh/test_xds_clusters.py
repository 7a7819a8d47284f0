"""Clusters: balancing, failover, limits and ejection, as resources and as calls meet them."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st

from consulmesh.catalog import Upstream
from consulmesh.instances import Instance, Locality
from consulmesh.xds.messages import Cluster, ClusterLoadAssignment, ResourceType
from consulmesh.xds.resources import Resources, resources
from tests.consulmesh.xds_world import (
    RESOLVER,
    TARGET,
    World,
    call,
    chain,
    echoing,
    instance,
    route_table,
    splitter,
    until,
    upstream,
    with_subsets,
    world,
)

BACKUP = "backup.default.default.dc1"
SECOND = 1_000_000_000  # Consul's JSON has nanoseconds here
STICKY = {
    "Policy": "ring_hash",
    "HashPolicies": [{"Field": "header", "FieldValue": "X-User", "Terminal": True}],
}


def made(result: Resources, name: str = "echo") -> dict[str, Any]:
    """Return a cluster without what all clusters have."""
    message = Cluster()
    result.by_type[ResourceType.CLUSTER][name].Unpack(message)
    fields = MessageToDict(message)
    return {key: fields[key] for key in fields.keys() - {"name", "type", "edsClusterConfig"}}


def priorities(result: Resources, name: str = "echo") -> list[set[int]]:
    """Return the ports of each priority."""
    message: Any = ClusterLoadAssignment()
    result.by_type[ResourceType.ENDPOINTS][name].Unpack(message)
    found: dict[int, set[int]] = {}
    for locality in message.endpoints:
        ports = found.setdefault(locality.priority, set())
        ports |= {
            entry.endpoint.address.socket_address.port_value for entry in locality.lb_endpoints
        }
    assert list(found) == list(range(len(found)))
    return list(found.values())


def balanced(balancer: dict[str, Any]) -> dict[str, Any]:
    """Return the nodes of a chain with a load balancer."""
    return {"Nodes": {RESOLVER: chain()["Nodes"][RESOLVER] | {"LoadBalancer": balancer}}}


def failing_over(
    first: Iterable[Instance], backup: Iterable[Instance], **failover: Any
) -> Upstream:
    """Return the upstream `echo`, whose calls go to `backup` where it has nobody left."""
    node = chain()["Nodes"][RESOLVER]
    resolver = node["Resolver"] | {"Failover": {"Targets": [BACKUP]} | failover}
    place = {"Namespace": "default", "Partition": "default", "Datacenter": "dc1"}
    return Upstream(
        name="echo",
        chain=chain(
            Nodes={RESOLVER: node | {"Resolver": resolver}},
            Targets=chain()["Targets"] | {BACKUP: {"Service": "backup", **place}},
        ),
        instances_by_target={TARGET: tuple(first), BACKUP: tuple(backup)},
        defaults={},
    )


def limited(view: Upstream, **config: Any) -> Upstream:
    """Return the view of a caller whose service-defaults limit its calls to the upstream."""
    return replace(view, defaults={"UpstreamConfig": {"Defaults": config}})


def test_failover_targets_are_the_next_priorities() -> None:
    """Each target is a priority; one without instances takes none; an address comes once."""
    one, two, three = instance(7001), instance(7002), instance(7003)

    assert priorities(resources(failing_over([one], [two, three]))) == [{7001}, {7002, 7003}]
    assert priorities(resources(failing_over([], [two]))) == [{7002}]
    assert priorities(resources(failing_over([one, two], [two, three]))) == [{7001, 7002}, {7003}]
    assert resources(failing_over([one], [two])).warnings == ()


async def test_calls_fail_over_and_come_back() -> None:
    """Without a first target's instances calls go to the next, and back as soon as there are."""
    async with world() as mesh, echoing() as one, echoing() as two, mesh.channel() as channel:
        both = failing_over([instance(one.port)], [instance(two.port)])
        mesh.catalog.show(both)
        before = {await call(channel, wait_for_ready=True) for _ in range(10)}
        mesh.catalog.show(failing_over([], [instance(two.port)]))
        await answered_by(channel, two.port)
        away = {await call(channel) for _ in range(10)}
        mesh.catalog.show(both)
        await answered_by(channel, one.port)
        after = {await call(channel) for _ in range(10)}

    assert (before, away, after) == ({str(one.port)}, {str(two.port)}, {str(one.port)})
    assert mesh.servicer.nacks.total() == 0


async def test_calls_fail_over_from_what_does_not_answer() -> None:
    """Instances that nobody can connect to are passed over before Consul knows."""
    async with world() as mesh, echoing() as two, mesh.channel() as channel:
        async with echoing() as one:
            dead = instance(one.port)
        mesh.catalog.show(failing_over([dead], [instance(two.port)]))
        answer = await call(channel, wait_for_ready=True)

    assert answer == str(two.port)


async def answered_by(channel: grpc.aio.Channel, port: int) -> None:
    """Call until a server answers."""
    async with asyncio.timeout(20):
        while await call(channel, wait_for_ready=True) != str(port):
            pass


def test_what_is_near_goes_first() -> None:
    """Own zone, own region, elsewhere: in this order, before the next target."""
    here, near, far, nowhere = (
        replace(instance(port), locality=Locality(region=region, zone=zone))
        for port, region, zone in [
            (7001, "eu", "a"),
            (7002, "eu", "b"),
            (7003, "us", "a"),
            (7004, "", ""),
        ]
    )
    view = failing_over([far, near, here, nowhere], [replace(here, port=7005)])

    assert priorities(resources(view, Locality(region="eu", zone="a"))) == [
        {7001},
        {7002},
        {7003, 7004},
        {7005},
    ]
    assert priorities(resources(view, Locality(region="eu"))) == [
        {7001, 7002},
        {7003, 7004},
        {7005},
    ]
    assert priorities(resources(view)) == [{7001, 7002, 7003, 7004}, {7005}]


async def test_a_header_chooses_the_instance() -> None:
    """With ring_hash all calls of a user go to one instance, and users are spread."""
    async with world() as mesh, echoing() as one, echoing() as two, mesh.channel() as channel:
        members = [instance(one.port), instance(two.port)]
        mesh.catalog.show(upstream(members, **balanced(STICKY)))
        answers = {
            user: {
                await call(channel, metadata=(("x-user", str(user)),), wait_for_ready=True)
                for _ in range(5)
            }
            for user in range(40)
        }

    assert all(len(ports) == 1 for ports in answers.values())
    assert set.union(*answers.values()) == {str(one.port), str(two.port)}
    assert mesh.servicer.nacks.total() == 0


async def test_a_ring_knows_weights() -> None:
    """An instance of three times the weight has about three times the users."""
    async with world() as mesh, echoing() as one, echoing() as two, mesh.channel() as channel:
        members = [instance(one.port, weight=3), instance(two.port)]
        mesh.catalog.show(upstream(members, **balanced(STICKY)))
        answers = Counter(
            [
                await call(channel, metadata=(("x-user", str(user)),), wait_for_ready=True)
                for user in range(200)
            ]
        )

    assert 110 <= answers[str(one.port)] <= 190


def test_rings_are_as_large_as_grpc_core_makes_them() -> None:
    """Sizes beyond gRPC core's limit, or the wrong way round, are never sent."""

    def ring(**sizes: int) -> Resources:
        return resources(upstream(**balanced(STICKY | {"RingHashConfig": sizes})))

    assert made(ring())["ringHashLbConfig"] == {
        "minimumRingSize": "1024",
        "maximumRingSize": "4096",
    }
    assert made(ring(MaximumRingSize=64))["ringHashLbConfig"] == {
        "minimumRingSize": "64",
        "maximumRingSize": "64",
    }
    assert ring(MinimumRingSize=5000).warnings == (
        "echo: MinimumRingSize 5000 is not applied, 4096 is",
    )


def test_a_route_hashes_what_its_clusters_are_chosen_by() -> None:
    """Each hash policy of the resolvers is on the route once, headers in lower case."""
    parts = splitter(
        {"Weight": 50, "NextNode": "resolver:blue"}, {"Weight": 50, "NextNode": "resolver:green"}
    )
    view = with_subsets(parts, blue=7001, green=7002)
    for name in ("blue", "green"):
        view.chain["Nodes"][f"resolver:{name}"]["LoadBalancer"] = STICKY
    (route,) = route_table(resources(view))

    assert [MessageToDict(policy) for policy in route.route.hash_policy] == [
        {"header": {"headerName": "x-user"}, "terminal": True}
    ]


def test_least_request_goes_by_reported_load() -> None:
    """Consul's least_request is gRPC's weighted round robin, fed by what instances report.

    Clients that have none of that go round.
    """
    result = resources(upstream([instance(7001)], **balanced({"Policy": "least_request"})))
    (policy,) = made(result)["loadBalancingPolicy"]["policies"]
    children = policy["typedExtensionConfig"]["typedConfig"]["endpointPickingPolicy"]["policies"]
    weighted, plain = (child["typedExtensionConfig"]["typedConfig"] for child in children)

    assert weighted == {
        "@type": (
            "type.googleapis.com/envoy.extensions.load_balancing_policies."
            "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin"
        ),
        "enableOobLoadReport": True,
        "oobReportingPeriod": "0.500s",
        "weightUpdatePeriod": "0.500s",
        "blackoutPeriod": "1s",
        "weightExpirationPeriod": "10s",
    }
    assert plain["@type"].endswith(".RoundRobin")
    assert result.warnings == ()


def test_limits_of_the_caller() -> None:
    """An override of this upstream replaces the caller's defaults; other upstreams' do not."""
    config = {
        "Defaults": {"Limits": {"MaxConcurrentRequests": 10}, "MeshGateway": {}},
        "Overrides": [
            {"Name": "echo", "Limits": {"MaxConcurrentRequests": 3}},
            {"Name": "echo", "Peer": "abroad", "Limits": {"MaxConcurrentRequests": 4}},
            {"Name": "other", "Limits": {"MaxConcurrentRequests": 5}},
        ],
    }
    result = resources(replace(upstream(), defaults={"UpstreamConfig": config}))

    assert made(result)["circuitBreakers"] == {"thresholds": [{"maxRequests": 3}]}
    assert result.warnings == ()


async def test_more_calls_than_the_limit_fail_at_once() -> None:
    """With three calls under way a fourth is UNAVAILABLE, until one of them is over."""
    release = asyncio.Event()

    async def wait(_context: Any, _count: int) -> None:
        await release.wait()

    async with world() as mesh, echoing(wait) as echo, mesh.channel() as channel:
        limits = {"Limits": {"MaxConcurrentRequests": 3}}
        mesh.catalog.show(limited(upstream([instance(echo.port)]), **limits))
        first = [asyncio.create_task(call(channel, wait_for_ready=True)) for _ in range(3)]
        await until(lambda: len(echo.calls) == 3)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(channel)
        release.set()
        await asyncio.gather(*first)
        answer = await call(channel)

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert answer == str(echo.port)


def test_passive_health_checks_become_outlier_detection() -> None:
    """Consul's durations and shares, by percentage; alone an instance is ejected only at 100 %."""
    passive = {
        "Interval": 2 * SECOND,
        "MaxFailures": 7,
        "MaxEjectionPercent": 50,
        "BaseEjectionTime": 5 * SECOND,
    }
    expected = {
        "interval": "2s",
        "baseEjectionTime": "5s",
        "maxEjectionTime": "300s",
        "maxEjectionPercent": 50,
        "failurePercentageThreshold": 85,
        "failurePercentageMinimumHosts": 2,
        "failurePercentageRequestVolume": 7,
        "enforcingFailurePercentage": 100,
        "enforcingSuccessRate": 0,
    }
    whole = passive | {"MaxEjectionPercent": 100, "EnforcingConsecutive5xx": 0}

    assert (
        made(resources(limited(upstream(), PassiveHealthCheck=passive)))["outlierDetection"]
        == expected
    )
    assert made(resources(limited(upstream(), PassiveHealthCheck=whole)))[
        "outlierDetection"
    ] == expected | {
        "maxEjectionPercent": 100,
        "failurePercentageMinimumHosts": 1,
        "enforcingFailurePercentage": 0,
    }


async def _unavailable(context: Any, _count: int) -> None:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "out of order")


PASSIVE = {"Interval": SECOND // 5, "MaxFailures": 3, "BaseEjectionTime": SECOND}


async def test_an_instance_that_fails_is_ejected_and_tried_again() -> None:
    """Of two instances the one that fails gets no calls for the ejection time, and then again."""
    broken = True

    async def fail(context: Any, _count: int) -> None:
        if broken:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "out of order")

    async with world() as mesh, echoing() as well, echoing(fail) as ill, mesh.channel() as channel:
        members = upstream([instance(well.port), instance(ill.port)])
        passive = PASSIVE | {"MaxEjectionPercent": 50}
        mesh.catalog.show(limited(members, PassiveHealthCheck=passive))
        await ejected(channel)
        broken = False
        await answered_by(channel, ill.port)

    assert len(ill.calls) > 1
    assert mesh.servicer.nacks.total() == 0


async def ejected(channel: grpc.aio.Channel) -> None:
    """Call until twenty calls in a row are answered."""
    answered = 0
    async with asyncio.timeout(10):
        while answered < 20:
            try:
                await call(channel)
                answered += 1
            except grpc.aio.AioRpcError:
                answered = 0


async def test_the_breaker_opens_and_closes() -> None:
    """With all instances ejectable the last one too gets no calls: open, half-open, closed."""
    broken = True

    async def fail(context: Any, _count: int) -> None:
        if broken:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "out of order")

    async def refused() -> bool:
        reached = len(echo.calls)
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel)
        return len(echo.calls) == reached

    async with world() as mesh, echoing(fail) as echo, mesh.channel() as channel:
        passive = PASSIVE | {"MaxEjectionPercent": 100}
        mesh.catalog.show(limited(upstream([instance(echo.port)]), PassiveHealthCheck=passive))
        async with asyncio.timeout(10):
            while not await refused():
                pass
        broken = False
        answer = await call(channel, wait_for_ready=True)

    assert answer == str(echo.port)


durations = st.one_of(st.none(), st.integers(0, 10**12))
numbers = st.one_of(st.none(), st.integers(0, 10**5))
configs = st.fixed_dictionaries(
    {},
    optional={
        "Limits": st.fixed_dictionaries({}, optional={"MaxConcurrentRequests": numbers}),
        "PassiveHealthCheck": st.fixed_dictionaries(
            {},
            optional={
                "Interval": durations,
                "BaseEjectionTime": durations,
                "MaxFailures": numbers,
                "MaxEjectionPercent": st.integers(0, 100),
                "EnforcingConsecutive5xx": st.one_of(st.none(), st.integers(0, 100)),
            },
        ),
    },
)
balancers = st.fixed_dictionaries(
    {
        "Policy": st.sampled_from(
            ["", "round_robin", "random", "least_request", "ring_hash", "maglev", "new"]
        )
    },
    optional={
        "RingHashConfig": st.fixed_dictionaries(
            {}, optional={"MinimumRingSize": numbers, "MaximumRingSize": numbers}
        ),
        "HashPolicies": st.lists(
            st.sampled_from(
                [
                    {"Field": "header", "FieldValue": "X-User"},
                    {"Field": "header", "FieldValue": "x-user-bin"},
                    {"Field": "cookie", "FieldValue": "c"},
                    {"SourceIP": True},
                ]
            ),
            max_size=3,
        ),
    },
)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(configs, balancers, st.lists(st.integers(7001, 7006), max_size=4)),
        min_size=1,
        max_size=6,
    )
)
async def test_grpc_core_accepts_any_policy(
    history: list[tuple[dict[str, Any], dict[str, Any], list[int]]],
) -> None:
    """Real gRPC core acknowledges whatever Consul accepts of limits, ejection and balancers."""
    async with world() as mesh, mesh.channel() as channel:
        for config, balancer, ports in history:
            backups = [instance(port) for port in ports]
            view = failing_over([instance(port, weight=port % 3) for port in ports[:2]], backups)
            view.chain["Nodes"][RESOLVER]["LoadBalancer"] = balancer
            mesh.catalog.show(limited(view, **config))
            channel.get_state(try_to_connect=True)
            await settled(mesh)

    assert mesh.servicer.nacks.total() == 0


async def settled(mesh: World) -> None:
    """Wait until the client has acknowledged or refused what it was sent."""
    await until(lambda: any(state.settled for state in mesh.servicer.states()))
