"""Prices that follow from schedule's word, from the fares of routes, and from time passing."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from pricing.domain import fares
from pricing.domain.flights import FlightState, PricedFlight
from pricing.service.ports import Repository, Route

REPRICED_AT_A_TIME = 200


def follow(data: Repository, states: Sequence[FlightState], now: datetime) -> None:
    """Take schedule's word of flights over and price them; an older word changes nothing.

    The versions of a new flight begin after the newest event's number. No version of a row can be
    larger than the number of events, so a flight that has left and comes back never has a version
    again that it had.
    """
    known = data.flights([state.flight_id for state in states])
    newest = data.newest_event() if len(known) < len(states) else 0
    told = []
    for state in states:
        before = known.get(state.flight_id) or PricedFlight.unpriced(state, newest, now)
        after = before.told(state)
        if after is not before:
            told.append(after)
    _price(data, told, now)


def reprice(data: Repository, now: datetime) -> int:
    """Re-price some of the flights that are due, nearest departures first; says how many."""
    due = data.due(now, REPRICED_AT_A_TIME)
    _price(data, due, now)
    return len(due)


def _price(data: Repository, flights: Sequence[PricedFlight], now: datetime) -> None:
    states = [flight.state for flight in flights]
    bases = _bases(data, {(s.origin, s.destination): s.distance_km for s in states})
    priced = [f.repriced(bases[f.state.origin, f.state.destination], now) for f in flights]
    data.save_flights(priced)
    pairs = zip(flights, priced, strict=True)
    data.announce([after for before, after in pairs if after.version != before.version])


def _bases(data: Repository, distances: Mapping[Route, int]) -> Mapping[Route, int]:
    """The base fares of routes in cents; by distance in km where no operator has set them."""
    fares_set = data.fares(distances)
    return {
        route: fares.in_cents(fares_set[route].base)
        if route in fares_set
        else fares.default_base(*route, distance)
        for route, distance in distances.items()
    }
