"""Use cases of pricing. Each change is one transaction: read, decide by the domain, write.

A request id is answered the same for ever: what is noted of it is a fingerprint of everything else
that was sent. The same again changes nothing and is answered with the quote or fare as it is now,
other content is refused, and a request that was refused leaves no trace.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Final

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
from pricing.domain.flights import PricedFlight
from pricing.domain.quotes import Claim, Line, Quote
from pricing.service import prices
from pricing.service.ports import Clock, Fare, FareProgress, Repository, Store, UseCase
from pricing.service.prices import AT_A_TIME

_LOOKED_AHEAD: Final = 2_000  # flights that are due


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
        now = self._now()
        return await self._store.transact(
            UseCase.CREATE_QUOTE,
            lambda data: _quote(data, request_id, segments, passengers, now),
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
        now = self._now()

        def work(data: Repository) -> Quote | QuoteExpired:
            quote, claim = _claimed(data, quote_id, booking_id)
            again = claim.by(epoch) if claim else Claim(booking_id=booking_id, epoch=epoch)
            try:
                redeemed = quote.redeem(again, accept_time, now)
            except QuoteExpired:
                return _expired(data, quote, booking_id, now)
            _save(data, quote, redeemed, claim, again)
            return redeemed

        outcome = await self._store.transact(UseCase.REDEEM, work)
        if isinstance(outcome, QuoteExpired):  # returned, so that the fresh quote is kept
            raise outcome
        return outcome

    async def release(self, quote_id: str, booking_id: str, epoch: int) -> None:
        """Undo a redemption, or make sure that there never is one; repeating it is safe.

        Raises QuoteNotFound, StaleEpoch.
        """

        def work(data: Repository) -> None:
            quote, claim = _claimed(data, quote_id, booking_id)
            again = claim.by(epoch) if claim else Claim(booking_id=booking_id, epoch=epoch)
            _save(data, quote, quote.release(again), claim, replace(again, released=True))

        await self._store.transact(UseCase.RELEASE, work)

    async def update_fare(
        self, request_id: str, origin: str, destination: str, base: Decimal, etag: int | None
    ) -> Fare:
        """Set a route's base fare, which its flights are to follow; repeating it changes nothing.

        Raises RouteNotFound, EtagMismatch, RequestIdReused.
        """
        now, asked = self._now(), _hash([origin, destination, str(base), etag])

        def work(data: Repository) -> Fare:
            again = _seen(data.fare_request(request_id), asked)
            before = _fare(data, origin, destination)
            if again:
                return before
            if etag is not None and etag != before.version:
                raise EtagMismatch("The fare has changed since.")
            fare = Fare(
                origin=origin, destination=destination, base=base, version=before.version + 1
            )
            data.save_fare(fare)
            data.save_fare_request(request_id, asked, now)
            data.save_progress(FareProgress.begun(origin, destination))
            return fare

        return await self._store.transact(UseCase.UPDATE_FARE, work)

    async def reprice(self) -> int:
        """Re-price flights that are due, nearest departures first; says how many.

        In short units, so that quotes go on between them, and of those that are due only the
        nearest: there may be very many after an outage.
        """
        now = self._now()
        due = await self._store.query(lambda data: data.due(now, _LOOKED_AHEAD))
        slices = [due[first : first + AT_A_TIME] for first in range(0, len(due), AT_A_TIME)]
        return sum([await self._reprice(some, now) for some in slices])

    async def _reprice(self, flight_ids: Sequence[str], now: datetime) -> int:
        return await self._store.transact(
            UseCase.REPRICE, lambda data: prices.reprice(data, flight_ids, now)
        )

    async def follow_fare(self) -> bool:
        """Re-price the next flights of a route with a new fare; whether there is one."""
        if await self._store.query(lambda data: data.fare_progress()) is None:
            return False
        now = self._now()
        await self._store.transact(UseCase.REPRICE, lambda data: prices.follow_fare(data, now))
        return True


def _known(found: Mapping[str, PricedFlight], flight_id: str) -> PricedFlight:
    if flight_id not in found:
        raise FlightNotFound(flight_id)
    return found[flight_id]


def _quote(
    data: Repository,
    request_id: str,
    segments: Sequence[tuple[str, Cabin]],
    passengers: int,
    now: datetime,
) -> Quote:
    asked = _hash([segments, passengers])
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


def _claimed(data: Repository, quote_id: str, booking_id: str) -> tuple[Quote, Claim | None]:
    found = data.quote_and_claim(quote_id, booking_id)
    if found is None:
        raise QuoteNotFound("There is no such quote.")
    return found


def _save(
    data: Repository, before: Quote, after: Quote, claim: Claim | None, changed: Claim
) -> None:
    if after != before:
        data.bind(after)
    if claim is None:
        data.add_claim(after.quote_id, changed)
    elif changed != claim:
        data.change_claim(after.quote_id, changed)


def _expired(data: Repository, quote: Quote, booking_id: str, now: datetime) -> QuoteExpired:
    """Why it can't be redeemed; with a new quote in its place, the same one for the booking."""
    request_id = f"{quote.quote_id}\n{booking_id}"  # no caller's: those are printable
    segments = [(line.flight_id, line.cabin) for line in quote.lines]
    try:
        fresh = _quote(data, request_id, segments, quote.passengers, now)
    except (FlightNotFound, Refused) as refused:  # no longer for sale
        return QuoteExpired.without_fresh(refused)
    return QuoteExpired.with_fresh(fresh.quote_id)


def _fare(data: Repository, origin: str, destination: str) -> Fare:
    distance = data.distance(origin, destination)
    if distance is None:
        raise RouteNotFound(f"No flight flies from {origin} to {destination}.")
    base = fares.dollars(fares.default_base(origin, destination, distance))
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
