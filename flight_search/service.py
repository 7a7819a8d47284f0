"""The use cases: sorted pages, all that is found, round trips, the fares of a month, airports.

All of them answer out of the timetable alone: no call leaves the process. What is found is looked
up in the same turn of the event loop, so it is as of one instant; an answer that takes many turns
says the positions of the first.
"""

import asyncio
from calendar import monthrange
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import Protocol

from flight_search.domain import (
    AFTER_ALL,
    BEFORE_ALL,
    WHOLE,
    Airport,
    Cabin,
    Candidate,
    Geography,
    Itinerary,
    ItineraryQuery,
    Journey,
    Place,
    Position,
    PriceBasis,
    Shard,
    SortOrder,
    admit,
    admit_return,
    bookable,
    invalid,
    round_trips,
)
from flight_search.paging import (
    page_start,
    page_token,
    question,
    round_trip_start,
    round_trip_token,
)

DEFAULT_ITINERARIES, MOST_ITINERARIES = 20, 100
DEFAULT_AIRPORTS, MOST_AIRPORTS = 10, 50
LONGEST_TEXT = 100
VIAS_PER_TURN = {1: 8, 2: 1}
"""By stops, first stops looked at before others get their turn: about a millisecond of work."""


class Timetable(Protocol):
    """The flights on sale, each answer as of one instant."""

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
        """Itineraries with so many stops behind a place, in their order.

        With `via`, those that first stop there, and before another place too.
        """

    def vias(self, journey: Journey, stops: int) -> list[str]:
        """The airports at which the journey could stop first, with so many stops."""

    def itineraries(self, cabin: Cabin, candidates: Iterable[Candidate]) -> list[Itinerary]:
        """What was found in the same turn of the event loop, looked up."""

    def served(self) -> frozenset[str]:
        """The airports that have flights."""


class Airports(Geography, Protocol):
    """Every airport that exists."""

    def search(self, text: str, served: frozenset[str], limit: int) -> list[Airport]:
        """The airports that a text is the beginning of, best match first."""


class Sources(Protocol):
    """The owners whose streams the timetable is made of."""

    def positions(self) -> tuple[Position, ...]:
        """How far each of them was followed."""

    def price_basis(self) -> PriceBasis:
        """How far prices can be trusted now."""

    async def reach(self, at_least: Sequence[Position]) -> None:
        """Waits until all these positions are reached; raises `PositionNotReachedError`."""

    async def approach(self, preferred: Sequence[Position]) -> None:
        """Waits a moment for these positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """How fresh an answer is."""

    price_basis: PriceBasis
    positions: Sequence[Position] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Fresh):
    """One page; the token is empty on the last one. Origins and destinations are airports."""

    itineraries: Sequence[Itinerary]
    next_page_token: str
    origins: Sequence[str]
    destinations: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found(Fresh):
    """Itineraries found since the last time; positions the first time."""

    itineraries: Sequence[Itinerary]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTripPage(Fresh):
    """One page of ways there and back; the token is empty on the last one."""

    trips: Sequence[tuple[Itinerary, Itinerary]]
    next_page_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FareCalendar(Fresh):
    """The lowest price of one passenger, by day; days on which nothing is sold are not there.

    The `unreachable` days are other shards'.
    """

    prices: Sequence[tuple[date, Decimal]]
    unreachable: Sequence[date]


@dataclass(slots=True, kw_only=True)
class Switches:
    """What operators may change while search runs.

    Without `two_stops`, searches that allow two stops find ways with one at most: the others are
    looked for airport by airport, and an answer without them is worth more than none.
    """

    two_stops: bool = True


class ItinerarySearch:
    """Answers out of the timetable."""

    def __init__(
        self,
        timetable: Timetable,
        airports: Airports,
        sources: Sources,
        clock: Callable[[], datetime],
        shard: Shard = WHOLE,
        switches: Switches | None = None,
    ) -> None:
        self._shard = shard
        self._switches = switches or Switches()
        self._timetable = timetable
        self._airports = airports
        self._sources = sources
        self._clock = clock

    async def page(
        self,
        query: ItineraryQuery,
        *,
        order: SortOrder = SortOrder.PRICE,
        page_size: int = 0,
        token: str = "",
        at_least: Sequence[Position] = (),
        preferred: Sequence[Position] = (),
    ) -> Page:
        """A page in the order asked for; `preferred` positions are only waited for a moment.

        With two stops it takes a turn for each few airports; the others are as of one instant.
        Raises `InvalidQueryError`, `OtherShardError` or `PositionNotReachedError`.
        """
        journey = self._admit(query)
        size = _size("page_size", page_size, DEFAULT_ITINERARIES, MOST_ITINERARIES)
        asked = question(query, order)
        after = page_start(token, asked)
        await self._sources.reach(at_least)
        await self._sources.approach(preferred)
        positions = self._sources.positions()
        best = self._best(journey, order, after, size + 1)
        if journey.max_stops > 1:
            best = await self._better(best, journey, order, after, size + 1)
        last = best[size - 1][0].place if len(best) > size else None
        return Page(
            itineraries=[itinerary for _, itinerary in best[:size]],
            next_page_token=page_token(last, asked) if last else "",
            origins=journey.origins,
            destinations=journey.destinations,
            price_basis=self._sources.price_basis(),
            positions=positions,
        )

    async def stream(
        self, query: ItineraryQuery, *, at_least: Sequence[Position] = ()
    ) -> AsyncGenerator[Found, None]:
        """Direct itineraries at once, then those with one stop and with two as they are found.

        Raises as `page` does, before anything is found. Between two batches the timetable may
        change; each batch is true when it is given out.
        """
        journey = self._admit(query)
        await self._sources.reach(at_least)
        yield Found(
            itineraries=self._all(journey, 0),
            price_basis=self._sources.price_basis(),
            positions=self._sources.positions(),
        )
        for stops in range(1, journey.max_stops + 1):
            for some in _batches(self._timetable.vias(journey, stops), VIAS_PER_TURN[stops]):
                await asyncio.sleep(0)  # others get their turn even while nothing is found
                if found := [each for via in some for each in self._all(journey, stops, via)]:
                    yield Found(itineraries=found, price_basis=self._sources.price_basis())

    async def round_trips(
        self,
        query: ItineraryQuery,
        return_date: date | None,
        *,
        order: SortOrder = SortOrder.PRICE,
        page_size: int = 0,
        token: str = "",
        at_least: Sequence[Position] = (),
    ) -> RoundTripPage:
        """A page of ways there and back, by what both are together.

        Raises as `page` does; both days must be the shard's.
        """
        now = self._clock()
        outbound = self._admit(query)
        inbound = admit_return(query, return_date, self._airports, now)
        _at_most_one_stop(query)
        if return_date is not None:  # it was admitted
            self._shard.check(return_date)
        size = _size("page_size", page_size, DEFAULT_ITINERARIES, MOST_ITINERARIES)
        asked = question(query, order, return_date)
        after = round_trip_start(token, asked)
        await self._sources.reach(at_least)
        ways_there, ways_back = (self._candidates(way, order) for way in (outbound, inbound))
        trips = round_trips(ways_there, ways_back, order, after, size + 1)
        last = trips[size - 1].place if len(trips) > size else None
        look_up = partial(self._timetable.itineraries, outbound.cabin)
        there = look_up(trip.outbound for trip in trips[:size])
        back = look_up(trip.inbound for trip in trips[:size])
        return RoundTripPage(
            trips=list(zip(there, back, strict=True)),
            next_page_token=round_trip_token(last, asked) if last else "",
            price_basis=self._sources.price_basis(),
            positions=self._sources.positions(),
        )

    async def fares(
        self, query: ItineraryQuery, *, at_least: Sequence[Position] = ()
    ) -> FareCalendar:
        """The lowest price on each day of the month that the query's day is in.

        A day that is over, or too far ahead, has no price. Each day is as of one instant. Days of
        other shards are told as such. Raises `InvalidQueryError` or `PositionNotReachedError`.
        """
        now = self._clock()
        journeys = [
            (day, admit(replace(query, departure_date=day), self._airports, now))
            for day in self._bookable_days(query, now)
        ]
        _at_most_one_stop(query)
        await self._sources.reach(at_least)
        positions = self._sources.positions()
        prices: list[tuple[date, Decimal]] = []
        unreachable: list[date] = []
        for day, journey in journeys:
            await asyncio.sleep(0)
            if day and not self._shard.answers(day):
                unreachable.append(day)
            elif day and (cheapest := self._best(journey, SortOrder.PRICE, BEFORE_ALL, 1)):
                prices.append((day, cheapest[0][1].price))
        return FareCalendar(
            prices=prices,
            unreachable=unreachable,
            price_basis=self._sources.price_basis(),
            positions=positions,
        )

    def airports(self, text: str, page_size: int = 0) -> list[Airport]:
        """Airports whose code, or a word of whose city or name, starts with the text."""
        size = _size("page_size", page_size, DEFAULT_AIRPORTS, MOST_AIRPORTS)
        if not text.strip():
            raise invalid("query", "REQUIRED", "must have at least one character")
        if len(text) > LONGEST_TEXT:
            raise invalid("query", "OUT_OF_RANGE", f"must have at most {LONGEST_TEXT} characters")
        return self._airports.search(text, self._timetable.served(), size)

    def _admit(self, query: ItineraryQuery) -> Journey:
        """Checks a query whose day must be the shard's."""
        journey = admit(query, self._airports, self._clock())
        if query.departure_date is not None:  # it was admitted
            self._shard.check(query.departure_date)
        if not self._switches.two_stops:
            return replace(journey, max_stops=min(journey.max_stops, 1))
        return journey

    def _bookable_days(self, query: ItineraryQuery, now: datetime) -> list[date | None]:
        """The days of a month that can be asked for; that of the query where there are none."""
        day, origins = query.departure_date, self._airports.airports(query.origin)
        zone = self._airports.zone(origins[0]) if origins else None
        if day is None or zone is None:
            return [day]
        _, length = monthrange(day.year, day.month)
        month = [day.replace(day=number) for number in range(1, length + 1)]
        return [each for each in month if bookable(each, zone, now)] or [day]

    def _candidates(
        self,
        journey: Journey,
        order: SortOrder,
        after: Place = BEFORE_ALL,
        limit: int | None = None,
    ) -> list[Candidate]:
        """What there is with one stop at most, in its order."""
        find = self._timetable.find
        found = find(journey, order, 0, after=after, limit=limit)
        if journey.max_stops:
            found = sorted(found + find(journey, order, 1, after=after, limit=limit))
        return found[:limit]

    def _best(
        self, journey: Journey, order: SortOrder, after: Place, limit: int
    ) -> list[tuple[Candidate, Itinerary]]:
        found = self._candidates(journey, order, after, limit)
        return list(zip(found, self._timetable.itineraries(journey.cabin, found), strict=True))

    async def _better(
        self,
        best: list[tuple[Candidate, Itinerary]],
        journey: Journey,
        order: SortOrder,
        after: Place,
        limit: int,
    ) -> list[tuple[Candidate, Itinerary]]:
        """The best of these and of what there is with two stops."""
        for via in self._timetable.vias(journey, 2):
            await asyncio.sleep(0)
            before = best[-1][0].place if len(best) == limit else AFTER_ALL
            found = self._timetable.find(
                journey, order, 2, via=via, after=after, before=before, limit=limit
            )
            looked_up = self._timetable.itineraries(journey.cabin, found)
            if found:
                best = sorted([*best, *zip(found, looked_up, strict=True)], key=_candidate)[:limit]
        return best

    def _all(self, journey: Journey, stops: int, via: str | None = None) -> list[Itinerary]:
        found = self._timetable.find(journey, SortOrder.DEPARTURE, stops, via=via)
        return self._timetable.itineraries(journey.cabin, found)


def _at_most_one_stop(query: ItineraryQuery) -> None:
    if query.max_stops > 1:
        raise invalid("query.max_stops", "OUT_OF_RANGE", "must be 0 or 1 here")


def _candidate(found: tuple[Candidate, Itinerary]) -> Candidate:
    return found[0]


def _batches(vias: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (vias[start : start + size] for start in range(0, len(vias), size))


def _size(field: str, asked: int, default: int, most: int) -> int:
    if not 0 <= asked <= most:
        raise invalid(field, "OUT_OF_RANGE", f"must be 1 to {most}, or 0 for {default}")
    return asked or default
