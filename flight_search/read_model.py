"""The read model: flights and prices in one SQLite file, fed by two streams, asked for itineraries.

Every method is synchronous and short, and belongs to the event loop's thread: a query sees whole
batches only, and no cursor outlives its call. A batch and the position it leads to are one
transaction. The two sources write different columns of a flight's row, so their order among each
other does not matter; within a source, an older version never overwrites a newer one.
"""

import asyncio
import json
import sqlite3
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, Never, Self

from flight_search import queries
from flight_search import statements as sql
from flight_search.changes import (
    Change,
    FlightChanged,
    FlightRemoved,
    PricesChanged,
    PricesRemoved,
)
from flight_search.domain import (
    AFTER_ALL,
    BEFORE_ALL,
    WHOLE,
    Cabin,
    Candidate,
    FlightVersion,
    Geography,
    Itinerary,
    Journey,
    Place,
    Position,
    Segment,
    Shard,
    SortOrder,
)
from flight_search.store import close_file, is_damage, open_file, remove_file

SCHEDULE, PRICING = "schedule", "pricing"
KEPT_SEGMENTS, KEPT_ITINERARIES = 16_384, 16_384
"""Segments of each cabin; the least recently used ones go first."""
SWEEP_WIDTH = 500
BILLION = 1_000_000_000


class DamagedFileError(Exception):
    """The file is broken."""


class ReadModel:
    """The timetable that this process knows. Owns the file until it is closed."""

    def __init__(self, path: Path, geography: Geography, shard: Shard = WHOLE) -> None:
        self._path = path
        self._db = open_file(path, f"shard {shard}")
        self._generations: dict[str, int] = {}
        self._positions: dict[str, Position] = {}
        for name, epoch, seq, generation in self._db.execute(sql.POSITIONS).fetchall():
            self._generations[name] = generation
            if seq is not None:
                self._positions[name] = Position(source=name, epoch=epoch, seq=seq)
        self._complete = set(self._positions)
        self._geography = geography
        self._routes: set[tuple[str, str]] | None = None
        self._served: frozenset[str] | None = None
        self._kept_segments = {cabin: OrderedDict[FlightVersion, Segment]() for cabin in Cabin}
        self._itinerary = lru_cache(KEPT_ITINERARIES)(_itinerary)
        self.moved = asyncio.Event()
        """Set, and replaced by a new one, whenever a position has moved."""
        self.damaged = asyncio.Event()
        """Set when the file turns out to be broken; closing the model then removes it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.damaged.is_set():
            self._db.close()
            remove_file(self._path)
        else:
            close_file(self._db)

    async def fail_when_damaged(self) -> Never:
        """Raises once the file has turned out to be broken: the process must start over."""
        await self.damaged.wait()
        raise DamagedFileError(str(self._path))

    # -- following ---------------------------------------------------------------------------

    def position(self, source: str) -> Position | None:
        """How far a source was followed; None before and during its snapshot."""
        return self._positions.get(source)

    def has_been_complete(self, source: str) -> bool:
        """Whether the source has ever had a position here: before, nobody is answered."""
        return source in self._complete

    def start_snapshot(self, source: str) -> None:
        """Marks all that the source has said as not seen, and forgets its position."""
        with self._transaction() as db:
            (self._generations[source],) = db.execute(sql.START_SNAPSHOT, (source,)).fetchone()
        self._positions.pop(source, None)
        self._forget_rendered()

    def apply(self, source: str, changes: Sequence[Change], position: Position | None) -> None:
        """Applies changes and moves the source's position, both or neither.

        Without a position it stays where it was.
        """
        generation = self._generations.get(source, 0)
        with self._transaction() as db:
            for change in changes:
                self._apply(db, change, generation)
            if position:
                db.execute(sql.MOVE, (position.epoch, position.seq, source))
        if source not in self._positions:
            self._forget_rendered()
        if position:
            self._moved(position)

    def sweep(self, source: str, after: int) -> int | None:
        """Removes unseen rows out of a slice of the file; returns where the next slice starts."""
        unseen = sql.UNSEEN_FLIGHTS if source == SCHEDULE else sql.UNSEEN_PRICES
        forget = self._forget_flight if source == SCHEDULE else self._forget_prices
        until = after + SWEEP_WIDTH
        with self._transaction() as db:
            limits = (after, until, self._generations[source])
            for (key,) in db.execute(unseen, limits).fetchall():
                forget(db, key)
            (last,) = db.execute(sql.LAST_ID).fetchone()
        return until if until < last else None

    def count(self, after: int, width: int) -> tuple[int, int, int | None]:
        """Flights and priced cabins in a slice of the file, and where the next slice starts."""
        (last,) = self._rows(sql.LAST_ID, ())[0]
        flights, offers = self._rows(sql.COUNT, (after, after + width))[0]
        return flights, offers, after + width if after + width < last else None

    def _apply(self, db: sqlite3.Connection, change: Change, generation: int) -> None:
        match change:
            case FlightChanged():
                db.execute(sql.PUT_FLIGHT, (*change, generation))
                self._put_route(db, change.origin, change.destination)
            case PricesChanged():
                db.execute(sql.PUT_PRICES, (*change, generation))
            case FlightRemoved():
                if db.execute(sql.KNOWS_FLIGHT, change).fetchone():
                    self._forget_flight(db, change.flight_id)
            case PricesRemoved():
                if db.execute(sql.KNOWS_PRICES, change).fetchone():
                    self._forget_prices(db, change.flight_id)

    def _put_route(self, db: sqlite3.Connection, origin: str, destination: str) -> None:
        known = self._known_routes()
        if (origin, destination) not in known:
            leg = self._geography.leg(origin, destination)
            db.execute(sql.PUT_ROUTE, (origin, destination, *leg))
            known.add((origin, destination))
            self._served = None

    def _forget_flight(self, db: sqlite3.Connection, key: str) -> None:
        route = db.execute(sql.ROUTE_OF, (key,)).fetchone()
        db.execute(sql.CLEAR_FLIGHT, (key,))
        db.execute(sql.DROP_SILENT, (key,))
        if route and db.execute(sql.DROP_UNUSED, route).rowcount:
            self._known_routes().discard(route)
            self._served = None

    def _forget_prices(self, db: sqlite3.Connection, key: str) -> None:
        db.execute(sql.CLEAR_PRICES, (key,))
        db.execute(sql.DROP_SILENT, (key,))

    def _moved(self, position: Position) -> None:
        self._positions[position.source] = position
        self._complete.add(position.source)
        moved, self.moved = self.moved, asyncio.Event()
        moved.set()

    def _known_routes(self) -> set[tuple[str, str]]:
        """What the table of routes holds: most changes are of a route that is there."""
        if self._routes is None:
            self._routes = set(self._rows(queries.ROUTES, ()))
        return self._routes

    def _forget_rendered(self) -> None:
        """Within one history a version says it all; a snapshot may bring another history."""
        for kept in self._kept_segments.values():
            kept.clear()
        self._itinerary.cache_clear()

    # -- asking ------------------------------------------------------------------------------

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

        With `via`, those that first stop there, and before another place too. What is found may be
        looked up in the same turn of the event loop only.
        """
        statement = queries.itineraries(journey, order, stops, via=via is not None)
        rows = self._rows(statement, queries.parameters(journey, via, after, before, limit))
        return list(map(Candidate._make, rows))

    def vias(self, journey: Journey, stops: int) -> list[str]:
        """The airports at which the journey could stop first, with so many stops."""
        asked = queries.parameters(journey, None, BEFORE_ALL, AFTER_ALL, None)
        return [code for (code,) in self._rows(queries.vias(journey, stops), asked)]

    def itineraries(self, cabin: Cabin, candidates: Iterable[Candidate]) -> list[Itinerary]:
        """What was found in the same turn of the event loop, looked up."""
        found = [(candidate.price, candidate.flights) for candidate in candidates]
        segments = self._segments(cabin, {flight for _, flights in found for flight in flights})
        return [
            self._itinerary(cabin, price, *(segments[flight] for flight in flights))
            for price, flights in found
        ]

    def served(self) -> frozenset[str]:
        """The airports that have flights."""
        if self._served is None:
            self._served = frozenset(code for route in self._known_routes() for code in route)
        return self._served

    def _segments(
        self, cabin: Cabin, flights: Collection[FlightVersion]
    ) -> dict[FlightVersion, Segment]:
        """The flights in one cabin: those that are kept, the others out of the file at once."""
        kept = self._kept_segments[cabin]
        segments = {flight: kept[flight] for flight in flights if flight in kept}
        if missing := [key for key, version in flights if (key, version) not in segments]:
            rows = self._rows(queries.segments(cabin), (json.dumps(missing),))
            segments |= {(key, version): _segment(key, *row) for key, version, *row in rows}
        for flight, segment in segments.items():
            kept[flight] = segment
            kept.move_to_end(flight)
        while len(kept) > KEPT_SEGMENTS:
            kept.popitem(last=False)
        return segments

    # -- the file ----------------------------------------------------------------------------

    def _rows(
        self, statement: str, parameters: Mapping[str, object] | Sequence[object]
    ) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(statement, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            self._note(error)
            raise

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db
            self._db.execute("COMMIT")
        except BaseException as error:
            self._note(error)
            self._routes = self._served = None
            if self._db.in_transaction:  # some errors have rolled back already
                self._db.execute("ROLLBACK")
            raise

    def _note(self, error: BaseException) -> None:
        if isinstance(error, sqlite3.DatabaseError) and is_damage(error):
            self.damaged.set()


def _itinerary(cabin: Cabin, price: int, *segments: Segment) -> Itinerary:
    return Itinerary(segments=segments, cabin=cabin, price=Decimal(price) / BILLION)


def _segment(
    key: str,
    carrier: str,
    number: str,
    aircraft: str,
    origin: str,
    destination: str,
    departure: int,
    arrival: int,
    departure_offset: int,
    arrival_offset: int,
    delayed: int,
    seats: int,
) -> Segment:
    return Segment(
        flight_id=key,
        carrier=carrier,
        number=number,
        aircraft=aircraft,
        origin=origin,
        destination=destination,
        departure=datetime.fromtimestamp(departure, UTC),
        arrival=datetime.fromtimestamp(arrival, UTC),
        departure_offset_minutes=departure_offset,
        arrival_offset_minutes=arrival_offset,
        delayed=bool(delayed),
        seats_available=seats,
    )
