from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, inspect

from eventstream import Database
from schedule.tables import metadata


async def test_migrations_make_the_tables_that_the_code_knows(db: Database) -> None:
    """Tables, columns, keys, indexes and constraints on seats are those of `tables.py`."""
    different, made = await db.read(
        lambda connection: (differences(connection), checks(connection))
    )
    known = {c.name for t in metadata.tables.values() for c in t.constraints if _is_named_check(c)}

    assert different == []
    assert made == known


def differences(connection: Connection) -> list[object]:
    """What Alembic would change."""
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


def checks(connection: Connection) -> set[object]:
    """The names of check constraints that the database has."""
    inspector = inspect(connection)
    return {
        check["name"]
        for table in metadata.tables
        for check in inspector.get_check_constraints(table)
    }


def _is_named_check(constraint: object) -> bool:
    return isinstance(constraint, CheckConstraint) and constraint.name is not None
