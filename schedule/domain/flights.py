"""Dated flights and their seats: values whose changes return a new value.

Every change makes the version one larger; only changes of times or status change the etag.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import IntEnum
from typing import TypeAlias

from schedule.domain.errors import (
    EtagMismatch,
    FlightCancelled,
    FlightDeparted,
    Invalid,
    SeatsUnavailable,
    Violation,
)

LONGEST_DELAY = timedelta(hours=48)

UtcOffset: TypeAlias = Callable[[str, datetime], int]
"""Offset of local time from UTC at an airport and an instant, in minutes."""


class Cabin(IntEnum):
    """A class of service; the numbers are those of flights.type.v1.Cabin."""

    ECONOMY = 1
    PREMIUM_ECONOMY = 2
    BUSINESS = 3
    FIRST = 4


class FlightStatus(IntEnum):
    """State of a flight; the numbers are those of flights.schedule.v1.FlightStatus."""

    SCHEDULED = 1
    DELAYED = 2
    CANCELLED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CabinSeats:
    """Seats of one cabin; `held` and `sold` are never more than `capacity` together."""

    cabin: Cabin
    capacity: int
    held: int = 0
    sold: int = 0

    @property
    def available(self) -> int:
        """Seats that can be held now."""
        return self.capacity - self.held - self.sold


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A flight on one day. Instants are UTC; `cabins` are in the order of the enum.

    `revision` counts the changes of times and status. The offsets are those of local time from UTC
    at the two ends, in minutes.
    """

    flight_id: str
    version: int = 1
    revision: int = 1
    carrier: str
    number: str
    origin: str
    destination: str
    departure_date: date
    departure_time: datetime
    arrival_time: datetime
    scheduled_departure_time: datetime
    scheduled_arrival_time: datetime
    departure_utc_offset_minutes: int
    arrival_utc_offset_minutes: int
    aircraft: str
    distance_km: int
    inferred: bool
    status: FlightStatus = FlightStatus.SCHEDULED
    status_reason: str = ""
    cabins: tuple[CabinSeats, ...]

    @property
    def etag(self) -> str:
        """Opaque; equal exactly while times and status are unchanged."""
        content = f"{self.flight_id}/{self.revision}".encode()
        return hashlib.blake2b(content, digest_size=6).hexdigest()

    def expect(self, etag: str) -> None:
        """Raise EtagMismatch unless `etag` is this flight's, or empty."""
        if etag and etag != self.etag:
            raise EtagMismatch("the flight has changed", flight_id=self.flight_id, etag=self.etag)

    def delayed(
        self, delay: timedelta, reason: str, *, now: datetime, utc_offset: UtcOffset
    ) -> Flight:
        """This flight, `delay` later than published; zero takes a delay back.

        Raises FlightCancelled, FlightDeparted, and Invalid for a delay that is negative, longer
        than 48 h, or ends before now.
        """
        self._refuse_cancelled()
        self._refuse_departed(now)
        departure = self.scheduled_departure_time + self._plausible(delay)
        if departure <= now:
            raise Invalid(_violation("IN_THE_PAST", "the flight would have departed already"))
        arrival = self.scheduled_arrival_time + delay
        return self._counted(
            replace(
                self,
                departure_time=departure,
                arrival_time=arrival,
                departure_utc_offset_minutes=utc_offset(self.origin, departure),
                arrival_utc_offset_minutes=utc_offset(self.destination, arrival),
                status=FlightStatus.DELAYED if delay else FlightStatus.SCHEDULED,
                status_reason=reason if delay else "",
            )
        )

    def cancelled(self, reason: str, *, now: datetime) -> Flight:
        """This flight, cancelled; itself when it was. Raises FlightDeparted."""
        if self.status is FlightStatus.CANCELLED:
            return self
        self._refuse_departed(now)
        return self._counted(replace(self, status=FlightStatus.CANCELLED, status_reason=reason))

    def holding(self, cabin: Cabin, seats: int, *, now: datetime) -> Flight:
        """With so many more seats held. FlightCancelled, FlightDeparted, SeatsUnavailable."""
        self._refuse_cancelled()
        self._refuse_departed(now)
        available = next((c.available for c in self.cabins if c.cabin is cabin), 0)
        if available < seats:
            raise SeatsUnavailable(
                f"{self.flight_id} has {available} seats left in {cabin.name.lower()}",
                flight_id=self.flight_id,
                cabin=cabin.name,
                available=str(available),
            )
        return self._moved(cabin, held=seats, sold=0)

    def selling(self, cabin: Cabin, seats: int) -> Flight:
        """With so many held seats sold. Raises FlightCancelled."""
        self._refuse_cancelled()
        return self._moved(cabin, held=-seats, sold=seats)

    def unholding(self, cabin: Cabin, seats: int) -> Flight:
        """With so many held seats given back, whatever the flight's status."""
        return self._moved(cabin, held=-seats, sold=0)

    def unselling(self, cabin: Cabin, seats: int) -> Flight:
        """With so many sold seats given back, whatever the flight's status."""
        return self._moved(cabin, held=0, sold=-seats)

    def _refuse_cancelled(self) -> None:
        if self.status is FlightStatus.CANCELLED:
            raise FlightCancelled("the flight is cancelled", flight_id=self.flight_id)

    def _refuse_departed(self, now: datetime) -> None:
        if self.departure_time <= now:
            raise FlightDeparted("the flight has departed", flight_id=self.flight_id)

    @staticmethod
    def _plausible(delay: timedelta) -> timedelta:
        if not timedelta() <= delay <= LONGEST_DELAY:
            raise Invalid(_violation("OUT_OF_RANGE", "0 to 48 hours after the published departure"))
        return delay

    def _counted(self, changed: Flight) -> Flight:
        if changed == self:
            return self
        return replace(changed, version=self.version + 1, revision=self.revision + 1)

    def _moved(self, cabin: Cabin, *, held: int, sold: int) -> Flight:
        cabins = tuple(
            replace(c, held=c.held + held, sold=c.sold + sold) if c.cabin is cabin else c
            for c in self.cabins
        )
        return replace(self, version=self.version + 1, cabins=cabins)


def flight_id(carrier: str, number: str, origin: str, destination: str, outbound: date) -> str:
    """The stable id of a flight: `flt_` and 16 characters.

    `outbound` is the local day of the outbound departure, for a derived return too: returns of one
    number on two days may leave on the same day.
    """
    content = f"{carrier}|{number}|{origin}|{destination}|{outbound.isoformat()}".encode()
    digest = hashlib.blake2b(content, digest_size=10).digest()
    return "flt_" + base64.b32encode(digest).decode().lower()


def _violation(reason: str, description: str) -> Violation:
    return Violation(field="departure", reason=reason, description=description)
