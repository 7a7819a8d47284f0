"""What releases write to a real Consul, what they refuse, and when a canary counts as worse."""

import asyncio
from argparse import ArgumentTypeError
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from consul.exceptions import ConsulException
from consul.std import Consul
from hypothesis import given
from hypothesis import strategies as st

from consulmesh.consul_api import ConsulApi, Query
from consulmesh.testing import RealConsul, real_consul
from tests.consulmesh.consuls import registration, tell, unprobed, withdraw
from tests.tools.test_config_entries import put
from tools.release import moves, rollout
from tools.release.__main__ import header
from tools.release.comparison import Comparison, Process, Tally, Terms, counted, is_worse
from tools.release.rollout import (
    RESOLVER,
    ROUTER,
    SPLITTER,
    Canary,
    Found,
    Preview,
    RefusedError,
    Rollout,
    entries_of,
    found,
    steps,
    subset,
)
from tools.release.watching import UNDECIDED, watch

OLD, NEW, NEWER = "1.4.0", "2.0.0-rc.1", "2.0.0+build.5"
BY_TESTERS = ("x-preview", "Exact", "1")
DEFAULTS = {"Kind": "service-defaults", "Name": "echo", "Protocol": "grpc"}
SPLIT = {"Kind": SPLITTER, "Name": "echo", "Splits": [{"Weight": 100}]}
ROUTE = {"Match": {"HTTP": {"PathPrefix": "/a"}}, "Destination": {"NumRetries": 3}}
SHARD = {"Match": {"HTTP": {"PathPrefix": "/a"}}, "Destination": {"ServiceSubset": "shard-0"}}
SHARDS = {
    "Kind": RESOLVER,
    "Name": "echo",
    "Subsets": {"shard-0": {"Filter": 'Service.Meta.shard == "0"'}},
}


@pytest.fixture(scope="module")
async def consul() -> AsyncIterator[RealConsul]:
    """One real Consul for these tests."""
    async with real_consul() as agent:
        yield agent


@pytest.fixture
async def api(consul: RealConsul) -> AsyncIterator[ConsulApi]:
    """A Consul with two instances of the old version and one of each new one, without entries."""
    await put(consul.url, DEFAULTS)
    async with ConsulApi(consul.url) as api:
        instances = [
            registration("echo", 7000 + number, number=number, version=version, check=unprobed())
            for number, version in enumerate([OLD, OLD, NEW, NEWER])
        ]
        for instance in instances:
            await tell(api, instance, proven=True)
        yield api
        for instance in instances:
            await withdraw(api, instance)
        with api.administration(timedelta(seconds=5)) as client:
            for kind in (ROUTER, SPLITTER, RESOLVER):
                client.config.delete(kind, "echo")


async def entry(api: ConsulApi, kind: str) -> Any:
    """An entry as Consul has it, None where there is none."""
    return (await api.ask(Query.config_entry(kind, "echo"))).data


async def entries(api: ConsulApi) -> list[Any]:
    """All entries that a release may write."""
    return [await entry(api, kind) for kind in (RESOLVER, SPLITTER, ROUTER)]


async def do(api: ConsulApi, move: Callable[..., str], *arguments: Any) -> str:
    """Make a move, as the command does."""

    def work() -> str:
        with api.administration(timedelta(seconds=5)) as client:
            return move(client, "echo", *arguments)

    return await asyncio.to_thread(work)


async def seen(api: ConsulApi) -> Found:
    """What Consul's entries mean."""
    names = (RESOLVER, SPLITTER, ROUTER)
    there = [(kind, await entry(api, kind)) for kind in names]
    return found("echo", {kind: data for kind, data in there if data})


async def without(api: ConsulApi, version: str) -> None:
    """Let all instances of a version go."""
    for listed in (await api.ask(Query.health("echo"))).data:
        if listed["Service"]["Meta"]["version"] == version:
            await withdraw(api, registration("echo", 1, id=listed["Service"]["ID"]))


async def test_a_release_from_the_first_call_to_the_last(api: ConsulApi) -> None:
    """Pin, canary, more of it, promote, back again: each is what Consul's entries say then."""
    told = []
    for move, *arguments in (
        (moves.pin, OLD),
        (moves.canary, NEW, 10.0),
        (moves.canary, NEW, 33.33),
        (moves.promote,),
        (moves.rollback,),
    ):
        await do(api, move, *arguments)
        told.append((await seen(api)).rollout)

    assert told == [
        Rollout(live=OLD),
        Rollout(live=OLD, canary=Canary(version=NEW, stable=OLD, weight=10)),
        Rollout(live=OLD, canary=Canary(version=NEW, stable=OLD, weight=33.33)),
        Rollout(live=NEW, previous=OLD),
        Rollout(live=OLD),
    ]


async def test_what_is_live_is_seen_where_only_one_other_version_passes(api: ConsulApi) -> None:
    """A canary of a service that was never pinned pins it; with more versions it has to be said."""
    with pytest.raises(RefusedError, match="which version of echo is live"):
        await do(api, moves.canary, NEW, 10.0)
    await without(api, NEWER)
    await do(api, moves.canary, NEW, 10.0)

    assert (await seen(api)).rollout.live == OLD


async def test_a_rolled_back_canary_is_not_what_was_live_before(api: ConsulApi) -> None:
    """The second rollback of one canary must not bring it to everybody."""
    await do(api, moves.pin, OLD)
    await do(api, moves.canary, NEW, 10.0)
    await do(api, moves.rollback)
    before = await entries(api)
    with pytest.raises(RefusedError, match="nothing was live before"):
        await do(api, moves.rollback)

    assert await entries(api) == before


async def test_nothing_is_left_of_a_release_that_is_taken_away(api: ConsulApi) -> None:
    """What an operator had in the resolver is what remains."""
    theirs = {"Kind": RESOLVER, "Name": "echo", "RequestTimeout": "3s", "Meta": {"owner": "ann"}}
    await put(api.url, theirs)
    await do(api, moves.pin, OLD)
    await do(api, moves.blue_green, NEW)
    pinned = await entry(api, RESOLVER)
    await do(api, moves.preview, NEWER, BY_TESTERS)
    with pytest.raises(RefusedError, match="has a preview"):
        await do(api, moves.unpin)
    await do(api, moves.no_previews)
    await do(api, moves.unpin)
    resolver, *others = await entries(api)

    assert (pinned["RequestTimeout"], pinned["Meta"]["owner"]) == ("3s", "ann")
    assert {name: resolver[name] for name in theirs} == theirs
    assert resolver.keys() & {"Subsets", "DefaultSubset"} == set()
    assert others == [None, None]


async def test_previews_are_added_and_replaced_by_their_header(api: ConsulApi) -> None:
    """Testers see one version and a bucket of users another; the same header moves."""
    await do(api, moves.pin, OLD)
    await do(api, moves.preview, NEW, BY_TESTERS)
    await do(api, moves.preview, NEW, ("x-bucket", "Regex", "[0-4]"))
    await do(api, moves.preview, NEWER, BY_TESTERS)
    previews = (await seen(api)).rollout.previews

    assert [(str(each), each.version) for each in previews] == [
        ("x-bucket~[0-4]", NEW),
        ("x-preview=1", NEWER),
    ]


@pytest.mark.parametrize(
    ("entry", "move", "arguments", "named"),
    [
        (SHARDS, moves.pin, [OLD], "shard-0"),
        (SHARDS, moves.canary, [NEW, 10.0], "shard-0"),
        ({**SPLIT}, moves.canary, [NEW, 10.0], "service-splitter"),
        ({**SPLIT}, moves.rollback, [], "service-splitter"),
        (
            {"Kind": ROUTER, "Name": "echo", "Routes": [ROUTE]},
            moves.preview,
            [NEW, BY_TESTERS],
            "service-router",
        ),
        (
            {"Kind": ROUTER, "Name": "echo", "Routes": [ROUTE], "Meta": dict(rollout.MARK)},
            moves.no_previews,
            [],
            "service-router",
        ),
        (
            {"Kind": RESOLVER, "Name": "echo", "Redirect": {"Datacenter": "dc1"}},
            moves.blue_green,
            [NEW],
            "Redirect",
        ),
    ],
)
async def test_what_operators_wrote_is_never_changed(
    api: ConsulApi,
    entry: dict[str, Any],
    move: Callable[..., str],
    arguments: list[Any],
    named: str,
) -> None:
    """A release that would have to is refused, says whose entry it is, and writes nothing."""
    await put(api.url, entry)
    before = await entries(api)
    with pytest.raises(RefusedError, match=named):
        await do(api, move, *arguments)

    assert await entries(api) == before


async def test_routes_that_name_a_subset_would_pass_a_canary_by(api: ConsulApi) -> None:
    """Calls of such a route never come to the splitter, which is said instead of overlooked."""
    await put(api.url, SHARDS)
    await put(api.url, {"Kind": ROUTER, "Name": "echo", "Routes": [SHARD]})
    told = await seen(api)

    assert told.passed_by == ("shard-0",)


async def test_an_operators_router_without_subsets_stays_beside_a_canary(api: ConsulApi) -> None:
    """Its retries and timeouts hold for the calls that are shared, and it is not touched."""
    await put(api.url, {"Kind": ROUTER, "Name": "echo", "Routes": [ROUTE]})
    before = await entry(api, ROUTER)
    await do(api, moves.pin, OLD)
    await do(api, moves.canary, NEW, 10.0)
    await do(api, moves.promote)

    assert await entry(api, ROUTER) == before


@pytest.mark.parametrize(
    ("move", "arguments"),
    [
        (moves.pin, ["9.9.9"]),
        (moves.canary, ["9.9.9", 10.0]),
        (moves.blue_green, ["9.9.9"]),
        (moves.preview, ["9.9.9", BY_TESTERS]),
    ],
)
async def test_a_version_without_instances_gets_no_call(
    api: ConsulApi, move: Callable[..., str], arguments: list[Any]
) -> None:
    """Its calls would all fail, so it is refused, with the versions that there are."""
    await do(api, moves.pin, OLD)
    before = await entries(api)
    with pytest.raises(RefusedError, match=r"those that do: 1\.4\.0 \(2\)"):
        await do(api, move, *arguments)

    assert await entries(api) == before


async def test_there_is_no_way_back_to_nobody(api: ConsulApi) -> None:
    """Once the old instances have gone a rollback is refused."""
    await do(api, moves.pin, OLD)
    await do(api, moves.blue_green, NEW)
    await without(api, OLD)
    with pytest.raises(RefusedError, match=r"no instance of echo 1\.4\.0 passes"):
        await do(api, moves.rollback)

    assert (await seen(api)).rollout == Rollout(live=NEW, previous=OLD)


async def test_a_canary_is_one_at_a_time(api: ConsulApi) -> None:
    """Another candidate, a blue/green or an unpin while it is on would take it away unseen."""
    await do(api, moves.pin, OLD)
    await do(api, moves.canary, NEW, 10.0)
    for move, *arguments in (
        (moves.canary, NEWER, 10.0),
        (moves.blue_green, NEWER),
        (moves.unpin,),
        (moves.pin, NEWER),
    ):
        with pytest.raises(RefusedError, match=f"has a canary, {NEW}"):
            await do(api, move, *arguments)


async def test_what_somebody_else_wrote_meanwhile_stays(api: ConsulApi) -> None:
    """Between reading and writing an operator adds a timeout: the release is refused."""
    await do(api, moves.pin, OLD)

    def late(client: Consul) -> None:
        there = rollout.read(client, "echo")
        resolver = dict(there.entries[RESOLVER]) | {"RequestTimeout": "2s"}
        client.config.set(RESOLVER, "echo", resolver)
        rollout.write(client, there, Rollout(live=NEW))

    with (
        api.administration(timedelta(seconds=5)) as client,
        pytest.raises(RefusedError, match="changed by somebody else"),
    ):
        await asyncio.to_thread(partial(late, client))

    assert (await entry(api, RESOLVER))["RequestTimeout"] == "2s"
    assert (await seen(api)).rollout.live == OLD


async def test_a_promotion_that_broke_off_can_be_ended_either_way(api: ConsulApi) -> None:
    """The default has moved and the splitter is still there: both versions are known by name."""
    await do(api, moves.pin, OLD)
    await do(api, moves.canary, NEW, 10.0)
    resolver = await entry(api, RESOLVER)
    await put(api.url, resolver | {"DefaultSubset": subset(NEW)})
    half = await seen(api)
    await do(api, moves.rollback)
    back = (await seen(api)).rollout
    await do(api, moves.canary, NEW, 10.0)
    await put(api.url, await entry(api, RESOLVER) | {"DefaultSubset": subset(NEW)})
    await do(api, moves.promote)
    forth = (await seen(api)).rollout

    assert (half.rollout.live, half.rollout.canary is not None) == (NEW, True)
    assert back == Rollout(live=OLD)
    assert forth == Rollout(live=NEW, previous=OLD)


async def test_a_watch_ends_with_its_canary(api: ConsulApi) -> None:
    """Somebody rolls back while it looks: it says so, and does nothing to what comes next."""
    await do(api, moves.pin, OLD)
    await do(api, moves.canary, NEW, 10.0)

    def work() -> int:
        with api.administration(timedelta(seconds=5)) as client:
            return watch(
                client,
                "echo",
                Terms(),
                pause=lambda _seconds: taken_back(client),
                then_promote=True,
            )

    def taken_back(client: Consul) -> None:
        moves.rollback(client, "echo")

    ended = await asyncio.to_thread(work)

    assert ended == UNDECIDED
    assert (await seen(api)).rollout == Rollout(live=OLD)


async def test_a_watch_outlives_consul(api: ConsulApi, capsys: pytest.CaptureFixture[str]) -> None:
    """What it cannot see it does not judge, and says so once; the canary stays."""
    await do(api, moves.pin, OLD)
    await do(api, moves.canary, NEW, 10.0)
    looks: list[float] = []

    def away(*_: Any) -> None:
        raise ConsulException("500 No cluster leader")

    def work() -> int:
        with api.administration(timedelta(seconds=5)) as client:
            blind: Any = SimpleNamespace(config=client.config, health=SimpleNamespace(service=away))
            terms = Terms(lasting=timedelta(seconds=2), interval=timedelta(milliseconds=10))
            return watch(blind, "echo", terms, pause=looks.append)

    ended = await asyncio.to_thread(work)

    assert ended == UNDECIDED
    assert len(looks) > 1
    assert capsys.readouterr().out.count("not judged: 500 No cluster leader") == 1
    assert (await seen(api)).rollout.canary is not None


versions = st.sampled_from([OLD, NEW, NEWER, "0.0.1", "10.0.0--"])
canaries = st.builds(
    lambda version, stable, weight: Canary(version=version, stable=stable, weight=weight),
    versions,
    versions,
    st.integers(1, 9999).map(lambda hundredths: hundredths / 100),
).filter(lambda canary: canary.version != canary.stable)
previews = st.builds(
    lambda version, header, condition, value: Preview(
        version=version, header=header, condition=condition, value=value
    ),
    versions,
    st.sampled_from(["x-preview", "x-bucket"]),
    st.sampled_from(["Exact", "Regex"]),
    st.text("abc[0-4]*", min_size=1),
)
rollouts = st.builds(
    lambda live, previous, canary, previews: Rollout(
        live=live, previous=previous, canary=canary, previews=tuple(previews)
    ),
    versions,
    st.none() | versions,
    st.none() | canaries,
    st.lists(previews, max_size=3),
)


def kept(before: Found, after: Rollout) -> Found:
    """What is read when all steps were taken, each on entries whose references hold."""
    there = dict(before.entries)
    for step in steps(before, after):
        there = {kind: entry for kind, entry in there.items() if kind != step.kind}
        there |= {step.kind: step.entry} if step.entry else {}
        assert named(there) <= set(there.get(RESOLVER, {}).get("Subsets", {}))
    return found("echo", there)


def named(there: dict[str, Any]) -> set[str]:
    """The subsets that a splitter and a router name."""
    splits = there.get(SPLITTER, {}).get("Splits", [])
    routes = there.get(ROUTER, {}).get("Routes", [])
    return {each["ServiceSubset"] for each in (*splits, *(r["Destination"] for r in routes))}


@given(st.lists(rollouts, min_size=1, max_size=4))
def test_any_rollout_is_read_as_it_was_written(history: list[Rollout]) -> None:
    """From any to any other, and on the way nothing names a subset that is not there."""
    there = Found(service="echo")
    for each in history:
        there = kept(there, each)

        assert there.rollout == each
        assert (there.theirs, there.their_router) == ((), False)
        again = kept(there, each)  # drops the subsets that were in use until then
        assert steps(again, each) == []


def test_versions_that_would_share_a_subset_are_refused() -> None:
    """1.0.0-a.b and 1.0.0-a-b have one name; the second is not taken for the first."""
    there = kept(Found(service="echo"), Rollout(live="1.0.0-a.b"))
    with pytest.raises(RefusedError, match="one name"):
        entries_of(there, Rollout(live="1.0.0-a-b", previous="1.0.0-a.b"))


def test_a_header_is_a_name_and_a_value_or_an_expression() -> None:
    """The name in small letters, as gRPC has it; the value may have any character."""
    assert header("X-Preview=a=b~c") == ("x-preview", "Exact", "a=b~c")
    assert header("x-bucket~[0-4]") == ("x-bucket", "Regex", "[0-4]")


@pytest.mark.parametrize(
    "text", ["x-preview", "x-preview=", "=1", "x-raw-bin=1", "x~[", "x~(?=a)b"]
)
def test_a_header_that_no_route_can_match_is_refused(text: str) -> None:
    """The mesh would leave the route out, and whoever wants a preview would get none."""
    with pytest.raises(ArgumentTypeError):
        header(text)


SERVED, MADE = "rpc_server_call_duration_seconds", "rpc_client_call_duration_seconds"
SCRAPE = "\n".join(
    [
        f"# TYPE {SERVED} histogram",
        f'{SERVED}_bucket{{le="+Inf",rpc_method="a.B/C",rpc_response_status_code="OK"}} 7',
        *(
            f'{name}_count{{rpc_method="{method}",rpc_response_status_code="{code}"}} {count}'
            for name, method, code, count in [
                (SERVED, "a.B/C", "OK", 7),
                (SERVED, "a.B/C", "NOT_FOUND", 2),
                (SERVED, "a.B/D", "INTERNAL", 3),
                (SERVED, "_OTHER", "UNIMPLEMENTED", 1),
                (SERVED, "grpc.health.v1.Health/Check", "OK", 500),
                (MADE, "x.Y/Z", "INTERNAL", 9),
            ]
        ),
        "",
    ]
)


def test_only_the_servers_own_faults_count() -> None:
    """A client's errors, health probes and calls of the server itself say nothing of a version."""
    assert counted(SCRAPE) == Tally(13, 4)


@pytest.mark.parametrize(
    ("canary", "stable", "worse"),
    [
        (Tally(49, 49), Tally(1000, 0), False),  # too few to judge
        (Tally(50, 25), Tally(1000, 0), True),
        (Tally(50, 1), Tally(1000, 0), False),  # chance does that
        (Tally(5000, 100), Tally(50_000, 0), True),
        (Tally(500, 250), Tally(5000, 2500), False),  # both suffer from something else
        (Tally(5000, 0), Tally(5000, 5000), False),
    ],
)
def test_a_canary_is_worse_beyond_margin_and_chance(
    canary: Tally,
    stable: Tally,
    worse: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """One failed call of fifty is no reason to go back, half of them is."""
    assert is_worse(canary, stable, Terms()) is worse


def process(start: str, version: str = NEW) -> Process:
    """One start of an instance."""
    return Process(key=("echo-1", start), version=version, passing=True, url=start)


def test_calls_are_counted_from_the_first_look_on_and_for_a_while() -> None:
    """Neither the past of a process nor that of its predecessor is the canary's, nor old news."""
    now, counts = 0.0, {"first": Tally(1000, 900), "second": Tally(5, 5)}
    comparison = Comparison(timedelta(seconds=10), scrape=counts.get, clock=lambda: now)
    comparison.look([process("first")])
    began = comparison.of(NEW)
    counts["first"] = Tally(1100, 910)
    comparison.look([process("first"), process("away", OLD)])
    counted = comparison.of(NEW)
    now = 8.0
    comparison.look([process("second")])
    counts["second"] = Tally(25, 5)
    comparison.look([process("second")])
    restarted = comparison.of(NEW)
    now = 12.0
    comparison.look([])

    assert (began, counted) == (Tally(), Tally(100, 10))
    assert restarted == Tally(120, 10)
    assert comparison.of(NEW) == Tally(20, 0)
    assert comparison.of(OLD) == Tally()
