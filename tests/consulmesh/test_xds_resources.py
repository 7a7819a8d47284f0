"""The pure function from Consul's view of an upstream to xDS resources."""

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st

from consulmesh.catalog import Upstream
from consulmesh.instances import Instance
from consulmesh.xds.chain import duration
from consulmesh.xds.messages import (
    Cluster,
    ClusterLoadAssignment,
    Listener,
    ResourceType,
)
from consulmesh.xds.resources import Resources, nowhere, resources
from tests.consulmesh.xds_world import (
    RESOLVER,
    SERVICE,
    TARGET,
    chain,
    instance,
    route,
    route_table,
    router,
    splitter,
    until,
    upstream,
    world,
)

CLASSES: dict[ResourceType, Any] = {
    ResourceType.LISTENER: Listener,
    ResourceType.CLUSTER: Cluster,
    ResourceType.ENDPOINTS: ClusterLoadAssignment,
}
META = {"grpc-service": SERVICE, "retryable-methods": "Get, List"}


def only(result: Resources, type_: ResourceType) -> Any:
    """Return the one resource of a type."""
    (packed,) = result.by_type[type_].values()
    message = CLASSES[type_]()
    packed.Unpack(message)
    return message


def localities(result: Resources) -> list[tuple[int, list[tuple[str, int]]]]:
    """Return the weight and the addresses of each locality."""
    return [
        (
            locality.load_balancing_weight.value,
            [
                (address.address, address.port_value)
                for address in (
                    entry.endpoint.address.socket_address for entry in locality.lb_endpoints
                )
            ],
        )
        for locality in only(result, ResourceType.ENDPOINTS).endpoints
    ]


def with_resolver(**changes: Any) -> dict[str, Any]:
    """Return the nodes of a chain whose resolver has something to it."""
    node = chain()["Nodes"][RESOLVER]
    return {RESOLVER: node | {"Resolver": node["Resolver"] | changes}}


def test_a_plain_service_is_one_route_to_one_cluster() -> None:
    """Without config entries all calls go, once, round the instances of one cluster."""
    result = resources(upstream([instance(7001), instance(7002)]))

    assert {t.name: set(r) for t, r in result.by_type.items()} == {
        "LISTENER": {"echo"},
        "CLUSTER": {"echo"},
        "ENDPOINTS": {"echo"},
    }
    assert [MessageToDict(route) for route in route_table(result)] == [
        {"match": {"prefix": ""}, "route": {"cluster": "echo"}}
    ]
    assert MessageToDict(only(result, ResourceType.CLUSTER)) == {
        "name": "echo",
        "type": "EDS",
        "edsClusterConfig": {
            "edsConfig": {"ads": {}, "resourceApiVersion": "V3"},
            "serviceName": "echo",
        },
    }
    assert localities(result) == [(2, [("127.0.0.1", 7001), ("127.0.0.1", 7002)])]
    assert result.warnings == ()
    assert result.timeouts == ()


def test_retryable_methods_get_a_route_each_behind_the_no_retry_header() -> None:
    """Listed methods are retried on their own routes, unless the call carries the header."""
    result = resources(upstream([instance(7001)], ServiceMeta=META))
    retry = {
        "retryOn": "unavailable,cancelled",
        "numRetries": 2,
        "retryBackOff": {"baseInterval": "0.025s", "maxInterval": "0.250s"},
    }

    assert [MessageToDict(route) for route in route_table(result)] == [
        {
            "match": {
                "prefix": "",
                "headers": [{"name": "mesh-no-retry", "presentMatch": True}],
            },
            "route": {"cluster": "echo"},
        },
        {
            "match": {"path": f"/{SERVICE}/Get"},
            "route": {"cluster": "echo", "retryPolicy": retry},
        },
        {
            "match": {"path": f"/{SERVICE}/List"},
            "route": {"cluster": "echo", "retryPolicy": retry},
        },
        {"match": {"prefix": ""}, "route": {"cluster": "echo"}},
    ]


def test_each_weight_is_a_locality() -> None:
    """Instances of one weight share a locality, which weighs as much as they do together."""
    result = resources(
        upstream(
            [instance(7001, weight=5), instance(7002), instance(7003), instance(7004, weight=5)]
        )
    )

    assert [(weight, [port for _, port in members]) for weight, members in localities(result)] == [
        (2, [7002, 7003]),
        (10, [7001, 7004]),
    ]


def test_what_grpc_core_would_refuse_is_left_out_with_a_warning() -> None:
    """A host name, a bad port or an address named twice costs that instance, not the service."""
    result = resources(
        upstream(
            [
                instance(7001, id="a"),
                instance(7001, id="b"),
                instance(7002, id="c", address="db.local"),
                instance(0, id="d"),
                instance(7003, id="e", address="0:0:0:0:0:0:0:1"),
                instance(7003, id="f", address="::1"),
                instance(7004, id="g", weight=0),
            ]
        )
    )

    assert localities(result) == [(2, [("127.0.0.1", 7001), ("::1", 7003)])]
    assert result.warnings == (
        "b: same address as a",
        "c: address 'db.local' is not an IP address",
        "d: port 0 is out of range",
        "f: same address as e",
    )


def test_a_subset_or_a_redirect_is_a_cluster_of_its_own() -> None:
    """A target that is not the service itself is named after both, so that chains never share."""
    target = "v1.other.default.default.dc1"
    node = {"Type": "resolver", "Name": target, "Resolver": {"Target": target}}
    view = Upstream(
        name="echo",
        chain=chain(
            StartNode="resolver:x",
            Nodes={"resolver:x": node},
            Targets={target: {"Service": "other", "ServiceSubset": "v1"}},
        ),
        instances_by_target={target: (instance(7001),)},
        defaults={},
    )
    result = resources(view)

    assert set(result.by_type[ResourceType.CLUSTER]) == {f"echo/{target}"}
    assert localities(result) == [(1, [("127.0.0.1", 7001)])]
    assert result.warnings == ()


def test_an_upstream_that_nobody_knows_has_a_cluster_without_endpoints() -> None:
    """The placeholder has the cluster that the service will have, so that waiting calls recover."""
    placeholder, real = nowhere("echo"), resources(upstream([instance(7001)]))

    assert localities(placeholder) == []
    assert placeholder.by_type[ResourceType.CLUSTER] == real.by_type[ResourceType.CLUSTER]


def test_timeouts_come_from_meta_and_from_the_resolver() -> None:
    """Timeouts of methods come first, then the resolver's for all methods."""
    meta = META | {"request-timeouts": "Get=2s, List=1m0.5s, Odd=soon"}
    nodes = with_resolver(RequestTimeout=4_000_000_000)
    result = resources(upstream(ServiceMeta=meta, Nodes=nodes))

    assert result.timeout(f"/{SERVICE}/Get") == 2.0
    assert result.timeout(f"/{SERVICE}/List") == 60.5
    assert result.timeout(f"/{SERVICE}/Create") == 4.0
    assert result.warnings == ("request-timeouts of Meta: 'soon' is not a duration",)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("1m30s", 90), ("250ms", 0.25), ("1.5h", 5400), (2_000_000_000, 2), ("", 0), (None, 0)],
)
def test_durations_are_read_in_both_spellings(written: object, seconds: float) -> None:
    """Consul writes Go durations in some places and nanoseconds in others."""
    assert duration(written) == timedelta(seconds=seconds)


@pytest.mark.parametrize("written", ["soon", "1x", "s", "1 s", "-1s"])
def test_what_is_no_duration_is_refused(written: str) -> None:
    """Anything else is an error, not a guess."""
    with pytest.raises(ValueError, match="is not a duration"):
        duration(written)


@pytest.mark.parametrize(
    ("changes", "defaults", "warning"),
    [
        (
            router(route({"QueryParam": [{"Name": "q", "Present": True}]})),
            {},
            (
                "router:echo: route QueryParam=[{'Name': 'q', 'Present': True}] is not applied: "
                "QueryParam is nothing that a gRPC call has"
            ),
        ),
        (
            router(route({"Methods": ["GET"]})),
            {},
            "router:echo: route Methods=['GET'] is not applied: gRPC calls are all POST",
        ),
        (
            router(route({"PathRegex": "/(?=a)b"})),
            {},
            (
                "router:echo: route PathRegex=/(?=a)b is not applied: "
                "'/(?=a)b' may mean something else to RE2"
            ),
        ),
        (
            router(route({"PathExact": "/a/B"}, PrefixRewrite="/c")),
            {},
            "router:echo: route PathExact=/a/B: PrefixRewrite is not applied",
        ),
        (
            router(route({"Header": [{"Name": "a", "Present": True}]}, RequestTimeout="1s")),
            {},
            (
                "router:echo: route Header=[{'Name': 'a', 'Present': True}]: "
                "RequestTimeout is applied to plain paths only"
            ),
        ),
        (
            router(route({"PathExact": "/a/B"}, NumRetries=2)),
            {},
            (
                "router:echo: route PathExact=/a/B: "
                "NumRetries has no effect without a condition to retry on"
            ),
        ),
        (
            router(route({"PathExact": "/a/B"}, RetryOn=["5xx", "internal"])),
            {},
            "router:echo: route PathExact=/a/B: retry on 5xx is nothing that gRPC core does",
        ),
        (
            splitter(
                {"Weight": 100, "NextNode": RESOLVER, "Definition": {"RequestHeaders": {"Add": {}}}}
            ),
            {},
            "splitter:echo: RequestHeaders is not applied",
        ),
        (
            {
                "Nodes": with_resolver(
                    Failover={"Targets": [], "Policy": {"Mode": "order-by-locality"}}
                )
            },
            {},
            f"{RESOLVER}: failover is in the order of its targets, not order-by-locality",
        ),
        (
            {"Nodes": with_resolver(ConnectTimeout="2s")},
            {},
            f"{RESOLVER}: ConnectTimeout is unknown to gRPC core",
        ),
        (
            {
                "Nodes": {
                    RESOLVER: chain()["Nodes"][RESOLVER] | {"LoadBalancer": {"Policy": "random"}}
                }
            },
            {},
            "echo: load balancer random is not applied, round_robin is",
        ),
        (
            {},
            {"UpstreamConfig": {"Overrides": [{"Name": "echo", "Limits": {"MaxConnections": 1}}]}},
            "UpstreamConfig of the caller: Limits.MaxConnections is not applied",
        ),
        (
            {},
            {"UpstreamConfig": {"Defaults": {"ConnectTimeoutMs": 100}}},
            "UpstreamConfig of the caller: ConnectTimeoutMs is not applied",
        ),
        (
            {
                "Nodes": {
                    RESOLVER: chain()["Nodes"][RESOLVER]
                    | {"LoadBalancer": {"Policy": "ring_hash", "HashPolicies": []}}
                }
            },
            {},
            f"{RESOLVER}: ring_hash has no header to hash: each call is sent at random",
        ),
        (
            {"ServiceMeta": {"retryable-methods": "Get"}},
            {},
            "Meta names methods but no grpc-service: no retries, no timeouts from it",
        ),
    ],
    ids=[
        *("query", "method", "regex", "rewrite", "timeout", "retries", "retry on", "split headers"),
        *("failover", "connect timeout", "balancer", "limits", "caller", "hash", "meta"),
    ],
)
def test_policy_without_effect_is_told(
    changes: dict[str, Any], defaults: dict[str, Any], warning: str
) -> None:
    """What an operator wrote and the mapping cannot do is a warning, and calls still flow."""
    view = Upstream(
        name="echo",
        chain=chain(**changes),
        instances_by_target={TARGET: (instance(7001),)},
        defaults=defaults,
    )
    result = resources(view)

    assert result.warnings == (warning,)
    assert localities(result) == [(1, [("127.0.0.1", 7001)])]


addresses = st.one_of(
    st.sampled_from(
        ["127.0.0.1", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "", "host", "fe80::1%lo"]
    ),
    st.ip_addresses().map(str),
)
instance_sets = st.lists(
    st.builds(
        instance,
        st.integers(-1, 65536),
        address=addresses,
        weight=st.integers(0, 65535),
        id=st.text("abc", min_size=1, max_size=3),
    ),
    max_size=12,
)


@given(instance_sets)
def test_any_instances_make_a_well_formed_assignment(instances: list[Instance]) -> None:
    """Whatever is registered: unique addresses, one priority, all weights above zero."""
    result = resources(upstream(instances))
    assignment = only(result, ResourceType.ENDPOINTS)
    members = [member for _, locality in localities(result) for member in locality]

    assert len(members) == len(set(members))
    assert {locality.priority for locality in assignment.endpoints} <= {0}
    assert all(weight > 0 for weight, _ in localities(result))
    assert len({locality.locality.zone for locality in assignment.endpoints}) == len(
        assignment.endpoints
    )


@given(instance_sets)
def test_the_order_of_the_instances_is_of_no_consequence(instances: list[Instance]) -> None:
    """Equal sets give equal bytes, so that nothing is pushed when nothing changed."""
    unique = list({i.id: i for i in instances}.values())

    assert resources(upstream(unique)).by_type == resources(upstream(unique[::-1])).by_type


@settings(max_examples=40, deadline=None)
@given(st.lists(instance_sets, min_size=1, max_size=8))
async def test_grpc_core_accepts_any_instances(history: list[list[Instance]]) -> None:
    """Real gRPC core acknowledges the resources of any sets of instances, one after the other."""
    async with world() as mesh, mesh.channel() as channel:
        for instances in history:
            mesh.catalog.show(upstream(instances))
            channel.get_state(try_to_connect=True)
            await until(lambda: any(state.settled for state in mesh.servicer.states()))
        refused = [state.nacks for state in mesh.servicer.states()]

    assert refused == [()]
    assert mesh.servicer.nacks.total() == 0
