"""What the use cases need of a store."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol, Self, TypeVar

from pricing.domain.flights import FlightState, PricedFlight
from pricing.domain.quotes import Claim, Quote

_T = TypeVar("_T")
Clock = Callable[[], datetime]
Route = tuple[str, str]
"""Origin and destination."""


class UseCase(StrEnum):
    """What changes pricing's data: each is one durable step."""

    CREATE_QUOTE = "create_quote"
    REDEEM = "redeem"
    RELEASE = "release"
    UPDATE_FARE = "update_fare"
    REPRICE = "reprice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fare:
    """The base fare of a route. `version` counts the operators' changes, 0: computed."""

    origin: str
    destination: str
    base: Decimal
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FareProgress:
    """How far the flights of a route follow its fare: up to this one, in the order of departure."""

    origin: str
    destination: str
    departure_time: datetime
    flight_id: str

    @classmethod
    def begun(cls, origin: str, destination: str) -> Self:
        """No flight does."""
        first = datetime.fromtimestamp(0, UTC)
        return cls(origin=origin, destination=destination, departure_time=first, flight_id="")

    def upto(self, last: FlightState) -> Self:
        """Up to this flight they do."""
        return replace(self, departure_time=last.departure_time, flight_id=last.flight_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The quote that a request id made, and a hash of what was asked."""

    quote_id: str
    asked: str


class Repository(Protocol):
    """Pricing's data within one transaction."""

    def flights(self, flight_ids: Iterable[str]) -> Mapping[str, PricedFlight]:
        """Those of the flights that exist."""

    def newest_event(self) -> int:
        """The number of the newest event, 0 for none."""

    def save_flights(self, changed: Sequence[PricedFlight]) -> None:
        """Store flights, new ones and changed ones."""

    def save_prices(self, changed: Sequence[PricedFlight]) -> None:
        """Store seats and prices of flights that are there, and are the same in all else."""

    def announce(self, changed: Sequence[PricedFlight]) -> None:
        """Write the events of new prices."""

    def remove_flights(self, flight_ids: Sequence[str], now: datetime) -> None:
        """Forget flights that were known, and announce that their prices are gone."""

    def due(self, now: datetime, limit: int) -> Sequence[str]:
        """Flights whose `reprice_time` has come, nearest departures first."""

    def distance(self, origin: str, destination: str) -> int | None:
        """Kilometres of a route that some flight flies; None for any other."""

    def on_route(self, progress: FareProgress, limit: int) -> Sequence[PricedFlight]:
        """The next flights of a route that are to follow its fare, nearest departures first."""

    def fare_progress(self) -> FareProgress | None:
        """How far that change of a fare has come that has the nearest departures to come to."""

    def save_progress(self, progress: FareProgress) -> None:
        """Store how far a change has come, or that there is one."""

    def end_progress(self, progress: FareProgress) -> None:
        """All flights of the route follow its fare."""

    def fares(self, routes: Collection[Route]) -> Mapping[Route, Fare]:
        """The fares that operators have set for any of these routes."""

    def save_fare(self, fare: Fare) -> None:
        """Store an operator's fare."""

    def fare_request(self, request_id: str) -> str | None:
        """Hash of what this request id changed, if it was here before."""

    def save_fare_request(self, request_id: str, asked: str, now: datetime) -> None:
        """Remember a request id."""

    def quote(self, quote_id: str) -> Quote | None:
        """One quote."""

    def quote_and_claim(self, quote_id: str, booking_id: str) -> tuple[Quote, Claim | None] | None:
        """One quote, and what a booking has done with it."""

    def quote_made_by(self, request_id: str) -> Made | None:
        """The quote that this request id made."""

    def add_quote(self, quote: Quote, request_id: str, asked: str) -> None:
        """Store a new quote."""

    def bind(self, quote: Quote) -> None:
        """Store who has the quote."""

    def add_claim(self, quote_id: str, claim: Claim) -> None:
        """Store the first claim of a booking to a quote."""

    def change_claim(self, quote_id: str, claim: Claim) -> None:
        """Store what has become of a claim."""


class Store(Protocol):
    """Pricing's database."""

    async def transact(self, of: UseCase, work: Callable[[Repository], _T]) -> _T:
        """Run a use case's work in a transaction and return once it is durable."""

    async def query(self, work: Callable[[Repository], _T]) -> _T:
        """Run work that only reads, on one consistent state."""
