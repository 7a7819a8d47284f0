"""Pricing's values as messages of flights.pricing.v1, and schedule's messages as values."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from consulmesh import wellknown
from flights.pricing.v1 import pricing_pb2
from flights.schedule.v1 import schedule_pb2
from flights.type.v1 import cabin_pb2
from pricing.domain.fares import CURRENCY, Cabin
from pricing.domain.flights import CabinPrice, CabinState, FlightState
from pricing.domain.quotes import Line, Quote
from pricing.service import Fare

_NANOS_OF_A_CENT: Final = 10_000_000


def cabin_message(cabin: Cabin) -> cabin_pb2.Cabin.ValueType:
    """The domain numbers cabins as the contract does."""
    return cabin_pb2.Cabin.ValueType(cabin.value)


def price_message(flight_id: str, priced: CabinPrice) -> pricing_pb2.Price:
    """The price of one cabin."""
    price = priced.price
    return pricing_pb2.Price(
        flight_id=flight_id,
        cabin=cabin_message(priced.cabin),
        version=priced.version,
        fare=_usd(price.fare),
        taxes=_usd(price.taxes),
    )


class Flown(NamedTuple):
    """Which flight it is."""

    flight_id: str
    origin: str
    destination: str
    departure: datetime


def prices_changed(
    flown: Flown, version: int, at: datetime, cabins: Iterable[tuple[int, int, int, int]]
) -> pricing_pb2.PriceEvent:
    """The event of a flight's prices, as they have been since they last changed.

    Of each cabin: its number, fare and taxes in cents, version. It is filled in place: a message
    that is given to another one is copied, which takes three times as long as all else.
    """
    event = pricing_pb2.PriceEvent(event_time=wellknown.timestamp(at))
    flight = event.prices_changed
    flight_id = flight.flight_id = flown.flight_id
    flight.version = version
    flight.origin, flight.destination = flown.origin, flown.destination
    flight.departure_time.seconds = int(flown.departure.timestamp())
    for cabin, fare, taxes, price_version in cabins:
        number = cabin_pb2.Cabin.ValueType(cabin)
        price = flight.prices.add(flight_id=flight_id, cabin=number, version=price_version)
        _put(price.fare, fare)
        _put(price.taxes, taxes)
    return event


def _usd(cents: int) -> Money:
    money = Money()
    _put(money, cents)
    return money


def _put(money: Money, cents: int) -> None:
    """Make it an amount that is not negative."""
    units, rest = divmod(cents, 100)
    money.currency_code, money.units, money.nanos = CURRENCY, units, rest * _NANOS_OF_A_CENT


def prices_removed(flight_id: str, version: int, at: datetime) -> pricing_pb2.PriceEvent:
    """The event of a flight that has left the timetable."""
    return pricing_pb2.PriceEvent(
        event_time=wellknown.timestamp(at),
        prices_removed=pricing_pb2.PricesRemoved(flight_id=flight_id, version=version),
    )


def quote_message(quote: Quote) -> pricing_pb2.Quote:
    """A quote."""
    return pricing_pb2.Quote(
        quote_id=quote.quote_id,
        passengers=quote.passengers,
        lines=[_line_message(line) for line in quote.lines],
        total=_usd(quote.total),
        create_time=wellknown.timestamp(quote.create_time),
        expire_time=wellknown.timestamp(quote.expire_time),
        booking_id=quote.booking_id or "",
    )


def _line_message(line: Line) -> pricing_pb2.QuoteLine:
    return pricing_pb2.QuoteLine(
        flight_id=line.flight_id,
        cabin=cabin_message(line.cabin),
        fare=_usd(line.price.fare),
        taxes=_usd(line.price.taxes),
    )


def fare_message(fare: Fare) -> pricing_pb2.Fare:
    """A route's base fare."""
    return pricing_pb2.Fare(
        origin=fare.origin,
        destination=fare.destination,
        base=wellknown.money(fare.base, CURRENCY),
        etag=str(fare.version),
    )


def flight_state(flight: schedule_pb2.Flight) -> FlightState:
    """What schedule says of a flight."""
    return FlightState(
        flight_id=flight.flight_id,
        version=flight.version,
        carrier=flight.carrier,
        origin=flight.origin,
        destination=flight.destination,
        departure_time=_instant(flight.departure_time),
        distance_km=flight.distance_km,
        cancelled=flight.status == schedule_pb2.FLIGHT_STATUS_CANCELLED,
        cabins=tuple(CabinState(Cabin(c.cabin), c.capacity, c.available) for c in flight.cabins),
    )


def _instant(message: Timestamp) -> datetime:
    """Whole seconds are enough for a departure."""
    return datetime.fromtimestamp(message.seconds, UTC)
