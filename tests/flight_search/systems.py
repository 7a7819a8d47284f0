"""A whole search service between two scripted owners, over real HTTP/2, without Consul."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from google.type.date_pb2 import Date

from consulmesh.testing.serving import channel_to, running, serving
from eventstream import Follower
from flight_search.domain import WHOLE, Shard
from flight_search.freshness import FollowedSources
from flight_search.read_model import PRICING, SCHEDULE, ReadModel
from flight_search.service import ItinerarySearch
from flight_search.servicer import STATUS_CODES, SearchServicer
from flight_search.upstreams import follow_pricing, follow_schedule
from flights.search.v1 import search_pb2 as pb
from flights.search.v1.search_pb2_grpc import (
    SearchServiceStub,
    add_SearchServiceServicer_to_server,
)
from flights.type.v1 import cabin_pb2
from streams.v1.stream_pb2 import Cursor
from tests.flight_search.owners import EPOCH, Owner, pricing_owner, schedule_owner
from tests.flight_search.timetables import DIRECTORY

NOW = datetime(2026, 3, 6, 12, tzinfo=UTC)


@dataclass
class System:
    """The parts of a running search service."""

    schedule: Owner
    pricing: Owner
    model: ReadModel
    sources: FollowedSources
    followers: dict[str, Follower[Any]]
    search: ItinerarySearch
    stub: SearchServiceStub
    port: int
    jobs: list[asyncio.Task[Any]] = field(default_factory=list)

    async def first_snapshots(self, *, flights: list[Any], prices: list[Any]) -> None:
        """Both owners say all they have and that this is all, at position 0."""
        self.schedule.snapshot(flights)
        self.pricing.snapshot(prices)
        for owner in (self.schedule, self.pricing):
            owner.bookmark()
        await self.sources.warm()


@asynccontextmanager
async def running_search(
    path: Path,
    make_search: Callable[..., ItinerarySearch] = ItinerarySearch,
    shard: Shard = WHOLE,
) -> AsyncIterator[System]:
    """A search service with its file at a path, following two owners that say nothing yet."""
    schedule, pricing = schedule_owner(), pricing_owner()
    async with AsyncExitStack() as stack:
        owners = await stack.enter_async_context(serving(schedule.add_to, pricing.add_to))
        model = stack.enter_context(ReadModel(path, DIRECTORY, shard))
        followers: dict[str, Follower[Any]] = {
            SCHEDULE: follow_schedule(owners, model, shard),
            PRICING: follow_pricing(owners, model, shard),
        }
        sources = FollowedSources(model, followers)
        search = make_search(model, DIRECTORY, sources, lambda: NOW, shard=shard)
        servicer = SearchServicer(search)
        _, port = await stack.enter_async_context(
            running(
                lambda server: add_SearchServiceServicer_to_server(servicer, server),
                status_codes=STATUS_CODES,
                service="flight-search",
            )
        )
        channel = await stack.enter_async_context(channel_to(port, upstream="flight-search"))
        jobs = [asyncio.create_task(follower.run()) for follower in followers.values()]
        try:
            yield System(
                schedule,
                pricing,
                model,
                sources,
                followers,
                search,
                SearchServiceStub(channel),
                port,
                jobs,
            )
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)


def asking(**fields: Any) -> pb.ItineraryQuery:
    """JFK to LAX on 8 March 2026, unless said otherwise."""
    day = fields.pop("departure_date", date(2026, 3, 8))
    if isinstance(day, date):
        day = Date(year=day.year, month=day.month, day=day.day)
    query = {
        "origin": "JFK",
        "destination": "LAX",
        "departure_date": day,
        "passengers": 1,
        "cabin": cabin_pb2.CABIN_ECONOMY,
    }
    return pb.ItineraryQuery(**(query | fields))


async def until(true: Callable[[], object]) -> None:
    """Lets others run until something is so."""
    while not true():  # noqa: ASYNC110 - what is waited for has no event of its own
        await asyncio.sleep(0.001)


def at_least(source: str, seq: int, epoch: str = EPOCH) -> pb.SourcePosition:
    """A minimum position."""
    return pb.SourcePosition(source=source, cursor=Cursor(epoch=epoch, seq=seq))


def flights_of(itineraries: Sequence[pb.Itinerary]) -> list[list[str]]:
    """The flights of each itinerary."""
    return [[segment.flight_id for segment in i.segments] for i in itineraries]
