"""Schedule's part in a booking, in memory: HoldSeats, ConfirmHold and ReleaseHold."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from consulmesh.wellknown import timestamp
from flights.schedule.v1 import schedule_pb2 as pb
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceServicer
from flights.type.v1.cabin_pb2 import Cabin
from tests.fakes.faults import Faults, NotFound, Refused

Seat = tuple[str, Cabin.ValueType]

_TAKEN = {pb.HOLD_STATE_HELD, pb.HOLD_STATE_CONFIRMED}


class FakeSchedule(ScheduleServiceServicer):
    """Holds over cabins of flights. Other RPCs are UNIMPLEMENTED.

    State: `holds` and `epochs` by booking, `capacity` by flight and cabin, `cancelled` flights.
    """

    def __init__(self, capacity: dict[Seat, int]) -> None:
        self.faults = Faults()
        self.capacity = dict(capacity)
        self.cancelled: set[str] = set()
        self.departed: set[str] = set()
        self.holds: dict[str, pb.Hold] = {}
        self.epochs: dict[str, int] = {}

    def taken(self, *states: pb.HoldState.ValueType) -> Counter[Seat]:
        """Seats in holds of these states, by flight and cabin; without states, held or sold."""
        seats: Counter[Seat] = Counter()
        for hold in self.holds.values():
            if hold.state in (states or _TAKEN):
                for one in hold.segments:
                    seats[one.flight_id, one.cabin] += one.seats
        return seats

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
