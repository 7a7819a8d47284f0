"""Flights and prices for tests, and what a search must find in them by brute force."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from flight_search.changes import (
    Change,
    FlightChanged,
    FlightRemoved,
    PricesChanged,
    PricesRemoved,
)
from flight_search.domain import Cabin, ItineraryQuery, Journey, SortOrder, admit
from flight_search.paging import BEFORE_ALL
from flight_search.read_model import PRICING, SCHEDULE, ReadModel

ZONES = {
    "JFK": ZoneInfo("America/New_York"),
    "LAX": ZoneInfo("America/Los_Angeles"),
    "FRA": ZoneInfo("Europe/Berlin"),
    "SYD": ZoneInfo("Australia/Sydney"),
    "KTM": ZoneInfo("Asia/Kathmandu"),
}
NOON = datetime(2026, 3, 6, 12, tzinfo=UTC)
DOLLAR = 1_000_000_000
Found = tuple[int, int, str, str]
"""Sort value, departure and flights of an itinerary."""


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
) -> FlightChanged:
    """A flight as schedule says it."""
    arrival = departure + timedelta(minutes=minutes)
    return FlightChanged(
        key,
        version,
        "B6",
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
) -> ItineraryQuery:
    """A query."""
    return ItineraryQuery(
        origin=origin,
        destination=destination,
        departure_date=day,
        passengers=passengers,
        cabin=cabin,
        max_stops=max_stops,
    )


def journey(asked: ItineraryQuery, now: datetime = NOON) -> Journey:
    """The journey of a query."""
    return admit(asked, ZONES.get, now)


def feed(model: ReadModel, changes: Iterable[Change]) -> None:
    """Applies changes under the name of their source."""
    for change in changes:
        source = SCHEDULE if isinstance(change, FlightChanged | FlightRemoved) else PRICING
        model.apply(source, [change], None)


def found(
    model: ReadModel, asked: ItineraryQuery, order: SortOrder = SortOrder.PRICE
) -> list[tuple[str, ...]]:
    """The flights of everything that the model finds, sorted."""
    itineraries, _ = model.page(journey(asked), order, BEFORE_ALL, 1000)
    return [tuple(s.flight_id for s in itinerary.segments) for itinerary in itineraries]


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

    def find(self, asked: ItineraryQuery, order: SortOrder, now: datetime) -> list[Found]:
        """All itineraries, sorted."""
        ways: list[tuple[FlightChanged, ...]] = [(f,) for f in self._flying(asked)]
        ways = [way for way in ways if way[0].destination == asked.destination]
        if asked.max_stops:
            ways += [
                (f, g)
                for f in self._flying(asked)
                for g in self._flying(asked)
                if f.destination == g.origin
                and g.destination == asked.destination
                and 45 * 60 <= g.departure - f.arrival <= 6 * 3600
            ]
        zone = ZONES[asked.origin]
        return sorted(
            self._found(way, asked, order)
            for way in ways
            if way[0].origin == asked.origin
            and datetime.fromtimestamp(way[0].departure, zone).date() == asked.departure_date
            and way[0].departure >= int(now.timestamp())
        )

    def _flying(self, asked: ItineraryQuery) -> list[FlightChanged]:
        return [
            f
            for key, f in self.flights.items()
            if (self._seats(f, asked.cabin) or 0) >= asked.passengers
            and self._price(key, asked.cabin) is not None
        ]

    def _found(
        self, way: tuple[FlightChanged, ...], asked: ItineraryQuery, order: SortOrder
    ) -> Found:
        values = {
            SortOrder.PRICE: sum(self._price(f.flight_id, asked.cabin) or 0 for f in way),
            SortOrder.DEPARTURE: way[0].departure,
            SortOrder.DURATION: way[-1].arrival - way[0].departure,
        }
        second = way[1].flight_id if len(way) > 1 else ""
        return values[order], way[0].departure, way[0].flight_id, second

    def _seats(self, f: FlightChanged, cabin: Cabin | None) -> int | None:
        return f.seats_economy if cabin is Cabin.ECONOMY else f.seats_business

    def _price(self, key: str, cabin: Cabin | None) -> int | None:
        priced = self.prices.get(key)
        return priced and (priced.economy if cabin is Cabin.ECONOMY else priced.business)
