"""Upstreams reach their subscribers whole, current, and never wiped by a fault of Consul."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from consulmesh.catalog import Catalog, Upstream
from consulmesh.consul_api import ConsulApi
from consulmesh.targets import health_query
from consulmesh.testing import FakeConsul, Fault
from tests.consulmesh.consuls import Views, missed, registration, tell, unprobed, withdraw


@pytest.fixture
async def fake() -> AsyncIterator[FakeConsul]:
    """A Consul of the test's own."""
    async with FakeConsul() as fake:
        yield fake


@pytest.fixture
async def api(fake: FakeConsul) -> AsyncIterator[ConsulApi]:
    """Access to it."""
    async with ConsulApi(fake.url) as api:
        yield api


@pytest.fixture
async def catalog(api: ConsulApi) -> AsyncIterator[Catalog]:
    """A catalog with a short window, on behalf of `caller`."""
    async with Catalog(api, "caller", window=timedelta(seconds=2)) as catalog:
        yield catalog


async def two_instances(api: ConsulApi, catalog: Catalog) -> Views:
    """An upstream with two instances, both known."""
    for number in (1, 2):
        instance = registration("pair", number, number=number, check=unprobed())
        await tell(api, instance, proven=True)
    views = Views(catalog, "pair")
    await views.until(lambda _: views.ids() == ["pair-1", "pair-2"])
    return views


async def test_the_first_view_is_whole(fake: FakeConsul, api: ConsulApi, catalog: Catalog) -> None:
    """Chain, instances of every target and the caller's defaults come together."""
    fake.state.put_config(
        {"Kind": "service-defaults", "Name": "caller", "Protocol": "grpc", "Meta": {"a": "b"}}
    )
    await tell(api, registration("known", 1, weight=3, check=unprobed()), proven=True)
    views = Views(catalog, "known")
    view = await catalog.known("known")
    (instance,) = view.instances_by_target["known.default.default.dc1"]

    assert views.all == [view]
    assert view.chain["ServiceName"] == "known"
    assert view.defaults["Meta"] == {"a": "b"}
    assert (instance.id, instance.weight, instance.version) == ("known-1", 3, "1.0.0")


async def test_nothing_is_told_while_a_part_is_unknown(fake: FakeConsul, catalog: Catalog) -> None:
    """Without an answer of Consul there is no view; whoever waits for one sets the bound."""
    fake.fault = Fault.ERRORS
    views = Views(catalog, "unknown")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(catalog.known("unknown"), 0.3)

    assert views.all == []
    assert catalog.get("unknown") is None


async def test_instances_come_and_go(api: ConsulApi, catalog: Catalog) -> None:
    """A registration and a single deregistration are told as they happen."""
    views = await two_instances(api, catalog)
    await withdraw(api, registration("pair", 1, number=1))
    await views.until(lambda _: views.ids() == ["pair-2"])
    await withdraw(api, registration("pair", 2, number=2))
    await views.until(lambda _: views.ids() == [])

    assert catalog.get("pair") is views.all[-1]


async def test_defaults_of_the_caller_are_followed(fake: FakeConsul, catalog: Catalog) -> None:
    """A change of the caller's own entry is a new view of every upstream."""
    views = [Views(catalog, name) for name in ("one", "two")]
    for each in views:
        await each.until(lambda view: view.defaults == {})
    fake.state.put_config({"Kind": "service-defaults", "Name": "caller", "Protocol": "grpc"})
    for each in views:
        await each.until(lambda view: view.defaults.get("Protocol") == "grpc")

    assert [len(each.all) for each in views] == [2, 2]


async def test_no_fault_wipes_a_healthy_set() -> None:
    """Whatever Consul says for a second, callers keep their instances, and go on afterwards."""

    async def kept_during(fault: Fault) -> list[str]:
        async with (
            FakeConsul() as fake,
            ConsulApi(fake.url) as api,
            Catalog(api, "caller", window=timedelta(seconds=2)) as catalog,
        ):
            views = await two_instances(api, catalog)
            fake.fault = fault
            await asyncio.sleep(1.5)
            during = views.ids()
            fake.fault = None
            await tell(api, registration("pair", 3, number=3, check=unprobed()), proven=True)
            await views.until(lambda _: views.ids() == ["pair-1", "pair-2", "pair-3"])
            return during

    found = await asyncio.gather(*map(kept_during, Fault))

    assert dict(zip(Fault, found, strict=True)) == {fault: ["pair-1", "pair-2"] for fault in Fault}


async def test_instances_that_do_not_come_back_leave_with_the_window(
    fake: FakeConsul, api: ConsulApi, catalog: Catalog
) -> None:
    """After the state was lost and one has registered again, absence is believed in the end."""
    views = await two_instances(api, catalog)
    back = fake.state.services["pair-1"]
    await fake.stop()
    await missed(catalog)
    fake.lose_state()
    fake.state.services["pair-1"] = back
    await fake.start()
    await views.until(lambda _: views.ids() == ["pair-1"], 30)
    seen = {tuple(views.ids(view)) for view in views.all[-3:]}

    assert () not in seen


async def test_the_window_waits_for_a_consul_that_is_away(
    fake: FakeConsul, api: ConsulApi, catalog: Catalog
) -> None:
    """A set emptied just before Consul went away is kept until Consul is back."""
    views = await two_instances(api, catalog)
    fake.fault = Fault.EMPTY_LISTS
    await asyncio.sleep(1.2)
    await fake.stop()
    await asyncio.sleep(2.5)
    kept = views.ids()
    fake.fault = None
    await fake.start()
    await asyncio.sleep(2.5)

    assert kept == views.ids() == ["pair-1", "pair-2"]


async def test_a_failing_subscriber_hides_nothing_from_others(
    api: ConsulApi, catalog: Catalog
) -> None:
    """Subscribers are told independently of each other."""

    def fail(view: Upstream) -> None:
        raise KeyError(view.name)

    catalog.subscribe("shared", fail)
    views = Views(catalog, "shared")
    catalog.subscribe("shared", fail)
    await views.until(lambda _: views.ids() == [])
    await tell(api, registration("shared", 1, check=unprobed()), proven=True)
    await views.until(lambda _: views.ids() == ["shared-1"])

    assert any(state.callback_errors for state in catalog.states())


async def test_whoever_left_hears_nothing_more(api: ConsulApi, catalog: Catalog) -> None:
    """Unsubscribing takes effect at once and may be repeated."""
    leaving, staying = Views(catalog, "left"), Views(catalog, "left")
    await staying.until(lambda _: staying.ids() == [])
    leaving.unsubscribe()
    leaving.unsubscribe()
    await tell(api, registration("left", 1, check=unprobed()), proven=True)
    await staying.until(lambda _: staying.ids() == ["left-1"])

    assert len(leaving.all) == 1


async def test_a_late_subscriber_is_told_at_once(catalog: Catalog) -> None:
    """What is known already is told before `subscribe` returns."""
    await catalog.known("late")
    views = Views(catalog, "late")

    assert len(views.all) == 1


async def test_an_upstream_that_nobody_wants_is_forgotten_after_a_while(api: ConsulApi) -> None:
    """Its watches go on for a little in case of a reconnect, and then end."""
    async with Catalog(api, "caller", linger=timedelta(milliseconds=100)) as catalog:
        await catalog.known("short")
        lingering = len(catalog.states())
        await asyncio.sleep(0.05)
        await catalog.known("short")  # within the linger: it starts anew
        await asyncio.sleep(0.2)
        after = len(catalog.states())

        assert lingering == 3
        assert after == 1
        assert catalog.get("short") is None


def test_a_target_is_a_health_query() -> None:
    """Equal targets of two chains are one query; subsets and other datacenters narrow it."""
    target = {"Service": "x", "Datacenter": "dc1", "Subset": {}}
    filtered = {**target, "Subset": {"Filter": "Service.Meta.version == 2", "OnlyPassing": True}}

    assert health_query(target, "dc1") == health_query(dict(target), "dc1")
    assert dict(health_query(filtered, "dc1").params) == {
        "filter": "Service.Meta.version == 2",
        "passing": "1",
    }
    assert dict(health_query({**target, "Datacenter": "dc2"}, "dc1").params) == {"dc": "dc2"}
