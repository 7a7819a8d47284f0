"""The read model's questions: itineraries of one, two and three flights in keyset order.

A statement is completed from closed sets: cabins, sort orders, numbers of stops. CROSS JOIN keeps
the order that is written: SQLite's planner knows nothing of how selective routes are. Airports and
carriers come as JSON arrays, a single airport as itself.
"""

import json
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Final, NamedTuple

from flight_search.domain import (
    LONGEST_CONNECTION,
    Cabin,
    Journey,
    Place,
    SortOrder,
    shortest_connection,
)

_SEGMENTS: Final = """
SELECT key, version, carrier, number, aircraft, origin, destination, departure, arrival,
    departure_offset, arrival_offset, delayed, seats_{cabin}
FROM flight WHERE key IN (SELECT value FROM json_each(?))
"""
ROUTES: Final = "SELECT origin, destination FROM route"

_FLIGHTS: Final = "fgh"
_ROUTES: Final = ("", "rs", "rst")
"""By stops, in travel order."""
_NARROWEST_FIRST: Final = ("", "rs", "rts")
_IS: Final = {
    False: {"origin": "= :origins", "destination": "= :destinations"},
    True: {
        "origin": "IN (SELECT value FROM json_each(:origins))",
        "destination": "IN (SELECT value FROM json_each(:destinations))",
    },
}
"""Whether an end is the airport, or one of the area, that was asked for."""
_ENDS: Final = {False: ":origins, :destinations", True: "SELECT value FROM json_each(:ends)"}
_VIAS: Final = "SELECT DISTINCT r.destination FROM {tables} WHERE {conditions} ORDER BY 1"
_ITINERARIES: Final = """
SELECT {columns} FROM {tables} WHERE {conditions} ORDER BY 1, 2, 3, 4, 5 LIMIT :limit
"""
_CARRIERS: Final = "{f}.carrier IN (SELECT value FROM json_each(:carriers))"


class Shape(NamedTuple):
    """What a statement has to look at: the usual question is asked by the shortest one."""

    stops: int
    order: SortOrder
    cabin: Cabin
    areas: bool
    carriers: bool
    via: bool


@cache
def segments(cabin: Cabin) -> str:
    """Flights by their keys, which come as a JSON array."""
    return _SEGMENTS.format(cabin=cabin.name.lower())


def itineraries(journey: Journey, order: SortOrder, stops: int, *, via: bool) -> str:
    """Itineraries with so many stops, the first perhaps at an airport; rows of `Candidate`."""
    areas = _areas(journey)
    return _itineraries(Shape(stops, order, journey.cabin, areas, bool(journey.carriers), via))


def vias(journey: Journey, stops: int) -> str:
    """The airports at which a journey with so many stops could stop first."""
    return _vias(stops, _areas(journey))


def parameters(
    journey: Journey, via: str | None, after: Place, before: Place, limit: int | None
) -> dict[str, object]:
    """What the statements ask for, about places between two others."""
    areas = _areas(journey)
    origins, destinations = journey.origins, journey.destinations
    return {
        "origins": json.dumps(origins) if areas else origins[0],
        "destinations": json.dumps(destinations) if areas else destinations[0],
        "ends": json.dumps(origins + destinations) if areas else None,
        "start": int(journey.start.timestamp()),
        "end": int(journey.end.timestamp()),
        "passengers": journey.passengers,
        "carriers": json.dumps(journey.carriers) if journey.carriers else None,
        "longest_km": journey.longest_km,
        "via": via,
        "limit": -1 if limit is None else limit,
        "value": after.value,
        "departure": after.departure,
        "first": after.first,
        "second": after.second,
        "third": after.third,
        "value_": before.value,
        "departure_": before.departure,
        "first_": before.first,
        "second_": before.second,
        "third_": before.third,
    }


def _areas(journey: Journey) -> bool:
    return len(journey.origins) > 1 or len(journey.destinations) > 1


@cache
def _vias(stops: int, areas: bool) -> str:  # noqa: FBT001 - a key of the cache
    return _VIAS.format(
        tables=_tables(stops), conditions=" AND ".join(_on_routes(stops, areas=areas))
    )


@cache
def _itineraries(shape: Shape) -> str:
    stops, order, cabin, areas, _, via = shape
    flights = _FLIGHTS[: stops + 1]
    absent = 2 - stops
    keys = ", ".join([*(f"{f}.key" for f in flights), *["''"] * absent])
    versions = ", ".join([*(f"{f}.version" for f in flights), *["0"] * absent])
    price = " + ".join(f"{f}.price_{cabin.name.lower()}" for f in flights)
    arrival = f"{flights[-1]}.arrival"
    value = {
        SortOrder.PRICE: price,
        SortOrder.DEPARTURE: "f.departure",
        SortOrder.DURATION: f"{arrival} - f.departure",
    }[order]
    place = f"({value}, f.departure, {keys})"
    conditions = [*_on_routes(stops, areas=areas), *_on_flights(shape)]
    conditions.append(f"{place} > (:value, :departure, :first, :second, :third)")
    if via:
        conditions.append(f"{place} < (:value_, :departure_, :first_, :second_, :third_)")
        conditions.append("r.destination = :via")
    return _ITINERARIES.format(
        columns=f"{value}, f.departure, {keys}, {arrival}, {price}, {versions}",
        tables=_tables(stops, flights),
        conditions=" AND ".join(conditions),
    )


def _tables(stops: int, flights: str = "") -> str:
    routes = [f"route {r}" for r in _NARROWEST_FIRST[stops]]
    return " CROSS JOIN ".join([*routes, *(f"flight {f}" for f in flights)])


def _on_routes(stops: int, *, areas: bool) -> Iterator[str]:
    """Routes from an origin to a destination; with two stops, none that leads far astray."""
    if not stops:
        return
    routes = _ROUTES[stops]
    yield f"r.origin {_IS[areas]['origin']}"
    yield f"{routes[-1]}.destination {_IS[areas]['destination']}"
    yield from (f"{b}.origin = {a}.destination" for a, b in pairwise(routes))
    if areas or stops > 1:
        yield from (f"{route}.destination NOT IN ({_ENDS[areas]})" for route in routes[:-1])
    if stops > 1:
        yield "t.km <= :longest_km - r.km AND s.km <= :longest_km - r.km - t.km"


def _on_flights(shape: Shape) -> Iterator[str]:
    """The flights in travel order, each on its route, within reach of the one before."""
    flights, routes = _FLIGHTS[: shape.stops + 1], _ROUTES[shape.stops]
    cabin = shape.cabin.name.lower()
    yield "f.departure >= :start AND f.departure < :end"
    for end, which in _IS[shape.areas].items() if not routes else ():
        yield f"f.{end} {which}"
    for f, route in zip(flights, routes, strict=False):
        yield f"{f}.origin = {route}.origin AND {f}.destination = {route}.destination"
    longest = int(LONGEST_CONNECTION.total_seconds())
    for (f, g), (r, s) in zip(pairwise(flights), pairwise(routes), strict=True):
        reach = f"{f}.arrival + {_shortest(r, s)} AND {f}.arrival + {longest}"
        yield f"{g}.departure BETWEEN {reach}"
    for f in flights:
        yield f"{f}.seats_{cabin} >= :passengers AND {f}.price_{cabin} IS NOT NULL"
        if shape.carriers:
            yield _CARRIERS.format(f=f)


def _shortest(inbound: str, outbound: str) -> str:
    """The shortest connection between two routes, in seconds."""
    cases = (
        (f"WHEN {4 * from_abroad + 2 * going_abroad + at_hub} THEN {int(shortest.total_seconds())}")
        for from_abroad in (False, True)
        for going_abroad in (False, True)
        for at_hub in (False, True)
        for shortest in [
            shortest_connection(from_abroad=from_abroad, going_abroad=going_abroad, at_hub=at_hub)
        ]
    )
    kind = f"4 * {inbound}.international + 2 * {outbound}.international + {inbound}.to_hub"
    return f"CASE {kind} {' '.join(cases)} END"
