"""What each operation does when what it needs is away: the table of docs/operations.md."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from consulmesh.consul_api import ConsulError
from consulmesh.local_issuer import LocalIssuer
from gateway_bff.settings import BUDGETS
from gateway_bff.upstreams import Upstreams
from tests.gateway_bff import typical
from tests.gateway_bff.conftest import SETTINGS, Gateway, running_gateway
from tests.gateway_bff.fakes import Fakes, FakeService, forever, refusal
from tests.gateway_bff.test_authorization import BY_NAME, NEEDS, headers, request

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
ROW: Final = re.compile(
    r"\| `(?P<operation>\w+)` \| (?P<needs>[\w-]+) \| (?P<away>.+?) \| (?P<silent>.+?) "
    r"\| (?P<failing>.+?) \|"
)
LIVE: Final = {"streamFlight": {"schedule"}, "streamPrices": {"pricing"}}
"""Live streams are fed by one stream of each owner, whoever asks."""
PATIENCE: Final = 0.5
"""Seconds for what does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: what the answer says in each of three cases."""

    operation: str
    needs: str
    away: str
    silent: str
    failing: str

    def __str__(self) -> str:
        return f"{self.operation}-{self.needs}"


ROWS: Final = [Row(**found.groupdict()) for found in ROW.finditer(DOCUMENT.read_text("utf-8"))]


@pytest.fixture
def gateway(shared_gateway: Gateway) -> Gateway:
    """The shared gateway, with all well behind it."""
    shared_gateway.fakes.reset()
    typical.answer(shared_gateway.fakes)
    return shared_gateway


@pytest.fixture(scope="module")
async def hurried(upstreams: tuple[Upstreams, Fakes]) -> AsyncIterator[Gateway]:
    """A gateway whose operations have no time to wait."""
    settings = replace(SETTINGS, budgets=dict.fromkeys(BUDGETS, PATIENCE))
    async with running_gateway(*upstreams, settings) as gateway:
        yield gateway


@pytest.fixture(scope="module")
async def frugal(upstreams: tuple[Upstreams, Fakes]) -> AsyncIterator[Gateway]:
    """A gateway that hardly waits for what an answer can do without."""
    settings = replace(SETTINGS, compose=timedelta(seconds=PATIENCE))
    async with running_gateway(*upstreams, settings) as gateway:
        yield gateway


def fake(fakes: Fakes, name: str) -> FakeService:
    """Who is meant by a service's name."""
    found: FakeService = getattr(fakes, name.removeprefix("flight-"))
    return found


def let(fakes: Fakes, needs: str, answer: Any) -> None:
    """Let something answer like this, whatever it is asked."""
    if needs == "consul":
        fakes.mesh = answer
        return
    answers = fake(fakes, needs).answers
    for method, usual in answers.items():
        answers[method] = [answer] if isinstance(usual, list) else answer


async def ask(gateway: Gateway, operation: str, issuer: LocalIssuer) -> tuple[int, Any, bool]:
    """Ask; returns the status, the body's JSON, and whether it says when to come back."""
    method, _, _ = BY_NAME[operation]
    async with gateway.client.request(
        method, **request(operation), headers=headers(issuer, "both")
    ) as response:
        return response.status, await response.json(), "Retry-After" in response.headers


def said(status: int, body: Any, retry: bool) -> str:  # noqa: FBT001 - what `ask` returns
    """An answer as the table has it."""
    text = str(status)
    if isinstance(body, dict) and body.get("partial"):
        text += " `partial`"
    return f"{text}, again" if retry else text


async def test_every_need_has_a_row(gateway: Gateway, issuer: LocalIssuer) -> None:
    """Whoever is asked for an operation is in its rows, and nobody else is."""
    needs: dict[str, set[str]] = {}
    for operation in NEEDS.keys() - LIVE.keys():
        gateway.fakes.reset()
        typical.answer(gateway.fakes)
        await ask(gateway, operation, issuer)
        asked = {
            name
            for name in ("flight-search", "schedule", "pricing", "booking")
            if fake(gateway.fakes, name).requests
        }
        needs[operation] = asked or {"consul"}
    rows: dict[str, set[str]] = {}
    for row in ROWS:
        rows.setdefault(row.operation, set()).add(row.needs)

    assert rows == needs | LIVE


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_what_is_away(gateway: Gateway, issuer: LocalIssuer, row: Row) -> None:
    """Nobody serves it: the answer comes at once, and says when to ask again."""
    away = refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING")
    let(gateway.fakes, row.needs, ConsulError("away") if row.needs == "consul" else away)

    assert said(*await ask(gateway, row.operation, issuer)) == row.away


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_what_is_silent(
    gateway: Gateway, hurried: Gateway, frugal: Gateway, issuer: LocalIssuer, row: Row
) -> None:
    """It takes calls and answers none: the answer comes within the operation's time."""
    let(gateway.fakes, row.needs, forever)
    asked = frugal if row.silent.startswith("20") else hurried

    assert said(*await ask(asked, row.operation, issuer)) == row.silent


@pytest.mark.parametrize("row", [row for row in ROWS if row.needs != "consul"], ids=str)
async def test_what_fails(gateway: Gateway, issuer: LocalIssuer, row: Row) -> None:
    """It answers with an error of its own making."""
    let(gateway.fakes, row.needs, RuntimeError("a bug"))

    assert said(*await ask(gateway, row.operation, issuer)) == row.failing
