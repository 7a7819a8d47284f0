"""Waits until a world has nothing left to do: databases are looked into, nothing is asked."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from sqlalchemy import Connection, select

import booking.tables
import pricing.tables
import schedule.tables
from booking.cancelled_flights import pending_flight
from eventstream import Database, Head, InboxTables
from schedule.domain import FlightStatus
from tests.chaos.world import World

PATIENCE: Final = 60.0  # seconds


async def at_rest(world: World) -> None:
    """Wait until every saga is finished, and pricing and booking know what schedule has said."""
    async with asyncio.timeout(PATIENCE):
        await _until(world.urls["booking"], _sagas_finished)
        async with Database.open(world.urls["schedule"]) as db:
            head, cancelled = await db.read(_said)
        await _until(world.urls["pricing"], partial(_stands_at, head))
        await _until(world.urls["booking"], partial(_knows, cancelled))


async def _until(url: str, reached: Callable[[Connection], bool]) -> None:
    async with Database.open(url) as db:
        seen = db.version
        while not await db.read(reached):
            seen = await db.changed(seen)


def _sagas_finished(connection: Connection) -> bool:
    sagas = booking.tables.sagas
    unfinished = select(sagas.c.booking_id).where(sagas.c.step != "finished").limit(1)
    return connection.execute(unfinished).first() is None


def _said(connection: Connection) -> tuple[Head | None, set[str]]:
    """Where schedule's stream ends, and which flights it has cancelled."""
    flight = schedule.tables.flight.c
    cancelled = select(flight.flight_id).where(flight.status == FlightStatus.CANCELLED.value)
    return schedule.tables.outbox.head(connection), set(connection.execute(cancelled).scalars())


def _stands_at(head: Head | None, connection: Connection) -> bool:
    """Whether pricing has applied everything."""
    position = pricing.tables.inbox.position.c
    row = connection.execute(select(position.epoch, position.seq)).one()
    there = head is not None and (row.epoch, row.seq) == (head.epoch, head.seq)
    return there and _no_letters(pricing.tables.inbox, connection)


def _knows(cancelled: set[str], connection: Connection) -> bool:
    """Whether booking has done what follows from cancellations; it stores no other position."""
    known = connection.execute(select(booking.tables.cancelled_flights.c.flight_id)).scalars()
    done = cancelled <= set(known) and pending_flight(connection) is None
    return done and _no_letters(booking.tables.inbox, connection)


def _no_letters(inbox: InboxTables, connection: Connection) -> bool:
    return connection.execute(select(inbox.dead_letter.c.key).limit(1)).first() is None
