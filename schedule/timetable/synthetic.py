"""An invented timetable of the world: as many flights as asked for, the same for the same seed.

Hubs fly to each other, the nearer the more often, and other airports to the nearest three of them.
A direction of a route has a weekly pattern: flights of one number leave at one local time, on all
or some days of the week. Airports are real, everything else is made up.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from itertools import combinations
from math import asin, cos, radians, sin, sqrt
from typing import Final

from schedule.domain import Flight, flight_id
from schedule.timetable.aircraft import cabins_of
from schedule.timetable.airports import Airport, Airports

_HUBS: Final = """
ADD AKL AMS ATL AUH BCN BKK BOG BOM BOS CAI CAN CDG CGK CLT CPH CPT DEL DEN DFW DOH DTW DUB DXB EWR
EZE FCO FRA GRU HEL HKG HND IAH ICN IST JFK JNB KUL LAS LAX LHR LIM LIS LOS MAD MAN MCO MEL MEX MIA
MNL MSP MUC NBO NRT ORD OSL PEK PHX PTY PVG SCL SEA SFO SIN SYD TPE VIE WAW YVR YYZ ZRH
"""
HUBS: Final = tuple(_HUBS.split())
LONGEST_LEG, SHORTEST_LEG = 14_500, 80  # km
HUBS_OF_AN_AIRPORT: Final = 3
FLIGHTS_OF_AN_AIRPORT: Final = 25  # a day, about: so many airports are taken
MOST_AIRPORTS: Final = 2_000
DAYS_OF_A_WINDOW: Final = 30
EARLIEST, LATEST = 5 * 60, 23 * 60  # minutes of the local day
GRID: Final = 5  # minutes
CRUISE_KM_A_MINUTE: Final = 14.0
ON_THE_GROUND: Final = 35  # minutes of taxiing, climbing, landing
EARTH_RADIUS_KM: Final = 6_371.0
SIZES: Final = ((1_200, "E190", 98), (4_500, "A320", 180), (LONGEST_LEG, "A350", 325))
"""Up to so many km, this model with so many seats."""
WEEK: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A flight that leaves at a local time on some days of the week."""

    carrier: str
    number: str
    origin: Airport
    destination: Airport
    departure: time
    duration: timedelta
    weekdays: frozenset[int]
    km: int
    model: str
    seats: int


@dataclass(slots=True)
class Made:
    """What was made: flights, and of how many airports and routes."""

    flights: int = 0
    airports: int = 0
    routes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class Synthetic:
    """About so many flights in 30 days. The same days give the same flights."""

    def __init__(self, airports: Airports, flights: int, seed: int = 1) -> None:
        if flights < DAYS_OF_A_WINDOW:
            raise ValueError(f"{flights} flights are fewer than one a day")
        self._airports = airports
        self._a_day = flights / DAYS_OF_A_WINDOW
        self._seed = seed
        self.made = Made()

    def days(self, days: Sequence[date]) -> Iterator[tuple[date, list[Flight]]]:
        """The flights that leave on each of these days, by the clock at their origin."""
        for day in days:
            flights = [
                _flight(each, day) for each in self.patterns if day.weekday() in each.weekdays
            ]
            self.made.flights += len(flights)
            yield day, flights

    @cached_property
    def patterns(self) -> list[Pattern]:
        """What is flown every week."""
        routes = self._routes()
        a_direction = self._a_day / sum(routes.values()) / 2
        numbers: Counter[str] = Counter()
        patterns: list[Pattern] = []
        for (hub, other), weight in routes.items():
            for origin, destination in ((hub, other), (other, hub)):
                draw = _random(f"{self._seed} {origin.code} {destination.code}")
                frequency = weight * a_direction
                patterns += _patterns(draw, origin, destination, _carrier(hub), frequency, numbers)
        self.made.routes = len(routes)
        return patterns

    def _routes(self) -> dict[tuple[Airport, Airport], float]:
        """How often a route is flown, by its ends, relative to others; the first one is a hub."""
        hubs = [hub for code in HUBS if (hub := self._airports.get(code))]
        routes = {
            (a, b): 2 / (0.5 + km / 3_000)
            for a, b in combinations(hubs, 2)
            if SHORTEST_LEG <= (km := great_circle(a, b)) <= LONGEST_LEG
        }
        others = self._others(hubs)
        for other in others:
            nearest = sorted((great_circle(hub, other), hub.code, hub) for hub in hubs)
            near = [each for each in nearest if SHORTEST_LEG <= each[0] <= LONGEST_LEG]
            for rank, (_, _, hub) in enumerate(near[:HUBS_OF_AN_AIRPORT]):
                routes[hub, other] = 1 / (1 + rank)
        self.made.airports = len(hubs) + len(others)
        return routes

    def _others(self, hubs: Sequence[Airport]) -> list[Airport]:
        """Some airports that are no hubs: as many as the flights can serve."""
        codes = sorted(self._airports.codes() - {hub.code for hub in hubs})
        number = min(int(self._a_day / FLIGHTS_OF_AN_AIRPORT), MOST_AIRPORTS, len(codes))
        drawn = _random(str(self._seed)).sample(codes, number)
        return [airport for code in drawn if (airport := self._airports.get(code))]


def great_circle(a: Airport, b: Airport) -> float:
    """Distance in km by the haversine formula, on a sphere."""
    north, south = radians(a.latitude), radians(b.latitude)
    across = radians(b.longitude - a.longitude)
    haversine = sin((south - north) / 2) ** 2 + cos(north) * cos(south) * sin(across / 2) ** 2
    return 2 * EARTH_RADIUS_KM * asin(sqrt(haversine))


def _random(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - reproducible on purpose, and no secret


def _carrier(hub: Airport) -> str:
    """An invented airline of that hub; a real one may have the same designator."""
    number = HUBS.index(hub.code)
    return f"{number % 10}{'QXYZUVKJ'[number // 10]}"


def _patterns(
    draw: random.Random,
    origin: Airport,
    destination: Airport,
    carrier: str,
    frequency: float,
    numbers: Counter[str],
) -> Iterator[Pattern]:
    """Flights of one direction, so many a day, spread over the day."""
    km = round(great_circle(origin, destination))
    model, seats = next((model, seats) for limit, model, seats in SIZES if km <= limit)
    minutes = ON_THE_GROUND + km / CRUISE_KM_A_MINUTE
    daily, rest = divmod(frequency, 1)
    some = frozenset(draw.sample(range(WEEK), _rounded(draw, rest * WEEK)))
    days = [frozenset(range(WEEK))] * int(daily) + [some] * bool(some)
    for slot, weekdays in enumerate(days):
        at = EARLIEST + (slot + draw.random()) / len(days) * (LATEST - EARLIEST)
        numbers[carrier] += 1
        yield Pattern(
            carrier=carrier,
            number=str(numbers[carrier]),
            origin=origin,
            destination=destination,
            departure=time(*divmod(int(at) // GRID * GRID, 60)),
            duration=timedelta(minutes=round(minutes / GRID) * GRID),
            weekdays=weekdays,
            km=km,
            model=model,
            seats=seats,
        )


def _rounded(draw: random.Random, number: float) -> int:
    """A whole number that is this one on average."""
    return int(number + draw.random())


def _flight(pattern: Pattern, day: date) -> Flight:
    origin, destination = pattern.origin, pattern.destination
    departure = datetime.combine(day, pattern.departure, origin.zone).astimezone(UTC)
    arrival = departure + pattern.duration
    return Flight(
        flight_id=flight_id(pattern.carrier, pattern.number, origin.code, destination.code, day),
        carrier=pattern.carrier,
        number=pattern.number,
        origin=origin.code,
        destination=destination.code,
        departure_date=day,
        departure_time=departure,
        arrival_time=arrival,
        scheduled_departure_time=departure,
        scheduled_arrival_time=arrival,
        departure_utc_offset_minutes=origin.offset_minutes(departure),
        arrival_utc_offset_minutes=destination.offset_minutes(arrival),
        aircraft=pattern.model,
        distance_km=pattern.km,
        inferred=False,
        cabins=cabins_of(pattern.seats),
    )
