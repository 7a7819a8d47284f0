"""Flights and prices for tests, and what a search must find in them by brute force."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from flight_search.airports import AirportDirectory
from flight_search.changes import (
    Change,
    FlightChanged,
    FlightRemoved,
    PricesChanged,
    PricesRemoved,
)
from flight_search.domain import (
    Cabin,
    Itinerary,
    ItineraryQuery,
    Journey,
    Place,
    SortOrder,
    admit,
)
from flight_search.read_model import PRICING, SCHEDULE, ReadModel

ZONES = {
    "JFK": ZoneInfo("America/New_York"),
    "LGA": ZoneInfo("America/New_York"),
    "YYZ": ZoneInfo("America/Toronto"),
    "ORD": ZoneInfo("America/Chicago"),
    "DEN": ZoneInfo("America/Denver"),
    "LAX": ZoneInfo("America/Los_Angeles"),
    "FRA": ZoneInfo("Europe/Berlin"),
    "SYD": ZoneInfo("Australia/Sydney"),
    "KTM": ZoneInfo("Asia/Kathmandu"),
}
COUNTRIES = dict.fromkeys(("JFK", "LGA", "ORD", "DEN", "LAX"), "US") | {
    "YYZ": "CA",
    "FRA": "DE",
    "SYD": "AU",
    "KTM": "NP",
}
SHORTEST = {"": 45, "out": 60, "in out": 75, "in": 90}
"""Minutes to change planes, by the borders that are crossed."""
DIRECTORY = AirportDirectory.load()
NOON = datetime(2026, 3, 6, 12, tzinfo=UTC)
DOLLAR = 1_000_000_000


def flight(
    key: str,
    origin: str,
    destination: str,
    departure: datetime,
    minutes: int = 120,
    *,
    seats: Iterable[int | None] = (9, None, 9, None),
    version: int = 1,
    delayed: bool = False,
    carrier: str = "B6",
) -> FlightChanged:
    """A flight as schedule says it."""
    arrival = departure + timedelta(minutes=minutes)
    return FlightChanged(
        key,
        version,
        carrier,
        key[-4:],
        "A320",
        origin,
        destination,
        int(departure.timestamp()),
        int(arrival.timestamp()),
        int((departure.astimezone(ZONES[origin]).utcoffset() or timedelta()).total_seconds()) // 60,
        int((arrival.astimezone(ZONES[destination]).utcoffset() or timedelta()).total_seconds())
        // 60,
        delayed,
        *seats,
    )


def prices(key: str, dollars: int = 100, *, version: int = 1) -> PricesChanged:
    """The prices of a flight: economy as given, business three times as much."""
    return PricesChanged(key, version, dollars * DOLLAR, None, 3 * dollars * DOLLAR, None)


def query(
    origin: str = "JFK",
    destination: str = "LAX",
    day: date | None = date(2026, 3, 8),
    *,
    passengers: int = 1,
    cabin: Cabin | None = Cabin.ECONOMY,
    max_stops: int = 1,
    carriers: tuple[str, ...] = (),
    departs_from: time | None = None,
    departs_before: time | None = None,
) -> ItineraryQuery:
    """A query."""
    return ItineraryQuery(
        origin=origin,
        destination=destination,
        departure_date=day,
        passengers=passengers,
        cabin=cabin,
        max_stops=max_stops,
        carriers=carriers,
        departs_from=departs_from,
        departs_before=departs_before,
    )


def journey(asked: ItineraryQuery, now: datetime = NOON) -> Journey:
    """The journey of a query."""
    return admit(asked, DIRECTORY, now)


def feed(model: ReadModel, changes: Iterable[Change]) -> None:
    """Applies changes under the name of their source."""
    for change in changes:
        source = SCHEDULE if isinstance(change, FlightChanged | FlightRemoved) else PRICING
        model.apply(source, [change], None)


def found(
    model: ReadModel, asked: ItineraryQuery, order: SortOrder = SortOrder.PRICE
) -> list[tuple[str, ...]]:
    """The flights of everything that the model finds with one stop at most, sorted."""
    way = journey(asked)
    stops = range(min(asked.max_stops, 1) + 1)
    candidates = sorted(each for n in stops for each in model.find(way, order, n))
    return [
        tuple(segment.flight_id for segment in itinerary.segments)
        for itinerary in model.itineraries(way.cabin, candidates)
    ]


def direct(model: ReadModel, asked: ItineraryQuery) -> list[Itinerary]:
    """The direct itineraries that the model finds."""
    way = journey(asked)
    return model.itineraries(way.cabin, model.find(way, SortOrder.DEPARTURE, 0))


@dataclass
class Oracle:
    """What was said, and what follows from it, the slow way."""

    flights: dict[str, FlightChanged] = field(default_factory=dict)
    prices: dict[str, PricesChanged] = field(default_factory=dict)

    def hear(self, change: Change) -> None:
        """Takes a change, unless something newer is known."""
        match change:
            case FlightChanged():
                known = self.flights.get(change.flight_id)
                if known is None or known.version <= change.version:
                    self.flights[change.flight_id] = change
            case PricesChanged():
                priced = self.prices.get(change.flight_id)
                if priced is None or priced.version <= change.version:
                    self.prices[change.flight_id] = change
            case FlightRemoved(key, version):
                if key in self.flights and self.flights[key].version <= version:
                    del self.flights[key]
            case PricesRemoved(key, version):
                if key in self.prices and self.prices[key].version <= version:
                    del self.prices[key]

    def find(self, asked: ItineraryQuery, order: SortOrder, now: datetime) -> list[Place]:
        """All itineraries, sorted."""
        flying = self._flying(asked)
        ways: list[tuple[FlightChanged, ...]] = [
            (f,) for f in flying if f.origin in DIRECTORY.airports(asked.origin)
        ]
        found = []
        for _ in range(asked.max_stops + 1):
            found += [way for way in ways if self._arrives(way, asked)]
            ways = [
                (*way, g)
                for way in ways
                for g in flying
                if self._connects(way[-1], g) and not self._ends(way[-1].destination, asked)
            ]
        return sorted(
            self._found(way, asked, order) for way in found if self._leaves(way[0], asked, now)
        )

    def arrival(self, place: Place) -> int:
        """When the last flight at a place arrives."""
        return self.flights[place.third or place.second or place.first].arrival

    def _leaves(self, first: FlightChanged, asked: ItineraryQuery, now: datetime) -> bool:
        zone = ZONES[first.origin]
        local = datetime.fromtimestamp(first.departure, zone)
        return (
            local.date() == asked.departure_date
            and first.departure >= int(now.timestamp())
            and _within(local, asked.departs_from, asked.departs_before)
        )

    def _ends(self, airport: str, asked: ItineraryQuery) -> bool:
        return airport in {
            *DIRECTORY.airports(asked.origin),
            *DIRECTORY.airports(asked.destination),
        }

    def _arrives(self, way: tuple[FlightChanged, ...], asked: ItineraryQuery) -> bool:
        if way[-1].destination not in DIRECTORY.airports(asked.destination):
            return False
        if len(way) < 3:
            return True
        km = sum(DIRECTORY.leg(f.origin, f.destination).km for f in way)
        straight = DIRECTORY.leg(
            DIRECTORY.airports(asked.origin)[0], DIRECTORY.airports(asked.destination)[0]
        ).km
        return km <= straight + straight // 2 + 500

    def _connects(self, f: FlightChanged, g: FlightChanged) -> bool:
        if f.destination != g.origin:
            return False
        from_abroad = "in" if COUNTRIES[f.origin] != COUNTRIES[f.destination] else ""
        going_abroad = "out" if COUNTRIES[g.origin] != COUNTRIES[g.destination] else ""
        shortest = SHORTEST[f"{from_abroad} {going_abroad}".strip()]
        shortest += 15 * (f.destination not in {"LGA", "KTM"})
        return shortest * 60 <= g.departure - f.arrival <= 6 * 3600

    def _flying(self, asked: ItineraryQuery) -> list[FlightChanged]:
        return [
            f
            for key, f in self.flights.items()
            if (self._seats(f, asked.cabin) or 0) >= asked.passengers
            and self._price(key, asked.cabin) is not None
            and (not asked.carriers or f.carrier in asked.carriers)
        ]

    def _found(
        self, way: tuple[FlightChanged, ...], asked: ItineraryQuery, order: SortOrder
    ) -> Place:
        values = {
            SortOrder.PRICE: sum(self._price(f.flight_id, asked.cabin) or 0 for f in way),
            SortOrder.DEPARTURE: way[0].departure,
            SortOrder.DURATION: way[-1].arrival - way[0].departure,
        }
        first, second, third = ([f.flight_id for f in way] + ["", ""])[:3]
        return Place(values[order], way[0].departure, first, second, third)

    def _seats(self, f: FlightChanged, cabin: Cabin | None) -> int | None:
        return f.seats_economy if cabin is Cabin.ECONOMY else f.seats_business

    def _price(self, key: str, cabin: Cabin | None) -> int | None:
        priced = self.prices.get(key)
        return priced and (priced.economy if cabin is Cabin.ECONOMY else priced.business)


def _within(local: datetime, start: time | None, end: time | None) -> bool:
    """Whether a clock has shown one time already on that day, and will show the other one yet."""
    day = datetime.combine(local.date(), time.min, local.tzinfo).astimezone(UTC)
    minutes = [(day + timedelta(minutes=n)).astimezone(local.tzinfo) for n in range(25 * 60)]
    of_day = [minute for minute in minutes if minute.date() == local.date()]
    instant = local.astimezone(UTC)
    begun = start is None or any(m.time() >= start and m.astimezone(UTC) <= instant for m in of_day)
    return begun and (
        end is None or any(m.time() < end and m.astimezone(UTC) >= instant for m in of_day)
    )
