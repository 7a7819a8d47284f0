"""A schedule for pricing's tests: a few flights, and an owner that streams them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc

from consulmesh.wellknown import timestamp
from flights.schedule.v1 import schedule_pb2 as pb
from flights.type.v1 import cabin_pb2
from streams.v1 import stream_pb2

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    """A wall clock that stands still until it is set."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """The instant it shows."""
        return self.now

    def forward(self, span: timedelta) -> None:
        """Let time pass."""
        self.now += span


def flight(
    flight_id: str = "flt_a",
    *,
    version: int = 1,
    origin: str = "JFK",
    destination: str = "LAX",
    days: float = 30,
    available: int = 100,
    cancelled: bool = False,
) -> pb.Flight:
    """A flight so many days ahead, with a hundred seats in economy and ten in business."""
    departure = NOW + timedelta(days=days)
    status = pb.FLIGHT_STATUS_CANCELLED if cancelled else pb.FLIGHT_STATUS_SCHEDULED
    economy = pb.CabinSeats(cabin=cabin_pb2.CABIN_ECONOMY, capacity=100, available=available)
    business = pb.CabinSeats(cabin=cabin_pb2.CABIN_BUSINESS, capacity=10, available=10)
    return pb.Flight(
        flight_id=flight_id,
        version=version,
        carrier="B6",
        number="23",
        origin=origin,
        destination=destination,
        departure_time=timestamp(departure),
        arrival_time=timestamp(departure + timedelta(hours=6)),
        distance_km=3983,
        status=status,
        cabins=[economy, business],
    )


def changed(*flights: pb.Flight) -> list[pb.FlightEvent]:
    """Events of the new states of flights."""
    return [pb.FlightEvent(event_time=timestamp(NOW), flight_changed=f) for f in flights]


def removed(flight_id: str, version: int = 9) -> pb.FlightEvent:
    """The event of a flight that has left the timetable."""
    gone = pb.FlightRemoved(flight_id=flight_id, version=version)
    return pb.FlightEvent(event_time=timestamp(NOW), flight_removed=gone)


class ScriptedSchedule:
    """A WatchFlights that sends what it is given, and nothing else of ScheduleService.

    `left` is set once a reader has left: before, it may still take what is sent.
    """

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.responses: asyncio.Queue[pb.WatchFlightsResponse] = asyncio.Queue()
        self._seq = 0

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve it under ScheduleService's name."""
        watch = grpc.unary_stream_rpc_method_handler(
            self.WatchFlights,
            request_deserializer=pb.WatchFlightsRequest.FromString,
            response_serializer=pb.WatchFlightsResponse.SerializeToString,
        )
        service = grpc.method_handlers_generic_handler(
            "flights.schedule.v1.ScheduleService", {"WatchFlights": watch}
        )
        server.add_generic_rpc_handlers((service,))

    def snapshot(self, *flights: pb.Flight) -> None:
        """Send a snapshot."""
        at = self._cursor()
        self._send(stream_pb2.PHASE_SNAPSHOT_STARTED, cursor=at)
        self._send(stream_pb2.PHASE_SNAPSHOT, events=changed(*flights))
        self._send(stream_pb2.PHASE_SNAPSHOT_COMPLETED, cursor=at, read_time=timestamp(NOW))

    def send(self, *events: pb.FlightEvent) -> None:
        """Send changes."""
        self._seq += len(events)
        self._send(stream_pb2.PHASE_EVENTS, cursor=self._cursor(), events=events)

    def _send(self, phase: stream_pb2.Phase.ValueType, **fields: Any) -> None:
        self.responses.put_nowait(pb.WatchFlightsResponse(phase=phase, **fields))

    def _cursor(self) -> stream_pb2.Cursor:
        return stream_pb2.Cursor(epoch="first", seq=self._seq)

    async def WatchFlights(
        self, request: pb.WatchFlightsRequest, context: Any
    ) -> AsyncIterator[pb.WatchFlightsResponse]:
        """What the test sends."""
        try:
            while True:
                yield await self.responses.get()
        finally:
            self.left.set()
