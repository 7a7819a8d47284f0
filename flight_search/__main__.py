"""The search service: follows schedule and pricing into its own file, and answers from it."""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import consulmesh
from consulmesh import Member, Mesh, MeshConfig
from flight_search import __version__
from flight_search.airports import AirportDirectory
from flight_search.freshness import FollowedSources
from flight_search.metrics import MeasuredTimetable, count_for_ever
from flight_search.read_model import PRICING, SCHEDULE, ReadModel
from flight_search.service import ItinerarySearch
from flight_search.servicer import STATUS_CODES, SearchServicer
from flight_search.upstreams import follow_pricing, follow_schedule
from flights.search.v1.search_pb2_grpc import add_SearchServiceServicer_to_server


async def main() -> None:
    """Joins the mesh and runs one instance until it is told to stop."""
    config = MeshConfig.from_env(os.environ, version=__version__)
    async with Mesh.join("flight-search", config) as mesh:
        airports = AirportDirectory.load()
        path = config.state_dir / "data" / f"{mesh.instance_id}.db"
        with ReadModel(path, airports) as model:
            await serve(mesh, model, airports)


async def serve(mesh: Member, model: ReadModel, airports: AirportDirectory) -> None:
    """Wires the service and serves until told to stop."""
    schedule = follow_schedule(mesh.channel("schedule"), model)
    pricing = follow_pricing(mesh.channel("pricing"), model)
    sources = FollowedSources(model, {SCHEDULE: schedule, PRICING: pricing})
    search = ItinerarySearch(
        MeasuredTimetable(model),
        airports,
        sources,
        clock=partial(datetime.now, UTC),
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
        await mesh.serve(server, warm=sources.warm)


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
