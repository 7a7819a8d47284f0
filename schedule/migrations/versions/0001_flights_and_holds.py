"""Flights with their seats, holds, requests, the window, the outbox and the leases."""

import sqlalchemy as sa
from alembic import op

from eventstream import UtcDateTime, schema

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything."""
    flights()
    holds()
    op.create_table(
        "request",
        sa.Column("request_id", sa.String(255), primary_key=True),
        sa.Column("fingerprint", sa.String(32), nullable=False),
        sa.Column("create_time", UtcDateTime, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "timetable_day",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("flights", sa.Integer, nullable=False),
        sa.Column("complete", sa.Boolean, nullable=False),
    )
    schema.create_outbox_1(op, "flight")
    schema.create_leases_1(op)


def flights() -> None:
    """Create the tables of flights."""
    op.create_table(
        "flight",
        sa.Column("flight_id", sa.String(20), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("carrier", sa.String(2), nullable=False),
        sa.Column("number", sa.String(8), nullable=False),
        sa.Column("origin", sa.String(3), nullable=False),
        sa.Column("destination", sa.String(3), nullable=False),
        sa.Column("departure_date", sa.Date, nullable=False),
        sa.Column("departure_time", UtcDateTime, nullable=False),
        sa.Column("arrival_time", UtcDateTime, nullable=False),
        sa.Column("scheduled_departure_time", UtcDateTime, nullable=False),
        sa.Column("scheduled_arrival_time", UtcDateTime, nullable=False),
        sa.Column("departure_utc_offset_minutes", sa.SmallInteger, nullable=False),
        sa.Column("arrival_utc_offset_minutes", sa.SmallInteger, nullable=False),
        sa.Column("aircraft", sa.String(40), nullable=False),
        sa.Column("distance_km", sa.Integer, nullable=False),
        sa.Column("inferred", sa.Boolean, nullable=False),
        sa.Column("status", sa.SmallInteger, nullable=False),
        sa.Column("status_reason", sa.String, nullable=False),
        sa.Column("event", sa.LargeBinary, nullable=False),
    )
    route = ["origin", "destination", "departure_date", "scheduled_departure_time", "flight_id"]
    op.create_index("flight_by_route", "flight", route)
    op.create_index("flight_by_arrival", "flight", ["arrival_time"])
    flight_id = sa.ForeignKey("flight.flight_id", ondelete="CASCADE")
    op.create_table(
        "flight_cabin",
        sa.Column("flight_id", sa.String(20), flight_id, primary_key=True),
        sa.Column("cabin", sa.SmallInteger, primary_key=True),
        sa.Column("capacity", sa.Integer, nullable=False),
        sa.Column("held", sa.Integer, nullable=False),
        sa.Column("sold", sa.Integer, nullable=False),
        sa.CheckConstraint("held >= 0 AND sold >= 0", name="seats_are_not_negative"),
        sa.CheckConstraint("held + sold <= capacity", name="seats_are_not_oversold"),
        sqlite_with_rowid=False,
    )


def holds() -> None:
    """Create the tables of holds."""
    op.create_table(
        "hold",
        sa.Column("booking_id", sa.String(64), primary_key=True),
        sa.Column("saga_epoch", sa.BigInteger, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("expire_time", UtcDateTime, nullable=False),
        sa.Column("update_time", UtcDateTime, nullable=False),
    )
    held = sa.text("state = 1")
    op.create_index(
        "hold_by_expiry", "hold", ["expire_time"], sqlite_where=held, postgresql_where=held
    )
    booking_id = sa.ForeignKey("hold.booking_id", ondelete="CASCADE")
    op.create_table(
        "hold_segment",
        sa.Column("booking_id", sa.String(64), booking_id, primary_key=True),
        sa.Column("position", sa.SmallInteger, primary_key=True),
        sa.Column("flight_id", sa.String(20), nullable=False),
        sa.Column("cabin", sa.SmallInteger, nullable=False),
        sa.Column("seats", sa.SmallInteger, nullable=False),
        sqlite_with_rowid=False,
    )
