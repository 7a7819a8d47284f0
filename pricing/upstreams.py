"""Schedule as pricing sees it: every flight, followed into pricing's own database."""

from collections.abc import AsyncIterable, Iterable, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from eventstream import Database, Follower, SqlInbox
from flights.schedule.v1.schedule_pb2 import (
    Flight,
    FlightEvent,
    FlightRemoved,
    WatchFlightsRequest,
    WatchFlightsResponse,
)
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from pricing import messages, tables
from pricing.service import AT_A_TIME, Clock, follow
from pricing.store import SqlRepository
from streams.v1.stream_pb2 import Cursor

SOURCE: Final = "schedule"


class Timetable:
    """Applies schedule's events, and the prices that follow from them, within a transaction."""

    def __init__(self, now: Clock) -> None:
        self._now = now

    def apply(self, connection: Connection, event: FlightEvent) -> None:
        """Apply one event."""
        self.apply_many(connection, [event])

    def apply_many(self, connection: Connection, events: Sequence[FlightEvent]) -> None:
        """Apply a batch; of several events of one flight the newest says it all."""
        newest = newest_of_each(events)
        changed = [e.flight_changed for e in newest if e.HasField("flight_changed")]
        removed = [e.flight_removed for e in newest if e.HasField("flight_removed")]
        data, now = SqlRepository(connection), self._now()
        follow(data, [messages.flight_state(flight) for flight in changed], now)
        data.remove_flights([flight.flight_id for flight in removed], now)

    def start(self, connection: Connection, after: str) -> str | None:
        """A snapshot begins: mark some flights; returns the last of them."""
        data = SqlRepository(connection)
        upto = data.part_end(after)
        if upto is not None:
            data.mark_unseen(after, upto)
        return upto

    def sweep(self, connection: Connection, after: str) -> str | None:
        """A snapshot is complete: what it did not contain goes; returns how far it has gone."""
        data = SqlRepository(connection)
        upto = data.part_end(after)
        if upto is None:
            return None
        unseen = data.unseen(after, upto, AT_A_TIME)
        data.remove_flights(unseen, self._now())
        return unseen[-1] if len(unseen) == AT_A_TIME else upto


def subject(event: FlightEvent) -> Flight | FlightRemoved:
    """What an event says of its flight."""
    changed = event.HasField("flight_changed")
    return event.flight_changed if changed else event.flight_removed


def flight_id(event: FlightEvent) -> str:
    """The flight that an event is about."""
    return subject(event).flight_id


def newest_of_each(events: Iterable[FlightEvent]) -> list[FlightEvent]:
    """The event of the highest version for each flight; of equal ones, the last."""
    by_version = sorted(events, key=lambda event: subject(event).version)
    return list({flight_id(event): event for event in by_version}.values())


def schedule_inbox(database: Database, now: Clock) -> SqlInbox[FlightEvent]:
    """Where schedule's events are applied, each once."""
    timetable = Timetable(now)
    return SqlInbox(
        database,
        tables.inbox,
        SOURCE,
        key=flight_id,
        apply=timetable.apply,
        apply_many=timetable.apply_many,
        at_most=AT_A_TIME,
        start=timetable.start,
        sweep=timetable.sweep,
    )


def schedule_follower(
    schedule: ScheduleServiceStub, inbox: SqlInbox[FlightEvent]
) -> Follower[FlightEvent]:
    """Follows schedule's stream into the inbox, from when there is one."""

    def watch(cursor: Cursor | None) -> AsyncIterable[WatchFlightsResponse]:
        return schedule.WatchFlights(WatchFlightsRequest(cursor=cursor), wait_for_ready=True)

    return Follower(SOURCE, watch, inbox)


async def whole(database: Database) -> None:
    """Wait until the database has a whole timetable, whoever follows schedule into it."""
    inbox = schedule_inbox(database, _never)
    seen = database.version
    while await inbox.position() is None:
        seen = await database.changed(seen)


def _never() -> datetime:
    raise AssertionError("this inbox is only read")
