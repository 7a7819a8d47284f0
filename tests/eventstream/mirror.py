"""A table of flights that is streamed, and copies of it that follow: what the tests compare."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Executable,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    select,
)
from sqlalchemy import update as sql_update

from eventstream import Batch, Database, Feed, InboxTables, Outbox, SqlInbox, insert_into, part_end
from flights.schedule.v1.schedule_pb2 import (
    Flight,
    FlightEvent,
    FlightRemoved,
    WatchFlightsRequest,
    WatchFlightsResponse,
)
from streams.v1.stream_pb2 import Cursor
from tests.eventstream.conftest import NOW

METHOD: Final = "/mirror.Mirror/Watch"
METADATA: Final = MetaData()
FLIGHTS: Final = Table(
    "flight",
    METADATA,
    Column("flight_id", String, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("distance_km", Integer, nullable=False),
)
OUTBOX: Final = Outbox(METADATA, "flight")
COPY_METADATA: Final = MetaData()
COPIES: Final = Table(
    "copy",
    COPY_METADATA,
    Column("flight_id", String, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("distance_km", Integer, nullable=False),
    Column("seen", Boolean, nullable=False),
)
INBOX_TABLES: Final = InboxTables(COPY_METADATA, "copy")

State = dict[str, tuple[int, int]]
Watch = Callable[[Cursor | None], "grpc.aio.UnaryStreamCall[Message, WatchFlightsResponse]"]


def put(connection: Connection, flight_id: str, distance_km: int) -> int:
    """Create or change a flight and tell of it; returns the event's number.

    Its version is the time: it grows over removals, and over epochs, which number events anew.
    """
    version = time.time_ns()
    change = {"version": version, "distance_km": distance_km}
    connection.execute(
        insert_into(connection, FLIGHTS)
        .values(flight_id=flight_id, **change)
        .on_conflict_do_update(index_elements=["flight_id"], set_=change)
    )
    flight = Flight(flight_id=flight_id, version=version, distance_km=distance_km)
    event = FlightEvent(flight_changed=flight)
    return OUTBOX.append(connection, flight_id, event.SerializeToString(), NOW)


def remove(connection: Connection, flight_id: str) -> None:
    """Remove a flight and tell of it, where there is one."""
    mine = FLIGHTS.c.flight_id == flight_id
    version = connection.scalar(select(FLIGHTS.c.version).where(mine))
    if version is not None:
        connection.execute(delete(FLIGHTS).where(mine))
        gone = FlightRemoved(flight_id=flight_id, version=version + 1)
        event = FlightEvent(flight_removed=gone)
        OUTBOX.append(connection, flight_id, event.SerializeToString(), NOW)


def rows(
    connection: Connection, after: str | None, limit: int
) -> Sequence[tuple[str, FlightEvent]]:
    """Return the next flights after a key, for a snapshot."""
    query = select(FLIGHTS).order_by(FLIGHTS.c.flight_id).limit(limit)
    if after is not None:
        query = query.where(FLIGHTS.c.flight_id > after)
    return [
        (row.flight_id, FlightEvent(flight_changed=Flight(**row._mapping)))
        for row in connection.execute(query)
    ]


def state(connection: Connection, table: Table = FLIGHTS) -> State:
    """Return what a table says."""
    c = table.c
    found = connection.execute(select(c.flight_id, c.version, c.distance_km))
    return {row.flight_id: (row.version, row.distance_km) for row in found}


def copied(connection: Connection) -> State:
    """Return what a copy says."""
    return state(connection, COPIES)


def key(event: FlightEvent) -> str:
    """Return whose state an event is."""
    return event.flight_changed.flight_id or event.flight_removed.flight_id


def apply(connection: Connection, event: FlightEvent) -> None:
    """Apply an event to a copy; negative distances are poison."""
    if event.HasField("flight_removed"):
        gone = event.flight_removed
        connection.execute(
            delete(COPIES).where(
                COPIES.c.flight_id == gone.flight_id, COPIES.c.version <= gone.version
            )
        )
        return
    flight = event.flight_changed
    if flight.distance_km < 0:
        raise ValueError(f"{flight.distance_km} km")
    new = {"version": flight.version, "distance_km": flight.distance_km, "seen": True}
    connection.execute(
        insert_into(connection, COPIES)
        .values(flight_id=flight.flight_id, **new)
        .on_conflict_do_update(
            index_elements=["flight_id"], set_=new, where=COPIES.c.version <= flight.version
        )
    )


def apply_many(connection: Connection, events: Sequence[FlightEvent]) -> None:
    """Apply a batch: of several events of one flight the newest says it all."""
    newest = {key(event): event for event in events}.values()
    changed = [event.flight_changed for event in newest if event.HasField("flight_changed")]
    if any(flight.distance_km < 0 for flight in changed):
        raise ValueError("poison among them")
    rows = [{"f": f.flight_id, "v": f.version, "d": f.distance_km} for f in changed]
    if rows:
        connection.execute(_upsert(connection), rows)
    for event in newest:
        if event.HasField("flight_removed"):
            apply(connection, event)


def _upsert(connection: Connection) -> Executable:
    statement = insert_into(connection, COPIES).values(
        flight_id=bindparam("f"), version=bindparam("v"), distance_km=bindparam("d"), seen=True
    )
    new = {name: statement.excluded[name] for name in ("version", "distance_km", "seen")}
    return statement.on_conflict_do_update(
        index_elements=["flight_id"],
        set_=new,
        where=COPIES.c.version <= statement.excluded.version,
    )


def start(connection: Connection, after: str, limit: int = 1_000) -> str | None:
    """Mark rows of a copy as unseen, and return the last of them."""
    upto = part_end(connection, COPIES.c.flight_id, after, limit)
    if upto is not None:
        connection.execute(sql_update(COPIES).where(*_between(after, upto)).values(seen=False))
    return upto


def sweep(connection: Connection, after: str, limit: int = 1_000) -> str | None:
    """Remove rows that are still unseen, and return the last that was looked at."""
    upto = part_end(connection, COPIES.c.flight_id, after, limit)
    if upto is not None:
        connection.execute(delete(COPIES).where(*_between(after, upto), ~COPIES.c.seen))
    return upto


def _between(after: str, upto: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return COPIES.c.flight_id > after, COPIES.c.flight_id <= upto


def inbox(db: Database, source: str = "flights", **options: Any) -> SqlInbox[FlightEvent]:
    """Return the inbox of a copy; `options` are SqlInbox's, in place of the usual ones."""
    usual: dict[str, Any] = {"key": key, "apply": apply, "start": start, "sweep": sweep}
    return SqlInbox(db, INBOX_TABLES, source, **usual | options)


def feed(db: Database) -> Feed[FlightEvent]:
    """Return the feed of the flights."""
    return Feed(db, OUTBOX, event=FlightEvent, snapshot=rows)


def answer(batch: Batch[FlightEvent]) -> WatchFlightsResponse:
    """Return a batch as the RPC's response."""
    return WatchFlightsResponse(
        phase=batch.phase,
        cursor=batch.cursor,
        events=batch.events,
        read_time=batch.read_time,
    )


@asynccontextmanager
async def source(url: str) -> AsyncIterator[Database]:
    """Return a database of flights, empty where it is new."""
    async with Database.open(url) as db:
        await db.write(METADATA.create_all)
        yield db


@asynccontextmanager
async def copy(url: str) -> AsyncIterator[Database]:
    """Return a database of copies, empty where it is new."""
    async with Database.open(url) as db:
        await db.write(COPY_METADATA.create_all)
        yield db


@asynccontextmanager
async def serving(db: Database, port: int = 0) -> AsyncIterator[tuple[Watch, int]]:
    """Serve the flights over real gRPC; gives what a follower calls, and the port."""
    stream = feed(db)

    async def watch(
        request: WatchFlightsRequest, _context: object
    ) -> AsyncIterator[WatchFlightsResponse]:
        cursor = request.cursor if request.HasField("cursor") else None
        async for batch in stream.watch(cursor):
            yield answer(batch)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "mirror.Mirror",
                {
                    "Watch": grpc.unary_stream_rpc_method_handler(
                        watch,
                        request_deserializer=WatchFlightsRequest.FromString,
                        response_serializer=WatchFlightsResponse.SerializeToString,
                    )
                },
            ),
        )
    )
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        async with calling(bound) as call:
            yield call, bound
    finally:
        await server.stop(None)


@asynccontextmanager
async def calling(port: int) -> AsyncIterator[Watch]:
    """Give what a follower calls, on a channel of its own."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_stream(
            METHOD,
            request_serializer=WatchFlightsRequest.SerializeToString,
            response_deserializer=WatchFlightsResponse.FromString,
        )
        yield lambda cursor: call(WatchFlightsRequest(cursor=cursor))
