"""Many rows at once: a first timetable has some 250,000."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table, insert


def insert_many(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows that all have the same columns.

    PostgreSQL copies them in, which takes a third of the time; column types that change values on
    their way are passed by there, so the values must be as the driver takes them.
    """
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        _copy(connection, table, rows)
    else:
        connection.execute(insert(table), rows)


def _copy(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    from psycopg import Connection as Driver  # noqa: PLC0415 - 5 MB, where it is in use
    from psycopg import sql  # noqa: PLC0415 - as above

    driver = connection.connection.driver_connection
    if not isinstance(driver, Driver):
        raise TypeError(f"not a connection of psycopg: {driver!r}")
    into = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table.name), sql.SQL(", ").join(map(sql.Identifier, rows[0]))
    )
    with driver.cursor() as cursor, cursor.copy(into) as copy:
        for row in rows:
            copy.write_row(tuple(row.values()))
