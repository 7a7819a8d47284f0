"""Pricing's data in SQL: the repository of one transaction, and the database that runs it."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Final, TypeVar

from sqlalchemy import Connection

from eventstream import Database, Step, insert_into, part_end
from flights.pricing.v1 import pricing_pb2
from pricing import messages, rows, tables
from pricing import statements as sql
from pricing.domain.fares import in_cents
from pricing.domain.flights import PricedFlight
from pricing.domain.quotes import Claim, Quote
from pricing.service import Fare, FareProgress, Made, Repository, Route, UseCase

_T = TypeVar("_T")

STEPS: Final = {of: Step(f"pricing.{of}") for of in UseCase}


class SqlStore:
    """The service's port to its database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def transact(self, of: UseCase, work: Callable[[Repository], _T]) -> _T:
        """Run a use case's work in a transaction and return once it is durable."""
        return await self._database.write(
            lambda connection: work(SqlRepository(connection)), step=STEPS[of]
        )

    async def query(self, work: Callable[[Repository], _T]) -> _T:
        """Run work that only reads, on one consistent state."""
        return await self._database.read(lambda connection: work(SqlRepository(connection)))


class SqlRepository:
    """Pricing's data within one transaction of a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def flights(self, flight_ids: Iterable[str]) -> Mapping[str, PricedFlight]:
        """Those of the flights that exist."""
        found = self._connection.execute(sql.FLIGHTS, {"flight_ids": list(flight_ids)})
        return {row.flight_id: rows.priced_flight(row) for row in found}

    def newest_event(self) -> int:
        """The number of the newest event, 0 for none."""
        head = tables.outbox.head(self._connection)
        return 0 if head is None else head.seq

    def save_flights(self, changed: Sequence[PricedFlight]) -> None:
        """Store flights, new ones and changed ones."""
        if changed:
            values = [rows.flight_row(flight) for flight in changed]
            self._connection.execute(sql.save_flights(self._connection), values)

    def save_prices(self, changed: Sequence[PricedFlight]) -> None:
        """Store seats and prices of flights that are there, and are the same in all else."""
        if changed:
            values = [
                {"key": flight.state.flight_id, **rows.prices_row(flight)} for flight in changed
            ]
            self._connection.execute(sql.SAVE_PRICES, values)

    def announce(self, changed: Sequence[PricedFlight]) -> None:
        """Write the events of new prices."""
        self._append(
            (flight.state.flight_id, rows.prices_changed(flight), flight.change_time)
            for flight in changed
        )

    def remove_flights(self, flight_ids: Sequence[str], now: datetime) -> None:
        """Forget flights that were known, and announce that their prices are gone."""
        gone = self.flights(flight_ids)
        if not gone:
            return
        self._connection.execute(sql.REMOVE_FLIGHTS, {"flight_ids": list(gone)})
        self._append(
            (flight_id, messages.prices_removed(flight_id, flight.version + 1, now), now)
            for flight_id, flight in gone.items()
        )

    def _append(self, events: Iterable[tuple[str, pricing_pb2.PriceEvent, datetime]]) -> None:
        changes = [(key, event.SerializeToString(), at) for key, event, at in events]
        if changes:
            tables.outbox.append_many(self._connection, changes)

    def part_end(self, after: str) -> str | None:
        """The flight that ends the part of all flights that begins behind this one."""
        return part_end(self._connection, tables.flights.c.flight_id, after)

    def mark_unseen(self, after: str, upto: str) -> None:
        """A snapshot begins: flights of this part are marked as those that it has not come to."""
        self._connection.execute(sql.MARK_UNSEEN, {"after": after, "upto": upto})

    def unseen(self, after: str, upto: str, limit: int) -> Sequence[str]:
        """Flights of this part that the snapshot did not contain."""
        part = {"after": after, "upto": upto, "limit": limit}
        return self._connection.execute(sql.UNSEEN, part).scalars().all()

    def due(self, now: datetime, limit: int) -> Sequence[str]:
        """Flights whose `reprice_time` has come, nearest departures first."""
        return self._connection.execute(sql.DUE, {"now": now, "limit": limit}).scalars().all()

    def next_due(self) -> datetime | None:
        """When the next flight is due."""
        return self._connection.execute(sql.NEXT_DUE).scalar_one_or_none()

    def distance(self, origin: str, destination: str) -> int | None:
        """Kilometres of a route that some flight flies; None for any other."""
        route = {"from": origin, "to": destination}
        return self._connection.execute(sql.DISTANCE, route).scalar_one_or_none()

    def on_route(self, progress: FareProgress, limit: int) -> list[PricedFlight]:
        """The next flights of a route that are to follow its fare, nearest departures first."""
        asked = {**_route_of(progress), **_place_of(progress), "limit": limit}
        return [rows.priced_flight(row) for row in self._connection.execute(sql.ON_ROUTE, asked)]

    def fare_progress(self) -> FareProgress | None:
        """How far that change of a fare has come that has the nearest departures to come to."""
        row = self._connection.execute(sql.PROGRESS).one_or_none()
        return None if row is None else rows.stored_progress(row)

    def save_progress(self, progress: FareProgress) -> None:
        """Store how far a change has come, or that there is one."""
        save = insert_into(self._connection, tables.fare_progress)
        new = {name: save.excluded[name] for name in ("departure_time", "flight_id")}
        keys = ["origin", "destination"]
        self._connection.execute(
            save.on_conflict_do_update(index_elements=keys, set_=new), asdict(progress)
        )

    def end_progress(self, progress: FareProgress) -> None:
        """All flights of the route follow its fare."""
        self._connection.execute(sql.END_PROGRESS, _route_of(progress))

    def fares(self, routes: Collection[Route]) -> Mapping[Route, Fare]:
        """The fares that operators have set for any of these routes."""
        found = map(rows.stored_fare, self._connection.execute(sql.FARES, {"routes": list(routes)}))
        return {(fare.origin, fare.destination): fare for fare in found}

    def save_fare(self, fare: Fare) -> None:
        """Store an operator's fare."""
        row = {
            "origin": fare.origin,
            "destination": fare.destination,
            "base_cents": in_cents(fare.base),
            "version": fare.version,
        }
        statement = insert_into(self._connection, tables.fares)
        new = {name: statement.excluded[name] for name in ("base_cents", "version")}
        keys = ["origin", "destination"]
        self._connection.execute(
            statement.on_conflict_do_update(index_elements=keys, set_=new), row
        )

    def fare_request(self, request_id: str) -> str | None:
        """Hash of what this request id changed, if it was here before."""
        return self._connection.execute(sql.FARE_REQUEST, {"key": request_id}).scalar_one_or_none()

    def save_fare_request(self, request_id: str, asked: str, now: datetime) -> None:
        """Remember a request id."""
        row = {"request_id": request_id, "asked": asked, "create_time": now}
        self._connection.execute(sql.ADD_FARE_REQUEST, row)

    def quote(self, quote_id: str) -> Quote | None:
        """One quote."""
        row = self._connection.execute(sql.QUOTE, {"key": quote_id}).one_or_none()
        return None if row is None else rows.stored_quote(row)

    def quote_and_claim(self, quote_id: str, booking_id: str) -> tuple[Quote, Claim | None] | None:
        """One quote, and what a booking has done with it."""
        asked = {"key": quote_id, "booking": booking_id}
        row = self._connection.execute(sql.QUOTE_AND_CLAIM, asked).one_or_none()
        if row is None:
            return None
        if row.claimed_by is None:
            return rows.stored_quote(row), None
        claim = Claim(booking_id=row.claimed_by, epoch=row.epoch, released=row.released)
        return rows.stored_quote(row), claim

    def quote_made_by(self, request_id: str) -> Made | None:
        """The quote that this request id made."""
        row = self._connection.execute(sql.QUOTE_MADE_BY, {"request": request_id}).one_or_none()
        return None if row is None else Made(quote_id=row.quote_id, asked=row.asked)

    def add_quote(self, quote: Quote, request_id: str, asked: str) -> None:
        """Store a new quote."""
        row = {
            "quote_id": quote.quote_id,
            "request_id": request_id,
            "asked": asked,
            "passengers": quote.passengers,
            "lines": [rows.line_row(line) for line in quote.lines],
            "create_time": quote.create_time,
            "expire_time": quote.expire_time,
        }
        self._connection.execute(sql.ADD_QUOTE, row)

    def bind(self, quote: Quote) -> None:
        """Store who has the quote."""
        row = {"key": quote.quote_id, "booking": quote.booking_id}
        self._connection.execute(sql.BIND, row)

    def add_claim(self, quote_id: str, claim: Claim) -> None:
        """Store the first claim of a booking to a quote."""
        self._connection.execute(sql.ADD_CLAIM, {"quote_id": quote_id, **asdict(claim)})

    def change_claim(self, quote_id: str, claim: Claim) -> None:
        """Store what has become of a claim."""
        row = {"epoch": claim.epoch, "released": claim.released}
        key = {"key": quote_id, "booking": claim.booking_id}
        self._connection.execute(sql.CHANGE_CLAIM, row | key)

    def forget_quotes(self, *, unclaimed: datetime, claimed: datetime, limit: int) -> int:
        """Remove quotes that ran out before then, those a booking asked for by their own bound."""
        bounds = {"unclaimed": unclaimed, "claimed": claimed, "limit": limit}
        ids = self._connection.execute(sql.STALE_QUOTES, bounds).scalars().all()
        self._connection.execute(sql.REMOVE_CLAIMS, {"quote_ids": ids})
        self._connection.execute(sql.REMOVE_QUOTES, {"quote_ids": ids})
        return len(ids)

    def forget_fare_requests(self, before: datetime) -> None:
        """Remove request ids that came before then."""
        self._connection.execute(sql.FORGET_FARE_REQUESTS, {"before": before})


def _route_of(progress: FareProgress) -> dict[str, str]:
    return {"from": progress.origin, "to": progress.destination}


def _place_of(progress: FareProgress) -> dict[str, object]:
    return {"departure_time": progress.departure_time, "flight_id": progress.flight_id}


def snapshot(
    connection: Connection, after: str | None, limit: int
) -> list[tuple[str, pricing_pb2.PriceEvent]]:
    """A page of all prices, by flight id."""
    page = connection.execute(sql.PRICES, {"after": after or "", "limit": limit})
    return [
        (flown[0], messages.prices_changed(messages.Flown(*flown), version, at, _priced(cabins)))
        for *flown, version, at, cabins in page
    ]


def _priced(cabins: Iterable[Sequence[int]]) -> Iterable[tuple[int, int, int, int]]:
    """Of each cabin of a row its number, fare, taxes and version."""
    return ((cabin, fare, taxes, version) for cabin, _, _, fare, taxes, version in cabins)
