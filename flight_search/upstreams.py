"""The owners' streams: their events as changes of the read model."""

import asyncio
from collections.abc import AsyncIterable, Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

import grpc
import structlog
from google.protobuf.message import Message
from google.type.money_pb2 import Money

from eventstream import Follower
from flight_search.changes import (
    Change,
    FlightChanged,
    FlightRemoved,
    PricesChanged,
    PricesRemoved,
)
from flight_search.domain import WHOLE, Cabin, Position, Shard
from flight_search.metrics import REJECTED
from flight_search.read_model import PRICING, SCHEDULE, ReadModel
from flights.pricing.v1.pricing_pb2 import (
    FlightPrices,
    PriceEvent,
    WatchPricesRequest,
    WatchPricesResponse,
)
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.schedule.v1 import schedule_pb2
from flights.schedule.v1.schedule_pb2 import (
    Flight,
    FlightEvent,
    WatchFlightsRequest,
    WatchFlightsResponse,
)
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from streams.v1.stream_pb2 import Cursor

EVENTS_PER_TURN = 50
"""What is applied before others get their turn: some two milliseconds of work."""
EVENTS_PER_COMMIT = 1_000
"""The same while nobody is answered yet: each commit writes the pages that it touched."""
ON_SALE = {schedule_pb2.FLIGHT_STATUS_SCHEDULED, schedule_pb2.FLIGHT_STATUS_DELAYED}
CABINS = tuple(map(int, Cabin))
CURRENCY = "USD"
BILLION = 1_000_000_000

E = TypeVar("E", bound=Message)
log = structlog.get_logger()


def follow_schedule(
    channel: grpc.aio.Channel, model: ReadModel, shard: Shard = WHOLE
) -> Follower[FlightEvent]:
    """Follows the flights of schedule into the model, as far as a shard needs them."""
    stub = ScheduleServiceStub(channel)

    def watch(cursor: Cursor | None) -> AsyncIterable[WatchFlightsResponse]:
        return stub.WatchFlights(WatchFlightsRequest(cursor=cursor), wait_for_ready=True)

    change = partial(flight_change, shard=shard)
    return Follower(SCHEDULE, watch, ReadModelInbox(model, SCHEDULE, change))


def follow_pricing(
    channel: grpc.aio.Channel, model: ReadModel, shard: Shard = WHOLE
) -> Follower[PriceEvent]:
    """Follows the prices of pricing into the model, as far as a shard needs them."""
    stub = PricingServiceStub(channel)

    def watch(cursor: Cursor | None) -> AsyncIterable[WatchPricesResponse]:
        return stub.WatchPrices(WatchPricesRequest(cursor=cursor), wait_for_ready=True)

    change = partial(price_change, shard=shard)
    return Follower(PRICING, watch, ReadModelInbox(model, PRICING, change))


class ReadModelInbox(Generic[E]):
    """Applies the events of one source; an `eventstream.Inbox`.

    Events that make no sense are logged, counted and left out: the read model is rebuildable, and
    one bad row must not stop the others.
    """

    def __init__(self, model: ReadModel, source: str, change: Callable[[E], Change | None]) -> None:
        self._model = model
        self._source = source
        self._change = change

    async def position(self) -> Cursor | None:
        """Where the read model stands; None before and during a snapshot."""
        position = self._model.position(self._source)
        return Cursor(epoch=position.epoch, seq=position.seq) if position else None

    async def start_snapshot(self) -> None:
        """Marks everything as not seen."""
        self._model.start_snapshot(self._source)

    async def apply(self, events: Sequence[E], cursor: Cursor | None) -> None:
        """Applies events in slices, each with the position that it leads to.

        Positions count events, so a slice has one of its own: an answer between two slices says
        how far it is, and after a crash the stream goes on behind the last slice.
        """
        answering = self._model.has_been_complete(self._source)
        size = EVENTS_PER_TURN if answering else EVENTS_PER_COMMIT
        for start in range(0, len(events), size):
            some = events[start : start + size]
            changes = [change for event in some if (change := self._read(event))]
            left = len(events) - start - len(some)
            self._model.apply(self._source, changes, self._position(cursor, left))
            await asyncio.sleep(0)

    async def complete_snapshot(self, cursor: Cursor) -> None:
        """Removes what the snapshot did not contain, in slices; then the position counts."""
        rest: int | None = 0
        while rest is not None:
            rest = self._model.sweep(self._source, rest)
            await asyncio.sleep(0)
        self._model.apply(self._source, (), self._position(cursor))

    def _read(self, event: E) -> Change | None:
        try:
            return self._change(event)
        except ValueError as error:
            REJECTED.labels(self._source).inc()
            log.warning("event.rejected", source=self._source, reason=str(error))
            return None

    def _position(self, cursor: Cursor | None, before: int = 0) -> Position | None:
        """The position so many events before a cursor."""
        if cursor is None:
            return None
        return Position(source=self._source, epoch=cursor.epoch, seq=cursor.seq - before)


def flight_change(event: FlightEvent, *, shard: Shard = WHOLE) -> Change | None:
    """What an event of schedule means; None for a kind that is newer than this program.

    A flight that the shard does not need has left it. Raises ValueError for an event that makes no
    sense.
    """
    match event.WhichOneof("change"):
        case "flight_changed":
            flight = _flight(event.flight_changed)
            if shard.keeps(flight.departure):
                return flight
            return FlightRemoved(flight.flight_id, flight.version)
        case "flight_removed":
            removed = event.flight_removed
            return FlightRemoved(removed.flight_id, removed.version)
    return None


def price_change(event: PriceEvent, *, shard: Shard = WHOLE) -> Change | None:
    """What an event of pricing means; as `flight_change`."""
    match event.WhichOneof("change"):
        case "prices_changed":
            prices = event.prices_changed
            departs = prices.HasField("departure_time")  # it does not in events of before 2026-12
            if departs and not shard.keeps(prices.departure_time.seconds):
                return PricesRemoved(prices.flight_id, prices.version)
            return _prices(prices)
        case "prices_removed":
            removed = event.prices_removed
            return PricesRemoved(removed.flight_id, removed.version)
    return None


def _flight(flight: Flight) -> FlightChanged:
    departure, arrival = flight.departure_time.seconds, flight.arrival_time.seconds
    if not (flight.flight_id and flight.origin and flight.destination and departure < arrival):
        raise ValueError(f"flight {flight.flight_id!r} has no route or no times")
    seats: dict[int, int] = {}
    if flight.status in ON_SALE:
        seats = {cabin.cabin: cabin.available for cabin in flight.cabins}
    return FlightChanged(
        flight.flight_id,
        flight.version,
        flight.carrier,
        flight.number,
        flight.aircraft,
        flight.origin,
        flight.destination,
        departure,
        arrival,
        flight.departure_utc_offset_minutes,
        flight.arrival_utc_offset_minutes,
        flight.status == schedule_pb2.FLIGHT_STATUS_DELAYED,
        *map(seats.get, CABINS),
    )


def _prices(prices: FlightPrices) -> PricesChanged:
    by_cabin: dict[int, int] = {
        price.cabin: _billionths(price.fare) + _billionths(price.taxes) for price in prices.prices
    }
    return PricesChanged(prices.flight_id, prices.version, *map(by_cabin.get, CABINS))


def _billionths(money: Money) -> int:
    amount = money.units * BILLION + money.nanos
    if money.currency_code != CURRENCY or amount < 0:
        raise ValueError(f"{amount} billionths of {money.currency_code!r} is no price")
    return amount
