"""The use cases: a sorted page, everything as it is found, airports by what people type."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Protocol

from flight_search.domain import (
    Airport,
    InvalidQueryError,
    Itinerary,
    ItineraryQuery,
    Journey,
    Position,
    PriceBasis,
    SortOrder,
    Violation,
    admit,
)
from flight_search.paging import Place, page_start, page_token

DEFAULT_ITINERARIES, MOST_ITINERARIES = 20, 100
DEFAULT_AIRPORTS, MOST_AIRPORTS = 10, 50
LONGEST_TEXT = 100
CONNECTIONS_PER_TURN = 8
"""Connecting airports looked at before others get their turn: about a millisecond of work."""


class Timetable(Protocol):
    """The flights on sale, each answer as of one instant."""

    def page(
        self, journey: Journey, order: SortOrder, after: Place, size: int
    ) -> tuple[list[Itinerary], Place | None]:
        """The next itineraries, and the place of the last one when there are more."""

    def direct(self, journey: Journey) -> list[Itinerary]:
        """All direct itineraries."""

    def connections(self, journey: Journey) -> list[str]:
        """The airports at which the journey could change planes."""

    def connecting(self, journey: Journey, connection: str) -> list[Itinerary]:
        """All itineraries that change planes at one airport."""

    def served(self) -> frozenset[str]:
        """The airports that have flights."""


class Airports(Protocol):
    """Every airport that exists."""

    def zone(self, code: str) -> tzinfo | None:
        """The time zone of an airport; None for a code that no airport has."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page; the token is empty on the last one."""

    itineraries: Sequence[Itinerary]
    next_page_token: str
    price_basis: PriceBasis
    positions: Sequence[Position]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Itineraries found since the last time; positions the first time."""

    itineraries: Sequence[Itinerary]
    price_basis: PriceBasis
    positions: Sequence[Position] = ()


class ItinerarySearch:
    """Answers out of the timetable alone: no call leaves the process."""

    def __init__(
        self,
        timetable: Timetable,
        airports: Airports,
        sources: Sources,
        clock: Callable[[], datetime],
    ) -> None:
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
    ) -> Page:
        """A page in the order asked for.

        Raises `InvalidQueryError` or `PositionNotReachedError`.
        """
        journey = admit(query, self._airports.zone, self._clock())
        size = _size("page_size", page_size, DEFAULT_ITINERARIES, MOST_ITINERARIES)
        after = page_start(token, query, order)
        await self._sources.reach(at_least)
        itineraries, last = self._timetable.page(journey, order, after, size)
        return Page(
            itineraries=itineraries,
            next_page_token=page_token(last, query, order) if last else "",
            price_basis=self._sources.price_basis(),
            positions=self._sources.positions(),
        )

    async def stream(
        self, query: ItineraryQuery, *, at_least: Sequence[Position] = ()
    ) -> AsyncGenerator[Found, None]:
        """Direct itineraries at once, then the others in batches as they are found.

        Raises `InvalidQueryError` or `PositionNotReachedError` before anything is found. Between
        two batches the timetable may change; each batch is true when it is given out.
        """
        journey = admit(query, self._airports.zone, self._clock())
        await self._sources.reach(at_least)
        yield Found(
            itineraries=self._timetable.direct(journey),
            price_basis=self._sources.price_basis(),
            positions=self._sources.positions(),
        )
        connections = self._timetable.connections(journey) if journey.max_stops else []
        for start in range(0, len(connections), CONNECTIONS_PER_TURN):
            await asyncio.sleep(0)  # others get their turn even while nothing is found
            some = connections[start : start + CONNECTIONS_PER_TURN]
            if found := [i for via in some for i in self._timetable.connecting(journey, via)]:
                yield Found(itineraries=found, price_basis=self._sources.price_basis())

    def airports(self, text: str, page_size: int = 0) -> list[Airport]:
        """Airports whose code, or a word of whose city or name, starts with the text."""
        size = _size("page_size", page_size, DEFAULT_AIRPORTS, MOST_AIRPORTS)
        if not text.strip():
            raise _invalid("query", "REQUIRED", "must have at least one character")
        if len(text) > LONGEST_TEXT:
            raise _invalid("query", "OUT_OF_RANGE", f"must have at most {LONGEST_TEXT} characters")
        return self._airports.search(text, self._timetable.served(), size)


def _size(field: str, asked: int, default: int, most: int) -> int:
    if not 0 <= asked <= most:
        raise _invalid(field, "OUT_OF_RANGE", f"must be 1 to {most}, or 0 for {default}")
    return asked or default


def _invalid(field: str, reason: str, description: str) -> InvalidQueryError:
    return InvalidQueryError([Violation(field=field, reason=reason, description=description)])
