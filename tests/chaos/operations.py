"""What operators do to flights and fares, and what is done to the inbox of a consumer."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.type.money_pb2 import Money
from sqlalchemy import Connection, Table, insert, update

from consulmesh.testing import StaticMesh
from eventstream import Database
from flights.pricing.v1 import pricing_pb2
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.schedule.v1 import schedule_pb2
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from schedule import messages
from schedule.domain import Flight
from tests.chaos.customer import ATTEMPT, Asking, T, Way

DELAY: Final = Duration(seconds=35 * 60)
FARE: Final = 140  # dollars
ELSEWHERE: Final = "0" * 32


class Operator:
    """Changes flights and fares, in some way; `name` makes the request ids. Not in the history."""

    def __init__(self, caller: StaticMesh, name: str, way: Way) -> None:
        self._schedule = ScheduleServiceStub(caller.channel("schedule"))
        self._pricing = PricingServiceStub(caller.channel("pricing"))
        self._name = name
        self._way = way

    async def cancel(self, flight_id: str) -> None:
        """Cancel a flight."""
        request = schedule_pb2.CancelFlightRequest(
            request_id=f"{self._name}.cancel", flight_id=flight_id, reason="crew"
        )
        await self._ask(
            lambda: self._schedule.CancelFlight(request, timeout=ATTEMPT, wait_for_ready=True)
        )

    async def delay(self, flight_id: str) -> None:
        """Let a flight leave later."""
        request = schedule_pb2.UpdateFlightRequest(
            request_id=f"{self._name}.delay", flight_id=flight_id, delay=DELAY, reason="weather"
        )
        await self._ask(
            lambda: self._schedule.UpdateFlight(request, timeout=ATTEMPT, wait_for_ready=True)
        )

    async def change_fare(self, origin: str, destination: str) -> None:
        """Set another fare: every flight of the route is priced anew."""
        request = pricing_pb2.UpdateFareRequest(
            request_id=f"{self._name}.fare",
            origin=origin,
            destination=destination,
            base=Money(currency_code="USD", units=FARE),
        )
        await self._ask(
            lambda: self._pricing.UpdateFare(request, timeout=ATTEMPT, wait_for_ready=True)
        )

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> None:
        await Asking(None, "", call, lambda _: {}, {}).answer(self._name, self._way)


async def move_to_another_epoch(url: str, position: Table) -> None:
    """Let a consumer stand in a history that schedule never had, as after a restored backup."""
    elsewhere = update(position).values(epoch=ELSEWHERE, revision=position.c.revision + 1)

    def unit(connection: Connection) -> None:
        connection.execute(elsewhere)

    async with Database.open(url) as db:
        await db.write(unit)


async def leave_dead_letter(url: str, letters: Table, flight: Flight) -> None:
    """Put an event of a flight that never changed among a consumer's dead letters, due now."""
    now = datetime.now(UTC)
    packed = AnyMessage()
    packed.Pack(messages.flight_changed(flight, now))
    letter = {
        "source": "schedule",
        "key": flight.flight_id,
        "seq": None,
        "payload": packed.SerializeToString(),
        "reason": "planted",
        "attempts": 1,
        "recorded_time": now,
        "next_attempt_time": now - timedelta(seconds=1),
    }

    def unit(connection: Connection) -> None:
        connection.execute(insert(letters), letter)

    async with Database.open(url) as db:
        await db.write(unit)


async def put_off_sagas(url: str, sagas: Table) -> None:
    """Let sagas that wait for an attempt wait for a day; returns when there was one."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    waiting = sagas.c.due_time.is_not(None), sagas.c.owner == ""
    put_off = update(sagas).where(*waiting).values(due_time=tomorrow)
    async with Database.open(url) as db:
        seen = db.version
        while not await db.write(lambda connection: connection.execute(put_off).rowcount):
            seen = await db.changed(seen)
