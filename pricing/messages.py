"""Pricing's values as messages of flights.pricing.v1, and schedule's messages as values."""

from datetime import UTC, datetime
from decimal import Decimal

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from consulmesh import wellknown
from flights.pricing.v1 import pricing_pb2
from flights.schedule.v1 import schedule_pb2
from flights.type.v1 import cabin_pb2
from pricing.domain.fares import CURRENCY, Cabin
from pricing.domain.flights import CabinPrice, CabinState, FlightState, PricedFlight
from pricing.domain.quotes import Line, Quote
from pricing.service import Fare


def usd(amount: Decimal) -> Money:
    """An amount in US dollars."""
    return wellknown.money(amount, CURRENCY)


def cabin_message(cabin: Cabin) -> cabin_pb2.Cabin.ValueType:
    """The domain numbers cabins as the contract does."""
    return cabin_pb2.Cabin.ValueType(cabin.value)


def price_message(flight_id: str, priced: CabinPrice) -> pricing_pb2.Price:
    """The price of one cabin."""
    return pricing_pb2.Price(
        flight_id=flight_id,
        cabin=cabin_message(priced.cabin),
        version=priced.version,
        fare=usd(priced.price.fare),
        taxes=usd(priced.price.taxes),
    )


def flight_prices_message(flight: PricedFlight) -> pricing_pb2.FlightPrices:
    """All prices of one flight."""
    flight_id = flight.state.flight_id
    return pricing_pb2.FlightPrices(
        flight_id=flight_id,
        version=flight.version,
        prices=[price_message(flight_id, priced) for priced in flight.prices],
    )


def prices_changed(flight: PricedFlight) -> pricing_pb2.PriceEvent:
    """The event of a flight's prices, as they have been since they last changed."""
    return pricing_pb2.PriceEvent(
        event_time=wellknown.timestamp(flight.change_time),
        prices_changed=flight_prices_message(flight),
    )


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
        total=usd(quote.total),
        create_time=wellknown.timestamp(quote.create_time),
        expire_time=wellknown.timestamp(quote.expire_time),
        booking_id=quote.booking_id or "",
    )


def _line_message(line: Line) -> pricing_pb2.QuoteLine:
    return pricing_pb2.QuoteLine(
        flight_id=line.flight_id,
        cabin=cabin_message(line.cabin),
        fare=usd(line.price.fare),
        taxes=usd(line.price.taxes),
    )


def fare_message(fare: Fare) -> pricing_pb2.Fare:
    """A route's base fare."""
    return pricing_pb2.Fare(
        origin=fare.origin,
        destination=fare.destination,
        base=usd(fare.base),
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
