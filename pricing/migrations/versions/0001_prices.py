"""Flights and their prices, fares, quotes, the outbox, the inbox and the lease."""

import sqlalchemy as sa
from alembic import op

from eventstream import UtcDateTime, schema

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything."""
    _create_flights()
    _create_fares()
    _create_quotes()
    schema.create_outbox_1(op, "price")
    schema.create_inbox_1(op, "inbox")
    schema.create_leases_1(op)


def downgrade() -> None:
    """Drop everything."""
    for table in (
        "lease",
        "inbox_dead_letter",
        "inbox_position",
        "price_head",
        "price_event",
        "claim",
        "quote",
        "fare_request",
        "fare",
        "flight",
    ):
        op.drop_table(table)


def _create_flights() -> None:
    op.create_table(
        "flight",
        sa.Column("flight_id", sa.String, primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("schedule_version", sa.BigInteger, nullable=False),
        sa.Column("carrier", sa.String, nullable=False),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("destination", sa.String, nullable=False),
        sa.Column("departure_time", UtcDateTime, nullable=False),
        sa.Column("distance_km", sa.Integer, nullable=False),
        sa.Column("cancelled", sa.Boolean, nullable=False),
        sa.Column("cabins", sa.JSON, nullable=False),
        sa.Column("change_time", UtcDateTime, nullable=False),
        sa.Column("reprice_time", UtcDateTime),
        sa.Column("unseen", sa.Boolean, nullable=False),
    )
    op.create_index("flight_by_route", "flight", ["origin", "destination"])
    op.create_index("flight_by_reprice_time", "flight", ["reprice_time"])


def _create_fares() -> None:
    op.create_table(
        "fare",
        sa.Column("origin", sa.String, primary_key=True),
        sa.Column("destination", sa.String, primary_key=True),
        sa.Column("base_cents", sa.Integer, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "fare_request",
        sa.Column("request_id", sa.String, primary_key=True),
        sa.Column("asked", sa.String(64), nullable=False),
        sa.Column("create_time", UtcDateTime, nullable=False),
    )


def _create_quotes() -> None:
    op.create_table(
        "quote",
        sa.Column("quote_id", sa.String, primary_key=True),
        sa.Column("request_id", sa.String, nullable=False, unique=True),
        sa.Column("asked", sa.String(64), nullable=False),
        sa.Column("passengers", sa.Integer, nullable=False),
        sa.Column("lines", sa.JSON, nullable=False),
        sa.Column("create_time", UtcDateTime, nullable=False),
        sa.Column("expire_time", UtcDateTime, nullable=False),
        sa.Column("booking_id", sa.String),
    )
    op.create_index("quote_by_expire_time", "quote", ["expire_time"])
    op.create_table(
        "claim",
        sa.Column("quote_id", sa.String, sa.ForeignKey("quote.quote_id"), primary_key=True),
        sa.Column("booking_id", sa.String, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("released", sa.Boolean, nullable=False),
    )
