"""Config entries follow the protos, and reach Consul without touching what is not theirs."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from consul.exceptions import ConsulException

from consulmesh.consul_api import ConsulApi, Query
from consulmesh.testing import FakeConsul, Fault, real_consul
from tools import config_entries
from tools.binaries import ROOT
from tools.config_entries import (
    LONGEST,
    UNSETTLED,
    apply,
    contained,
    generated,
    services,
    shipped,
    stale,
    write,
)
from tools.programs import ADS, GATEWAY, SERVICES

PACKAGES = {**SERVICES, GATEWAY: "gateway_bff"}
TOPOLOGY = {
    ("gateway-bff", "flight-search"),
    ("gateway-bff", "schedule"),
    ("gateway-bff", "pricing"),
    ("gateway-bff", "booking"),
    ("booking", "pricing"),
    ("booking", "schedule"),
    ("flight-search", "schedule"),
    ("flight-search", "pricing"),
    ("pricing", "schedule"),
}


@pytest.fixture(scope="module", params=["fake", "real"])
async def consul(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The address of a Consul without entries."""
    async with FakeConsul() if request.param == "fake" else real_consul() as consul:
        yield consul.url


def defaults(name: str) -> dict[str, Any]:
    """The shipped service-defaults of a service."""
    (entry,) = (e for e in shipped() if (e["Kind"], e["Name"]) == ("service-defaults", name))
    return entry


async def read(url: str, kind: str, name: str) -> Any:
    """An entry as Consul has it."""
    async with ConsulApi(url) as api:
        return (await api.ask(Query.config_entry(kind, name))).data


async def put(url: str, entry: dict[str, Any]) -> None:
    """Write an entry as an operator does."""
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"{url}/v1/config", json=entry) as response,
    ):
        assert response.ok, await response.text()


def test_the_shipped_entries_are_fresh() -> None:
    """Nobody changed a proto, or an entry, without the other."""
    assert stale() == []


def test_every_api_has_an_entry_that_names_it() -> None:
    """Clients in any language learn from Consul alone what to retry."""
    names = {name.removesuffix(".json") for name in generated()}

    assert names == {"booking", "flight-search", "gateway-bff", "pricing", "schedule"}
    assert defaults("pricing")["Meta"]["grpc-service"] == "flights.pricing.v1.PricingService"
    assert defaults("gateway-bff")["Protocol"] == "http"


def test_only_what_is_idempotent_may_be_retried_and_no_watch() -> None:
    """Reads and keyed writes are named; a watch resumes by its cursor."""
    methods = defaults("schedule")["Meta"]["retryable-methods"].split(", ")

    assert {"GetFlight", "HoldSeats", "ConfirmHold"} <= set(methods)
    assert not any(method.startswith("Watch") for method in methods)


def test_no_value_is_longer_than_consul_keeps() -> None:
    """Meta values have room for 512 characters."""
    values = [v for entry in shipped() for v in entry.get("Meta", {}).values()]

    assert max(map(len, values)) <= LONGEST


def sources() -> Iterator[tuple[str, dict[str, Any]]]:
    """The destination and each source of the shipped intentions."""
    for entry in shipped():
        if entry["Kind"] == "service-intentions":
            yield from ((entry["Name"], source) for source in entry["Sources"])


def test_the_intentions_are_the_topology() -> None:
    """Who calls whom, no more and no less; an operator calls everybody."""
    edges = {(source["Name"], name) for name, source in sources()}

    assert edges == TOPOLOGY | {("operator", name) for name in (*SERVICES, GATEWAY, ADS)}


@pytest.mark.parametrize(("caller", "called"), sorted(TOPOLOGY))
def test_the_intentions_are_what_the_code_calls(caller: str, called: str) -> None:
    """A service may call the methods that stand in its code, and no other ones."""
    code = "".join(file.read_text() for file in (ROOT / PACKAGES[caller]).rglob("*.py"))
    api = dict(services())[called]
    used = {m.name for m in api.methods if re.search(rf"\.{m.name}\b", code)}
    (permissions,) = (
        source["Permissions"]
        for name, source in sources()
        if (source["Name"], name) == (caller, called)
    )

    assert {each["Action"] for each in permissions} == {"allow"}
    assert sorted(each["HTTP"]["PathExact"] for each in permissions) == sorted(
        f"/{api.full_name}/{name}" for name in used
    )


async def test_apply_writes_what_differs_and_then_nothing(consul: str) -> None:
    """A second run finds all entries there."""
    first = await asyncio.to_thread(apply, consul)
    second = await asyncio.to_thread(apply, consul)
    entry = await read(consul, "service-defaults", "booking")

    assert len(first) == len(shipped())
    assert second == []
    assert contained(defaults("booking"), entry)


async def test_apply_keeps_what_an_operator_added(consul: str) -> None:
    """Limits of upstreams and further Meta survive; our own fields are restored."""
    limits = {"Defaults": {"Limits": {"MaxConcurrentRequests": 5}}}
    meta = {"request-timeouts": "GetPrices=1s", "retryable-methods": "Everything"}
    await put(
        consul,
        {
            "Kind": "service-defaults",
            "Name": "pricing",
            "Protocol": "grpc",
            "UpstreamConfig": limits,
            "Meta": meta,
        },
    )
    await asyncio.to_thread(apply, consul)
    entry = await read(consul, "service-defaults", "pricing")

    assert contained(limits, entry["UpstreamConfig"])
    assert entry["Meta"] == {"request-timeouts": "GetPrices=1s", **defaults("pricing")["Meta"]}


async def test_apply_closes_an_edge_that_no_file_has(consul: str) -> None:
    """The sources of an intention are those of its file."""
    await put(
        consul,
        {
            "Kind": "service-intentions",
            "Name": "booking",
            "Sources": [
                {"Name": "gateway-bff", "Action": "allow"},
                {"Name": "stranger", "Action": "allow"},
            ],
        },
    )
    written = await asyncio.to_thread(apply, consul)
    entry = await read(consul, "service-intentions", "booking")

    assert written == ["service-intentions/booking"]
    assert {source["Name"] for source in entry["Sources"]} == {"gateway-bff", "operator"}


async def test_apply_touches_no_entry_of_operators(consul: str) -> None:
    """A resolver that somebody wrote is the same before and after."""
    resolver = {"Kind": "service-resolver", "Name": "schedule", "ConnectTimeout": "3s"}
    await put(consul, resolver)
    before = await read(consul, "service-resolver", "schedule")
    await asyncio.to_thread(apply, consul)
    after = await read(consul, "service-resolver", "schedule")

    assert before == after


def test_a_router_among_the_files_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """What belongs to operators cannot be shipped by accident."""
    (tmp_path / "routers").mkdir()
    (tmp_path / "routers" / "x.json").write_text('{"Kind": "service-router", "Name": "x"}')
    monkeypatch.setattr(config_entries, "FOLDER", tmp_path)

    with pytest.raises(ValueError, match="belongs to operators"):
        shipped()


async def test_a_consul_that_refuses_is_an_error() -> None:
    """`make up` must not go on without the entries."""
    async with FakeConsul() as fake:
        fake.fault = Fault.ERRORS
        with pytest.raises(ConsulException):
            await asyncio.to_thread(apply, fake.url)


class _NewLeader:
    """The config of a Consul with a leader elected a moment ago, which a real one has by chance."""

    def __init__(self, *refusals: str) -> None:
        self._refusals = list(refusals)
        self.written: list[str] = []

    def get(self, _kind: str, _name: str) -> None:
        """Nothing is there."""

    def set(self, _kind: str, name: str, _entry: object, *, cas: int) -> bool:
        """Refuse, so many times."""
        assert cas == 0
        if self._refusals:
            raise ConsulException(self._refusals.pop(0))
        self.written.append(name)
        return True


def _client(config: _NewLeader) -> Any:
    return SimpleNamespace(config=config)


def test_a_new_leader_is_waited_for() -> None:
    """It refuses intentions for a moment after its election, as at a first start."""
    config = _NewLeader(*[f"500 {UNSETTLED} to config entries"] * 2)

    assert write(_client(config), defaults("booking"))
    assert config.written == ["booking"]


def test_other_refusals_are_told() -> None:
    """What does not pass is no reason to wait."""
    with pytest.raises(ConsulException, match="403"):
        write(_client(_NewLeader("403 Permission denied")), defaults("booking"))
