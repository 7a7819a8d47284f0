"""An operator changes something over gRPC, and whoever watches it over REST is told."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal

import aiohttp
import grpc

from bench.steady import some_searches
from bench.subject import Subject
from consulmesh import wellknown
from flights.pricing.v1.pricing_pb2 import UpdateFareRequest
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.schedule.v1.schedule_pb2 import UpdateFlightRequest
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from tests.e2e.test_walk import found
from tests.gateway_bff.event_source import EventSource

DEADLINE = 10


@asynccontextmanager
async def channel_to(subject: Subject, service: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to one instance."""
    instance = next(i for i in await subject.instances(service) if i.status == "passing")
    async with grpc.aio.insecure_channel(f"{instance.address}:{instance.port}") as channel:
        yield channel


async def delay(subject: Subject, flight_id: str, minutes: int) -> int:
    """Let a flight leave later than published; its version then."""
    request = UpdateFlightRequest(
        request_id=str(uuid.uuid4()),
        flight_id=flight_id,
        delay=wellknown.duration(timedelta(minutes=minutes)),
        reason="fog",
    )
    async with channel_to(subject, "schedule") as channel:
        response = await ScheduleServiceStub(channel).UpdateFlight(request, timeout=DEADLINE)
    return response.flight.version


async def set_fare(subject: Subject, origin: str, destination: str, dollars: int) -> None:
    """Change what a route costs."""
    request = UpdateFareRequest(
        request_id=str(uuid.uuid4()),
        origin=origin,
        destination=destination,
        base=wellknown.money(Decimal(dollars), "USD"),
    )
    async with channel_to(subject, "pricing") as channel:
        await PricingServiceStub(channel).UpdateFare(request, timeout=DEADLINE)


@asynccontextmanager
async def watching(
    subject: Subject, path: str, source: EventSource
) -> AsyncIterator[aiohttp.ClientResponse]:
    """A connection of its own, which goes on where the source was."""
    headers = {"Accept": "text/event-stream"}
    if source.last_event_id:
        headers["Last-Event-ID"] = source.last_event_id
    async with (
        aiohttp.ClientSession(subject.settings.gateway_url) as client,
        client.get(path, headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()
        yield answer


async def a_flight(subject: Subject) -> tuple[str, str, str]:
    """A flight that can be booked, and its route."""
    segment = (await found(subject, some_searches()[0]))[0]["segments"][0]
    ends = segment["departure"]["airport"], segment["arrival"]["airport"]
    return segment["flight_id"], *ends


async def test_a_delay_is_told_to_who_watches_the_flight(subject: Subject) -> None:
    """UpdateFlight over gRPC, an event over REST; who was away is told on another connection."""
    flight_id, *_ = await a_flight(subject)
    path, source = f"/v1/flights/{flight_id}/events", EventSource()
    async with watching(subject, path, source) as answer:
        (before,) = await source.read(answer, 1)
        await delay(subject, flight_id, 17)
        (late,) = await source.read(answer, 1)
    await delay(subject, flight_id, 23)
    last = await delay(subject, flight_id, 0)
    async with watching(subject, path, source) as answer:
        (after,) = await source.read(answer, 1)
        while after.data["version"] < last:  # the gateway had not heard of it yet
            (after,) = await source.read(answer, 1)

    assert {event.name for event in source.events} == {"flight"}
    assert (late.data["status"], late.data["status_reason"]) == ("delayed", "fog")
    assert late.data["departure"]["time"] != before.data["departure"]["time"]
    assert after.data["status"] == "scheduled"
    assert after.data["departure"] == before.data["departure"]
    assert before.data["version"] < late.data["version"] < after.data["version"]


async def test_a_fare_is_told_to_who_watches_its_prices(subject: Subject) -> None:
    """UpdateFare re-prices the flights of its route; nobody who was away misses the last price."""
    flight_id, origin, destination = await a_flight(subject)
    path = f"/v1/prices/stream?flight_id={flight_id}&cabin=economy"
    source = EventSource()
    async with watching(subject, path, source) as answer:
        await source.read(answer, 1)
        await set_fare(subject, origin, destination, 300)
        await source.read(answer, 1)
    await set_fare(subject, origin, destination, 600)
    async with watching(subject, path, source) as answer:
        await source.read(answer, 1)
    fares = [Decimal(event.data["prices"][0]["fare"]["amount"]) for event in source.events]

    assert [event.name for event in source.events] == ["price"] * 3
    assert fares[1] != fares[0]
    assert abs(fares[2] - 2 * fares[1]) <= Decimal("0.05")
