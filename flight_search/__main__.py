"""The search service: follows schedule and pricing into its own file, and answers from it."""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import consulmesh
from consulmesh import ConfigError, Member, Mesh, MeshConfig
from flight_search import __version__
from flight_search.airports import AirportDirectory
from flight_search.domain import WHOLE, Shard
from flight_search.freshness import FollowedSources
from flight_search.metrics import MeasuredTimetable, count_for_ever
from flight_search.read_model import PRICING, SCHEDULE, ReadModel
from flight_search.service import ItinerarySearch, Switches
from flight_search.servicer import STATUS_CODES, SearchServicer
from flight_search.upstreams import follow_pricing, follow_schedule
from flights.search.v1.search_pb2_grpc import add_SearchServiceServicer_to_server


async def main() -> None:
    """Joins the mesh and runs one instance until it is told to stop."""
    config = MeshConfig.from_env(os.environ, version=__version__)
    shard = shard_from_env(os.environ)
    async with Mesh.join("flight-search", config) as mesh:
        airports = AirportDirectory.load()
        path = config.state_dir / "data" / f"{mesh.instance_id}.db"
        with ReadModel(path, airports, shard) as model:
            await serve(mesh, model, airports, shard, mesh.flags(Switches()))


async def serve(
    mesh: Member,
    model: ReadModel,
    airports: AirportDirectory,
    shard: Shard = WHOLE,
    switches: Switches | None = None,
) -> None:
    """Wires the service and serves until told to stop."""
    schedule = follow_schedule(mesh.channel("schedule"), model, shard)
    pricing = follow_pricing(mesh.channel("pricing"), model, shard)
    sources = FollowedSources(model, {SCHEDULE: schedule, PRICING: pricing})
    search = ItinerarySearch(
        MeasuredTimetable(model),
        airports,
        sources,
        clock=partial(datetime.now, UTC),
        shard=shard,
        switches=switches,
    )
    server = mesh.server(status_codes=STATUS_CODES)
    add_SearchServiceServicer_to_server(SearchServicer(search), server)
    jobs = {
        "follow-schedule": schedule.run(),
        "follow-pricing": pricing.run(),
        "count": count_for_ever(model),
        "watch-file": model.fail_when_damaged(),
    }
    async with running(mesh, jobs):
        await mesh.serve(server, warm=sources.warm, meta=_meta(shard))


def shard_from_env(environ: Mapping[str, str]) -> Shard:
    """Which shard this instance is, by SEARCH_SHARD (0/2: the first of two); raises ConfigError."""
    try:
        return Shard.parse(environ.get("SEARCH_SHARD", "").strip() or str(WHOLE))
    except ValueError as error:
        raise ConfigError(f"SEARCH_SHARD: {error}") from error


def _meta(shard: Shard) -> Mapping[str, str]:
    """By what Consul's subsets find the instances of a shard."""
    return {} if shard == WHOLE else {"shard": str(shard.number), "shards": str(shard.count)}


@asynccontextmanager
async def running(mesh: Member, jobs: dict[str, Coroutine[Any, Any, Any]]) -> AsyncIterator[None]:
    """Runs background jobs for the block: they end before the file that they use is closed."""
    tasks = [mesh.start(job, name=name) for name, job in jobs.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    consulmesh.run(main)
