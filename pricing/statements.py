"""The statements of the store; what they are executed with are their bind parameters."""

from sqlalchemy import (
    Connection,
    Executable,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from eventstream import UtcDateTime, insert_into
from pricing import tables

_flight = tables.flights.c
_fare = tables.fares.c
_fare_request = tables.fare_requests.c
_quote = tables.quotes.c
_claim = tables.claims.c
_progress = tables.fare_progress.c

_ON_ROUTE = _flight.origin == bindparam("from"), _flight.destination == bindparam("to")
FLIGHTS = select(tables.flights).where(
    _flight.flight_id.in_(bindparam("flight_ids", expanding=True))
)
_SAVE_FLIGHTS: dict[str, Executable] = {}
"""By the name of the dialect: to build it takes longer than to run it."""
REMOVE_FLIGHTS = delete(tables.flights).where(
    _flight.flight_id.in_(bindparam("flight_ids", expanding=True))
)
_PRICES = (
    "version",
    "schedule_version",
    "cancelled",
    "cabins",
    "change_time",
    "reprice_time",
    "unseen",
)
SAVE_PRICES = (
    update(tables.flights)
    .where(_flight.flight_id == bindparam("key"))
    .values({name: bindparam(name) for name in _PRICES})
)
_PART = _flight.flight_id > bindparam("after"), _flight.flight_id <= bindparam("upto")
MARK_UNSEEN = update(tables.flights).where(*_PART, ~_flight.unseen).values(unseen=True)
UNSEEN = (
    select(_flight.flight_id)
    .where(*_PART, _flight.unseen)
    .order_by(_flight.flight_id)
    .limit(bindparam("limit"))
)
DUE = (
    select(_flight.flight_id)
    .where(_flight.reprice_time <= bindparam("now"))
    .order_by(_flight.departure_time)
    .limit(bindparam("limit"))
)
NEXT_DUE = (
    select(_flight.reprice_time)
    .where(_flight.reprice_time.is_not(None))
    .order_by(_flight.reprice_time)
    .limit(1)
)
DISTANCE = select(_flight.distance_km).where(*_ON_ROUTE).limit(1)
ON_ROUTE = (
    select(tables.flights)
    .where(
        *_ON_ROUTE,
        tuple_(_flight.departure_time, _flight.flight_id)
        > tuple_(bindparam("departure_time", type_=UtcDateTime), bindparam("flight_id")),
    )
    .order_by(_flight.departure_time, _flight.flight_id)
    .limit(bindparam("limit"))
)
PRICES = (
    select(
        _flight.flight_id,
        _flight.origin,
        _flight.destination,
        _flight.departure_time,
        _flight.version,
        _flight.change_time,
        _flight.cabins,
    )
    .where(_flight.flight_id > bindparam("after"))
    .order_by(_flight.flight_id)
    .limit(bindparam("limit"))
)

FARES = select(tables.fares).where(
    tuple_(_fare.origin, _fare.destination).in_(bindparam("routes", expanding=True))
)
FARE_REQUEST = select(_fare_request.asked).where(_fare_request.request_id == bindparam("key"))
ADD_FARE_REQUEST = insert(tables.fare_requests)
FORGET_FARE_REQUESTS = delete(tables.fare_requests).where(
    _fare_request.create_time < bindparam("before")
)

PROGRESS = select(tables.fare_progress).order_by(_progress.departure_time).limit(1)
END_PROGRESS = delete(tables.fare_progress).where(
    _progress.origin == bindparam("from"), _progress.destination == bindparam("to")
)

QUOTE = select(tables.quotes).where(_quote.quote_id == bindparam("key"))
QUOTE_MADE_BY = select(_quote.quote_id, _quote.asked).where(
    _quote.request_id == bindparam("request")
)
QUOTE_AND_CLAIM = (
    select(tables.quotes, _claim.booking_id.label("claimed_by"), _claim.epoch, _claim.released)
    .outerjoin(
        tables.claims,
        and_(_claim.quote_id == _quote.quote_id, _claim.booking_id == bindparam("booking")),
    )
    .where(_quote.quote_id == bindparam("key"))
)
ADD_QUOTE = insert(tables.quotes)
BIND = (
    update(tables.quotes)
    .where(_quote.quote_id == bindparam("key"))
    .values(booking_id=bindparam("booking"))
)
ADD_CLAIM = insert(tables.claims)
CHANGE_CLAIM = (
    update(tables.claims)
    .where(_claim.quote_id == bindparam("key"), _claim.booking_id == bindparam("booking"))
    .values(epoch=bindparam("epoch"), released=bindparam("released"))
)
STALE_QUOTES = (
    select(_quote.quote_id)
    .where(
        _quote.expire_time < bindparam("unclaimed"),
        or_(
            _quote.expire_time < bindparam("claimed"),
            _quote.quote_id.not_in(select(_claim.quote_id)),
        ),
    )
    .limit(bindparam("limit"))
)
REMOVE_CLAIMS = delete(tables.claims).where(
    _claim.quote_id.in_(bindparam("quote_ids", expanding=True))
)
REMOVE_QUOTES = delete(tables.quotes).where(
    _quote.quote_id.in_(bindparam("quote_ids", expanding=True))
)


def save_flights(connection: Connection) -> Executable:
    """Insert flights, or replace what is there."""
    name = connection.dialect.name
    if name not in _SAVE_FLIGHTS:
        new = insert_into(connection, tables.flights)
        values = {c.name: c for c in new.excluded if not c.primary_key}
        _SAVE_FLIGHTS[name] = new.on_conflict_do_update(index_elements=["flight_id"], set_=values)
    return _SAVE_FLIGHTS[name]
