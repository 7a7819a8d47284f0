"""An instance is known in Consul for as long as it serves, whatever happens to Consul."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Never

import pytest

from consulmesh.announcement import CALL_TIMEOUT, Announcement
from consulmesh.consul_api import ConsulApi, Query
from consulmesh.instances import Listed, Status
from consulmesh.registration import Check, Registration
from consulmesh.testing import FakeConsul, Fault
from tests.consulmesh.consuls import SLACK, asked_until, registration, tell

HEALTH = Query.health("announced")


def announced(port: int = 1) -> Registration:
    """An instance whose check is not run within a test."""
    never = Check.grpc("tests.v1.TestedService", interval=timedelta(hours=1))
    return registration("announced", port, check=never)


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


async def test_an_instance_is_listed_from_enter_to_exit(api: ConsulApi) -> None:
    """The first registration claims nothing: Consul's own probe has to prove it."""
    async with Announcement(api, announced()) as announcement:
        await announcement.registered.wait()
        during = (await api.ask(HEALTH)).data
    after = (await api.ask(HEALTH)).data

    assert [Listed.of(entry).instance.status for entry in during] == [Status.CRITICAL]
    assert after == []


async def test_entering_waits_for_nothing(fake: FakeConsul, api: ConsulApi) -> None:
    """A process serves whether Consul is there or not."""
    fake.fault = Fault.HANGS
    began = time.monotonic()
    async with Announcement(api, announced()) as announcement:
        took = time.monotonic() - began
        told = announcement.registered.is_set()
    fake.fault = None

    assert took < CALL_TIMEOUT.total_seconds()
    assert not told


async def test_a_forgetful_agent_is_told_again_at_once_and_as_passing(
    fake: FakeConsul, api: ConsulApi
) -> None:
    """Callers kept the instance meanwhile; a critical start would take it from them."""
    async with Announcement(api, announced()) as announcement:
        await announcement.registered.wait()
        began = time.monotonic()
        fake.lose_state()
        answer = await asked_until(api, HEALTH, bool)
        took = time.monotonic() - began

    assert [Listed.of(entry).instance.status for entry in answer.data] == [Status.PASSING]
    assert took < SLACK  # the next look by itself would be half a minute later


async def test_a_deregistration_by_others_is_undone(fake: FakeConsul, api: ConsulApi) -> None:
    """Whoever wants an instance out puts it into maintenance or stops it."""
    async with Announcement(api, announced()) as announcement:
        await announcement.registered.wait()
        fake.state.deregister("announced-1")
        answer = await asked_until(api, HEALTH, bool)

    assert len(answer.data) == 1


async def test_an_agent_that_never_keeps_us_is_told_at_most_once_a_second(
    fake: FakeConsul, api: ConsulApi
) -> None:
    """An agent that takes registrations and drops them is not flooded."""

    async def drop() -> Never:
        while True:
            fake.state.deregister("announced-1")
            await asyncio.sleep(0.001)

    dropping = asyncio.create_task(drop())
    began = time.monotonic()
    async with Announcement(api, announced()):
        await asyncio.sleep(3.2)
    took = time.monotonic() - began
    dropping.cancel()
    registrations = fake.requests_of("/v1/agent/service/register")

    assert len(registrations) <= took + 2


async def test_an_id_that_another_process_took_is_left_to_it(
    fake: FakeConsul, api: ConsulApi
) -> None:
    """Two processes that fight for an id would help nobody."""
    async with Announcement(api, announced(1)) as announcement:
        await announcement.registered.wait()
        await tell(api, announced(2))
        await asyncio.sleep(1.5)
        service = fake.state.services["announced-1"].service

    assert service["Port"] == 2


async def test_leaving_twice_is_harmless(api: ConsulApi) -> None:
    """A drain that leaves early does not disturb the end of the context."""
    async with Announcement(api, announced()) as announcement:
        await announcement.registered.wait()
        await announcement.leave()
        await announcement.leave()

    assert not announcement.registered.is_set()


async def test_leaving_at_once_leaves_nothing_behind(api: ConsulApi) -> None:
    """A registration still under way cannot be overtaken by its deregistration."""
    for _ in range(5):
        async with Announcement(api, announced()):
            await asyncio.sleep(0)
    answer = await api.ask(HEALTH)

    assert answer.data == []


async def test_the_environment_changes_no_registration(
    monkeypatch: pytest.MonkeyPatch, fake: FakeConsul, api: ConsulApi
) -> None:
    """Neither a proxy nor another token slips behind the configuration."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "another")
    with api.administration(timedelta(seconds=1)) as client:
        token = client.token
    async with Announcement(api, announced()) as announcement:
        await asyncio.wait_for(announcement.registered.wait(), 20)

    assert token is None
    assert fake.requests_of("/v1/agent/service/register")


def test_a_check_is_one_of_two_kinds() -> None:
    """Neither or both would mean nothing."""
    with pytest.raises(ValueError, match="either"):
        Check()
    with pytest.raises(ValueError, match="either"):
        Check(grpc_service="a.B", http_path="/")


def test_a_check_goes_to_the_instance_or_to_its_health_port() -> None:
    """Brackets for IPv6; a port of its own where health is served apart from calls."""
    plain = Check.grpc("a.B").definition("127.0.0.1", 5000)
    apart = Check(grpc_service="a.B", port=6000).definition("::1", 5000)
    http = Check.http("/readyz").definition("10.0.0.1", 8080)

    assert plain["grpc"] == "127.0.0.1:5000/a.B"
    assert apart["grpc"] == "[::1]:6000/a.B"
    assert http["http"] == "http://10.0.0.1:8080/readyz"
    assert plain["DeregisterCriticalServiceAfter"] == "60000ms"
