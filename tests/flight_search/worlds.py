"""Random queries, what two sources say around their day, and a search that is asked directly."""

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from pathlib import Path

from flight_search.changes import Change, FlightRemoved, PricesRemoved
from flight_search.domain import (
    Cabin,
    Itinerary,
    ItineraryQuery,
    Place,
    Position,
    PriceBasis,
    SortOrder,
)
from flight_search.read_model import ReadModel
from flight_search.service import ItinerarySearch
from tests.flight_search.timetables import DIRECTORY, ZONES, flight, prices, query

DAYS = [
    date(2026, 3, 8),  # 23 hours long in the USA
    date(2026, 3, 29),  # 23 hours long in Germany
    date(2026, 4, 5),  # 25 hours long in Sydney
    date(2026, 11, 1),  # 25 hours long in the USA
]
Keys = tuple[str, ...]
KEYS = [f"flt_{number:04}" for number in range(60)]


SEATS = [(9, None, 9, None)] * 3 + [(2, None, 1, None), (1, None, 0, None), (None,) * 4]


PLACES = ["JFK", "LGA", "LAX", "FRA", "SYD", "KTM"]
WESTWARD = ["JFK", "LGA", "YYZ", "ORD", "DEN", "LAX"]
"""On a line, so that two stops on it do not lead far astray."""
CARRIERS = ["B6", "B6", "LH", "QF"]


class World:
    """A random query, and what two sources say around its day: dense, repetitive, contradictory."""

    def __init__(self, seed: int, stops: Sequence[int] = (0, 1, 1, 2)) -> None:
        self.random = random.Random(seed)
        draw = self.random.choice
        self.day = draw(DAYS)
        max_stops = draw(stops)
        places = self.random.sample(PLACES, 6)
        if max_stops == 2:
            line = WESTWARD[:: draw([1, -1])]
            chain = [line[n] for n in sorted(self.random.sample(range(6), 4))]
            places = [
                chain[0],
                chain[3],
                *chain[1:3],
                *(each for each in line if each not in chain),
            ]
        origin, destination, *others = places
        start = draw([None, None, None, time(6), time(1, 30)])
        self.asked = query(
            self._asked(origin, destination),
            self._asked(destination, origin),
            self.day,
            passengers=draw([1, 1, 2, 3]),
            cabin=draw([Cabin.ECONOMY, Cabin.BUSINESS]),
            max_stops=max_stops,
            carriers=draw([(), (), (), ("B6",), ("LH", "QF")]),
            departs_from=start,
            departs_before=draw([None, None, time(12), time(19, 5)]),
        )
        midnight = datetime.combine(self.day, time.min, ZONES[origin]).astimezone(UTC)
        self.now = midnight + timedelta(hours=draw([-24, -1, 0, 5, 12]))
        today = self.now.astimezone(ZONES[destination]).date()
        self.return_day = max(self.day + timedelta(days=draw([0, 0, 1])), today)
        self._start = midnight - timedelta(hours=3)
        ways = [(origin, destination), (destination, origin), (others[2], origin)]
        ways += [way for via in others[:2] for way in [(origin, via), (via, destination)] * 2]
        if max_stops == 2:
            ways = ways[:3] + 4 * list(pairwise(chain))
        self._routes = {key: draw(ways) for key in KEYS}

    def _asked(self, airport: str, other: str) -> str:
        """An airport of New York may be asked for by the code of all of them."""
        of_new_york = {"JFK", "LGA"}
        if airport not in of_new_york or other in of_new_york:
            return airport
        return self.random.choice([airport, "NYC"])

    def changes(self) -> list[Change]:
        """Some more changes."""
        return [change for _ in range(120) for change in self._some()]

    def _some(self) -> list[Change]:
        key, version = self.random.choice(KEYS), self.random.randint(1, 4)
        kind = self.random.randrange(20)
        if kind == 0:
            return [FlightRemoved(key, version)]
        if kind == 1:
            return [PricesRemoved(key, version)]
        origin, destination = self._routes[key]
        hours = 20 if self.asked.max_stops == 2 else 30
        departure = self._start + timedelta(minutes=15 * self.random.randrange(hours * 4))
        lasting = [45, 75, 90] if self.asked.max_stops == 2 else [45, 75, 300, 600]
        minutes, seats = self.random.choice(lasting), self.random.choice(SEATS)
        dollars = self.random.choice([100, 100, 150, 220])
        return [
            flight(
                key,
                origin,
                destination,
                departure,
                minutes,
                seats=seats,
                version=version,
                carrier=self.random.choice(CARRIERS),
            ),
            prices(key, dollars, version=version),
        ]


@contextmanager
def new_model() -> Iterator[ReadModel]:
    """An empty read model in a folder of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ReadModel(Path(folder) / "search.db", DIRECTORY) as model,
    ):
        yield model


class Owners:
    """Owners who are not followed."""

    def positions(self) -> tuple[Position, ...]:
        """Nobody's."""
        return ()

    def price_basis(self) -> PriceBasis:
        """As if they were."""
        return PriceBasis.LIVE

    async def reach(self, at_least: Sequence[Position]) -> None:
        """There is nothing to wait for."""

    async def approach(self, preferred: Sequence[Position]) -> None:
        """Nor here."""


def searching(model: ReadModel, now: datetime) -> ItinerarySearch:
    """The use cases, at an instant."""
    return ItinerarySearch(model, DIRECTORY, Owners(), lambda: now)


async def all_pages(
    search: ItinerarySearch, asked: ItineraryQuery, order: SortOrder, size: int
) -> list[Keys]:
    """The flights of all pages one after the other, by way of page tokens."""
    flights: list[Keys] = []
    token = ""
    while True:
        page = await search.page(asked, order=order, page_size=size, token=token)
        flights += map(keys, page.itineraries)
        if not (token := page.next_page_token):
            return flights


def keys(itinerary: Itinerary) -> Keys:
    """The flights of an itinerary."""
    return tuple(segment.flight_id for segment in itinerary.segments)


def keys_of(place: Place) -> Keys:
    """The flights at a place."""
    return tuple(key for key in place[2:] if key)
