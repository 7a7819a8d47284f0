"""Use cases of the timetable and of seats, against ports.

Each use case that changes something is one unit: it reads, decides and writes in one transaction,
in which nobody else changes the same rows. Rows are always taken in the same order (hold, flights
by id, outbox), so that units can't wait for each other in a circle.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Protocol, TypeVar

from schedule.domain import (
    DEFAULT_DURATION,
    Cabin,
    Flight,
    FlightNotFound,
    Hold,
    HoldNotFound,
    HoldState,
    Segment,
    UtcOffset,
    tombstone,
)

T = TypeVar("T")


class UseCase(StrEnum):
    """What changes the timetable or its seats: each is one durable step."""

    DELAY_FLIGHT = "delay_flight"
    CANCEL_FLIGHT = "cancel_flight"
    HOLD = "hold"
    CONFIRM = "confirm"
    RELEASE = "release"
    EXPIRE = "expire"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteDay:
    """The flights of one route on one local day."""

    origin: str
    destination: str
    departure_date: date


@dataclass(frozen=True, slots=True, kw_only=True)
class PageEnd:
    """The last flight of a page: the next page begins after it."""

    departure_time: datetime  # as published, so that a delay does not move it to another page
    flight_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayFlight:
    """Move a flight: by a delay after the published departure, or to a departure."""

    request_id: str
    flight_id: str
    to: timedelta | datetime
    reason: str = ""
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelFlight:
    """Cancel a flight."""

    request_id: str
    flight_id: str
    reason: str = ""
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldSeats:
    """Set seats of every segment aside for a booking."""

    booking_id: str
    saga_epoch: int
    segments: tuple[Segment, ...]
    duration: timedelta = DEFAULT_DURATION


class FlightRecords(Protocol):
    """Flights as stored, within one transaction."""

    def flights(self, flight_ids: Iterable[str]) -> Mapping[str, Flight]:
        """Those of the flights that exist; in a unit they are its own until it ends."""

    def page(self, of: RouteDay, after: PageEnd | None, limit: int) -> Sequence[Flight]:
        """So many flights after that one, by published departure."""

    def change(self, flights: Sequence[Flight], at: datetime) -> None:
        """Store new versions of flights, and publish them."""


class HoldRecords(Protocol):
    """Holds as stored, within one transaction."""

    def hold(self, booking_id: str) -> Hold | None:
        """The booking's hold; in a unit it is its own until it ends."""

    def open_hold(self, hold: Hold, at: datetime) -> None:
        """Store a new hold with its segments."""

    def move_hold(self, hold: Hold, at: datetime) -> None:
        """Store the new state and epoch of a hold."""


class Records(FlightRecords, HoldRecords, Protocol):
    """Everything that a unit of work can touch."""

    def first_time(self, request_id: str, fingerprint: str, at: datetime) -> bool:
        """Note a request; False when it was noted before. Raises RequestIdReused."""


class Store(Protocol):
    """Runs units of work, and queries, each in one transaction."""

    async def write(self, of: UseCase, unit: Callable[[Records], T]) -> T:
        """Run a use case's unit; returns when it is durable. Its exception undoes it."""

    async def read(self, query: Callable[[Records], T]) -> T:
        """Run a query on one consistent state."""


class Timetable:
    """Flights: looked up, moved, cancelled. `now` is the clock; instants are UTC."""

    def __init__(self, store: Store, utc_offset: UtcOffset, now: Callable[[], datetime]) -> None:
        self._store = store
        self._utc_offset = utc_offset
        self._now = now

    async def flights(self, flight_ids: Sequence[str]) -> list[Flight]:
        """The flights, in that order. Raises FlightNotFound when any is unknown."""
        found = await self._store.read(lambda records: records.flights(flight_ids))
        return [_known(found, flight_id) for flight_id in flight_ids]

    async def page(self, of: RouteDay, after: PageEnd | None, limit: int) -> Sequence[Flight]:
        """At most so many flights of a route and day, by published departure."""
        return await self._store.read(lambda records: records.page(of, after, limit))

    async def delay(self, command: DelayFlight) -> Flight:
        """Move a flight in time and return it as it is now. A repetition changes nothing.

        Raises FlightNotFound, EtagMismatch, FlightCancelled, FlightDeparted, RequestIdReused,
        Invalid.
        """

        def change(flight: Flight, now: datetime) -> Flight:
            published = flight.scheduled_departure_time
            to = command.to
            delay = to if isinstance(to, timedelta) else to - published
            return flight.delayed(delay, command.reason, now=now, utc_offset=self._utc_offset)

        return await self._store.write(
            UseCase.DELAY_FLIGHT, lambda records: self._once(records, command, change)
        )

    async def cancel(self, command: CancelFlight) -> Flight:
        """Cancel a flight and return it as it is now. A repetition changes nothing.

        Raises FlightNotFound, EtagMismatch, FlightDeparted, RequestIdReused.
        """

        def change(flight: Flight, now: datetime) -> Flight:
            return flight.cancelled(command.reason, now=now)

        return await self._store.write(
            UseCase.CANCEL_FLIGHT, lambda records: self._once(records, command, change)
        )

    def _once(
        self,
        records: Records,
        command: DelayFlight | CancelFlight,
        change: Callable[[Flight, datetime], Flight],
    ) -> Flight:
        """Apply a change unless this request was applied before."""
        now = self._now()
        fingerprint = hashlib.blake2b(repr(command).encode(), digest_size=16).hexdigest()
        new = records.first_time(command.request_id, fingerprint, now)
        flight = _known(records.flights([command.flight_id]), command.flight_id)
        if not new:
            return flight
        flight.expect(command.etag)
        changed = change(flight, now)
        if changed != flight:
            records.change([changed], now)
        return changed


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
        hold = records.hold(command.booking_id)
        if hold is not None:
            again = hold.reopened(command.saga_epoch, command.segments)
            return self._put(records, hold, again, now)
        flights = records.flights(s.flight_id for s in command.segments)
        records.change(
            [
                _known(flights, s.flight_id).holding(s.cabin, s.seats, now=now)
                for s in command.segments
            ],
            now,
        )
        opened = Hold(
            booking_id=command.booking_id,
            saga_epoch=command.saga_epoch,
            state=HoldState.HELD,
            segments=command.segments,
            expire_time=now + command.duration,
        )
        return self._put(records, None, opened, now)

    def _confirm(self, records: Records, booking_id: str, epoch: int) -> Hold:
        hold = records.hold(booking_id)
        if hold is None:
            raise HoldNotFound("nothing is held for this booking", booking_id=booking_id)
        now = self._now()
        confirmed = hold.confirmed(epoch)
        if hold.state is HoldState.HELD:
            self._move(records, hold, Flight.selling, now)
        return self._put(records, hold, confirmed, now)

    def _release(self, records: Records, booking_id: str, epoch: int) -> Hold:
        now = self._now()
        hold = records.hold(booking_id)
        if hold is None:
            return self._put(records, None, tombstone(booking_id, epoch, now), now)
        released = hold.released(epoch)
        if hold.state is HoldState.HELD:
            self._move(records, hold, Flight.unholding, now)
        elif hold.state is HoldState.CONFIRMED:
            self._move(records, hold, Flight.unselling, now)
        return self._put(records, hold, released, now)

    def _expire(self, records: Records, booking_id: str) -> Hold:
        now = self._now()
        hold = records.hold(booking_id)
        if hold is None:
            raise HoldNotFound("nothing is held for this booking", booking_id=booking_id)
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
    def _put(records: Records, before: Hold | None, after: Hold, now: datetime) -> Hold:
        if before is None:
            records.open_hold(after, now)
        elif after != before:
            records.move_hold(after, now)
        return after


def _known(flights: Mapping[str, Flight], flight_id: str) -> Flight:
    flight = flights.get(flight_id)
    if flight is None:
        raise FlightNotFound("there is no such flight", flight_id=flight_id)
    return flight
