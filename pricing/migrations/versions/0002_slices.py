"""Indexes by which flights are re-priced in slices, and how far a fare's change has come."""

import sqlalchemy as sa
from alembic import op

from eventstream import UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add both. What an earlier release has made due by a fare is due by its time, as ever."""
    op.create_table(
        "fare_progress",
        sa.Column("origin", sa.String, primary_key=True),
        sa.Column("destination", sa.String, primary_key=True),
        sa.Column("departure_time", UtcDateTime, nullable=False),
        sa.Column("flight_id", sa.String, nullable=False),
    )
    route = ["origin", "destination", "departure_time", "flight_id"]
    op.create_index("flight_by_departure", "flight", route)
    due = ["reprice_time", "departure_time", "flight_id"]
    op.create_index("flight_by_due_time", "flight", due)
    op.drop_index("flight_by_route")
    op.drop_index("flight_by_reprice_time")


def downgrade() -> None:
    """Go back to the narrower indexes."""
    op.create_index("flight_by_route", "flight", ["origin", "destination"])
    op.create_index("flight_by_reprice_time", "flight", ["reprice_time"])
    op.drop_index("flight_by_due_time")
    op.drop_index("flight_by_departure")
    op.drop_table("fare_progress")
