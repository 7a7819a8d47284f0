"""Pricing on a database of its own, as its process wires it, with a clock of the test's."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial

import pytest
from sqlalchemy import Connection

from consulmesh.testing import serving
from eventstream import Database, Feed
from flights.pricing.v1.pricing_pb2 import PriceEvent
from flights.pricing.v1.pricing_pb2_grpc import (
    PricingServiceStub,
    add_PricingServiceServicer_to_server,
)
from flights.schedule.v1 import schedule_pb2
from pricing import tables
from pricing.service import Pricing
from pricing.servicer import STATUS_CODES, PricingServicer
from pricing.store import SqlStore, snapshot
from pricing.upstreams import Timetable
from tests.pricing.timetable import Clock, changed


@dataclass
class World:
    """Pricing and what a test needs to drive it."""

    database: Database
    pricing: Pricing
    stub: PricingServiceStub
    clock: Clock

    async def fly(self, *flights: schedule_pb2.Flight) -> None:
        """Let schedule have said this of flights."""
        await self.apply(*changed(*flights))

    async def apply(self, *events: schedule_pb2.FlightEvent) -> None:
        """Apply events of schedule's."""
        timetable = Timetable(self.clock)
        await self.database.write(lambda connection: timetable.apply_many(connection, events))

    async def snapshot_starts(self) -> None:
        """Let schedule begin to say everything anew."""
        await self._in_parts(Timetable(self.clock).start)

    async def snapshot_ends(self) -> None:
        """Let schedule have said everything."""
        await self._in_parts(Timetable(self.clock).sweep)

    async def _in_parts(self, part: Callable[[Connection, str], str | None]) -> None:
        """Do a part after the other, as an inbox does."""
        after: str | None = ""
        while after is not None:
            after = await self.database.write(partial(_called_with, part, after))


def _called_with(
    part: Callable[[Connection, str], str | None], after: str, connection: Connection
) -> str | None:
    return part(connection, after)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A new database, on each engine."""
    async with Database.open(database_url, migrations="pricing:migrations") as opened:
        yield opened


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    """Pricing behind a real server."""
    clock = Clock()
    pricing = Pricing(SqlStore(database), clock)
    feed = Feed(database, tables.outbox, event=PriceEvent, snapshot=snapshot)
    servicer = PricingServicer(pricing, feed)
    async with serving(
        lambda server: add_PricingServiceServicer_to_server(servicer, server),
        status_codes=STATUS_CODES,
        service="pricing",
    ) as channel:
        yield World(database, pricing, PricingServiceStub(channel), clock)
