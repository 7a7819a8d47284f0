"""Where a consumer stands in schedule's stream."""

from sqlalchemy import Connection

from bench.checker.databases import rows
from bench.checker.facts import Position

_POSITION = "SELECT epoch, seq FROM inbox_position WHERE source = 'schedule'"
_LETTERS = "SELECT count(*) FROM inbox_dead_letter WHERE source = 'schedule'"


def read_position(connection: Connection) -> Position | None:
    """The position and the number of dead letters; None where it never followed."""
    [(letters,)] = rows(connection, _LETTERS)
    found = list(rows(connection, _POSITION))
    return (
        Position(epoch=found[0].epoch, seq=found[0].seq or 0, dead_letters=letters)
        if found
        else None
    )
