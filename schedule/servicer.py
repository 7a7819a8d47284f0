"""flights.schedule.v1.ScheduleService: requests to use cases, results to messages."""

from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import aclosing
from typing import Any

import grpc
from grpc.aio import ServicerContext

import eventstream
from eventstream.feed import Feed
from flights.schedule.v1 import schedule_pb2, schedule_pb2_grpc
from schedule import messages, paging, requests
from schedule.domain import EtagMismatch, Invalid, NotFound, NotPossible, RequestIdReused
from schedule.service import PageEnd, Seats, Timetable
from schedule.store import ConcurrentChangeError

STATUS_CODES: Mapping[type[Exception], grpc.StatusCode] = {
    **eventstream.STATUS_CODES,
    NotFound: grpc.StatusCode.NOT_FOUND,
    NotPossible: grpc.StatusCode.FAILED_PRECONDITION,
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    RequestIdReused: grpc.StatusCode.INVALID_ARGUMENT,
    EtagMismatch: grpc.StatusCode.ABORTED,
    ConcurrentChangeError: grpc.StatusCode.ABORTED,
}


class ScheduleServicer(schedule_pb2_grpc.ScheduleServiceServicer):
    """The RPCs; what each may refuse stands in the proto."""

    def __init__(
        self, timetable: Timetable, seats: Seats, feed: Feed[schedule_pb2.FlightEvent]
    ) -> None:
        self._timetable = timetable
        self._seats = seats
        self._feed = feed

    async def GetFlight(
        self,
        request: schedule_pb2.GetFlightRequest,
        context: ServicerContext[Any, Awaitable[Any]],
    ) -> schedule_pb2.GetFlightResponse:
        """One flight."""
        (flight,) = await self._timetable.flights([requests.flight_id(request)])
        return schedule_pb2.GetFlightResponse(flight=messages.flight(flight))

    async def BatchGetFlights(
        self,
        request: schedule_pb2.BatchGetFlightsRequest,
        context: ServicerContext[Any, Awaitable[Any]],
    ) -> schedule_pb2.BatchGetFlightsResponse:
        """Several flights, in the order asked."""
        flights = await self._timetable.flights(requests.flight_ids(request))
        return schedule_pb2.BatchGetFlightsResponse(flights=map(messages.flight, flights))

    async def ListFlights(
        self,
        request: schedule_pb2.ListFlightsRequest,
        context: ServicerContext[Any, Awaitable[Any]],
    ) -> schedule_pb2.ListFlightsResponse:
        """A page of the flights of a route and day: one more is read, to know of the next page."""
        of, limit = requests.route_day(request)
        after = paging.page_end(of, request.page_token)
        found = await self._timetable.page(of, after, limit + 1)
        response = schedule_pb2.ListFlightsResponse(flights=map(messages.flight, found[:limit]))
        if len(found) > limit:
            last = found[limit - 1]
            end = PageEnd(departure_time=last.scheduled_departure_time, flight_id=last.flight_id)
            response.next_page_token = paging.token(of, end)
        return response

    async def WatchFlights(
        self,
        request: schedule_pb2.WatchFlightsRequest,
        context: ServicerContext[Any, AsyncIterator[Any]],
    ) -> AsyncIterator[schedule_pb2.WatchFlightsResponse]:
        """All flights unless they are not wanted, then every change."""
        cursor = request.cursor if request.HasField("cursor") else None
        async with aclosing(self._feed.watch(cursor, rows=not request.changes_only)) as batches:
            async for batch in batches:
                yield schedule_pb2.WatchFlightsResponse(
                    phase=batch.phase,
                    cursor=batch.cursor,
                    events=batch.events,
                    read_time=batch.read_time,
                )

    async def UpdateFlight(
        self,
        request: schedule_pb2.UpdateFlightRequest,
        context: ServicerContext[Any, Awaitable[Any]],
    ) -> schedule_pb2.UpdateFlightResponse:
        """Move a flight in time."""
        flight = await self._timetable.delay(requests.delay_flight(request))
        return schedule_pb2.UpdateFlightResponse(flight=messages.flight(flight))

    async def CancelFlight(
        self,
        request: schedule_pb2.CancelFlightRequest,
        context: ServicerContext[Any, Awaitable[Any]],
    ) -> schedule_pb2.CancelFlightResponse:
        """Cancel a flight."""
        flight = await self._timetable.cancel(requests.cancel_flight(request))
        return schedule_pb2.CancelFlightResponse(flight=messages.flight(flight))

    async def HoldSeats(
        self,
        request: schedule_pb2.HoldSeatsRequest,
        context: ServicerContext[Any, Awaitable[Any]],
    ) -> schedule_pb2.HoldSeatsResponse:
        """Set seats aside."""
        hold = await self._seats.hold(requests.hold_seats(request))
        return schedule_pb2.HoldSeatsResponse(hold=messages.hold(hold))

    async def ConfirmHold(
        self,
        request: schedule_pb2.ConfirmHoldRequest,
        context: ServicerContext[Any, Awaitable[Any]],
    ) -> schedule_pb2.ConfirmHoldResponse:
        """Sell what is held."""
        hold = await self._seats.confirm(*requests.saga(request))
        return schedule_pb2.ConfirmHoldResponse(hold=messages.hold(hold))

    async def ReleaseHold(
        self,
        request: schedule_pb2.ReleaseHoldRequest,
        context: ServicerContext[Any, Awaitable[Any]],
    ) -> schedule_pb2.ReleaseHoldResponse:
        """Give seats back."""
        hold = await self._seats.release(*requests.saga(request))
        return schedule_pb2.ReleaseHoldResponse(hold=messages.hold(hold))
