"""Requests of flights.pricing.v1 checked field by field, and as the domain's values."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from consulmesh import wellknown
from consulmesh.errors import InvalidArgument, Violation
from flights.pricing.v1 import pricing_pb2
from flights.type.v1 import cabin_pb2
from pricing.domain.fares import CENT, CURRENCY, Cabin

MOST_FLIGHTS = 100
MOST_SEGMENTS = 12
MOST_PASSENGERS = 9
LONGEST_ID = 255
HIGHEST_FARE = Decimal(100_000)


class Check:
    """Collects what is wrong with a request, so that one answer names all of it."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def that(self, good: bool, field: str, reason: str, description: str) -> None:  # noqa: FBT001 - the thing itself
        """Note a violation unless it is good."""
        if not good:
            violation = Violation(field=field, reason=reason, description=description)
            self._violations.append(violation)

    def done(self) -> None:
        """Raise InvalidArgument when anything was wrong."""
        if self._violations:
            raise InvalidArgument(self._violations)

    def identifier(self, value: str, field: str) -> None:
        """An id that another service or a client made: 1 to 255 printable ASCII characters."""
        good = 0 < len(value) <= LONGEST_ID and value.isascii() and value.isprintable()
        said = f"must have 1 to {LONGEST_ID} printable ASCII characters"
        self.that(good, field, "INVALID_ID" if value else "REQUIRED", said)

    def count(self, length: int, most: int, field: str) -> None:
        """A number of things: 1 to `most`."""
        self.that(1 <= length <= most, field, "OUT_OF_RANGE", f"must be 1 to {most}")

    def cabin(self, value: cabin_pb2.Cabin.ValueType, field: str) -> None:
        """A cabin that is said and known."""
        known = value in {cabin.value for cabin in Cabin}
        self.that(known, field, "UNKNOWN_CABIN" if value else "REQUIRED", "must be a cabin")

    def distinct(self, values: Sequence[str], field: str) -> None:
        """No value twice."""
        self.that(len(set(values)) == len(values), field, "DUPLICATE", "must not name one twice")

    def epoch(self, value: int, field: str) -> None:
        """A saga's epoch."""
        self.that(value >= 1, field, "OUT_OF_RANGE", "must be at least 1")


def flight_ids(request: pricing_pb2.GetPricesRequest) -> list[str]:
    """The flights of a GetPrices."""
    check = Check()
    check.count(len(request.flight_ids), MOST_FLIGHTS, "flight_ids")
    for n, flight_id in enumerate(request.flight_ids[:MOST_FLIGHTS]):
        check.identifier(flight_id, f"flight_ids[{n}]")
    if request.cabin:
        check.cabin(request.cabin, "cabin")
    check.done()
    return list(request.flight_ids)


def segments(request: pricing_pb2.CreateQuoteRequest) -> list[tuple[str, Cabin]]:
    """The flights of a CreateQuote."""
    check = Check()
    check.identifier(request.request_id, "request_id")
    check.count(len(request.segments), MOST_SEGMENTS, "segments")
    check.count(request.passengers, MOST_PASSENGERS, "passengers")
    for n, segment in enumerate(request.segments[:MOST_SEGMENTS]):
        check.identifier(segment.flight_id, f"segments[{n}].flight_id")
        check.cabin(segment.cabin, f"segments[{n}].cabin")
    check.distinct([segment.flight_id for segment in request.segments], "segments")
    check.done()
    return [(segment.flight_id, Cabin(segment.cabin)) for segment in request.segments]


def quote_id(value: str) -> str:
    """The quote of a GetQuote."""
    check = Check()
    check.identifier(value, "quote_id")
    check.done()
    return value


def accept_time(request: pricing_pb2.RedeemQuoteRequest) -> datetime:
    """The instant by which a RedeemQuote is judged; its other fields are checked too."""
    check = Check()
    _saga(check, request)
    said = request.HasField("accept_time")
    check.that(said, "accept_time", "REQUIRED", "must be the instant the booking was accepted")
    instant = _instant(request.accept_time)
    check.that(instant is not None, "accept_time", "INVALID", "must be an instant")
    check.done()
    assert instant is not None  # noqa: S101 - `done` has raised
    return instant


def release(request: pricing_pb2.ReleaseQuoteRequest) -> None:
    """A ReleaseQuote."""
    check = Check()
    _saga(check, request)
    check.done()


def _saga(
    check: Check, request: pricing_pb2.RedeemQuoteRequest | pricing_pb2.ReleaseQuoteRequest
) -> None:
    check.identifier(request.quote_id, "quote_id")
    check.identifier(request.booking_id, "booking_id")
    check.epoch(request.saga_epoch, "saga_epoch")


def _instant(message: Timestamp) -> datetime | None:
    try:
        return wellknown.instant(message)
    except ValueError:
        return None


def fare(request: pricing_pb2.UpdateFareRequest) -> tuple[Decimal, int | None]:
    """Base fare and etag of an UpdateFare; an etag that we never gave matches nothing."""
    check = Check()
    check.identifier(request.request_id, "request_id")
    check.identifier(request.origin, "origin")
    check.identifier(request.destination, "destination")
    base = _dollars(request.base)
    good = base is not None and CENT <= base <= HIGHEST_FARE
    said = f"must be 0.01 to {HIGHEST_FARE} {CURRENCY}, in whole cents"
    check.that(good, "base", "INVALID_AMOUNT", said)
    check.done()
    assert base is not None  # noqa: S101 - `done` has raised
    return base, _etag(request.etag)


def _dollars(message: Money) -> Decimal | None:
    try:
        amount = wellknown.amount(message)
    except ValueError:
        return None
    whole = amount == amount.quantize(CENT)
    return amount if whole and message.currency_code == CURRENCY else None


def _etag(value: str) -> int | None:
    if not value:
        return None
    return int(value) if value.isascii() and value.isdigit() else -1
