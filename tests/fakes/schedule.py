"""Schedule's part in a booking, in memory: holds, and the stream of flights."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from consulmesh.wellknown import timestamp
from flights.schedule.v1 import schedule_pb2 as pb
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceServicer
from flights.type.v1.cabin_pb2 import Cabin
from streams.v1 import stream_pb2
from tests.fakes.faults import Faults, NotFound, Refused

Seat = tuple[str, Cabin.ValueType]

DEPARTURE = datetime.now(UTC) + timedelta(days=30)
_TAKEN = {pb.HOLD_STATE_HELD, pb.HOLD_STATE_CONFIRMED}
_BOOKMARK_AFTER = 0.2  # seconds


class FakeSchedule(ScheduleServiceServicer):
    """Holds over cabins of flights. Other RPCs are UNIMPLEMENTED.

    State: `holds` and `epochs` by booking, `capacity` by flight and cabin, `cancelled` and
    `departed` flights; `stream` is the epoch of its stream, `_events` are those in it.
    """

    def __init__(self, capacity: dict[Seat, int]) -> None:
        self.faults = Faults()
        self.capacity = dict(capacity)
        self.cancelled: set[str] = set()
        self.departed: set[str] = set()
        self.holds: dict[str, pb.Hold] = {}
        self.epochs: dict[str, int] = {}
        self.stream = "one"
        self._events: list[pb.FlightEvent] = []
        self._news = asyncio.Event()

    def taken(self, *states: pb.HoldState.ValueType) -> Counter[Seat]:
        """Seats in holds of these states, by flight and cabin; without states, held or sold."""
        seats: Counter[Seat] = Counter()
        for hold in self.holds.values():
            if hold.state in (states or _TAKEN):
                for one in hold.segments:
                    seats[one.flight_id, one.cabin] += one.seats
        return seats

    def cancel(self, flight_id: str) -> None:
        """Cancel a flight, and tell of it."""
        self.cancelled.add(flight_id)
        self._tell(pb.FlightEvent(flight_changed=self._flight(flight_id)))

    def remove(self, flight_id: str) -> None:
        """Let a flight have left the timetable."""
        removed = pb.FlightRemoved(flight_id=flight_id, version=len(self._events) + 1)
        self.capacity = {seat: n for seat, n in self.capacity.items() if seat[0] != flight_id}
        self._tell(pb.FlightEvent(flight_removed=removed))

    def restore(self, stream: str) -> None:
        """Be a backup without any cancellation, with another history; streams are cut off."""
        self.cancelled.clear()
        self._events.clear()
        self.stream = stream
        self._wake()

    def expire(self, booking_id: str) -> None:
        """Do what schedule's sweeper does to a hold that has run out."""
        self.holds[booking_id].state = pb.HOLD_STATE_EXPIRED

    async def HoldSeats(self, request: pb.HoldSeatsRequest, context: Any) -> pb.HoldSeatsResponse:
        """All or none."""
        async with self.faults.of("HoldSeats"):
            self._see(request.booking_id, request.saga_epoch)
            hold = self.holds.get(request.booking_id)
            if hold is None:
                hold = self._hold(request)
            if hold.state not in _TAKEN:
                raise Refused("HOLD_RELEASED")
            return pb.HoldSeatsResponse(hold=hold)

    async def ConfirmHold(
        self, request: pb.ConfirmHoldRequest, context: Any
    ) -> pb.ConfirmHoldResponse:
        """Sell what is held."""
        async with self.faults.of("ConfirmHold"):
            self._see(request.booking_id, request.saga_epoch)
            hold = self.holds.get(request.booking_id)
            if hold is None:
                raise NotFound("HOLD_NOT_FOUND")
            if hold.state == pb.HOLD_STATE_RELEASED:
                raise Refused("HOLD_RELEASED")
            if hold.state == pb.HOLD_STATE_EXPIRED:
                raise Refused("HOLD_EXPIRED")
            if hold.state == pb.HOLD_STATE_HELD:
                self._check_flying(hold)
                hold.state = pb.HOLD_STATE_CONFIRMED
            return pb.ConfirmHoldResponse(hold=hold)

    async def ReleaseHold(
        self, request: pb.ReleaseHoldRequest, context: Any
    ) -> pb.ReleaseHoldResponse:
        """Give back, and leave a tombstone."""
        async with self.faults.of("ReleaseHold"):
            self._see(request.booking_id, request.saga_epoch)
            hold = self.holds.setdefault(request.booking_id, pb.Hold(booking_id=request.booking_id))
            hold.state = pb.HOLD_STATE_RELEASED
            return pb.ReleaseHoldResponse(hold=hold)

    async def WatchFlights(
        self, request: pb.WatchFlightsRequest, context: Any
    ) -> AsyncIterator[pb.WatchFlightsResponse]:
        """Flights as they are, then every change."""
        async with self.faults.of("WatchFlights"):
            stream, seq = self.stream, request.cursor.seq
            if request.cursor.epoch != stream:
                seq = len(self._events)
                for response in self._snapshot(rows=not request.changes_only):
                    yield response
            while stream == self.stream:
                events, news = self._events[seq:], self._news
                seq += len(events)
                yield _batch(
                    stream_pb2.PHASE_EVENTS if events else stream_pb2.PHASE_BOOKMARK,
                    stream_pb2.Cursor(epoch=stream, seq=seq),
                    events,
                )
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), _BOOKMARK_AFTER)

    def _snapshot(self, *, rows: bool) -> list[pb.WatchFlightsResponse]:
        flights = sorted({flight_id for flight_id, _ in self.capacity})
        events = [pb.FlightEvent(flight_changed=self._flight(one)) for one in flights]
        end = stream_pb2.Cursor(epoch=self.stream, seq=len(self._events))
        return [
            _batch(stream_pb2.PHASE_SNAPSHOT_STARTED, None, []),
            *([_batch(stream_pb2.PHASE_SNAPSHOT, None, events)] if rows else []),
            _batch(stream_pb2.PHASE_SNAPSHOT_COMPLETED, end, []),
        ]

    def _flight(self, flight_id: str) -> pb.Flight:
        cancelled = flight_id in self.cancelled
        return pb.Flight(
            flight_id=flight_id,
            version=len(self._events) + 1,
            departure_time=timestamp(DEPARTURE),
            status=pb.FLIGHT_STATUS_CANCELLED if cancelled else pb.FLIGHT_STATUS_SCHEDULED,
        )

    def _tell(self, event: pb.FlightEvent) -> None:
        self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _see(self, booking_id: str, epoch: int) -> None:
        if epoch < self.epochs.get(booking_id, 0):
            raise Refused("STALE_EPOCH")
        self.epochs[booking_id] = epoch

    def _hold(self, request: pb.HoldSeatsRequest) -> pb.Hold:
        taken = self.taken()
        for one in request.segments:
            seat = (one.flight_id, one.cabin)
            if seat not in self.capacity:
                raise NotFound("FLIGHT_NOT_FOUND")
            if one.flight_id in self.departed:
                raise Refused("FLIGHT_DEPARTED")
            if taken[seat] + one.seats > self.capacity[seat]:
                raise Refused("SEATS_UNAVAILABLE")
        length = request.hold_duration.ToTimedelta() or timedelta(minutes=10)
        hold = pb.Hold(
            booking_id=request.booking_id,
            segments=request.segments,
            state=pb.HOLD_STATE_HELD,
            expire_time=timestamp(datetime.now(UTC) + length),
        )
        self._check_flying(hold)
        self.holds[request.booking_id] = hold
        return hold

    def _check_flying(self, hold: pb.Hold) -> None:
        if any(one.flight_id in self.cancelled for one in hold.segments):
            raise Refused("FLIGHT_CANCELLED")


def _batch(
    phase: stream_pb2.Phase.ValueType,
    cursor: stream_pb2.Cursor | None,
    events: list[pb.FlightEvent],
) -> pb.WatchFlightsResponse:
    now = timestamp(datetime.now(UTC))
    return pb.WatchFlightsResponse(phase=phase, cursor=cursor, events=events, read_time=now)
