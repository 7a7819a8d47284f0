"""The tables of this library as a service's migrations create them.

    from alembic import op
    from eventstream import schema

    def upgrade() -> None:
        schema.create_outbox_1(op, "schedule")

These functions never change once they are released: a table that changes gets another function,
for another migration. Names are those given to Outbox, InboxTables and LeaseTable.
"""

from typing import Any, Protocol

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Text,
)

from eventstream import columns


class Operations(Protocol):
    """What is used of `alembic.op`."""

    def create_table(self, table_name: str, *columns: Any) -> Any:
        """Create a table."""


def create_outbox_1(op: Operations, name: str) -> None:
    """Create the tables of an outbox."""
    op.create_table(
        f"{name}_event",
        Column("seq", columns.Sequence, primary_key=True, autoincrement=False),
        Column("unit", columns.Sequence, nullable=False),
        Column("event_time", columns.UtcDateTime, nullable=False),
        Column("key", String, nullable=False),
        Column("payload", LargeBinary, nullable=False),
    )
    op.create_table(
        f"{name}_head",
        Column("id", SmallInteger, primary_key=True, autoincrement=False),
        Column("epoch", String(32), nullable=False),
        Column("seq", columns.Sequence, nullable=False),
        CheckConstraint("id = 1", name=f"{name}_head_is_one_row"),
    )


def create_inbox_1(op: Operations, name: str) -> None:
    """Create the tables of an inbox, for any number of sources."""
    op.create_table(
        f"{name}_position",
        Column("source", String, primary_key=True),
        Column("epoch", String(32)),
        Column("seq", columns.Sequence),
        Column("revision", BigInteger, nullable=False),
    )
    op.create_table(
        f"{name}_dead_letter",
        Column("source", String, primary_key=True),
        Column("key", String, primary_key=True),
        Column("seq", columns.Sequence),
        Column("payload", LargeBinary, nullable=False),
        Column("reason", Text, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("recorded_time", columns.UtcDateTime, nullable=False),
        Column("next_attempt_time", columns.UtcDateTime, nullable=False),
    )


def create_leases_1(op: Operations, name: str = "lease") -> None:
    """Create the table of leases."""
    op.create_table(
        name,
        Column("name", String, primary_key=True),
        Column("holder", String, nullable=False),
        Column("epoch", BigInteger, nullable=False),
        Column("beat", BigInteger, nullable=False),
    )
