"""Search in two shards, as `make up SHARDS=2` runs it: gateway and Consul find the right one."""

import asyncio
from collections.abc import Iterator
from datetime import date, timedelta

import grpc
import pytest

from bench.oracle import Asked
from bench.steady import query_of
from bench.subject import Subject
from consulmesh.errors import Status
from consulmesh.wellknown import date_message
from flights.search.v1 import search_pb2
from flights.search.v1.search_pb2_grpc import SearchServiceStub
from flights.type.v1 import cabin_pb2
from gateway_bff.shards import BLOCK_DAYS
from tests.e2e.conftest import run, started
from tests.e2e.test_walk import found
from tests.loaded_timetable import LoadedTimetable
from tools.programs import SEARCH, Settings

DAYS = range(1, 2 * BLOCK_DAYS, 3)


@pytest.fixture(scope="module")
def divided(
    tmp_path_factory: pytest.TempPathFactory, loaded_timetable: LoadedTimetable
) -> Iterator[Settings]:
    """A system of one instance of each service and of each shard."""
    folder, words = tmp_path_factory.mktemp("shards"), ("--replicas", "1", "--shards", "2")
    with started(folder, *words, timetable=loaded_timetable) as settings:
        yield settings


def asked(ahead: int) -> Asked:
    """A popular route in so many days."""
    return Asked("JFK", "LAX", str(date.today() + timedelta(days=ahead)), 1, "economy")  # noqa: DTZ011 - the origin's day


async def flights_of(stub: SearchServiceStub, ahead: int) -> list[list[str]] | str:
    """What one instance finds; the reason where it refuses."""
    day = date.fromisoformat(asked(ahead).date)
    query = search_pb2.ItineraryQuery(
        origin="JFK",
        destination="LAX",
        departure_date=date_message(day),
        passengers=1,
        cabin=cabin_pb2.CABIN_ECONOMY,
    )
    try:
        page = await stub.SearchItineraries(
            search_pb2.SearchItinerariesRequest(query=query), timeout=5
        )
    except grpc.aio.AioRpcError as error:
        return Status.of(error).reason
    return [[segment.flight_id for segment in one.segments] for one in page.itineraries]


async def answers(subject: Subject) -> list[list[list[list[str]] | str]]:
    """What every instance of search finds on each day, or why not."""
    told = []
    for instance in await subject.instances(SEARCH):
        address = f"{instance.address}:{instance.port}"
        async with grpc.aio.insecure_channel(address) as channel:
            stub = SearchServiceStub(channel)
            told.append([await flights_of(stub, ahead) for ahead in DAYS])
    return told


async def test_the_gateway_asks_the_shard_of_the_day(divided: Settings) -> None:
    """On every day of some blocks one instance knows the flights, and REST shows them."""
    async with Subject.attach(divided) as subject:
        shown = [await found(subject, asked(ahead)) for ahead in DAYS]
        url = f"{divided.gateway_url}/v1/itineraries"
        streamed = []
        for ahead in DAYS:
            headers = {"Accept": "text/event-stream"}
            async with subject.http.get(url, params=query_of(asked(ahead)), headers=headers) as sse:
                streamed.append((sse.status, (await sse.text()).count("event: itinerary")))
        one, other = await answers(subject)

    rest = [[[s["flight_id"] for s in each["segments"]] for each in page] for page in shown]
    refused = ["OTHER_SHARD"] * len(DAYS)
    assert all(rest)
    assert [b if a == "OTHER_SHARD" else a for a, b in zip(one, other, strict=True)] == rest
    assert [a if b == "OTHER_SHARD" else b for a, b in zip(one, other, strict=True)] == rest
    assert refused not in (one, other)
    assert all(status == 200 and count for status, count in streamed)


async def test_shards_can_be_taken_back(divided: Settings) -> None:
    """With one again every instance knows all days, and Consul routes nothing any more."""
    for words in (("--shards", "1", "--replicas", "2"), ()):
        done = await asyncio.to_thread(run, divided, "up", *words)
        assert done.returncode == 0, done.stdout + done.stderr
    async with Subject.attach(divided) as subject:
        one, other = await answers(subject)
        url = f"{divided.consul_url}/v1/config"
        left = []
        for kind in ("service-router", "service-resolver"):
            async with subject.http.get(f"{url}/{kind}/{SEARCH}") as entry:
                left.append(entry.status)

    assert one == other
    assert all(isinstance(each, list) and each for each in one)
    assert left == [404, 404]
