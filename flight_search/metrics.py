"""What search measures of itself, beside what every server and every follower of a stream does."""

import asyncio
from typing import Final, Never

from prometheus_client import Counter, Gauge, Histogram

from flight_search.domain import AFTER_ALL, BEFORE_ALL, Candidate, Journey, Place, SortOrder
from flight_search.read_model import ReadModel
from flight_search.service import Timetable

QUERIES: Final = Histogram(
    "flight_search_query_duration_seconds",
    "Time in the read model by kind of query",
    ["kind"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
)
FLIGHTS: Final = Gauge("flight_search_flights", "Flights in the read model")
OFFERS: Final = Gauge("flight_search_offers", "Priced cabins of flights in the read model")
REJECTED: Final = Counter(
    "flight_search_events_rejected", "Events of a source that make no sense", ["source"]
)

COUNT_EVERY: Final = 5.0
COUNT_WIDTH: Final = 2_000


async def count_for_ever(model: ReadModel) -> Never:
    """Counts flights and offers now and then, if there is news, in slices that are short."""
    while True:
        moved = model.moved
        flights, offers = 0, 0
        start: int | None = 0
        while start is not None:
            more_flights, more_offers, start = model.count(start, COUNT_WIDTH)
            flights, offers = flights + more_flights, offers + more_offers
            await asyncio.sleep(0)
        FLIGHTS.set(flights)
        OFFERS.set(offers)
        await asyncio.sleep(COUNT_EVERY)
        await moved.wait()


class MeasuredTimetable:
    """A timetable whose queries are timed."""

    def __init__(self, timetable: Timetable) -> None:
        self._timetable = timetable
        self._times = [QUERIES.labels(kind) for kind in ("direct", "one_stop", "two_stops")]
        self.vias = timetable.vias
        self.itineraries = timetable.itineraries
        self.served = timetable.served

    def find(
        self,
        journey: Journey,
        order: SortOrder,
        stops: int,
        *,
        via: str | None = None,
        after: Place = BEFORE_ALL,
        before: Place = AFTER_ALL,
        limit: int | None = None,
    ) -> list[Candidate]:
        """See `Timetable`."""
        with self._times[stops].time():
            return self._timetable.find(
                journey, order, stops, via=via, after=after, before=before, limit=limit
            )
