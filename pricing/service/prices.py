"""Prices that follow from schedule's word, from the fares of routes, and from time passing."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from pricing.domain import fares
from pricing.domain.flights import FlightState, PricedFlight
from pricing.service.ports import Repository, Route

AT_A_TIME: Final = 50
"""Flights that one unit prices: it takes some ten milliseconds, in which quotes wait."""


def follow(data: Repository, states: Sequence[FlightState], now: datetime) -> None:
    """Take schedule's word of flights over and price them; an older word changes nothing.

    The versions of a new flight begin after the newest event's number. No version of a row can be
    larger than the number of events, so a flight that has left and comes back never has a version
    again that it had.
    """
    known = data.flights([state.flight_id for state in states])
    newest = data.newest_event() if len(known) < len(states) else 0
    new: list[PricedFlight] = []
    told: list[PricedFlight] = []
    for state in states:
        before = known.get(state.flight_id)
        if before is None:
            new.append(PricedFlight.unpriced(state, newest, now))
        elif (after := before.told(state)) is not before:
            (told if after.state.flies_as(before.state) else new).append(after)
    data.save_flights(_priced(data, new, now, moved=True))
    data.save_prices(_priced(data, told, now))


def reprice(data: Repository, flight_ids: Sequence[str], now: datetime) -> int:
    """Re-price those of the flights that are still due; says how many."""
    found = data.flights(flight_ids)
    flights = [found[flight_id] for flight_id in flight_ids if flight_id in found]
    due = [flight for flight in flights if flight.is_due(now)]
    data.save_prices(_priced(data, due, now))
    return len(due)


def follow_fare(data: Repository, now: datetime) -> int:
    """Re-price the next flights of a route with a new fare; says how many."""
    progress = data.fare_progress()
    if progress is None:
        return 0
    flights = data.on_route(progress, AT_A_TIME)
    data.save_prices(_priced(data, flights, now))
    if len(flights) < AT_A_TIME:
        data.end_progress(progress)
    else:
        data.save_progress(progress.upto(flights[-1].state))
    return len(flights)


def _priced(
    data: Repository, flights: Sequence[PricedFlight], now: datetime, *, moved: bool = False
) -> Sequence[PricedFlight]:
    """The flights with the prices as they are to be now; those that are others are announced."""
    states = [flight.state for flight in flights]
    bases = _bases(data, {(s.origin, s.destination): s.distance_km for s in states})
    priced = [
        f.repriced(bases[f.state.origin, f.state.destination], now, moved=moved) for f in flights
    ]
    pairs = zip(flights, priced, strict=True)
    data.announce([after for before, after in pairs if after.version != before.version])
    return priced


def _bases(data: Repository, distances: Mapping[Route, int]) -> Mapping[Route, int]:
    """The base fares of routes in cents; by distance in km where no operator has set them."""
    fares_set = data.fares(distances)
    return {
        route: fares.in_cents(fares_set[route].base)
        if route in fares_set
        else fares.default_base(*route, distance)
        for route, distance in distances.items()
    }
