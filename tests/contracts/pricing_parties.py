"""Who must keep booking's contract with pricing: the fake, and pricing on a real database."""
# ruff: noqa: D102 - the protocol says what each method brings about

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

import grpc

from consulmesh.testing import serving
from consulmesh.wellknown import instant
from eventstream import Database, Feed
from flights.pricing.v1 import pricing_pb2 as pb
from flights.pricing.v1.pricing_pb2_grpc import (
    PricingServiceStub,
    add_PricingServiceServicer_to_server,
)
from pricing import tables
from pricing.service import Pricing
from pricing.servicer import STATUS_CODES, PricingServicer
from pricing.store import SqlStore, snapshot
from pricing.upstreams import Timetable
from tests.fakes import faults
from tests.fakes.pricing import FakePricing
from tests.pricing.timetable import Clock, changed, flight

FLIGHTS = ("flt_a", "flt_b")


class PricingParty(Protocol):
    """Pricing behind a stub with FLIGHTS for sale, and what a test must be able to bring about."""

    channel: grpc.aio.Channel
    stub: PricingServiceStub

    async def expire(self, quote: pb.Quote) -> None:
        """Let a quote have run out."""
        ...

    def now(self) -> datetime:
        """The instant at which pricing believes to be."""
        ...


class FakeParty:
    """The fake."""

    def __init__(self, fake: FakePricing, channel: grpc.aio.Channel) -> None:
        self._fake = fake
        self.channel = channel
        self.stub = PricingServiceStub(channel)

    async def expire(self, quote: pb.Quote) -> None:
        self._fake.expire(quote.quote_id)

    def now(self) -> datetime:
        return datetime.now(UTC)


class RealParty:
    """Pricing as its process wires it, with a clock of the test's."""

    def __init__(self, clock: Clock, channel: grpc.aio.Channel) -> None:
        self._clock = clock
        self.channel = channel
        self.stub = PricingServiceStub(channel)

    async def expire(self, quote: pb.Quote) -> None:
        self._clock.forward(instant(quote.expire_time) - self._clock() + timedelta(minutes=1))

    def now(self) -> datetime:
        return self._clock()


@asynccontextmanager
async def fake_pricing(_folder: Path) -> AsyncIterator[PricingParty]:
    """The fake, served."""
    fake = FakePricing()  # type: ignore[abstract]  # it says UNIMPLEMENTED
    add = partial(add_PricingServiceServicer_to_server, fake)
    async with serving(add, status_codes=faults.STATUS_CODES, service="pricing") as channel:
        yield FakeParty(fake, channel)


@asynccontextmanager
async def real_pricing(folder: Path) -> AsyncIterator[PricingParty]:
    """Pricing, served, with two flights that schedule has told of."""
    url = f"sqlite:///{folder}/pricing.db"
    async with Database.open(url, migrations="pricing:migrations") as db:
        clock = Clock()
        events = changed(*(flight(flight_id) for flight_id in FLIGHTS))
        await db.write(lambda connection: Timetable(clock).apply_many(connection, events))
        feed = Feed(db, tables.outbox, event=pb.PriceEvent, snapshot=snapshot)
        servicer = PricingServicer(Pricing(SqlStore(db), clock), feed)
        add = partial(add_PricingServiceServicer_to_server, servicer)
        async with serving(add, status_codes=STATUS_CODES, service="pricing") as channel:
            yield RealParty(clock, channel)
