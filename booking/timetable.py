"""Schedule's stream as booking follows it: of all that happens to flights, their cancellations."""

import time
from collections.abc import AsyncIterable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from sqlalchemy import Connection

from booking import cancelled_flights
from booking.tables import inbox
from consulmesh.wellknown import instant
from eventstream import Database, Follower, SqlInbox
from eventstream.follower import Inbox
from flights.schedule.v1.schedule_pb2 import (
    FLIGHT_STATUS_CANCELLED,
    Flight,
    FlightEvent,
    WatchFlightsRequest,
    WatchFlightsResponse,
)
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from streams.v1.stream_pb2 import Cursor

SOURCE: Final = "schedule"
_STORED_EVERY: Final = timedelta(seconds=5)
_STORED_AFTER: Final = 1_000  # events


class SparseInbox:
    """Stores a position where there is news, and now and then otherwise.

    Every seat that is sold is an event. To write here that nothing was cancelled would cost as much
    as a step of a saga; instead a stored position may be a few seconds old, and what was passed
    over since then comes again after a restart.

    State: `_passed` counts the events since `_stored`, when the position was last stored.
    """

    def __init__(
        self, inbox: Inbox[FlightEvent], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._inbox = inbox
        self._clock = clock
        self._passed = 0
        self._stored = clock()

    async def position(self) -> Cursor | None:
        """Return the stored cursor; None where there is none, or a snapshot was cut off."""
        return await self._inbox.position()

    async def start_snapshot(self) -> None:
        """Mark all rows as unseen and forget the cursor."""
        await self._inbox.start_snapshot()

    async def apply(self, events: Sequence[FlightEvent], cursor: Cursor | None) -> None:
        """Apply cancellations and store the cursor, or pass over what says nothing new."""
        self._passed += len(events)
        if any(map(_cancelled, events)) or (cursor is not None and self._is_due()):
            await self._inbox.apply(events, cursor)
            self._passed, self._stored = 0, self._clock()

    async def complete_snapshot(self, cursor: Cursor) -> None:
        """Remove the rows that are still unseen and store the cursor."""
        await self._inbox.complete_snapshot(cursor)

    def _is_due(self) -> bool:
        age = self._clock() - self._stored
        return self._passed >= _STORED_AFTER or age >= _STORED_EVERY.total_seconds()


def schedule_inbox(db: Database, clock: Callable[[], datetime]) -> SqlInbox[FlightEvent]:
    """Where schedule's events are applied."""
    return SqlInbox(
        db,
        inbox,
        SOURCE,
        key=_flight_id,
        apply=lambda connection, event: _apply(connection, [event]),
        apply_many=_apply,
        start=cancelled_flights.mark_unseen,
        sweep=partial(_sweep, clock),
    )


def schedule_follower(
    schedule: ScheduleServiceStub, inbox: Inbox[FlightEvent]
) -> Follower[FlightEvent]:
    """Follows schedule's stream into the inbox, from when there is one."""

    def watch(cursor: Cursor | None) -> AsyncIterable[WatchFlightsResponse]:
        return schedule.WatchFlights(WatchFlightsRequest(cursor=cursor), wait_for_ready=True)

    return Follower(SOURCE, watch, SparseInbox(inbox))


def _apply(connection: Connection, events: Sequence[FlightEvent]) -> None:
    cancelled = [event.flight_changed for event in events if _cancelled(event)]
    cancelled_flights.note(connection, [(one.flight_id, _departure(one)) for one in cancelled])


def _sweep(clock: Callable[[], datetime], connection: Connection, _after: str) -> None:
    cancelled_flights.sweep(connection, clock())


def _cancelled(event: FlightEvent) -> bool:
    return event.flight_changed.status == FLIGHT_STATUS_CANCELLED


def _departure(flight: Flight) -> datetime:
    return instant(flight.departure_time)


def _flight_id(event: FlightEvent) -> str:
    changed = event.HasField("flight_changed")
    return event.flight_changed.flight_id if changed else event.flight_removed.flight_id
