"""Use cases of pricing. Each change is one transaction: read, decide by the domain, write."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256
from typing import Protocol, TypeVar

from pricing.domain import fares
from pricing.domain.errors import (
    EtagMismatch,
    FlightNotFound,
    QuoteExpired,
    QuoteNotFound,
    Refused,
    RequestIdReused,
    RouteNotFound,
)
from pricing.domain.fares import Cabin
from pricing.domain.flights import FlightState, PricedFlight
from pricing.domain.quotes import Claim, Line, Quote

_T = TypeVar("_T")
Clock = Callable[[], datetime]
Route = tuple[str, str]
"""Origin and destination."""
REPRICED_AT_A_TIME = 200


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
class Made:
    """The quote that a request id made, and a hash of what was asked."""

    quote_id: str
    asked: str


class Repository(Protocol):
    """Pricing's data within one transaction."""

    def flights(self, flight_ids: Iterable[str]) -> Mapping[str, PricedFlight]:
        """Those of the flights that exist."""

    def save_flights(self, changed: Sequence[PricedFlight]) -> None:
        """Store flights."""

    def announce(self, changed: Sequence[PricedFlight]) -> None:
        """Write the events of new prices."""

    def remove_flights(self, flight_ids: Sequence[str], now: datetime) -> None:
        """Forget flights that were known, and announce that their prices are gone."""

    def due(self, now: datetime, limit: int) -> Sequence[PricedFlight]:
        """Flights whose `reprice_time` has come, nearest departures first."""

    def distance(self, origin: str, destination: str) -> int | None:
        """Kilometres of a route that some flight flies; None for any other."""

    def set_due(self, origin: str, destination: str, now: datetime) -> None:
        """Make every flight of a route due now."""

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

    def quote_made_by(self, request_id: str) -> Made | None:
        """The quote that this request id made."""

    def add_quote(self, quote: Quote, request_id: str, asked: str) -> None:
        """Store a new quote."""

    def bind(self, quote: Quote, claim: Claim) -> None:
        """Store who has the quote, and the claim."""

    def claim(self, quote_id: str, booking_id: str) -> Claim | None:
        """What a booking has done with a quote."""


class Store(Protocol):
    """Pricing's database."""

    async def transact(self, of: UseCase, work: Callable[[Repository], _T]) -> _T:
        """Run a use case's work in a transaction and return once it is durable."""

    async def query(self, work: Callable[[Repository], _T]) -> _T:
        """Run work that only reads, on one consistent state."""


class Pricing:
    """The use cases."""

    def __init__(self, store: Store, now: Clock) -> None:
        self._store = store
        self._now = now

    async def prices(self, flight_ids: Sequence[str]) -> list[PricedFlight]:
        """The flights with their prices, in the order asked; raises FlightNotFound."""
        found = await self._store.query(lambda data: data.flights(flight_ids))
        return [_known(found, flight_id) for flight_id in flight_ids]

    async def create_quote(
        self, request_id: str, segments: Sequence[tuple[str, Cabin]], passengers: int
    ) -> Quote:
        """A quote for a party; the same request id gives the same quote.

        Raises FlightNotFound, SeatsUnavailable, FlightCancelled, FlightDeparted, RequestIdReused.
        """
        now, asked = self._now(), _hash([segments, passengers])
        return await self._store.transact(
            UseCase.CREATE_QUOTE,
            lambda data: _quote(data, request_id, asked, segments, passengers, now),
        )

    async def quote(self, quote_id: str) -> Quote:
        """One quote; raises QuoteNotFound."""
        return await self._store.query(lambda data: _existing(data, quote_id))

    async def redeem(
        self, quote_id: str, booking_id: str, epoch: int, accept_time: datetime
    ) -> Quote:
        """Bind a quote to a booking; repeating it is safe.

        Raises QuoteNotFound, QuoteExpired (with a fresh quote where there can be one),
        QuoteRedeemed, QuoteReleased, StaleEpoch.
        """

        def work(data: Repository) -> Quote:
            quote = _existing(data, quote_id)
            claim = _claim(data, quote_id, booking_id, epoch)
            redeemed = quote.redeem(claim, accept_time)
            data.bind(redeemed, claim)
            return redeemed

        try:
            return await self._store.transact(UseCase.REDEEM, work)
        except QuoteExpired as expired:
            raise QuoteExpired(await self._fresh(quote_id, booking_id)) from expired

    async def _fresh(self, quote_id: str, booking_id: str) -> str | None:
        """A new quote in place of an expired one, the same one for the same booking."""
        old = await self.quote(quote_id)
        segments = [(line.flight_id, line.cabin) for line in old.lines]
        try:
            fresh = await self.create_quote(
                f"{quote_id}/{booking_id}", segments, passengers=old.passengers
            )
        except (FlightNotFound, Refused):  # no longer for sale
            return None
        return fresh.quote_id

    async def release(self, quote_id: str, booking_id: str, epoch: int) -> None:
        """Undo a redemption, or make sure that there never is one; repeating it is safe.

        Raises QuoteNotFound, StaleEpoch.
        """

        def work(data: Repository) -> None:
            quote = _existing(data, quote_id)
            claim = _claim(data, quote_id, booking_id, epoch)
            tombstone = Claim(booking_id=booking_id, epoch=claim.epoch, released=True)
            data.bind(quote.release(claim), tombstone)

        await self._store.transact(UseCase.RELEASE, work)

    async def update_fare(
        self, request_id: str, origin: str, destination: str, base: Decimal, etag: int | None
    ) -> Fare:
        """Set a route's base fare and make its flights due; repeating it changes nothing further.

        Raises RouteNotFound, EtagMismatch, RequestIdReused.
        """
        now, asked = self._now(), _hash([origin, destination, str(base)])

        def work(data: Repository) -> Fare:
            before = _fare(data, origin, destination)
            if _seen(data.fare_request(request_id), asked):
                return before
            if etag is not None and etag != before.version:
                raise EtagMismatch("The fare has changed since.")
            fare = Fare(
                origin=origin, destination=destination, base=base, version=before.version + 1
            )
            data.save_fare(fare)
            data.save_fare_request(request_id, asked, now)
            data.set_due(origin, destination, now)
            return fare

        return await self._store.transact(UseCase.UPDATE_FARE, work)

    async def reprice(self) -> int:
        """Re-price some of the flights that are due, nearest departures first; says how many."""
        now = self._now()

        def work(data: Repository) -> int:
            due = data.due(now, REPRICED_AT_A_TIME)
            follow(data, [flight.state for flight in due], {f.state.flight_id: f for f in due}, now)
            return len(due)

        return await self._store.transact(UseCase.REPRICE, work)


def follow(
    data: Repository,
    states: Sequence[FlightState],
    known: Mapping[str, PricedFlight],
    now: datetime,
) -> None:
    """Take schedule's word of flights over and price them; an older word changes nothing."""
    routes = {(state.origin, state.destination): state.distance_km for state in states}
    bases = _bases(data, routes)
    saved, announced = [], []
    for state in states:
        before = known.get(state.flight_id) or PricedFlight.unpriced(state, now)
        if before.state.version > state.version:
            continue
        after = before.updated(state, bases[state.origin, state.destination], now)
        saved.append(after)
        if after.version != before.version:
            announced.append(after)
    data.save_flights(saved)
    data.announce(announced)


def _bases(data: Repository, distances: Mapping[Route, int]) -> Mapping[Route, Decimal]:
    """The base fares of routes, by their distances in kilometres where no operator set them."""
    fares_set = data.fares(distances)
    return {
        route: fares_set[route].base if route in fares_set else fares.default_base(*route, distance)
        for route, distance in distances.items()
    }


def _known(found: Mapping[str, PricedFlight], flight_id: str) -> PricedFlight:
    if flight_id not in found:
        raise FlightNotFound(flight_id)
    return found[flight_id]


def _quote(
    data: Repository,
    request_id: str,
    asked: str,
    segments: Sequence[tuple[str, Cabin]],
    passengers: int,
    now: datetime,
) -> Quote:
    made = data.quote_made_by(request_id)
    if made is not None and _seen(made.asked, asked):
        return _existing(data, made.quote_id)
    found = data.flights([flight_id for flight_id, _ in segments])
    lines = tuple(
        Line(flight_id, cabin, _known(found, flight_id).for_sale(cabin, passengers, now))
        for flight_id, cabin in segments
    )
    quote = Quote.new(lines, passengers, now)
    data.add_quote(quote, request_id, asked)
    return quote


def _existing(data: Repository, quote_id: str) -> Quote:
    quote = data.quote(quote_id)
    if quote is None:
        raise QuoteNotFound("There is no such quote.")
    return quote


def _claim(data: Repository, quote_id: str, booking_id: str, epoch: int) -> Claim:
    before = data.claim(quote_id, booking_id)
    return before.by(epoch) if before else Claim(booking_id=booking_id, epoch=epoch)


def _fare(data: Repository, origin: str, destination: str) -> Fare:
    distance = data.distance(origin, destination)
    if distance is None:
        raise RouteNotFound(f"No flight flies from {origin} to {destination}.")
    base = fares.default_base(origin, destination, distance)
    computed = Fare(origin=origin, destination=destination, base=base, version=0)
    return data.fares([(origin, destination)]).get((origin, destination), computed)


def _seen(before: str | None, asked: str) -> bool:
    """Whether a request id was here before; with other content that is an error."""
    if before is not None and before != asked:
        raise RequestIdReused("This request id came before, with other content.")
    return before is not None


def _hash(content: object) -> str:
    """A fingerprint of a request's canonical content."""
    return sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
