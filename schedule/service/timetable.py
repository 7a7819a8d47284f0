"""Flights: looked up, moved, cancelled.

A change by an operator names a request id. What is noted of it is a fingerprint of everything else
that was sent: the same again changes nothing and is answered with the flight as it is now, other
content is refused, and a request that was refused leaves no trace.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

from schedule.domain import Flight, FlightNotFound, UtcOffset
from schedule.service.ports import (
    CancelFlight,
    DelayFlight,
    PageEnd,
    Records,
    RouteDay,
    Store,
    UseCase,
)


class Timetable:
    """Flights: looked up, moved, cancelled. `now` is the clock; instants are UTC."""

    def __init__(self, store: Store, utc_offset: UtcOffset, now: Callable[[], datetime]) -> None:
        self._store = store
        self._utc_offset = utc_offset
        self._now = now

    async def flights(self, flight_ids: Sequence[str]) -> list[Flight]:
        """The flights, in that order. Raises FlightNotFound when any is unknown."""
        found = await self._store.read(lambda records: records.flights(flight_ids))
        return [known(found, flight_id) for flight_id in flight_ids]

    async def page(self, of: RouteDay, after: PageEnd | None, limit: int) -> Sequence[Flight]:
        """At most so many flights of a route and day, by published departure."""
        return await self._store.read(lambda records: records.page(of, after, limit))

    async def delay(self, command: DelayFlight) -> Flight:
        """Move a flight in time and return it as it is now. A repetition changes nothing.

        Raises FlightNotFound, EtagMismatch, FlightCancelled, FlightDeparted, RequestIdReused,
        Invalid.
        """

        def change(flight: Flight, now: datetime) -> Flight:
            published = flight.scheduled_departure_time
            to = command.to
            delay = to if isinstance(to, timedelta) else to - published
            return flight.delayed(delay, command.reason, now=now, utc_offset=self._utc_offset)

        return await self._store.write(
            UseCase.DELAY_FLIGHT, lambda records: self._once(records, command, change)
        )

    async def cancel(self, command: CancelFlight) -> Flight:
        """Cancel a flight and return it as it is now. A repetition changes nothing.

        Raises FlightNotFound, EtagMismatch, FlightDeparted, RequestIdReused.
        """

        def change(flight: Flight, now: datetime) -> Flight:
            return flight.cancelled(command.reason, now=now)

        return await self._store.write(
            UseCase.CANCEL_FLIGHT, lambda records: self._once(records, command, change)
        )

    def _once(
        self,
        records: Records,
        command: DelayFlight | CancelFlight,
        change: Callable[[Flight, datetime], Flight],
    ) -> Flight:
        """Apply a change unless this request was applied before."""
        now = self._now()
        new = records.first_time(command.request_id, _fingerprint(command), now)
        flight = known(records.flights([command.flight_id]), command.flight_id)
        if not new:
            return flight
        flight.expect(command.etag)
        changed = change(flight, now)
        if changed != flight:
            records.change([changed], now)
        return changed


def known(flights: Mapping[str, Flight], flight_id: str) -> Flight:
    """One of the flights; raises FlightNotFound."""
    flight = flights.get(flight_id)
    if flight is None:
        raise FlightNotFound("there is no such flight", flight_id=flight_id)
    return flight


def _fingerprint(command: DelayFlight | CancelFlight) -> str:
    asked = asdict(command) | {"request_id": type(command).__name__}
    return hashlib.blake2b(json.dumps(asked, default=str).encode(), digest_size=16).hexdigest()
