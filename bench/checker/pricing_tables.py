"""Pricing's database by SQL."""

from decimal import Decimal
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, Row

from bench.checker.databases import document, instant, rows
from bench.checker.facts import PricedCabin, PricedFlight, PricingFacts, Quote
from bench.checker.history import Priced, line
from bench.checker.messages import cabin_name, price_event
from bench.checker.positions import read_position
from bench.checker.streams import read_stream

_CENT: Final = Decimal("0.01")
_QUOTES = "SELECT quote_id, passengers, lines, expire_time, booking_id FROM quote"
_CLAIMS = "SELECT quote_id, booking_id FROM claim"
_FLIGHTS = "SELECT flight_id, version, schedule_version, cancelled, cabins FROM flight"


def read_pricing(connection: Connection) -> PricingFacts:
    """All that the judge needs of it."""
    return PricingFacts(
        quotes={row.quote_id: _quote(row) for row in rows(connection, _QUOTES)},
        claims=[(quote_id, booking_id) for quote_id, booking_id in rows(connection, _CLAIMS)],
        flights={row.flight_id: _flight(row) for row in rows(connection, _FLIGHTS)},
        stream=read_stream(connection, "price", price_event),
        position=read_position(connection),
    )


def _quote(row: Row[Any]) -> Quote:
    return Quote(
        passengers=row.passengers,
        segments=tuple(map(_line, document(row.lines))),
        expire_time=instant(row.expire_time),
        booking_id=row.booking_id,
    )


def _line(of: tuple[str, int, int, int]) -> Priced:
    flight_id, cabin, fare, taxes = of
    return line(flight_id, cabin_name(cabin), str(_dollars(fare)), str(_dollars(taxes)))


@cache
def _dollars(cents: int) -> Decimal:
    return cents * _CENT


def _flight(row: Row[Any]) -> PricedFlight:
    return PricedFlight(
        version=row.version,
        schedule_version=row.schedule_version,
        cancelled=bool(row.cancelled),
        cabins={
            cabin_name(cabin): PricedCabin(
                capacity, available, _dollars(fare), _dollars(taxes), version
            )
            for cabin, capacity, available, fare, taxes, version in document(row.cabins)
        },
    )
