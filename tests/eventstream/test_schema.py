from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, MetaData

from eventstream import Database, InboxTables, LeaseTable, Outbox, schema


async def test_migrations_create_what_the_library_defines(url: str) -> None:
    """The frozen functions for migrations and the tables in the metadata are the same."""
    metadata = MetaData()
    Outbox(metadata, "thing")
    InboxTables(metadata, "thing")
    LeaseTable(metadata)

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        op = Operations(context)
        schema.create_outbox_1(op, "thing")
        schema.create_inbox_1(op, "thing")
        schema.create_leases_1(op)
        return list(compare_metadata(context, metadata))

    async with Database.open(url) as db:
        found = await db.write(differences)

    assert found == []
