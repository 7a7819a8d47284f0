"""Bookings, their sagas, idempotency keys, cancelled flights, outbox, inbox and leases."""

import sqlalchemy as sa
from alembic import op

from eventstream import UtcDateTime, schema

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything."""
    op.create_table(
        "booking",
        sa.Column("booking_id", sa.String, primary_key=True),
        sa.Column("reference", sa.String(6), nullable=False, unique=True),
        sa.Column("issuer", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("quote_id", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("total", sa.String),
        sa.Column("rejection_reason", sa.String),
        sa.Column("rejection_message", sa.Text),
        sa.Column("fresh_quote_id", sa.String),
        sa.Column("create_time", UtcDateTime, nullable=False),
        sa.Column("update_time", UtcDateTime, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
    )
    op.create_index(
        "booking_of_user",
        "booking",
        ["issuer", "subject", sa.text("create_time DESC"), sa.text("booking_id DESC")],
    )
    _create_parts()
    _create_sagas()
    _create_keys()
    _create_cancelled_flights()
    schema.create_outbox_1(op, "booking")
    schema.create_inbox_1(op, "inbox")
    schema.create_leases_1(op)


def downgrade() -> None:
    """Drop everything."""
    for table in (
        "lease",
        "inbox_dead_letter",
        "inbox_position",
        "booking_event",
        "booking_head",
        "cancelled_flight",
        "idempotency_key",
        "saga",
        "contact",
        "passenger",
        "segment",
        "booking",
    ):
        op.drop_table(table)


def _booking() -> sa.ForeignKey:
    return sa.ForeignKey("booking.booking_id")


def _create_parts() -> None:
    op.create_table(
        "segment",
        sa.Column("booking_id", sa.String, _booking(), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("flight_id", sa.String, nullable=False),
        sa.Column("cabin", sa.String, nullable=False),
        sa.Column("fare", sa.String, nullable=False),
        sa.Column("taxes", sa.String, nullable=False),
    )
    op.create_index("segment_by_flight_id", "segment", ["flight_id"])
    op.create_table(
        "passenger",
        sa.Column("booking_id", sa.String, _booking(), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("given_name", sa.String, nullable=False),
        sa.Column("family_name", sa.String, nullable=False),
    )
    op.create_table(
        "contact",
        sa.Column("booking_id", sa.String, _booking(), primary_key=True),
        sa.Column("email", sa.String, nullable=False),
    )


def _create_sagas() -> None:
    op.create_table(
        "saga",
        sa.Column("booking_id", sa.String, _booking(), primary_key=True),
        sa.Column("step", sa.String, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("due_time", UtcDateTime),
        sa.Column("start_time", UtcDateTime, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("last_error", sa.Text, nullable=False),
        sa.Column("rejection_reason", sa.String),
        sa.Column("rejection_message", sa.Text),
        sa.Column("fresh_quote_id", sa.String),
    )
    op.create_index("ix_saga_due_time", "saga", ["due_time"])


def _create_keys() -> None:
    op.create_table(
        "idempotency_key",
        sa.Column("issuer", sa.String, primary_key=True),
        sa.Column("subject", sa.String, primary_key=True),
        sa.Column("operation", sa.String, primary_key=True),
        sa.Column("request_id", sa.String, primary_key=True),
        sa.Column("booking_id", sa.String, _booking(), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("create_time", UtcDateTime, nullable=False),
    )


def _create_cancelled_flights() -> None:
    op.create_table(
        "cancelled_flight",
        sa.Column("flight_id", sa.String, primary_key=True),
        sa.Column("departure_time", UtcDateTime, nullable=False),
        sa.Column("pending", sa.Boolean, nullable=False),
        sa.Column("unseen", sa.Boolean, nullable=False),
    )
    op.create_index("ix_cancelled_flight_pending", "cancelled_flight", ["pending"])
