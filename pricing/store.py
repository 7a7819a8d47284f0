"""Pricing's data in SQL: the repository of one transaction, and the database that runs it."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Row, bindparam, delete, insert, or_, select, tuple_, update

from eventstream import Database, Step, insert_into
from flights.pricing.v1 import pricing_pb2
from pricing import messages, tables
from pricing.domain.fares import CENT, Cabin, Price, in_cents
from pricing.domain.flights import CabinPrice, CabinState, FlightState, PricedFlight
from pricing.domain.quotes import Claim, Line, Quote
from pricing.service import Fare, Made, Repository, UseCase

_T = TypeVar("_T")

STEPS: Final = {of: Step(f"pricing.{of}") for of in UseCase}

_flight = tables.flights.c
_fare = tables.fares.c
_quote = tables.quotes.c
_claim = tables.claims.c


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
        query = select(tables.flights).where(_flight.flight_id.in_(list(flight_ids)))
        return {row.flight_id: _priced(row) for row in self._connection.execute(query)}

    def save_flights(self, changed: Sequence[PricedFlight]) -> None:
        """Store flights; they count as seen by the snapshot in progress."""
        if not changed:
            return
        statement = insert_into(self._connection, tables.flights)
        new = {c.name: c for c in statement.excluded if not c.primary_key}
        upsert = statement.on_conflict_do_update(index_elements=["flight_id"], set_=new)
        self._connection.execute(upsert, [_row(flight) for flight in changed])

    def announce(self, changed: Sequence[PricedFlight]) -> None:
        """Write the events of new prices."""
        self._append(
            (flight.state.flight_id, _prices_changed(flight), flight.change_time)
            for flight in changed
        )

    def remove_flights(self, flight_ids: Sequence[str], now: datetime) -> None:
        """Forget flights that were known, and announce that their prices are gone."""
        gone = self.flights(flight_ids)
        if not gone:
            return
        statement = delete(tables.flights).where(_flight.flight_id.in_(list(gone)))
        self._connection.execute(statement)
        self._append(
            (flight_id, messages.prices_removed(flight_id, flight.version + 1, now), now)
            for flight_id, flight in gone.items()
        )

    def _append(self, events: Iterable[tuple[str, pricing_pb2.PriceEvent, datetime]]) -> None:
        rows = [(key, event.SerializeToString(), at) for key, event, at in events]
        if rows:
            tables.outbox.append_many(self._connection, rows)

    def mark_unseen(self) -> None:
        """A snapshot begins: no flight has been seen yet."""
        self._connection.execute(update(tables.flights).values(unseen=True))

    def unseen(self, limit: int) -> list[str]:
        """Flights that the snapshot did not contain."""
        query = select(_flight.flight_id).where(_flight.unseen).limit(limit)
        return list(self._connection.execute(query).scalars())

    def due(self, now: datetime, limit: int) -> list[PricedFlight]:
        """Flights whose `reprice_time` has come, nearest departures first."""
        query = select(tables.flights).where(_flight.reprice_time <= now)
        rows = self._connection.execute(query.order_by(_flight.departure_time).limit(limit))
        return [_priced(row) for row in rows]

    def next_due(self) -> datetime | None:
        """When the next flight is due."""
        query = select(_flight.reprice_time).where(_flight.reprice_time.is_not(None))
        return self._connection.execute(
            query.order_by(_flight.reprice_time).limit(1)
        ).scalar_one_or_none()

    def distance(self, origin: str, destination: str) -> int | None:
        """Kilometres of a route that some flight flies; None for any other."""
        query = select(_flight.distance_km).where(
            _flight.origin == origin, _flight.destination == destination
        )
        return self._connection.execute(query.limit(1)).scalar_one_or_none()

    def set_due(self, origin: str, destination: str, now: datetime) -> None:
        """Make every flight of a route due now."""
        on_route = (_flight.origin == origin, _flight.destination == destination)
        self._connection.execute(update(tables.flights).where(*on_route).values(reprice_time=now))

    def fares(self, routes: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], Fare]:
        """The fares that operators have set for any of these routes."""
        query = select(tables.fares).where(tuple_(_fare.origin, _fare.destination).in_(routes))
        found = map(_stored_fare, self._connection.execute(query))
        return {(fare.origin, fare.destination): fare for fare in found}

    def save_fare(self, fare: Fare) -> None:
        """Store an operator's fare."""
        statement = insert_into(self._connection, tables.fares).values(
            origin=fare.origin,
            destination=fare.destination,
            base_cents=in_cents(fare.base),
            version=fare.version,
        )
        self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=["origin", "destination"],
                set_={
                    "base_cents": statement.excluded.base_cents,
                    "version": statement.excluded.version,
                },
            )
        )

    def fare_request(self, request_id: str) -> str | None:
        """Hash of what this request id changed, if it was here before."""
        c = tables.fare_requests.c
        query = select(c.asked).where(c.request_id == request_id)
        return self._connection.execute(query).scalar_one_or_none()

    def save_fare_request(self, request_id: str, asked: str, now: datetime) -> None:
        """Remember a request id."""
        row = {"request_id": request_id, "asked": asked, "create_time": now}
        self._connection.execute(insert(tables.fare_requests).values(row))

    def quote(self, quote_id: str) -> Quote | None:
        """One quote."""
        query = select(tables.quotes).where(_quote.quote_id == quote_id)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else _stored_quote(row)

    def quote_made_by(self, request_id: str) -> Made | None:
        """The quote that this request id made."""
        query = select(_quote.quote_id, _quote.asked).where(_quote.request_id == request_id)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else Made(quote_id=row.quote_id, asked=row.asked)

    def add_quote(self, quote: Quote, request_id: str, asked: str) -> None:
        """Store a new quote."""
        row = {
            "quote_id": quote.quote_id,
            "request_id": request_id,
            "asked": asked,
            "passengers": quote.passengers,
            "lines": [_line_row(line) for line in quote.lines],
            "create_time": quote.create_time,
            "expire_time": quote.expire_time,
        }
        self._connection.execute(insert(tables.quotes).values(row))

    def bind(self, quote: Quote, claim: Claim) -> None:
        """Store who has the quote, and the claim."""
        bound = update(tables.quotes).where(_quote.quote_id == quote.quote_id)
        self._connection.execute(bound.values(booking_id=quote.booking_id))
        statement = insert_into(self._connection, tables.claims).values(
            quote_id=quote.quote_id,
            booking_id=claim.booking_id,
            epoch=claim.epoch,
            released=claim.released,
        )
        self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=["quote_id", "booking_id"],
                set_={"epoch": claim.epoch, "released": claim.released},
            )
        )

    def claim(self, quote_id: str, booking_id: str) -> Claim | None:
        """What a booking has done with a quote."""
        query = select(_claim.booking_id, _claim.epoch, _claim.released).where(
            _claim.quote_id == quote_id, _claim.booking_id == booking_id
        )
        row = self._connection.execute(query).one_or_none()
        return None if row is None else Claim(**row._asdict())

    def forget_quotes(self, *, unclaimed: datetime, claimed: datetime, limit: int) -> int:
        """Remove quotes that ran out before then, those a booking asked for by their own bound."""
        asked_for = select(_claim.quote_id)
        stale = select(_quote.quote_id).where(
            _quote.expire_time < unclaimed,
            or_(_quote.expire_time < claimed, _quote.quote_id.not_in(asked_for)),
        )
        ids = self._connection.execute(stale.limit(limit)).scalars().all()
        self._connection.execute(delete(tables.claims).where(_claim.quote_id.in_(ids)))
        self._connection.execute(delete(tables.quotes).where(_quote.quote_id.in_(ids)))
        return len(ids)

    def forget_fare_requests(self, before: datetime) -> None:
        """Remove request ids that came before then."""
        c = tables.fare_requests.c
        self._connection.execute(delete(tables.fare_requests).where(c.create_time < before))


def snapshot(
    connection: Connection, after: str | None, limit: int
) -> list[tuple[str, pricing_pb2.PriceEvent]]:
    """A page of all prices, by flight id."""
    rows = connection.execute(_PRICES, {"after": after or "", "limit": limit})
    return [
        (key, messages.prices_changed(key, version, at, [(c[0], *c[3:]) for c in cabins]))
        for key, version, at, cabins in rows
    ]


_PRICES = (
    select(_flight.flight_id, _flight.version, _flight.change_time, _flight.cabins)
    .where(_flight.flight_id > bindparam("after"))
    .order_by(_flight.flight_id)
    .limit(bindparam("limit"))
)


def _prices_changed(flight: PricedFlight) -> pricing_pb2.PriceEvent:
    prices = ((one.cabin, *_in_cents(one.price), one.version) for one in flight.prices)
    return messages.prices_changed(
        flight.state.flight_id, flight.version, flight.change_time, prices
    )


def _row(flight: PricedFlight) -> dict[str, Any]:
    state = flight.state
    return {
        "flight_id": state.flight_id,
        "version": flight.version,
        "schedule_version": state.version,
        "carrier": state.carrier,
        "origin": state.origin,
        "destination": state.destination,
        "departure_time": state.departure_time,
        "distance_km": state.distance_km,
        "cancelled": state.cancelled,
        "cabins": list(_cabin_rows(flight)),
        "change_time": flight.change_time,
        "reprice_time": flight.reprice_time,
        "unseen": False,
    }


def _cabin_rows(flight: PricedFlight) -> Iterator[list[int]]:
    for seats, priced in zip(flight.state.cabins, flight.prices, strict=True):
        fare, taxes = _in_cents(priced.price)
        yield [seats.cabin, seats.capacity, seats.available, fare, taxes, priced.version]


def _priced(row: Row[Any]) -> PricedFlight:
    state = FlightState(
        flight_id=row.flight_id,
        version=row.schedule_version,
        carrier=row.carrier,
        origin=row.origin,
        destination=row.destination,
        departure_time=row.departure_time,
        distance_km=row.distance_km,
        cancelled=row.cancelled,
        cabins=tuple(CabinState(Cabin(c[0]), c[1], c[2]) for c in row.cabins),
    )
    prices = tuple(CabinPrice(Cabin(c[0]), _price(c[3], c[4]), c[5]) for c in row.cabins)
    return PricedFlight(
        state=state,
        version=row.version,
        prices=prices,
        change_time=row.change_time,
        reprice_time=row.reprice_time,
    )


def _stored_fare(row: Row[Any]) -> Fare:
    return Fare(
        origin=row.origin,
        destination=row.destination,
        base=Decimal(row.base_cents) * CENT,
        version=row.version,
    )


def _stored_quote(row: Row[Any]) -> Quote:
    return Quote(
        quote_id=row.quote_id,
        passengers=row.passengers,
        lines=tuple(Line(one[0], Cabin(one[1]), _price(one[2], one[3])) for one in row.lines),
        create_time=row.create_time,
        expire_time=row.expire_time,
        booking_id=row.booking_id,
    )


def _line_row(line: Line) -> list[str | int]:
    return [line.flight_id, line.cabin, *_in_cents(line.price)]


def _in_cents(price: Price) -> tuple[int, int]:
    return in_cents(price.fare), in_cents(price.taxes)


def _price(fare: int, taxes: int) -> Price:
    return Price(fare=Decimal(fare) * CENT, taxes=Decimal(taxes) * CENT)
