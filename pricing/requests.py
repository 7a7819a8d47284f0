"""Reads requests of flights.pricing.v1: every field is looked at, every fault is named at once."""

import re
from datetime import datetime
from decimal import Decimal

from google.type.money_pb2 import Money

from consulmesh.validation import (
    FaultError,
    Faults,
    at_least,
    between,
    faults,
    identifier,
    matching,
    request_id,
)
from consulmesh.wellknown import amount, instant
from flights.pricing.v1 import pricing_pb2 as pb
from flights.type.v1 import cabin_pb2
from pricing.domain.fares import CENT, CURRENCY, Cabin

MOST_FLIGHTS = 100
MOST_SEGMENTS = 12
MOST_PASSENGERS = 9
HIGHEST_FARE = Decimal(100_000)
airport = matching(re.compile(r"[A-Z]{3}"), 3, "capital letters")
"""An IATA airport code."""


def flight_ids(request: pb.GetPricesRequest) -> list[str]:
    """The flights of a GetPrices."""
    with faults() as noted:
        noted.read("flight_ids", between(1, MOST_FLIGHTS, "flights"), len(request.flight_ids))
        if request.cabin:
            noted.read("cabin", cabin, request.cabin)
        some = request.flight_ids[:MOST_FLIGHTS]
        return [noted.read(f"flight_ids[{n}]", identifier, each) for n, each in enumerate(some)]


def quote_asked(request: pb.CreateQuoteRequest) -> tuple[str, list[tuple[str, Cabin]], int]:
    """Request id, flights with their cabins, and passengers of a CreateQuote."""
    with faults() as noted:
        return (
            noted.read("request_id", request_id, request.request_id),
            noted.read("segments", lambda r: _segments(noted, r), request),
            noted.read("passengers", between(1, MOST_PASSENGERS, "passengers"), request.passengers),
        )


def quote_id(request: pb.GetQuoteRequest) -> str:
    """The quote of a GetQuote."""
    with faults() as noted:
        return noted.read("quote_id", identifier, request.quote_id)


def redemption(request: pb.RedeemQuoteRequest) -> tuple[str, str, int, datetime]:
    """Quote, booking, saga epoch, and the instant by which a RedeemQuote is judged."""
    with faults() as noted:
        return (*_step(noted, request), noted.read("accept_time", _accept_time, request))


def release(request: pb.ReleaseQuoteRequest) -> tuple[str, str, int]:
    """Quote, booking and saga epoch of a ReleaseQuote."""
    with faults() as noted:
        return _step(noted, request)


def fare_change(request: pb.UpdateFareRequest) -> tuple[str, str, str, Decimal, int | None]:
    """Request id, origin, destination, base fare and etag of an UpdateFare."""
    with faults() as noted:
        return (
            noted.read("request_id", request_id, request.request_id),
            noted.read("origin", airport, request.origin),
            noted.read("destination", airport, request.destination),
            noted.read("base", base_fare, request.base),
            noted.read("etag", etag, request.etag),
        )


def cabin(number: int) -> Cabin:
    """A cabin that is one."""
    if number == cabin_pb2.CABIN_UNSPECIFIED:
        raise FaultError("REQUIRED", "is missing")
    try:
        return Cabin(number)
    except ValueError:
        raise FaultError("UNKNOWN", f"there is no cabin {number}") from None


def base_fare(message: Money) -> Decimal:
    """A base fare: whole cents, in US dollars."""
    base = amount(message)
    if message.currency_code != CURRENCY or not CENT <= base <= HIGHEST_FARE or base % CENT:
        said = f"is not 0.01 to {HIGHEST_FARE} {CURRENCY}, in whole cents"
        raise FaultError("INVALID_AMOUNT", said)
    return base


def etag(text: str) -> int | None:
    """The version that an etag says, or nothing; one that we never gave matches no version."""
    if not text:
        return None
    return int(text) if identifier(text).isdigit() else -1


def _segments(noted: Faults, request: pb.CreateQuoteRequest) -> list[tuple[str, Cabin]]:
    between(1, MOST_SEGMENTS, "segments")(len(request.segments))
    segments = [
        (
            noted.read(f"segments[{n}].flight_id", identifier, segment.flight_id),
            noted.read(f"segments[{n}].cabin", cabin, segment.cabin),
        )
        for n, segment in enumerate(request.segments)
    ]
    if len({segment.flight_id for segment in request.segments}) < len(segments):
        raise FaultError("DUPLICATE", "a flight is there twice")
    return segments


def _step(
    noted: Faults, request: pb.RedeemQuoteRequest | pb.ReleaseQuoteRequest
) -> tuple[str, str, int]:
    return (
        noted.read("quote_id", identifier, request.quote_id),
        noted.read("booking_id", identifier, request.booking_id),
        noted.read("saga_epoch", at_least(1), request.saga_epoch),
    )


def _accept_time(request: pb.RedeemQuoteRequest) -> datetime:
    if not request.HasField("accept_time"):
        raise FaultError("REQUIRED", "is missing")
    return instant(request.accept_time)
