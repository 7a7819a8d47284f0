"""Flags follow Consul's key-value store, typed, and stay what they were when it says nonsense."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from consulmesh import Mesh
from consulmesh.consul_api import ConsulApi
from consulmesh.flags import Flags
from consulmesh.testing import FakeConsul, Fault, real_consul
from tests.consulmesh.consuls import AnyConsul
from tests.consulmesh.test_xds_mesh import config
from tests.consulmesh.xds_world import until


class Order(StrEnum):
    """A type with few values."""

    PRICE = "price"
    DURATION = "duration"


@dataclass(slots=True, kw_only=True)
class Declared:
    """One flag of each type."""

    is_on: bool = True
    most: int = 3
    share: float = 0.5
    banner: str = ""
    order: Order = Order.PRICE


@dataclass(frozen=True)
class Frozen:
    """Fields that can't change."""

    is_on: bool = True


@dataclass
class Untyped:
    """A field that no text can be."""

    many: tuple[int, ...] = ()


@pytest.fixture(params=["fake", "real"])
async def consul(request: pytest.FixtureRequest) -> AsyncIterator[AnyConsul]:
    """A Consul of a test's own, without keys."""
    async with FakeConsul() if request.param == "fake" else real_consul() as consul:
        yield consul


@asynccontextmanager
async def followed(url: str) -> AsyncIterator[Declared]:
    """The flags of `web`, followed for the block."""
    declared = Declared()
    async with ConsulApi(url) as api:
        flags = Flags(api, "web", declared)
        try:
            yield declared
        finally:
            await flags.aclose()


async def put(consul: AnyConsul, name: str, value: str | bytes) -> None:
    """Set a flag of `web` as an operator does."""
    url = f"{consul.url}/v1/kv/flags/web/{name}"
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        await session.put(url, data=value)


async def shows(flags: Declared, name: str, text: str) -> None:
    """Wait until a flag has a value."""
    await until(lambda: str(getattr(flags, name)) == text)


async def delete(consul: AnyConsul, name: str) -> None:
    """Delete a flag of `web`."""
    url = f"{consul.url}/v1/kv/flags/web/{name}"
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        await session.delete(url)


async def test_a_flag_is_what_an_operator_says(consul: AnyConsul) -> None:
    """Set before the start or after it, changed, and the default again when it is deleted."""
    await put(consul, "is-on", "false\n")
    async with followed(consul.url) as flags:
        before = Declared() == flags
        await until(lambda: not flags.is_on)
        for name, value in (
            ("is-on", "TRUE"),
            ("most", "-7"),
            ("share", "0.25"),
            ("banner", "Größe"),
            ("order", "duration"),
        ):
            await put(consul, name, value)
        told = Declared(is_on=True, most=-7, share=0.25, banner="Größe", order=Order.DURATION)
        await until(lambda: flags == told)
        for name in ("is-on", "most", "share", "banner", "order"):
            await delete(consul, name)
        await until(lambda: flags == Declared())

    assert before


@pytest.mark.parametrize(
    ("name", "nonsense"),
    [
        ("is-on", "yes"),
        ("is-on", ""),
        ("most", "2.5"),
        ("most", "9" * 30),
        ("share", "nan"),
        ("share", "a lot"),
        ("order", "Price"),
        ("banner", b"\xff"),
    ],
)
async def test_nonsense_is_told_once_and_changes_nothing(name: str, nonsense: str | bytes) -> None:
    """The last good value stays, other flags go on, and the same nonsense is one line."""
    good = {"is-on": "false", "most": "1", "share": "1", "order": "duration", "banner": "hi"}
    async with FakeConsul() as consul, followed(consul.url) as flags:
        await put(consul, name, good[name])
        await until(lambda: flags != Declared())
        last = getattr(flags, field := name.replace("-", "_"))
        other = "most" if name != "most" else "banner"
        with capture_logs() as lines:
            await put(consul, name, nonsense)
            for number in ("11", "12", "13"):
                await put(consul, other, number)
                await shows(flags, other, number)
        kept = getattr(flags, field)
        await delete(consul, name)
        await until(lambda: getattr(flags, field) == getattr(Declared(), field))

    told = [line for line in lines if line["event"] == "flag_unusable"]
    assert kept == last
    assert [(line["flag"], line["log_level"]) for line in told] == [(name, "warning")]


async def test_a_name_that_is_no_flag_is_told() -> None:
    """A spelling mistake of an operator is a line in the log, and nothing else."""
    async with FakeConsul() as consul, followed(consul.url) as flags:
        with capture_logs() as lines:
            await put(consul, "is_on", "false")
            await put(consul, "most", "4")
            await until(lambda: flags.most == 4)

    told = [line["flag"] for line in lines if line["event"] == "flag_unusable"]
    assert told == ["is_on"]
    assert flags == Declared(most=4)


async def test_flags_of_other_services_are_not_ours() -> None:
    """`webshop` begins like `web`, and is another service."""
    async with FakeConsul() as consul, followed(consul.url) as flags:
        consul.state.put_key("flags/webshop/most", b"9")
        await put(consul, "share", "0.1")
        await until(lambda: flags.share == 0.1)

    assert flags == Declared(share=0.1)


async def test_without_consul_the_defaults_hold_and_then_the_last_values(
    consul: AnyConsul,
) -> None:
    """Away at the start, back, away again: what was read stays, and news are heard afterwards."""
    await put(consul, "most", "4")
    await consul.stop()
    async with followed(consul.url) as flags:
        at_first = flags.most
        await consul.start()
        await until(lambda: flags.most == 4, seconds=20)
        await consul.stop()
        away = flags.most
        await consul.start()
        await put(consul, "most", "5")
        await until(lambda: flags.most == 5, seconds=20)

    assert (at_first, away) == (3, 4)


async def test_errors_of_consul_change_nothing() -> None:
    """An agent without a leader answers 500 to everything: flags stay."""
    async with FakeConsul() as consul, followed(consul.url) as flags:
        await put(consul, "most", "4")
        await until(lambda: flags.most == 4)
        seen = len(consul.requests_of("/v1/kv/flags/web/"))
        consul.fault = Fault.ERRORS
        await until(lambda: len(consul.requests_of("/v1/kv/flags/web/")) > seen)
        during = flags.most

    assert during == 4


async def test_a_process_of_the_mesh_has_its_services_flags(tmp_path: Path) -> None:
    """What `flags` returns is what it was given, kept current until the process leaves."""
    async with FakeConsul() as consul:
        async with Mesh.join("web", config(consul, tmp_path)) as mesh:
            flags = mesh.flags(Declared())
            await put(consul, "most", "4")
            await until(lambda: flags.most == 4)
        await put(consul, "most", "5")

        assert flags.most == 4


@pytest.mark.parametrize("declared", [Frozen(), Untyped(), Declared, {"is_on": True}])
async def test_a_declaration_that_can_not_work_is_refused(declared: Any) -> None:
    """At the start, by the programmer's mistake, not when an operator sets it."""
    async with ConsulApi("http://127.0.0.1:1") as api:
        with pytest.raises(TypeError):
            Flags(api, "web", declared)
