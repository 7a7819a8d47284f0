"""Holds on seats: the participant of the booking saga, idempotent by booking and saga epoch."""

from collections.abc import Callable
from datetime import datetime

from schedule.domain import Cabin, Flight, Hold, HoldNotFound, HoldState, tombstone
from schedule.service.ports import HoldSeats, Records, Store, UseCase
from schedule.service.timetable import known


class Seats:
    """Holds on seats: opened, confirmed, released, expired; never more than there are seats."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    async def hold(self, command: HoldSeats) -> Hold:
        """Hold all segments or none; a repetition returns the hold that there is.

        Raises FlightNotFound, FlightCancelled, FlightDeparted, SeatsUnavailable, HoldReleased,
        StaleEpoch, Invalid.
        """
        return await self._store.write(UseCase.HOLD, lambda records: self._hold(records, command))

    async def confirm(self, booking_id: str, epoch: int) -> Hold:
        """Sell what is held; a repetition returns the confirmed hold.

        Raises HoldNotFound, HoldReleased, HoldExpired, FlightCancelled, StaleEpoch.
        """
        return await self._store.write(
            UseCase.CONFIRM, lambda records: self._confirm(records, booking_id, epoch)
        )

    async def release(self, booking_id: str, epoch: int) -> Hold:
        """Give back what is held or sold, for good. Raises StaleEpoch."""
        return await self._store.write(
            UseCase.RELEASE, lambda records: self._release(records, booking_id, epoch)
        )

    async def expire(self, booking_id: str) -> Hold:
        """Give back what is held when the hold is due; a hold in another state stays as it is."""
        return await self._store.write(
            UseCase.EXPIRE, lambda records: self._expire(records, booking_id)
        )

    def _hold(self, records: Records, command: HoldSeats) -> Hold:
        now = self._now()
        opened = Hold(
            booking_id=command.booking_id,
            saga_epoch=command.saga_epoch,
            state=HoldState.HELD,
            segments=command.segments,
            expire_time=now + command.duration,
        )
        if not records.open_hold(opened, now):
            hold = _held(records, command.booking_id)
            again = hold.reopened(command.saga_epoch, command.segments)
            return self._put(records, hold, again, now)
        flights = records.flights(s.flight_id for s in command.segments)
        records.change(
            [
                known(flights, s.flight_id).holding(s.cabin, s.seats, now=now)
                for s in command.segments
            ],
            now,
        )
        return opened

    def _confirm(self, records: Records, booking_id: str, epoch: int) -> Hold:
        now = self._now()
        hold = _held(records, booking_id)
        confirmed = hold.confirmed(epoch)
        if hold.state is HoldState.HELD:
            self._move(records, hold, Flight.selling, now)
        return self._put(records, hold, confirmed, now)

    def _release(self, records: Records, booking_id: str, epoch: int) -> Hold:
        now = self._now()
        hold = records.hold(booking_id)
        if hold is None:
            hold = tombstone(booking_id, epoch, now)
            records.open_hold(hold, now)
        released = hold.released(epoch)
        if hold.state is HoldState.HELD:
            self._move(records, hold, Flight.unholding, now)
        elif hold.state is HoldState.CONFIRMED:
            self._move(records, hold, Flight.unselling, now)
        return self._put(records, hold, released, now)

    def _expire(self, records: Records, booking_id: str) -> Hold:
        now = self._now()
        hold = _held(records, booking_id)
        if hold.state is not HoldState.HELD or hold.expire_time > now:
            return hold
        self._move(records, hold, Flight.unholding, now)
        return self._put(records, hold, hold.expired(), now)

    @staticmethod
    def _move(
        records: Records, hold: Hold, move: Callable[[Flight, Cabin, int], Flight], now: datetime
    ) -> None:
        """Move the hold's seats; a flight that has left the timetable has none to account for."""
        flights = records.flights(s.flight_id for s in hold.segments)
        records.change(
            [
                move(flights[s.flight_id], s.cabin, s.seats)
                for s in hold.segments
                if s.flight_id in flights
            ],
            now,
        )

    @staticmethod
    def _put(records: Records, before: Hold, after: Hold, now: datetime) -> Hold:
        if after != before:
            records.move_hold(after, now)
        return after


def _held(records: Records, booking_id: str) -> Hold:
    hold = records.hold(booking_id)
    if hold is None:
        raise HoldNotFound("nothing is held for this booking", booking_id=booking_id)
    return hold
