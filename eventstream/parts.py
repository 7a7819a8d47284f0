"""Work on many rows in parts, each short enough to let other writers in between.

Marking 100,000 rows in one unit holds PostgreSQL's writer for longer than others wait for it.
"""

from typing import Final

from sqlalchemy import Column, ColumnElement, select

PART: Final = 2_000
"""Rows that one unit changes."""


def some(key: Column[str], where: ColumnElement[bool], limit: int = PART) -> ColumnElement[bool]:
    """Return a condition that up to `limit` of the rows meet that meet `where`.

    To be executed until it changes no row, as an inbox's `start` and `sweep` are:

        unseen = update(FLIGHT).where(some(FLIGHT.c.flight_id, FLIGHT.c.seen)).values(seen=False)
        return connection.execute(unseen).rowcount > 0
    """
    return key.in_(select(key).where(where).limit(limit))
