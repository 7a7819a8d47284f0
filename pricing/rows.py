"""Rows of the tables as values of the domain, and back."""

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Row

from flights.pricing.v1 import pricing_pb2
from pricing import messages
from pricing.domain.fares import Cabin, Price, dollars
from pricing.domain.flights import CabinPrice, CabinState, FlightState, PricedFlight
from pricing.domain.quotes import Line, Quote
from pricing.service import Fare, FareProgress

_CABINS: Final = {cabin.value: cabin for cabin in Cabin}
"""To call the enumeration takes several times as long, and a flight has four or eight of them."""


def prices_changed(flight: PricedFlight) -> pricing_pb2.PriceEvent:
    """The event of a flight's prices."""
    prices = ((one.cabin, one.price.fare, one.price.taxes, one.version) for one in flight.prices)
    state = flight.state
    flown = messages.Flown(state.flight_id, state.origin, state.destination, state.departure_time)
    return messages.prices_changed(flown, flight.version, flight.change_time, prices)


def flight_row(flight: PricedFlight) -> dict[str, Any]:
    """The row of a flight."""
    state = flight.state
    return {
        "flight_id": state.flight_id,
        "carrier": state.carrier,
        "origin": state.origin,
        "destination": state.destination,
        "departure_time": state.departure_time,
        "distance_km": state.distance_km,
        **prices_row(flight),
    }


def prices_row(flight: PricedFlight) -> dict[str, Any]:
    """What seats and prices are in the row of a flight."""
    return {
        "version": flight.version,
        "schedule_version": flight.state.version,
        "cancelled": flight.state.cancelled,
        "cabins": list(_cabin_rows(flight)),
        "change_time": flight.change_time,
        "reprice_time": flight.reprice_time,
        "unseen": flight.unseen,
    }


def _cabin_rows(flight: PricedFlight) -> Iterator[list[int]]:
    for seats, priced in zip(flight.state.cabins, flight.prices, strict=True):
        price = priced.price
        yield [
            seats.cabin,
            seats.capacity,
            seats.available,
            price.fare,
            price.taxes,
            priced.version,
        ]


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
        cabins=tuple(CabinState(_CABINS[c[0]], c[1], c[2]) for c in row.cabins),
    )
    prices = tuple(CabinPrice(_CABINS[c[0]], Price(c[3], c[4]), c[5]) for c in row.cabins)
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
        base=dollars(row.base_cents),
        version=row.version,
    )


def stored_progress(row: Row[Any]) -> FareProgress:
    """How far a fare's change has come, of a row."""
    return FareProgress(
        origin=row.origin,
        destination=row.destination,
        departure_time=row.departure_time,
        flight_id=row.flight_id,
    )


def stored_quote(row: Row[Any]) -> Quote:
    """The quote of a row."""
    return Quote(
        quote_id=row.quote_id,
        passengers=row.passengers,
        lines=tuple(Line(one[0], _CABINS[one[1]], Price(one[2], one[3])) for one in row.lines),
        create_time=row.create_time,
        expire_time=row.expire_time,
        booking_id=row.booking_id,
    )


def line_row(line: Line) -> list[str | int]:
    """A line of a quote, as in its row."""
    return [line.flight_id, line.cabin, line.price.fare, line.price.taxes]
