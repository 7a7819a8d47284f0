"""What the use cases are asked, and what they need of a store."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Protocol, TypeVar

from schedule.domain import DEFAULT_DURATION, Flight, Hold, Segment

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
        """Those of the flights that exist."""

    def page(self, of: RouteDay, after: PageEnd | None, limit: int) -> Sequence[Flight]:
        """So many flights after that one, by published departure."""

    def change(self, flights: Sequence[Flight], at: datetime) -> None:
        """Store new versions of flights that were read, and publish them."""


class HoldRecords(Protocol):
    """Holds as stored, within one transaction."""

    def hold(self, booking_id: str) -> Hold | None:
        """The booking's hold."""

    def open_hold(self, hold: Hold, at: datetime) -> bool:
        """Store a new hold with its segments; False where the booking has one."""

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
