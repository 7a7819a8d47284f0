"""A producer or a consumer of the mirrored flights as a process of its own, to be killed.

    python -m tests.chaos.stream_process producer URL PORT UPTO SEED
    python -m tests.chaos.stream_process consumer URL PORT
    python -m tests.chaos.stream_process witness URL PORT

The producer serves the stream at PORT and changes flights at random until its history has UPTO
events. A witness is a consumer that keeps, beside its copy, a journal of every event as it was
applied. All end with their standard input, that is with whoever started them.
"""

import asyncio
import os
import random
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import BigInteger, Column, Connection, Integer, MetaData, String, Table, insert

from eventstream import Database, Follower, SqlInbox
from flights.schedule.v1.schedule_pb2 import FlightEvent
from tests.eventstream import mirror

FLIGHTS: Final = 400
"""Different flights that a producer changes."""
JOURNAL_METADATA: Final = MetaData()
JOURNAL: Final = Table(
    "journal",
    JOURNAL_METADATA,
    Column("place", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("flight_id", String, nullable=False),
    Column("version", BigInteger, nullable=False),
)

Entry = tuple[str, int]
"""An event, by its flight and version."""


def entry(event: FlightEvent) -> Entry:
    """Return what the journal keeps of an event."""
    changed = event.flight_changed if event.HasField("flight_changed") else event.flight_removed
    return changed.flight_id, changed.version


def witness(connection: Connection, events: Sequence[FlightEvent]) -> None:
    """Apply a batch to the copy, and write it down."""
    mirror.apply_many(connection, events)
    rows = [{"flight_id": name, "version": version} for name, version in map(entry, events)]
    connection.execute(insert(JOURNAL), rows)


def inbox(
    db: Database, apply: Callable[[Connection, Sequence[FlightEvent]], None] = mirror.apply_many
) -> SqlInbox[FlightEvent]:
    """Return the inbox of a copy; what it can't take in whole it does not take."""
    return mirror.inbox(db, apply_many=apply, apply=_refuse)


def _refuse(_connection: Connection, event: FlightEvent) -> None:
    raise ValueError(f"not taken as part of a batch: {event}")


async def produce(url: str, port: int, upto: int, seed: int) -> None:
    """Serve, and change flights a few at a time until there are enough events."""
    chance = random.Random(seed)
    async with mirror.source(url) as db, mirror.serving(db, port):
        seq = await db.read(_told)
        while seq < upto:
            seq = await db.write(partial(_change, chance=chance))
        await asyncio.Event().wait()


def _change(connection: Connection, chance: random.Random) -> int:
    for _ in range(chance.randint(1, 12)):
        name = f"f{chance.randrange(FLIGHTS):04}"
        if chance.random() < 0.2:
            mirror.remove(connection, name)
        else:
            mirror.put(connection, name, chance.randrange(9_000))
    return _told(connection)


def _told(connection: Connection) -> int:
    head = mirror.OUTBOX.head(connection)
    return 0 if head is None else head.seq


async def consume(url: str, port: int) -> None:
    """Follow for ever."""
    async with mirror.copy(url) as db, mirror.calling(port) as watch:
        await Follower("flights", watch, inbox(db)).run()


async def bear_witness(url: str, port: int) -> None:
    """Follow for ever, with a journal."""
    async with mirror.copy(url) as db, mirror.calling(port) as watch:
        await db.write(JOURNAL_METADATA.create_all)
        await Follower("flights", watch, inbox(db, witness)).run()


_ROLES: Final[Mapping[str, Callable[..., Coroutine[Any, Any, None]]]] = {
    "producer": produce,
    "consumer": consume,
    "witness": bear_witness,
}


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main(role: str, url: str, *numbers: str) -> None:
    """Entry point."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(_ROLES[role](url, *map(int, numbers)))


if __name__ == "__main__":
    main(*sys.argv[1:])
