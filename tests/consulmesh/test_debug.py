"""What `python -m consulmesh.debug` shows: Consul's word, and what gRPC core of a process has."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf import any_pb2

from consulmesh import Check, Mesh, MeshConfig
from consulmesh.consul_api import ConsulApi, Query
from consulmesh.debug import policy, text
from consulmesh.debug.__main__ import arguments_parser, show, shown
from consulmesh.debug.process import Process, process
from consulmesh.debug.reading import compact, read
from consulmesh.instances import Locality
from consulmesh.server import MeshServer
from consulmesh.testing import FakeConsul, StaticMesh, real_consul
from consulmesh.testing.ports import free_port
from consulmesh.xds.bootstrap import bootstrap, installed
from consulmesh.xds.client_status import ClientStatusRequest, ClientStatusStub
from consulmesh.xds.directory import Listener
from consulmesh.xds.messages import (
    Cluster,
    ClusterLoadAssignment,
    ResourceType,
    add_AggregatedDiscoveryServiceServicer_to_server,
    pack,
)
from consulmesh.xds.resources import Resources, resources
from consulmesh.xds.servicer import AdsServicer
from tests.consulmesh.consuls import (
    AnyConsul,
    asked_until,
    health_server,
    registration,
    tell,
    unprobed,
)
from tests.consulmesh.xds_process import SERVICE, handlers
from tests.consulmesh.xds_world import Echo, call, echoing, instance, until, upstream

ROOT = Path(__file__).resolve().parents[2]
NO_TIME = timedelta(0)
REAL = pytest.mark.parametrize("consul", ["real"], indirect=True)
SECRET = "b1gs3cret-token"


@pytest.fixture(params=["fake"])
async def consul(request: pytest.FixtureRequest) -> AsyncIterator[AnyConsul]:
    """A Consul of the test's own: the fake one starts at once, the real one has whole chains."""
    async with FakeConsul() if request.param == "fake" else real_consul() as agent:
        yield agent


@pytest.fixture
async def api(consul: AnyConsul) -> AsyncIterator[ConsulApi]:
    """Access to it."""
    async with ConsulApi(consul.url) as api:
        yield api


async def put(consul: AnyConsul, kind: str, name: str, **fields: Any) -> None:
    """Write a config entry."""
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"{consul.url}/v1/config", json={"Kind": kind, "Name": name, **fields}) as done,
    ):
        assert done.status == 200, await done.text()


async def register(api: ConsulApi, number: int, *, passing: bool = True, **given: Any) -> None:
    """Register an instance of `echo` that nobody probes."""
    known: dict[str, Any] = {"number": number, "check": unprobed(), "port": 4000 + number, **given}
    await tell(api, registration("echo", **known), proven=passing)


async def listed(api: ConsulApi, service: str, count: int) -> None:
    """Wait until Consul lists so many instances of a service as passing."""
    query = Query.health(service, passing="1")
    await asked_until(api, query, lambda found: len(found) == count, seconds=30)


async def debug(*arguments: str, **env: str) -> tuple[int, str, str]:
    """Run the command; return its exit status, output and complaints."""
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "consulmesh.debug", *arguments),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, complaints = await command.communicate()
    return command.returncode or 0, output.decode(), complaints.decode()


# --- what Consul says


@REAL
async def test_it_says_why_an_instance_is_not_called(api: ConsulApi) -> None:
    """Each registered instance is an endpoint, or has a reason why it is none."""
    await register(api, 1, version="1.0.0")
    await register(api, 2, passing=False)
    await register(api, 3)
    await register(api, 4, address="host.example")
    with api.administration(timedelta(seconds=5)) as client:
        await asyncio.to_thread(
            client.agent.service.maintenance, "echo-3", enable=True, reason="new disks"
        )

    said, _ = await policy.policy(api, "echo", None)
    reasons = {each.id: each.unused for each in said.instances}
    endpoints = [each.address for each in said.config.clusters[0].endpoints or ()]

    assert endpoints == ["127.0.0.1:4001"]
    assert reasons["echo-1"] == ""
    assert reasons["echo-2"] == "Service health: not probed yet"
    assert reasons["echo-3"] == "maintenance: new disks"
    assert reasons["echo-4"] == "address 'host.example' is not an IP address"


@REAL
async def test_the_chain_is_shown_from_router_to_endpoints(
    consul: AnyConsul, api: ConsulApi
) -> None:
    """Shares, filters of subsets, retries and timeouts; and whom no subset takes."""
    meta = {
        "grpc-service": SERVICE,
        "retryable-methods": "Get",
        "request-timeouts": "Slow=250ms",
    }
    await put(consul, "service-defaults", "echo", Protocol="grpc", Meta=meta)
    subsets = {name: {"Filter": f'Service.Meta.version == "{name}"'} for name in ("v1", "v2")}
    await put(consul, "service-resolver", "echo", Subsets=subsets)
    splits = [{"Weight": 90, "ServiceSubset": "v1"}, {"Weight": 10, "ServiceSubset": "v2"}]
    await put(consul, "service-splitter", "echo", Splits=splits)
    for number, version in enumerate(("v1", "v2", "v3"), start=1):
        await register(api, number, version=version)

    said, _ = await policy.policy(api, "echo", None)
    output = "\n".join(text.lines(said, ()))
    get = next(route for route in said.config.routes if route.retries)
    shares = {cluster.partition(".")[0]: share for cluster, share in get.clusters.items()}
    unused = {each.id for each in said.instances if each.unused}

    assert "90 % → resolver:v1.echo" in said.chain[0]
    assert any('Filter=Service.Meta.version == "v2"' in line for line in said.chain)
    assert get.match == f"/{SERVICE}/Get"
    assert get.retries == "2x on unavailable,cancelled"
    assert shares == {"echo/v1": 90, "echo/v2": 10}
    assert said.timeouts == ((f"/{SERVICE}/Slow", 0.25),)
    assert unused == {"echo-3"}
    assert "90 % echo/v1.echo.default.default.dc1, 10 % echo/v2" in output


@REAL
async def test_it_speaks_for_one_caller(consul: AnyConsul, api: ConsulApi) -> None:
    """A caller's UpstreamConfig is mapped as in its processes; parts without effect are named."""
    await register(api, 1)
    config = {"Overrides": [{"Name": "echo", "MeshGateway": {"Mode": "local"}}]}
    await put(consul, "service-defaults", "web", Protocol="grpc", UpstreamConfig=config)

    for_web, _ = await policy.policy(api, "echo", "web")
    for_all, _ = await policy.policy(api, "echo", None)

    assert "UpstreamConfig of the caller: MeshGateway is not applied" in for_web.warnings
    assert for_all.warnings == ()


@REAL
async def test_what_consul_does_not_answer_is_named(consul: AnyConsul, api: ConsulApi) -> None:
    """A datacenter out of reach keeps all clients from a view: that query, and why, are told."""
    await register(api, 1)
    redirect = {"Datacenter": "dc9"}
    await put(consul, "service-resolver", "echo", Redirect=redirect)

    with pytest.raises(policy.NotShownError, match=r"dc=dc9.*No path to datacenter"):
        await policy.policy(api, "echo", None, patience=timedelta(seconds=1))


def test_settings_are_shown_by_their_own_names() -> None:
    """Nested policies read as a person would write them; a type unknown here hides nothing else."""
    weighted = {
        "policies": [
            {
                "typed_extension_config": {
                    "name": "any",
                    "typed_config": {
                        "@type": "type.googleapis.com/x.v3.WrrLocality",
                        "endpoint_picking_policy": {
                            "policies": [
                                {
                                    "typed_extension_config": {
                                        "typed_config": {"@type": "x/x.v3.RoundRobin"}
                                    }
                                }
                            ]
                        },
                    },
                }
            }
        ]
    }
    packed = any_pb2.Any(type_url="type.googleapis.com/made.up.Type", value=b"x")
    given = made(
        [],
        metadata={"typed_filter_metadata": {"new": packed}},
        circuit_breakers={"thresholds": [{"max_requests": {"value": 7}}]},
    )
    (cluster,) = read(given.by_type).clusters

    assert compact(weighted) == "WrrLocality(endpoint_picking_policy=RoundRobin)"
    assert "made.up.Type" in cluster.settings["metadata"]
    assert cluster.settings["circuit_breakers"] == {"thresholds": [{"max_requests": 7}]}
    assert (cluster.name, cluster.balancing, cluster.endpoints) == ("echo", "round_robin", ())


def test_shares_follow_the_weights_of_each_priority() -> None:
    """Localities by their weights, endpoints in them by theirs; who drains gets nothing."""
    groups = [
        {"priority": 0, "load_balancing_weight": {"value": 3}, "lb_endpoints": [at(1), at(2)]},
        {"priority": 0, "load_balancing_weight": {"value": 1}, "lb_endpoints": [at(3), at(4, 3)]},
        {"priority": 1, "load_balancing_weight": {"value": 1}, "lb_endpoints": [at(5)]},
    ]
    packed = pack(ClusterLoadAssignment(cluster_name="echo", endpoints=groups))
    given = {**made([]).by_type, ResourceType.ENDPOINTS: {"echo": packed}}
    endpoints = read(given).clusters[0].endpoints or ()

    assert [(each.address, each.share, each.health) for each in endpoints] == [
        ("127.0.0.1:1", 0.375, "HEALTHY"),
        ("127.0.0.1:2", 0.375, "HEALTHY"),
        ("127.0.0.1:3", 0.25, "HEALTHY"),
        ("127.0.0.1:4", 0.0, "DRAINING"),
        ("127.0.0.1:5", 1.0, "HEALTHY"),
    ]


def test_on_a_ring_each_member_has_its_localitys_weight() -> None:
    """ring_hash multiplies the weights of locality and endpoint (gRFC A42)."""
    groups = [
        {"load_balancing_weight": {"value": 1}, "lb_endpoints": [at(1), at(2)]},
        {"load_balancing_weight": {"value": 2}, "lb_endpoints": [at(3)]},
    ]
    packed = pack(ClusterLoadAssignment(cluster_name="echo", endpoints=groups))
    given = {
        **made([], lb_policy="RING_HASH").by_type,
        ResourceType.ENDPOINTS: {"echo": packed},
    }
    (cluster,) = read(given).clusters

    assert cluster.balancing == "ring_hash"
    assert [each.share for each in cluster.endpoints or ()] == [0.25, 0.25, 0.5]


def at(port: int, health: int = 1) -> dict[str, Any]:
    """An endpoint; health 3 is draining."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"endpoint": {"address": address}, "health_status": health}


@REAL
async def test_failover_is_shown_although_its_way_is_down(
    consul: AnyConsul, api: ConsulApi
) -> None:
    """Priorities follow the failover; a target that Consul cannot reach is named."""
    await put(consul, "service-defaults", "echo", Protocol="grpc")
    subsets = {name: {"Filter": f'Service.Meta.version == "{name}"'} for name in ("v1", "v2")}
    failover = {"v1": {"Targets": [{"ServiceSubset": "v2"}, {"Datacenter": "dc9"}]}}
    entry = {"DefaultSubset": "v1", "Subsets": subsets, "Failover": failover}
    await put(consul, "service-resolver", "echo", **entry)
    await register(api, 1, version="v1")
    await register(api, 2, version="v2")

    said, _ = await policy.policy(api, "echo", None)
    (cluster,) = said.config.clusters
    (unanswered,) = said.unanswered

    assert [(each.priority, said.names[each.address]) for each in cluster.endpoints or ()] == [
        (0, "echo-1"),
        (1, "echo-2"),
    ]
    assert "dc=dc9" in unanswered
    assert "No path to datacenter" in unanswered
    assert unanswered in "\n".join(text.lines(said, ()))


# --- what a running process has


@asynccontextmanager
async def member(
    consul: AnyConsul, folder: Path, service: str, **given: Any
) -> AsyncIterator[Mesh]:
    """A process of a service that serves the echo methods, registered."""
    config = MeshConfig(
        version="1.2.3", consul_url=consul.url, state_dir=folder, drain_grace=NO_TIME, **given
    )
    async with Mesh.join(service, config) as mesh:
        server = mesh.server(status_codes={})
        server.add_registered_method_handlers(SERVICE, handlers(mesh))
        serving = asyncio.create_task(mesh.serve(server))
        try:
            yield mesh
        finally:
            mesh.draining.set()
            await serving


@REAL
async def test_a_process_is_asked_what_it_has(
    consul: AnyConsul, api: ConsulApi, tmp_path: Path
) -> None:
    """States and counts of its connections, and why one fails, beside what Consul says."""
    dead = free_port()
    async with (
        member(consul, tmp_path, "echo", isolated=True) as one,
        member(consul, tmp_path, "echo", isolated=True),
        member(consul, tmp_path, "caller") as caller,
    ):
        await listed(api, "echo", 2)
        await listed(api, "caller", 1)
        await register(api, 9, id="echo-dead", port=dead)
        channel = caller.channel("echo")
        answers = [await call(channel, wait_for_ready=True) for _ in range(20)]
        await until(lambda: caller.ads.states()[0].settled)

        said, (found,) = await shown(api, "echo", of="caller")
        output = "\n".join(text.lines(said, [found]))
        connections = {each.instance: each for each in found.connections}

    assert (found.instance, found.address, found.error) == ("caller-1", caller.address, "")
    assert (found.states, found.calls, found.failed) == (("READY",), 20, 0)
    assert (found.stale, found.refusals) == ((), ())
    assert set(answers) == {"echo-1", "echo-2"}
    assert (connections["echo-1"].state, connections["echo-1"].address) == ("READY", one.address)
    assert connections["echo-1"].calls == answers.count("echo-1")
    assert connections["echo-dead"].calls == 0
    assert "Connection refused" in connections["echo-dead"].remark
    assert "has what Consul says" in output


@REAL
async def test_each_process_is_compared_from_where_it_runs(
    consul: AnyConsul, api: ConsulApi, tmp_path: Path
) -> None:
    """What is near comes first for it, and that is no difference from Consul."""
    here, there = Locality(region="eu", zone="a"), Locality(region="us", zone="b")
    async with (
        member(consul, tmp_path, "echo", isolated=True, locality=there),
        member(consul, tmp_path, "echo", isolated=True, locality=here),
        member(consul, tmp_path, "caller", locality=here) as caller,
    ):
        await listed(api, "echo", 2)
        await listed(api, "caller", 1)
        await call(caller.channel("echo"), wait_for_ready=True)
        await until(lambda: caller.ads.states()[0].settled)
        said, (found,) = await shown(api, "echo", of="caller")
        output = "\n".join(text.lines(said, [found]))

    assert [(each.instance, each.priority) for each in found.connections] == [
        ("echo-2", 0),
        ("echo-1", 1),
    ]
    assert found.stale == ()
    assert "as caller is to call it from eu/a" in output


async def test_a_process_that_serves_no_grpc_is_asked_at_a_port_of_its_own(
    consul: AnyConsul, api: ConsulApi, tmp_path: Path
) -> None:
    """What is announced has an admin port, which Meta names, until it leaves; it can be off."""
    config = MeshConfig(version="1", consul_url=consul.url, state_dir=tmp_path)
    seen = []
    for admin_port in (0, None):
        name = f"web-{admin_port}"
        async with (
            Mesh.join(name, replace(config, admin_port=admin_port)) as mesh,
            mesh.announced(4711, Check.http("/readyz")),
        ):
            answer = await asked_until(api, Query.health(name), bool)
            meta = answer.data[0]["Service"]["Meta"]
            if admin_port == 0:
                with pytest.raises(grpc.aio.AioRpcError):
                    await call(mesh.channel("nobody"))
                _, (found,) = await shown(api, name, of=name)
                address = found.address
            seen.append(meta.get("admin_port"))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address.split(":"))

    assert seen[1] is None
    assert address == f"127.0.0.1:{seen[0]}"
    assert (found.error, found.states) == ("", ())


async def test_instances_that_cannot_be_asked_are_named(api: ConsulApi) -> None:
    """One that is gone and one that is no process of this mesh say so; the rest is shown."""
    await register(api, 1)
    async with health_server() as stranger:
        for number, port in ((1, free_port()), (2, stranger.port)):
            await tell(api, registration("web", port, number=number, check=unprobed()))
        said, found = await shown(api, "echo", of="web")
        (one,) = (await shown(api, "echo", of="web-2"))[1]

    assert [each.id for each in said.instances] == ["echo-1"]
    assert found[0].error.startswith("UNAVAILABLE")
    assert "no CSDS" in found[1].error
    assert one == found[1]


class HandDirectory:
    """Resources as the test makes them, for one upstream."""

    def __init__(self, first: Resources) -> None:
        self._now = first
        self._listeners: list[Listener] = []

    def listen(self, name: str, listener: Listener) -> None:
        """Tell it what there is."""
        self._listeners.append(listener)
        listener(name, self._now)

    def leave(self, name: str, listener: Listener) -> None:
        """Tell it no more."""
        self._listeners.remove(listener)

    def show(self, now: Resources) -> None:
        """Change what there is."""
        self._now = now
        for listener in self._listeners:
            listener("echo", now)


@asynccontextmanager
async def hand_made(first: Resources) -> AsyncIterator[tuple[HandDirectory, AdsServicer, int]]:
    """This process as an xDS client of hand-made resources; yields its admin port, too."""
    directory = HandDirectory(first)
    ads = AdsServicer(directory)  # type: ignore[arg-type]  # as much of one as is used
    server = MeshServer("test", instance="test-1/1", status_codes={})
    add_AggregatedDiscoveryServiceServicer_to_server(ads, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with installed(bootstrap(f"127.0.0.1:{port}", node="test")):
            yield directory, ads, port
    finally:
        await server.stop(None)


def made(servers: list[Echo], **cluster: Any) -> Resources:
    """Resources of `echo` with a cluster that has these fields."""
    mapped = resources(upstream([instance(server.port) for server in servers]))
    (packed,) = mapped.by_type[ResourceType.CLUSTER].values()
    message: Any = Cluster()
    packed.Unpack(message)
    message.MergeFrom(Cluster(**cluster))
    changed = {**mapped.by_type, ResourceType.CLUSTER: {"echo": pack(message)}}
    return replace(mapped, by_type=changed)


async def asked(
    port: int, consul: Resources, names: Mapping[str, str], window: timedelta = NO_TIME
) -> Process:
    """This process, asked over gRPC."""
    return await process(instance(port, id="test-1"), "echo", consul, names, window=window)


async def test_a_refused_update_is_shown_beside_what_is_in_force() -> None:
    """After a NACK, calls follow the old resource: both it and gRPC core's reason are shown."""
    async with echoing() as server:
        good, bad = made([server]), made([server], lb_policy="LEAST_REQUEST")
        async with (
            hand_made(good) as (directory, ads, port),
            grpc.aio.insecure_channel("xds:///echo") as channel,
        ):
            await call(channel)
            directory.show(bad)
            await until(lambda: any(ads.nacks.values()))
            found = await asked(port, bad, {f"127.0.0.1:{server.port}": "echo-1"})
            answer = await call(channel)

    (refused,) = found.refusals
    assert answer == str(server.port)
    assert (refused.type, refused.name, refused.status) == ("Cluster", "echo", "NACKED")
    assert "LB policy is not supported" in refused.refused
    assert found.stale == (refused,)
    assert found.config
    assert found.config.clusters[0].balancing == "round_robin"


async def test_an_ejected_endpoint_is_told_from_one_that_is_used() -> None:
    """Connected, but without the calls that its weight is worth: so ejection looks."""
    outliers = {
        "interval": timedelta(milliseconds=100),
        "base_ejection_time": timedelta(minutes=5),
        "max_ejection_percent": {"value": 50},
        "enforcing_failure_percentage": {"value": 100},
        "failure_percentage_minimum_hosts": {"value": 2},
        "failure_percentage_request_volume": {"value": 5},
        "failure_percentage_threshold": {"value": 50},
    }

    async def fail(context: Any, _number: int) -> None:
        await context.abort(grpc.StatusCode.INTERNAL, "broken")

    async with echoing() as good, echoing(fail) as bad:
        given = made([good, bad], outlier_detection=outliers)
        async with (
            hand_made(given) as (_, _, port),
            grpc.aio.insecure_channel("xds:///echo") as channel,
        ):
            await until_ejected(channel, bad)
            asking = asyncio.create_task(asked(port, given, {}, timedelta(seconds=2)))
            while not asking.done():
                await call(channel)
            found = await asking

    remarks = {each.address: each.remark for each in found.connections}
    assert remarks[f"127.0.0.1:{good.port}"] == "not in Consul"
    assert remarks[f"127.0.0.1:{bad.port}"] == "not in Consul; not picked: ejected?"
    assert {each.state for each in found.connections} == {"READY"}


async def until_ejected(channel: grpc.aio.Channel, bad: Echo) -> None:
    """Call until a server got none of the last calls."""
    async with asyncio.timeout(30):
        spared = 0
        while spared < 20:
            before = len(bad.calls)
            with suppress(grpc.aio.AioRpcError):
                await call(channel)
            spared = spared + 1 if len(bad.calls) == before else 0


async def test_channels_that_were_never_used_are_told() -> None:
    """A process that never called the service is not taken for a broken one."""
    async with StaticMesh("web", {}) as web:
        server = web.server(status_codes={})
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        found = await asked(port, made([]), {})
        await server.stop(None)

    async with (
        hand_made(made([])) as (_, _, port),
        grpc.aio.insecure_channel("xds:///echo"),
    ):
        quiet = await asked(port, made([]), {})

    assert (found.error, found.states, found.connections) == ("", (), ())
    assert (quiet.error, len(quiet.states), quiet.resources) == ("", 1, ())


# --- the command


async def test_the_command_shows_text_and_json(
    consul: AnyConsul, api: ConsulApi, tmp_path: Path
) -> None:
    """Aligned text without colours, or one JSON document; neither has a token in it."""
    env = {"CONSUL_HTTP_ADDR": consul.url, "CONSUL_HTTP_TOKEN": SECRET}
    await register(api, 1)
    async with member(consul, tmp_path, "caller", consul_token=SECRET) as caller:
        await listed(api, "caller", 1)
        with pytest.raises(grpc.aio.AioRpcError):
            await call(caller.channel("echo"))
        (status, output, complaints), as_json = await asyncio.gather(
            debug("echo", "--of", "caller-1", **env),
            debug("echo", "--of", "caller", "--json", **env),
        )
        async with grpc.aio.insecure_channel(caller.address) as channel:
            raw = await ClientStatusStub(channel).FetchClientStatus(ClientStatusRequest())
            stream = ClientStatusStub(channel).StreamClientStatus(
                iter([ClientStatusRequest()] * 2), timeout=10
            )
            streamed = [each async for each in stream]
    found = json.loads(as_json[1])

    assert (status, complaints) == (0, "")
    assert [each.config[0].client_scope for each in streamed] == ["xds:/echo"] * 2
    assert "127.0.0.1:4001  echo-1" in output
    assert "caller-1 1.2.3" in output
    assert "\x1b" not in output
    assert found["policy"]["service"] == "echo"
    assert found["processes"][0]["instance"] == "caller-1"
    assert SECRET not in output + as_json[1] + str(raw)


async def test_the_command_tells_what_went_wrong(
    consul: AnyConsul, api: ConsulApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown service, nobody to ask, Consul away: one line on stderr, exit status 1."""
    await register(api, 1)
    there, nowhere = consul.url, f"http://127.0.0.1:{free_port()}"
    complaints = []
    for url, *arguments in (
        (there, "ecko"),
        (there, "echo", "--as", "ecko"),
        (there, "echo", "--of", "caller"),
        (nowhere, "echo"),
    ):
        config = MeshConfig(version="0", consul_url=url)
        status = await show(arguments_parser().parse_args(arguments), config)
        output, complaint = capsys.readouterr()
        assert (status, output, complaint.count("\n")) == (1, "", 1)
        complaints.append(complaint)

    assert "did you mean echo?" in complaints[0]
    assert "did you mean echo?" in complaints[1]
    assert "no instance of 'caller'" in complaints[2]
    assert f"Consul at {nowhere} does not answer" in complaints[3]


async def test_wrong_use_is_an_exit_status_of_its_own() -> None:
    """Options that exclude each other, and an address that is none: exit status 2."""
    runs = await asyncio.gather(
        debug("echo", "--of", "a", "--as", "b"),
        debug("echo", CONSUL_HTTP_ADDR="::::"),
    )

    assert [(status, output) for status, output, _ in runs] == [(2, ""), (2, "")]
    assert "not allowed with" in runs[0][2]
    assert runs[1][2].startswith("CONSUL_HTTP_ADDR: ")


async def test_what_a_check_said_cannot_move_the_cursor(api: ConsulApi) -> None:
    """Output of checks comes from anywhere: nothing of it reaches the terminal but text."""
    await register(api, 1)
    said, _ = await policy.policy(api, "echo", None)
    (candidate,) = said.instances
    evil = replace(said, instances=(replace(candidate, unused="fine\x1b[2Jor\rnot"),))

    output = "\n".join(text.lines(evil, ()))

    assert "fine [2Jor not" in output
    assert output.replace("\n", "").isprintable()
