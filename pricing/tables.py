"""Pricing's tables."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
)

from eventstream import InboxTables, LeaseTable, Outbox, UtcDateTime

metadata = MetaData()

flights = Table(
    "flight",
    metadata,
    Column("flight_id", String, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("schedule_version", BigInteger, nullable=False),
    Column("carrier", String, nullable=False),
    Column("origin", String, nullable=False),
    Column("destination", String, nullable=False),
    Column("departure_time", UtcDateTime, nullable=False),
    Column("distance_km", Integer, nullable=False),
    Column("cancelled", Boolean, nullable=False),
    # [[cabin, capacity, available, fare in cents, taxes in cents, version], …]: always read and
    # written together, and by far the most of what there is
    Column("cabins", JSON, nullable=False),
    Column("change_time", UtcDateTime, nullable=False),
    Column("reprice_time", UtcDateTime),
    Column("unseen", Boolean, nullable=False, default=False),  # by the snapshot in progress
    Index("flight_by_departure", "origin", "destination", "departure_time", "flight_id"),
    # with all that is asked of what is due: most of a day may be, after an outage
    Index("flight_by_due_time", "reprice_time", "departure_time", "flight_id"),
)

# Routes with a new fare, and the last flight that follows it, in the order of departure.
fare_progress = Table(
    "fare_progress",
    metadata,
    Column("origin", String, primary_key=True),
    Column("destination", String, primary_key=True),
    Column("departure_time", UtcDateTime, nullable=False),
    Column("flight_id", String, nullable=False),
)

fares = Table(
    "fare",
    metadata,
    Column("origin", String, primary_key=True),
    Column("destination", String, primary_key=True),
    Column("base_cents", Integer, nullable=False),
    Column("version", BigInteger, nullable=False),
)

fare_requests = Table(
    "fare_request",
    metadata,
    Column("request_id", String, primary_key=True),
    Column("asked", String(64), nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
)

quotes = Table(
    "quote",
    metadata,
    Column("quote_id", String, primary_key=True),
    Column("request_id", String, nullable=False, unique=True),
    Column("asked", String(64), nullable=False),
    Column("passengers", Integer, nullable=False),
    Column("lines", JSON, nullable=False),  # [[flight id, cabin, fare, taxes in cents], …]
    Column("create_time", UtcDateTime, nullable=False),
    Column("expire_time", UtcDateTime, nullable=False),
    Column("booking_id", String),
    Index("quote_by_expire_time", "expire_time"),
)

claims = Table(
    "claim",
    metadata,
    Column("quote_id", String, ForeignKey("quote.quote_id"), primary_key=True),
    Column("booking_id", String, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("released", Boolean, nullable=False),
)

outbox = Outbox(metadata, "price")
inbox = InboxTables(metadata, "inbox")
leases = LeaseTable(metadata)
