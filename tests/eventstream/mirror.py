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
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    select,
)
from sqlalchemy import update as sql_update

from eventstream import Batch, Database, Feed, InboxTables, Outbox, SqlInbox, insert_into
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


def start(connection: Connection) -> None:
    """Mark all rows of a copy as unseen."""
    connection.execute(sql_update(COPIES).values(seen=False))


def sweep(connection: Connection) -> None:
    """Remove the rows that are still unseen."""
    connection.execute(delete(COPIES).where(COPIES.c.seen.is_(False)))


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
