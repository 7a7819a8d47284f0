"""Work on many rows in parts, each short enough to let other writers in between.

Marking 100,000 rows in one unit holds PostgreSQL's writer for longer than others wait for it. A
part begins where the last one ended: to look for rows that are still to be done takes longer with
each part, as what is done has to be passed over.
"""

from typing import Final

from sqlalchemy import Column, Connection, bindparam, func, select

PART: Final = 1_000
"""Rows that one unit changes."""


def part_end(connection: Connection, key: Column[str], after: str, limit: int = PART) -> str | None:
    """Return the key of the last of up to `limit` rows behind a key; None where there is none.

    For an inbox's `start` and `sweep`:

        upto = part_end(connection, FLIGHT.c.flight_id, after)
        if upto is not None:
            part = FLIGHT.c.flight_id > after, FLIGHT.c.flight_id <= upto
            connection.execute(update(FLIGHT).where(*part).values(seen=False))
        return upto
    """
    part = select(key).where(key > bindparam("after")).order_by(key).limit(bindparam("limit"))
    last = select(func.max(part.subquery().c[key.name]))
    end: str | None = connection.execute(last, {"after": after, "limit": limit}).scalar_one()
    return end
