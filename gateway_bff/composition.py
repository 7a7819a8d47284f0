"""Answers made of more than one service's part: they go out with what there is in time."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta

import grpc

from consulmesh.context import within
from flights.pricing.v1.pricing_pb2 import GetQuoteRequest, Quote
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.schedule.v1.schedule_pb2 import BatchGetFlightsRequest, Flight, GetFlightRequest
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub


async def flights_now(
    schedule: ScheduleServiceStub, flight_ids: Sequence[str], patience: timedelta
) -> dict[str, Flight]:
    """The flights as schedule knows them now, by id; those are missing that it can't show."""
    if not flight_ids:
        return {}
    with within(patience.total_seconds()):
        try:
            request = BatchGetFlightsRequest(flight_ids=flight_ids)
            found: Iterable[Flight] = (await schedule.BatchGetFlights(request)).flights
        except grpc.aio.AioRpcError as error:
            # one that has left the timetable must not hide the others
            unknown = error.code() is grpc.StatusCode.NOT_FOUND and len(flight_ids) > 1
            found = await _one_by_one(schedule, flight_ids) if unknown else ()
    return {flight.flight_id: flight for flight in found}


async def _one_by_one(schedule: ScheduleServiceStub, flight_ids: Sequence[str]) -> list[Flight]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_flight(schedule, flight_id)) for flight_id in flight_ids]
    return [flight for task in tasks if (flight := task.result()) is not None]


async def _flight(schedule: ScheduleServiceStub, flight_id: str) -> Flight | None:
    try:
        return (await schedule.GetFlight(GetFlightRequest(flight_id=flight_id))).flight
    except grpc.aio.AioRpcError:
        return None


async def quote_if_there(
    pricing: PricingServiceStub, quote_id: str, patience: timedelta
) -> Quote | None:
    """The quote, or None when pricing can't show it in time."""
    with within(patience.total_seconds()):
        try:
            return (await pricing.GetQuote(GetQuoteRequest(quote_id=quote_id))).quote
        except grpc.aio.AioRpcError:
            return None
