"""Routers and splitters: as resources, and as calls experience them through real gRPC core."""

from collections import Counter
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st

from consulmesh.xds.resources import resources
from tests.consulmesh.xds_world import (
    SERVICE,
    call,
    echoing,
    route,
    route_table,
    router,
    splitter,
    until,
    upstream,
    with_subsets,
    world,
)

META = {"grpc-service": SERVICE, "retryable-methods": "Get,List"}
BLUE, GREEN = "resolver:blue", "resolver:green"
CANARY = {"Header": [{"Name": "X-Canary", "Exact": "1"}]}


def split(blue: float, green: float) -> dict[str, Any]:
    """Return the parts of a chain that splits calls; Consul leaves a weight of 0 out."""
    weights = {BLUE: blue, GREEN: green}
    return splitter(
        *({"NextNode": node, **({"Weight": w} if w else {})} for node, w in weights.items())
    )


async def test_calls_with_a_header_go_to_a_subset() -> None:
    """The canary gets the calls that carry the header, all of them and no others."""
    async with world() as mesh, echoing() as blue, echoing() as green, mesh.channel() as channel:
        parts = router(route(CANARY, GREEN), next_node=BLUE)
        mesh.catalog.show(with_subsets(parts, blue=blue.port, green=green.port))
        await call(channel, wait_for_ready=True)
        marked = {await call(channel, metadata=(("x-canary", "1"),)) for _ in range(20)}
        others = {await call(channel, metadata=(("x-canary", "2"),)) for _ in range(20)}
        plain = {await call(channel) for _ in range(20)}

    assert marked == {str(green.port)}
    assert others == plain == {str(blue.port)}
    assert mesh.servicer.nacks.total() == 0


@pytest.mark.parametrize(
    ("http", "metadata", "name"),
    [
        ({"PathExact": f"/{SERVICE}/Get"}, (), "green"),
        ({"PathExact": f"/{SERVICE}/List"}, (), "blue"),
        ({"PathExact": f"/{SERVICE}/gET"}, (), "blue"),
        ({"PathExact": f"/{SERVICE}/gET", "CaseInsensitive": True}, (), "green"),
        ({"PathPrefix": f"/{SERVICE}/"}, (), "green"),
        ({"PathRegex": f"/{SERVICE}/(Get|Read).*"}, (), "green"),
        ({"PathRegex": "/Get"}, (), "blue"),
        ({"Methods": ["PUT", "POST"]}, (), "green"),
        ({"Header": [{"Name": "a", "Present": True}]}, (("a", ""),), "green"),
        ({"Header": [{"Name": "a", "Present": True}]}, (), "blue"),
        ({"Header": [{"Name": "a", "Present": True, "Invert": True}]}, (), "green"),
        ({"Header": [{"Name": "a", "Prefix": "x"}]}, (("a", "xy"),), "green"),
        ({"Header": [{"Name": "a", "Suffix": "x"}]}, (("a", "xy"),), "blue"),
        ({"Header": [{"Name": "a", "Contains": "yx"}]}, (("a", "xyxy"),), "green"),
        ({"Header": [{"Name": "a", "Regex": "[0-9]+"}]}, (("a", "12"),), "green"),
        (
            {"Header": [{"Name": "a", "Exact": "1"}, {"Name": "b", "Exact": "2"}]},
            (("a", "1"),),
            "blue",
        ),
    ],
)
async def test_every_condition_means_what_consul_says(
    http: dict[str, Any], metadata: tuple[tuple[str, str], ...], name: str
) -> None:
    """A route's calls are those that fulfil all its conditions."""
    async with world() as mesh, echoing() as blue, echoing() as green, mesh.channel() as channel:
        parts = router(route(http, GREEN), next_node=BLUE)
        mesh.catalog.show(with_subsets(parts, blue=blue.port, green=green.port))
        answer = await call(channel, metadata=metadata, wait_for_ready=True)

    assert answer == str({"blue": blue, "green": green}[name].port)
    assert mesh.servicer.nacks.total() == 0


async def test_a_splitter_shares_the_calls() -> None:
    """90/10 is that, within what chance allows; 0 is nothing at all."""
    async with world() as mesh, echoing() as blue, echoing() as green, mesh.channel() as channel:
        mesh.catalog.show(with_subsets(split(90, 10), blue=blue.port, green=green.port))
        await call(channel, wait_for_ready=True)
        canary = Counter([await call(channel) for _ in range(500)])
        mesh.catalog.show(with_subsets(split(0, 100), blue=blue.port, green=green.port))
        while await call(channel) == str(blue.port):
            pass
        after = {await call(channel) for _ in range(50)}

    assert 15 <= canary[str(green.port)] <= 100
    assert after == {str(green.port)}


def test_shares_of_nested_splits_are_multiplied() -> None:
    """A route that leads to a splitter has weighted clusters; equal targets are added up."""
    third = {"NextNode": BLUE, "Weight": 33.33}, {"NextNode": GREEN, "Weight": 66.67}
    parts = splitter({"NextNode": BLUE, "Weight": 50}, {"NextNode": "splitter:b", "Weight": 50})
    parts["Nodes"]["splitter:b"] = {"Type": "splitter", "Name": "b", "Splits": list(third)}
    (only,) = route_table(resources(with_subsets(parts, blue=7001, green=7002)))
    clusters = only.route.weighted_clusters.clusters

    assert {each.name.split("/")[1].split(".")[0]: each.weight.value for each in clusters} == {
        "blue": 5000 + 1666,
        "green": 3334,
    }


def test_every_reached_target_is_a_cluster() -> None:
    """Those that no call is sent to are not; an instance of two clusters is counted once."""
    parts = router(route(CANARY, GREEN))
    result = resources(with_subsets(parts, green=7001, red=7002))

    assert [set(by_name) for by_name in result.by_type.values()] == [
        {"echo", "echo/green.echo.default.default.dc1"},
        {"echo", "echo/green.echo.default.default.dc1"},
        {"echo"},
    ]
    assert result.endpoint_count == 2


def test_retryable_methods_are_retried_on_every_route() -> None:
    """Each match that can reach a method has a route of its own for it; the header goes first."""
    header = {"name": "x-canary", "stringMatch": {"exact": "1"}}
    parts = router(route(CANARY | {"PathRegex": f"/{SERVICE}/G.*"}))
    table = route_table(resources(upstream(ServiceMeta=META, **parts)))
    matches = [MessageToDict(each.match) for each in table]

    assert matches == [
        {
            "safeRegex": {"regex": f"/{SERVICE}/G.*"},
            "headers": [{"name": "mesh-no-retry", "presentMatch": True}, header],
        },
        {"path": f"/{SERVICE}/Get", "headers": [header]},
        {"safeRegex": {"regex": f"/{SERVICE}/G.*"}, "headers": [header]},
        {"prefix": "", "headers": [{"name": "mesh-no-retry", "presentMatch": True}]},
        {"path": f"/{SERVICE}/Get"},
        {"path": f"/{SERVICE}/List"},
        {"prefix": ""},
    ]
    assert [each.route.HasField("retry_policy") for each in table] == [
        *(False, True, False),
        *(False, True, True, False),
    ]


async def fails_once(context: Any, attempt: int) -> None:
    """Fail the first call."""
    if attempt == 1:
        await context.abort(grpc.StatusCode.INTERNAL, "first attempt")


async def test_a_route_may_ask_for_retries_of_its_own() -> None:
    """What the operator lists is retried; other methods are not."""
    http = {"PathExact": f"/{SERVICE}/Create"}
    parts = router(route(http, NumRetries=2, RetryOn=["internal"]))
    async with world() as mesh, echoing(fails_once) as echo, mesh.channel() as channel:
        view = with_subsets(parts, blue=echo.port)
        mesh.catalog.show(view)
        answer = await call(channel, "Create", wait_for_ready=True)

    assert answer == str(echo.port)
    assert echo.calls == ["Create", "Create"]


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
patterns = st.one_of(
    texts,
    st.sampled_from(
        ["a(?=b)", "(a)\\1", "a++", "(?P<n>a)", "(?<n>a)", "(?P=n)", "\\d{2}", "\\Z", "[", "("]
    ),
)
headers = st.builds(
    lambda name, condition, invert: {"Name": name, **condition, "Invert": invert},
    texts,
    st.one_of(
        st.just({"Present": True}),
        st.builds(
            lambda kind, text: {kind: text},
            st.sampled_from(["Exact", "Prefix", "Suffix", "Contains"]),
            texts,
        ),
        patterns.map(lambda text: {"Regex": text}),
    ),
    st.booleans(),
)
matches = st.builds(
    lambda path, headers, folded: {**path, "Header": headers, "CaseInsensitive": folded},
    st.one_of(
        st.just({}),
        texts.map(lambda text: {"PathExact": f"/{text}"}),
        texts.map(lambda text: {"PathPrefix": f"/{text}"}),
        patterns.map(lambda text: {"PathRegex": text}),
    ),
    st.lists(headers, max_size=2),
    st.booleans(),
)
destinations = st.fixed_dictionaries(
    {},
    optional={
        "NumRetries": st.integers(0, 100),
        "RetryOn": st.lists(st.sampled_from(["internal", "unavailable", "5xx"])),
        "RetryOnConnectFailure": st.booleans(),
        "RetryOnStatusCodes": st.lists(st.integers(400, 599)),
    },
)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.tuples(matches, destinations), max_size=4), min_size=1, max_size=8))
async def test_grpc_core_accepts_any_router(
    history: list[list[tuple[dict[str, Any], dict[str, Any]]]],
) -> None:
    """What gRPC core would refuse is left out: one bad route must not cost the others."""
    async with world() as mesh, mesh.channel() as channel:
        for rules in history:
            parts = router(*(route(http, GREEN, **where) for http, where in rules))
            mesh.catalog.show(with_subsets(parts, green=7001))
            channel.get_state(try_to_connect=True)
            await until(lambda: any(state.settled for state in mesh.servicer.states()))
        refused = [nack.detail for state in mesh.servicer.states() for nack in state.nacks]

    assert refused == []
    assert mesh.servicer.nacks.total() == 0


def test_timeouts_of_routes_go_before_those_of_resolvers() -> None:
    """By path, first match first; what has no timeout of its own has its resolver's."""
    parts = router(
        route({"PathExact": f"/{SERVICE}/Get"}, RequestTimeout="1s"),
        route({"PathPrefix": f"/{SERVICE}/L"}, RequestTimeout="2s"),
    )
    (resolver,) = (node for name, node in parts["Nodes"].items() if name.startswith("resolver"))
    resolver["Resolver"] = resolver["Resolver"] | {"RequestTimeout": 4_000_000_000}
    result = resources(upstream(ServiceMeta=META | {"request-timeouts": "List=3s"}, **parts))

    assert result.timeout(f"/{SERVICE}/Get") == 1
    assert result.timeout(f"/{SERVICE}/List") == 3
    assert result.timeout(f"/{SERVICE}/Lock") == 2
    assert result.timeout(f"/{SERVICE}/Create") == 4
    assert result.warnings == ()
