"""FakeConsul and a real Consul, held to the same behaviour, the one the mesh relies on."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from consulmesh.announcement import LEAVE_TIMEOUT, Announcement
from consulmesh.catalog import Catalog
from consulmesh.consul_api import ConsulApi, ConsulError, Query
from consulmesh.instances import Listed, Locality, Status
from consulmesh.registration import Check
from consulmesh.testing import FakeConsul, real_consul
from consulmesh.topology import topology
from tests.consulmesh.consuls import (
    ENDLESS,
    SLACK,
    AnyConsul,
    Views,
    asked_until,
    health_server,
    missed,
    registration,
    tell,
    unprobed,
    withdraw,
)

SHORT = timedelta(milliseconds=300)


@pytest.fixture(scope="module", params=["fake", "real"])
async def consul(request: pytest.FixtureRequest) -> AsyncIterator[AnyConsul]:
    """One Consul for all tests that leave it running."""
    async with FakeConsul() if request.param == "fake" else real_consul() as consul:
        yield consul


@pytest.fixture(params=["fake", "real"])
async def fragile_consul(request: pytest.FixtureRequest) -> AsyncIterator[AnyConsul]:
    """A Consul of a test's own, to be stopped and started."""
    async with FakeConsul() if request.param == "fake" else real_consul() as consul:
        yield consul


@pytest.fixture
async def api(consul: AnyConsul) -> AsyncIterator[ConsulApi]:
    """Access to the shared Consul."""
    async with ConsulApi(consul.url) as api:
        yield api


def listed(data: Any) -> list[Listed]:
    """The instances of a health answer."""
    return [Listed.of(entry) for entry in data]


def statuses(data: Any) -> list[Status]:
    """The statuses of a health answer's instances."""
    return [entry.instance.status for entry in listed(data)]


def shows(status: Status, data: Any) -> bool:
    """Whether a health answer has one instance, with that status."""
    return statuses(data) == [status]


@asynccontextmanager
async def http_server(
    path: str, handler: Callable[[web.Request], Awaitable[web.Response]]
) -> AsyncIterator[int]:
    """An HTTP server for the block; gives its port."""
    app = web.Application()
    app.router.add_get(path, handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def put(consul: AnyConsul, path: str, body: Any = None) -> str:
    """Write to Consul as an operator does; returns the answer."""
    async with (
        aiohttp.ClientSession() as session,
        session.put(consul.url + path, json=body) as response,
    ):
        text = await response.text()
        assert response.status == HTTPStatus.OK, text
        return text.strip()


async def test_a_registered_instance_becomes_passing_by_its_own_check(api: ConsulApi) -> None:
    """Consul finds out by a gRPC probe that an instance serves, and lists all it was told."""
    query = Query.health("seen")
    async with health_server() as server:
        place = Locality(region="eu", zone="a")
        instance = registration(
            "seen", server.port, weight=7, meta={"metrics_port": "1"}, locality=place
        )
        await tell(api, instance)
        answer = await asked_until(api, query, partial(shows, Status.PASSING))

    found = listed(answer.data)[0].instance
    assert (found.id, found.address, found.port) == ("seen-1", "127.0.0.1", server.port)
    assert (found.weight, found.version, found.locality) == (7, "1.0.0", place)
    assert found.meta == {"version": "1.0.0", "metrics_port": "1"}
    assert answer.data[0]["Service"]["Connect"] == {"Native": True}


async def test_an_instance_is_unproven_until_a_probe_passes(api: ConsulApi) -> None:
    """Critical without a reason: Consul shows no output that comes without a change of status."""
    query = Query.health("unproven")
    await tell(api, registration("unproven", 1))
    first = await asked_until(api, query, bool)
    probed = await api.ask(query, index=first.index, wait=timedelta(seconds=1.5))

    assert statuses(first.data) == statuses(probed.data) == [Status.CRITICAL]
    assert listed(first.data)[0].unproven
    assert listed(probed.data)[0].unproven


async def test_a_proven_instance_is_passing_at_once(api: ConsulApi) -> None:
    """A process that says it serves is believed until the first probe."""
    await tell(api, registration("proven", 1, check=unprobed()), proven=True)
    answer = await asked_until(api, Query.health("proven"), bool)

    assert statuses(answer.data) == [Status.PASSING]


async def test_a_critical_id_stays_critical_however_it_is_registered(api: ConsulApi) -> None:
    """Registering an id again, even as passing, changes no status that Consul already has."""
    query, dead = Query.health("again"), registration("again", 1)
    await tell(api, dead)
    await asked_until(api, query, bool)
    await tell(api, dead, proven=True)
    answer = await api.ask(query)

    assert statuses(answer.data) == [Status.CRITICAL]


async def test_a_stranger_on_a_reused_port_is_critical(api: ConsulApi) -> None:
    """The check asks for the service by name, so another server in its place fails it."""
    query = Query.health("reused")
    async with health_server() as server:
        await tell(api, registration("reused", server.port))
        await asked_until(api, query, partial(shows, Status.PASSING))
    async with health_server("tests.v1.StrangerService", server.port):
        answer = await asked_until(api, query, partial(shows, Status.CRITICAL))

    assert not listed(answer.data)[0].usable
    assert not listed(answer.data)[0].unproven


async def test_a_dead_instance_is_critical_within_two_intervals(api: ConsulApi) -> None:
    """A closed port is noticed by the next probe."""
    query = Query.health("dead")
    async with health_server() as server:
        await tell(api, registration("dead", server.port))
        await asked_until(api, query, partial(shows, Status.PASSING))
    began = time.monotonic()
    await asked_until(api, query, partial(shows, Status.CRITICAL))

    assert time.monotonic() - began < 2.5 + SLACK


async def test_an_instance_that_says_not_serving_is_critical(api: ConsulApi) -> None:
    """Only SERVING passes."""
    query = Query.health("unready")
    async with health_server() as server:
        await tell(api, registration("unready", server.port))
        await asked_until(api, query, partial(shows, Status.PASSING))
        await server.says(serving=False)
        answer = await asked_until(api, query, partial(shows, Status.CRITICAL))

    assert not listed(answer.data)[0].unproven


async def test_an_http_check_reads_the_status(api: ConsulApi) -> None:
    """2xx is passing, 429 warning, which has a weight of its own, anything else critical."""
    query = Query.health("gateway")
    said: list[HTTPStatus] = []
    weights: list[int] = []

    async def ready(_: web.Request) -> web.Response:
        return web.Response(status=said[-1])

    async with http_server("/readyz", ready) as port:
        said.append(HTTPStatus.OK)
        await tell(api, registration("gateway", port, check=Check.http("/readyz"), weight=5))
        for status, expected in (
            (HTTPStatus.NO_CONTENT, Status.PASSING),
            (HTTPStatus.TOO_MANY_REQUESTS, Status.WARNING),
            (HTTPStatus.SERVICE_UNAVAILABLE, Status.CRITICAL),
        ):
            said.append(status)
            answer = await asked_until(api, query, partial(shows, expected))
            weights.append(listed(answer.data)[0].instance.weight)

    assert weights[:2] == [5, 1]
    assert not listed(answer.data)[0].usable


async def test_deregistration_wakes_both_watches(api: ConsulApi) -> None:
    """Whoever waits for a change of the list or of the registration hears of its end at once."""
    instance = registration("leaving", 1)
    await tell(api, instance)
    health = await asked_until(api, Query.health("leaving"), bool)
    guard = await api.ask(Query.agent_service("leaving-1"))
    waiting = [
        asyncio.create_task(api.ask(Query.health("leaving"), index=health.index, wait=ENDLESS)),
        asyncio.create_task(
            api.ask(
                Query.agent_service("leaving-1"),
                content_hash=guard.content_hash,
                wait=ENDLESS,
            )
        ),
    ]
    await asyncio.sleep(0.1)  # so that both really wait
    began = time.monotonic()
    await withdraw(api, instance)
    gone = await asked_until(api, Query.health("leaving"), lambda d: d == [])
    _, unknown = await asyncio.gather(*waiting)

    assert time.monotonic() - began < SLACK
    assert gone.data == []
    assert unknown.data is None


async def test_the_hash_of_a_registration_blocks_while_it_stays(api: ConsulApi) -> None:
    """The guard's query waits as long as nothing changes and then gives the same hash."""
    await tell(api, registration("guarded", 1))
    query = Query.agent_service("guarded-1")
    first = await api.ask(query)
    began = time.monotonic()
    second = await api.ask(query, content_hash=first.content_hash, wait=SHORT)

    assert time.monotonic() - began >= SHORT.total_seconds()
    assert first.content_hash == second.content_hash
    assert (first.data["Address"], first.data["Port"]) == ("127.0.0.1", 1)


async def test_deregistering_an_unknown_id_is_refused_with_404(api: ConsulApi) -> None:
    """That an id is unknown already is what a deregistration wants."""
    await withdraw(api, registration("never-there", 1))

    assert (await api.ask(Query.agent_service("never-there-1"))).data is None


@pytest.mark.parametrize(
    "query",
    [
        Query.health("quiet"),
        Query.discovery_chain("quiet"),
        Query.config_entry("service-defaults", "quiet"),
    ],
    ids=str,
)
async def test_a_query_blocks_on_its_index(api: ConsulApi, query: Query) -> None:
    """With the index of the last answer a query waits, and returns the same data in the end."""
    first = await api.ask(query)
    began = time.monotonic()
    second = await api.ask(query, index=first.index, wait=SHORT)

    assert first.index >= 1
    assert time.monotonic() - began >= SHORT.total_seconds()
    assert second.index >= first.index
    assert second.data == first.data


async def test_an_unknown_service_is_an_empty_list_and_a_default_chain(api: ConsulApi) -> None:
    """Nothing in Consul is an error for being unknown, but a config entry is 404."""
    health = await api.ask(Query.health("unknown"))
    chain = await api.ask(Query.discovery_chain("unknown"))
    entry = await api.ask(Query.config_entry("service-defaults", "unknown"))

    assert health.data == []
    assert chain.data["Chain"]["Protocol"] == "tcp"
    assert list(chain.data["Chain"]["Targets"]) == ["unknown.default.default.dc1"]
    assert entry.data is None


async def test_service_defaults_wake_and_shape_the_chain(consul: AnyConsul, api: ConsulApi) -> None:
    """Protocol and Meta of service-defaults stand in the compiled chain as soon as written."""
    query = Query.discovery_chain("shaped")
    before = await api.ask(query)
    entry = {
        "Kind": "service-defaults",
        "Name": "shaped",
        "Protocol": "grpc",
        "Meta": {"retryable-methods": "Get,List"},
    }
    waiting = asyncio.create_task(api.ask(query, index=before.index, wait=ENDLESS))
    await asyncio.sleep(0.1)  # so that it really waits
    began = time.monotonic()
    await put(consul, "/v1/config", entry)
    chain = (await waiting).data["Chain"]
    written = await api.ask(Query.config_entry("service-defaults", "shaped"))

    assert time.monotonic() - began < SLACK
    assert (chain["Protocol"], chain["ServiceMeta"]) == ("grpc", {"retryable-methods": "Get,List"})
    assert chain["StartNode"] in chain["Nodes"]
    assert written.data.items() >= entry.items()


async def test_an_unrelated_or_an_equal_entry_does_not_wake(
    consul: AnyConsul, api: ConsulApi
) -> None:
    """A chain's index moves with its own entries only, an entry's only with its content."""
    entry = {"Kind": "service-defaults", "Name": "calm", "Protocol": "grpc"}
    await put(consul, "/v1/config", entry)
    chain = await api.ask(Query.discovery_chain("calm"))
    config = await api.ask(Query.config_entry("service-defaults", "calm"))
    waiting = asyncio.create_task(
        api.ask(Query.discovery_chain("calm"), index=chain.index, wait=SHORT)
    )
    await put(consul, "/v1/config", entry)
    await put(consul, "/v1/config", {**entry, "Name": "other"})
    began = time.monotonic()
    await waiting
    again = await api.ask(Query.config_entry("service-defaults", "calm"))

    assert time.monotonic() - began > SHORT.total_seconds() / 2
    assert again.data["ModifyIndex"] == config.data["ModifyIndex"]


async def test_an_entry_is_written_only_from_the_index_it_was_read_at(
    consul: AnyConsul, api: ConsulApi
) -> None:
    """Check-and-set: 0 stands for an entry that is not there yet."""
    entry = {"Kind": "service-defaults", "Name": "checked", "Protocol": "grpc"}
    created = await put(consul, "/v1/config?cas=0", entry)
    again = await put(consul, "/v1/config?cas=0", {**entry, "Protocol": "http"})
    there = await api.ask(Query.config_entry("service-defaults", "checked"))
    path = f"/v1/config?cas={there.data['ModifyIndex']}"
    changed = await put(consul, path, {**entry, "Protocol": "http"})

    assert (created, again, changed) == ("true", "false", "true")
    assert there.data["Protocol"] == "grpc"


async def test_maintenance_takes_an_instance_out_and_back(
    consul: AnyConsul, api: ConsulApi
) -> None:
    """An instance in maintenance is critical for a known reason; afterwards it is as before."""
    query = Query.health("maintained")
    path = "/v1/agent/service/maintenance/maintained-1"
    async with health_server() as server:
        await tell(api, registration("maintained", server.port), proven=True)
        await put(consul, f"{path}?enable=true&reason=upgrade")
        during = await asked_until(api, query, partial(shows, Status.CRITICAL))
        await put(consul, f"{path}?enable=false")
        after = await asked_until(api, query, partial(shows, Status.PASSING))

    assert not listed(during.data)[0].unproven
    assert listed(after.data)[0].usable


async def test_filters_narrow_a_list(api: ConsulApi) -> None:
    """The filter of a subset and `passing` are Consul's to apply."""
    one = registration("many", 1, number=1, version="1", check=unprobed())
    two = registration("many", 2, number=2, version="2", check=unprobed())
    await tell(api, one, proven=True)
    await tell(api, two)
    await asked_until(api, Query.health("many"), lambda d: len(d) == 2)
    subset = await api.ask(Query.health("many", filter='Service.Meta.version == "2"'))
    passing = await api.ask(Query.health("many", passing="1"))

    assert [entry.instance.id for entry in listed(subset.data)] == ["many-2"]
    assert [entry.instance.id for entry in listed(passing.data)] == ["many-1"]


async def test_intentions_are_matched_by_destination(consul: AnyConsul, api: ConsulApi) -> None:
    """Who may call a service is one read, sorted; null where nobody said anything."""
    sources = [{"Name": "web", "Action": "allow"}, {"Name": "app", "Action": "deny"}]
    entry = {"Kind": "service-intentions", "Name": "guarded", "Sources": sources}
    await put(consul, "/v1/config", entry)
    path = "/v1/connect/intentions/match"
    matched = await api.ask(Query(path=path, params=(("by", "destination"), ("name", "guarded"))))
    nobody = await api.ask(Query(path=path, params=(("by", "destination"), ("name", "open"))))
    found = [(i["SourceName"], i["Action"], i["Precedence"]) for i in matched.data["guarded"]]

    assert found == [("app", "deny", 9), ("web", "allow", 9)]
    assert nobody.data == {"open": None}


async def test_keys_are_listed_by_prefix_and_wake_who_waits(
    consul: AnyConsul, api: ConsulApi
) -> None:
    """Values come in base64, an empty one as null; no key is an answer, and a deletion wakes."""
    query = Query.keys("flags/a/")
    url = f"{consul.url}/v1/kv/flags"
    none = await api.ask(query)
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        for key, value in (("a/one", "1"), ("a/", ""), ("ab/other", "2")):
            await session.put(f"{url}/{key}", data=value)
        some = await asked_until(api, query, lambda data: data is not None)
        waiting = asyncio.create_task(api.ask(query, index=some.index, wait=ENDLESS), name="waits")
        await session.delete(f"{url}/a/one")
        fewer = await waiting
        await session.delete(f"{url}/a/")
        await session.delete(f"{url}/ab/other")

    assert none.data is None
    assert ("flags/a/one", "MQ==") in [(each["Key"], each["Value"]) for each in some.data]
    assert [(each["Key"], each["Value"]) for each in fewer.data] == [("flags/a/", None)]


async def test_a_registration_without_a_name_is_refused(consul: AnyConsul) -> None:
    """What Consul cannot take is 400."""
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"{consul.url}/v1/agent/service/register", json={"name": ""}) as response,
    ):
        status = response.status

    assert status == HTTPStatus.BAD_REQUEST


async def test_there_is_a_leader(api: ConsulApi) -> None:
    """A Consul that answers says who leads."""
    answer = await api.ask(Query(path="/v1/status/leader"))

    assert ":" in answer.data


@pytest.mark.parametrize("empty", [False, True], ids=["kept", "empty"])
async def test_a_restart_of_consul_wipes_no_healthy_set(
    fragile_consul: AnyConsul, *, empty: bool
) -> None:
    """Whether its state survives or not, callers never see fewer instances, and all come back."""
    consul = fragile_consul
    async with (
        health_server() as one,
        health_server() as other,
        ConsulApi(consul.url) as api,
        Catalog(api, "caller") as catalog,
        Announcement(api, registration("steady", min(one.port, other.port), number=1)) as first,
        Announcement(api, registration("steady", max(one.port, other.port), number=2)) as second,
    ):
        views = Views(catalog, "steady")
        await views.until(lambda _: sorted(views.ids()) == ["steady-1", "steady-2"])
        seen = len(views.all)
        await consul.kill()
        await missed(catalog)
        first.registered.clear()
        second.registered.clear()
        await consul.start(empty=empty)
        began = time.monotonic()
        await asyncio.gather(first.registered.wait(), second.registered.wait())
        took = time.monotonic() - began
        await asked_until(
            api, Query.health("steady"), lambda d: statuses(d) == [Status.PASSING] * 2
        )
        await asyncio.sleep(1.5)  # a probe later all must still be well

        assert took < 5 + SLACK
        assert {tuple(sorted(views.ids(view))) for view in views.all[seen - 1 :]} == {
            ("steady-1", "steady-2")
        }


async def test_an_instance_started_without_consul_is_registered_when_it_comes(
    fragile_consul: AnyConsul,
) -> None:
    """A process does not wait for Consul, and is known within 5 s of its return."""
    consul = fragile_consul
    await consul.stop()
    async with (
        health_server() as server,
        ConsulApi(consul.url) as api,
        Announcement(api, registration("early", server.port)) as announcement,
    ):
        await asyncio.sleep(1)
        alone = announcement.registered.is_set()
        await consul.start()
        began = time.monotonic()
        await announcement.registered.wait()

        assert not alone
        assert time.monotonic() - began < 5 + SLACK


@pytest.mark.parametrize("away", ["stopped", "paused"])
async def test_leaving_takes_bounded_time_while_consul_is_away(
    fragile_consul: AnyConsul, away: str
) -> None:
    """A process that ends does not hang on a Consul that refuses or does not answer."""
    consul = fragile_consul
    async with ConsulApi(consul.url) as api:
        async with Announcement(api, registration("bounded", 1)) as announcement:
            await announcement.registered.wait()
            if away == "stopped":
                await consul.stop()
            else:
                consul.pause()
            began = time.monotonic()
            await announcement.leave()
            took = time.monotonic() - began
        consul.resume()

    assert took < LEAVE_TIMEOUT.total_seconds() + SLACK


async def test_a_cut_connection_is_a_consul_error(fragile_consul: AnyConsul) -> None:
    """A query that was waiting when Consul died ends with an error, not with data."""
    async with ConsulApi(fragile_consul.url) as api:
        first = await api.ask(Query.health("cut"))
        waiting = asyncio.create_task(api.ask(Query.health("cut"), index=first.index, wait=ENDLESS))
        await asyncio.sleep(0.1)  # so that it really waits
        await fragile_consul.kill()
        with pytest.raises(ConsulError) as error:
            await asyncio.wait_for(waiting, 20)

    assert error.value.status is None


async def test_the_mesh_is_shown_as_consul_has_it(consul: AnyConsul, api: ConsulApi) -> None:
    """All instances, also those that fail; config entries; what they ask for without effect."""
    await tell(api, registration("shown", 1, check=unprobed()), proven=True)
    await tell(api, registration("shown", 2, number=2, check=unprobed()))
    await put(
        consul, "/v1/config", {"Kind": "service-defaults", "Name": "shown", "Protocol": "grpc"}
    )
    limits = {"Defaults": {"Limits": {"MaxConnections": 7}}}
    web = {"Kind": "service-defaults", "Name": "web", "Protocol": "grpc", "UpstreamConfig": limits}
    await put(consul, "/v1/config", web)
    sources = [{"Name": "web", "Action": "allow"}, {"Name": "app", "Action": "deny"}]
    await put(
        consul, "/v1/config", {"Kind": "service-intentions", "Name": "shown", "Sources": sources}
    )
    await asked_until(api, Query.health("shown"), lambda data: len(data) == 2)
    found = await topology(api)
    (service,) = (each for each in found.services if each.name == "shown")

    assert [(each.id, each.status) for each in service.instances] == [
        ("shown-1", Status.PASSING),
        ("shown-2", Status.CRITICAL),
    ]
    assert service.policy["service-defaults"]["Protocol"] == "grpc"
    assert set(service.policy["service-defaults"]).isdisjoint({"Kind", "Name", "ModifyIndex"})
    assert "UpstreamConfig of the caller: Limits.MaxConnections is not applied" in service.warnings
    assert "consul" not in {each.name for each in found.services}
    assert [edge for edge in found.edges if edge[1] == "shown"] == [("web", "shown")]
