"""The booking database. What is known about persons is in `passenger` and `contact` alone."""

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

from eventstream import InboxTables, LeaseTable, Outbox, UtcDateTime

metadata = MetaData()

outbox = Outbox(metadata, "booking")
inbox = InboxTables(metadata, "inbox")
leases = LeaseTable(metadata)

bookings = Table(
    "booking",
    metadata,
    Column("booking_id", String, primary_key=True),
    Column("reference", String(6), nullable=False, unique=True),
    Column("issuer", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("quote_id", String, nullable=False),
    Column("status", String, nullable=False),
    Column("total", String),  # a decimal number: exact on every database
    Column("rejection_reason", String),
    Column("rejection_message", Text),
    Column("fresh_quote_id", String),
    Column("create_time", UtcDateTime, nullable=False),
    Column("update_time", UtcDateTime, nullable=False),
    Column("version", Integer, nullable=False),
)
Index(
    "booking_of_user",
    bookings.c.issuer,
    bookings.c.subject,
    bookings.c.create_time.desc(),
    bookings.c.booking_id.desc(),
)

segments = Table(
    "segment",
    metadata,
    Column("booking_id", ForeignKey(bookings.c.booking_id), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("flight_id", String, nullable=False),
    Column("cabin", String, nullable=False),
    Column("fare", String, nullable=False),
    Column("taxes", String, nullable=False),
    Index("segment_by_flight_id", "flight_id"),
)

passengers = Table(
    "passenger",
    metadata,
    Column("booking_id", ForeignKey(bookings.c.booking_id), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("given_name", String, nullable=False),
    Column("family_name", String, nullable=False),
)

contacts = Table(
    "contact",
    metadata,
    Column("booking_id", ForeignKey(bookings.c.booking_id), primary_key=True),
    Column("email", String, nullable=False),
)

sagas = Table(
    "saga",
    metadata,
    Column("booking_id", ForeignKey(bookings.c.booking_id), primary_key=True),
    Column("step", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("owner", String, nullable=False),  # empty: nobody's
    # Until then the saga is its owner's (a lease) or waits (the next attempt); afterwards anybody
    # may take it. Null once it is finished.
    Column("due_time", UtcDateTime, index=True),
    Column("start_time", UtcDateTime, nullable=False),  # when the user asked for it
    Column("attempts", Integer, nullable=False),
    Column("last_error", Text, nullable=False),
    Column("rejection_reason", String),
    Column("rejection_message", Text),
    Column("fresh_quote_id", String),
)

# Kept as long as the booking is: a repetition is recognised for ever.
idempotency_keys = Table(
    "idempotency_key",
    metadata,
    Column("issuer", String, primary_key=True),
    Column("subject", String, primary_key=True),
    Column("operation", String, primary_key=True),
    Column("request_id", String, primary_key=True),
    Column("booking_id", ForeignKey(bookings.c.booking_id), nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
)

# What schedule has told of flights that do not fly.
cancelled_flights = Table(
    "cancelled_flight",
    metadata,
    Column("flight_id", String, primary_key=True),
    Column("departure_time", UtcDateTime, nullable=False),
    # There may be confirmed bookings of it that have not been marked as affected yet.
    Column("pending", Boolean, nullable=False, index=True),
    Column("unseen", Boolean, nullable=False),  # by the snapshot in progress
)
