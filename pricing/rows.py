"""Rows of the tables as values of the domain, and back."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from sqlalchemy import Row

from flights.pricing.v1 import pricing_pb2
from pricing import messages
from pricing.domain.fares import CENT, Cabin, Price, in_cents
from pricing.domain.flights import CabinPrice, CabinState, FlightState, PricedFlight
from pricing.domain.quotes import Line, Quote
from pricing.service import Fare


def prices_changed(flight: PricedFlight) -> pricing_pb2.PriceEvent:
    """The event of a flight's prices."""
    prices = ((one.cabin, *_in_cents(one.price), one.version) for one in flight.prices)
    return messages.prices_changed(
        flight.state.flight_id, flight.version, flight.change_time, prices
    )


def flight_row(flight: PricedFlight) -> dict[str, Any]:
    """The row of a flight."""
    state = flight.state
    return {
        "flight_id": state.flight_id,
        "version": flight.version,
        "schedule_version": state.version,
        "carrier": state.carrier,
        "origin": state.origin,
        "destination": state.destination,
        "departure_time": state.departure_time,
        "distance_km": state.distance_km,
        "cancelled": state.cancelled,
        "cabins": list(_cabin_rows(flight)),
        "change_time": flight.change_time,
        "reprice_time": flight.reprice_time,
        "unseen": flight.unseen,
    }


def _cabin_rows(flight: PricedFlight) -> Iterator[list[int]]:
    for seats, priced in zip(flight.state.cabins, flight.prices, strict=True):
        fare, taxes = _in_cents(priced.price)
        yield [seats.cabin, seats.capacity, seats.available, fare, taxes, priced.version]


def priced_flight(row: Row[Any]) -> PricedFlight:
    """The flight of a row."""
    state = FlightState(
        flight_id=row.flight_id,
        version=row.schedule_version,
        carrier=row.carrier,
        origin=row.origin,
        destination=row.destination,
        departure_time=row.departure_time,
        distance_km=row.distance_km,
        cancelled=row.cancelled,
        cabins=tuple(CabinState(Cabin(c[0]), c[1], c[2]) for c in row.cabins),
    )
    prices = tuple(CabinPrice(Cabin(c[0]), _price(c[3], c[4]), c[5]) for c in row.cabins)
    return PricedFlight(
        state=state,
        version=row.version,
        prices=prices,
        change_time=row.change_time,
        reprice_time=row.reprice_time,
        unseen=row.unseen,
    )


def stored_fare(row: Row[Any]) -> Fare:
    """The fare of a row."""
    return Fare(
        origin=row.origin,
        destination=row.destination,
        base=Decimal(row.base_cents) * CENT,
        version=row.version,
    )


def stored_quote(row: Row[Any]) -> Quote:
    """The quote of a row."""
    return Quote(
        quote_id=row.quote_id,
        passengers=row.passengers,
        lines=tuple(Line(one[0], Cabin(one[1]), _price(one[2], one[3])) for one in row.lines),
        create_time=row.create_time,
        expire_time=row.expire_time,
        booking_id=row.booking_id,
    )


def line_row(line: Line) -> list[str | int]:
    """A line of a quote, as in its row."""
    return [line.flight_id, line.cabin, *_in_cents(line.price)]


def _in_cents(price: Price) -> tuple[int, int]:
    return in_cents(price.fare), in_cents(price.taxes)


def _price(fare: int, taxes: int) -> Price:
    return Price(fare=Decimal(fare) * CENT, taxes=Decimal(taxes) * CENT)
