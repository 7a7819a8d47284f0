"""A gateway on a real port, over fakes of the four services on another."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from consulmesh.keys import KeyFile
from consulmesh.local_issuer import DEFAULT_AUDIENCE, DEFAULT_ISSUER, LocalIssuer
from consulmesh.testing import channel_to, running
from consulmesh.users import TokenVerifier
from flights.booking.v1.booking_pb2_grpc import BookingServiceStub
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from flights.search.v1.search_pb2_grpc import SearchServiceStub
from gateway_bff.app import create_app
from gateway_bff.readiness import Readiness
from gateway_bff.server import listening
from gateway_bff.settings import BUDGETS, Settings
from gateway_bff.upstreams import Upstreams
from tests.gateway_bff.fakes import STATUS_CODES, Fakes

SETTINGS = Settings(
    budgets=dict.fromkeys(BUDGETS, 30.0) | {"ready": BUDGETS["ready"]},
    body_patience=timedelta(seconds=30),
    header_patience=timedelta(seconds=30),
    heartbeat=timedelta(milliseconds=50),
    compose=timedelta(seconds=20),
    limits={},
    at_once=0,
    refusal_pause=timedelta(0),
)
"""With time for everything, however busy the machine is."""
IMPATIENT = replace(
    SETTINGS,
    budgets={**SETTINGS.budgets, "quote": 0.8},
    body_patience=timedelta(milliseconds=500),
    header_patience=timedelta(milliseconds=500),
    compose=timedelta(milliseconds=200),
)
"""For tests of what happens when time is over."""


@dataclass
class Gateway:
    """A gateway that runs, a client of it, and what is behind it."""

    app: FastAPI
    port: int
    client: aiohttp.ClientSession
    fakes: Fakes


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the issuer keeps its keys."""
    return tmp_path_factory.mktemp("issuer")


@pytest.fixture(scope="session")
def issuer(keys: Path) -> LocalIssuer:
    """Who signs the tokens."""
    return LocalIssuer(keys, DEFAULT_ISSUER, DEFAULT_AUDIENCE)


@pytest.fixture(scope="session")
async def upstreams(keys: Path) -> AsyncIterator[tuple[Upstreams, Fakes]]:
    """The four services, faked, and the gateway's way to them."""
    fakes = Fakes()
    async with (
        running(fakes.add_to, status_codes=STATUS_CODES) as (_, port),
        channel_to(port, caller="gateway-bff") as plain,
        channel_to(port, caller="gateway-bff", relay_token=True) as relaying,
    ):
        yield (
            Upstreams(
                search=SearchServiceStub(plain),
                schedule=ScheduleServiceStub(plain),
                pricing=PricingServiceStub(plain),
                booking=BookingServiceStub(relaying),
                users=TokenVerifier(DEFAULT_ISSUER, DEFAULT_AUDIENCE, KeyFile(keys / "jwks.json")),
                is_reachable=Readiness(plain),
                topology=fakes.topology,
            ),
            fakes,
        )


@asynccontextmanager
async def running_gateway(
    upstreams: Upstreams, fakes: Fakes, settings: Settings = SETTINGS
) -> AsyncIterator[Gateway]:
    """A gateway of its own."""
    app = create_app(upstreams, settings, registry=CollectorRegistry())
    async with (
        listening(
            app, host="127.0.0.1", port=0, settings=settings, grace=timedelta(seconds=1)
        ) as port,
        aiohttp.ClientSession(
            f"http://127.0.0.1:{port}", connector=aiohttp.TCPConnector(limit=0)
        ) as client,
    ):
        yield Gateway(app, port, client, fakes)
    await app.state.quotas.aclose()


@pytest.fixture(scope="session")
async def shared_gateway(upstreams: tuple[Upstreams, Fakes]) -> AsyncIterator[Gateway]:
    """The gateway that most tests share."""
    async with running_gateway(*upstreams) as gateway:
        yield gateway


@pytest.fixture
def gateway(shared_gateway: Gateway) -> Gateway:
    """The shared gateway, whose upstreams have said nothing yet."""
    shared_gateway.fakes.reset()
    return shared_gateway


@pytest.fixture(scope="session")
async def impatient_gateway(upstreams: tuple[Upstreams, Fakes]) -> AsyncIterator[Gateway]:
    """A gateway that waits for nothing for long."""
    async with running_gateway(*upstreams, IMPATIENT) as gateway:
        yield gateway


@pytest.fixture
def impatient(impatient_gateway: Gateway) -> Gateway:
    """That gateway, whose upstreams have said nothing yet."""
    impatient_gateway.fakes.reset()
    return impatient_gateway


@pytest.fixture(scope="session")
def bearer(issuer: LocalIssuer) -> Callable[..., dict[str, str]]:
    """Headers of a user with these roles."""

    def headers(*roles: str, **more: Any) -> dict[str, str]:
        token = issuer.token("ann", roles or ("customer",), timedelta(minutes=5))
        return {"Authorization": f"Bearer {token}", **more}

    return headers
