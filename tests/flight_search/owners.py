"""Schedule and pricing as far as search sees them: Watch RPCs that say what a test tells them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.type.money_pb2 import Money

from consulmesh.wellknown import timestamp
from flights.pricing.v1 import pricing_pb2
from flights.schedule.v1 import schedule_pb2
from flights.type.v1 import cabin_pb2
from streams.v1 import stream_pb2
from streams.v1.stream_pb2 import Cursor

EPOCH = "first"


class Owner:
    """One source: remembers what it was asked, and says its batches to one reader at a time."""

    def __init__(self, service: str, method: str, request: Any, response: Any) -> None:
        self._service, self._method = service, method
        self._request, self._response = request, response
        self._batches: asyncio.Queue[Any] = asyncio.Queue()
        self.asked: list[Cursor | None] = []
        self.asked_again = asyncio.Event()

    def add_to(self, server: Any) -> None:
        """Adds the one RPC to a server."""
        handler = grpc.unary_stream_rpc_method_handler(
            self._watch,
            request_deserializer=self._request.FromString,
            response_serializer=self._response.SerializeToString,
        )
        handlers = grpc.method_handlers_generic_handler(self._service, {self._method: handler})
        server.add_generic_rpc_handlers((handlers,))

    def start_snapshot(self, seq: int = 0, epoch: str = EPOCH) -> None:
        """Says that a snapshot follows."""
        self._say(stream_pb2.PHASE_SNAPSHOT_STARTED, seq, epoch)

    def rows(self, events: Iterable[Any]) -> None:
        """Says rows of a snapshot."""
        self._batches.put_nowait(
            self._response(phase=stream_pb2.PHASE_SNAPSHOT, events=list(events))
        )

    def snapshot(self, events: Iterable[Any] = (), seq: int = 0, epoch: str = EPOCH) -> None:
        """Says a whole snapshot."""
        self.start_snapshot(seq, epoch)
        self.rows(events)
        self._say(stream_pb2.PHASE_SNAPSHOT_COMPLETED, seq, epoch)

    def events(self, events: Iterable[Any], seq: int, epoch: str = EPOCH) -> None:
        """Says changes up to a position."""
        self._say(stream_pb2.PHASE_EVENTS, seq, epoch, events=list(events))

    def bookmark(self, seq: int = 0, epoch: str = EPOCH, age: timedelta = timedelta()) -> None:
        """Says that there is nothing after a position, as of some time ago."""
        read_time = timestamp(datetime.now(UTC) - age)
        self._say(stream_pb2.PHASE_BOOKMARK, seq, epoch, read_time=read_time)

    def end(self) -> None:
        """Ends the stream, as an owner that drains."""
        self._batches.put_nowait(None)

    def _say(self, phase: int, seq: int, epoch: str, **fields: Any) -> None:
        cursor = Cursor(epoch=epoch, seq=seq)
        self._batches.put_nowait(self._response(phase=phase, cursor=cursor, **fields))

    async def _watch(
        self, request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        self.asked.append(request.cursor if request.HasField("cursor") else None)
        self.asked_again.set()
        while (batch := await self._batches.get()) is not None:
            yield batch
        await context.abort(grpc.StatusCode.UNAVAILABLE, "draining")


def schedule_owner() -> Owner:
    """Schedule."""
    return Owner(
        "flights.schedule.v1.ScheduleService",
        "WatchFlights",
        schedule_pb2.WatchFlightsRequest,
        schedule_pb2.WatchFlightsResponse,
    )


def pricing_owner() -> Owner:
    """Pricing."""
    return Owner(
        "flights.pricing.v1.PricingService",
        "WatchPrices",
        pricing_pb2.WatchPricesRequest,
        pricing_pb2.WatchPricesResponse,
    )


def flight_event(
    key: str,
    origin: str = "JFK",
    destination: str = "LAX",
    departure: datetime = datetime(2026, 3, 8, 13, tzinfo=UTC),
    minutes: int = 120,
    *,
    carrier: str = "B6",
    seats: int = 9,
    version: int = 1,
    status: schedule_pb2.FlightStatus.ValueType = schedule_pb2.FLIGHT_STATUS_SCHEDULED,
) -> schedule_pb2.FlightEvent:
    """A flight as schedule says it."""
    flight = schedule_pb2.Flight(
        flight_id=key,
        version=version,
        carrier=carrier,
        number="23",
        origin=origin,
        destination=destination,
        departure_time=timestamp(departure),
        arrival_time=timestamp(departure + timedelta(minutes=minutes)),
        aircraft="A320",
        status=status,
        cabins=[
            schedule_pb2.CabinSeats(cabin=cabin_pb2.CABIN_ECONOMY, capacity=150, available=seats)
        ],
        departure_utc_offset_minutes=-240,
        arrival_utc_offset_minutes=-420,
    )
    return schedule_pb2.FlightEvent(flight_changed=flight)


def flight_removed(key: str, version: int = 1) -> schedule_pb2.FlightEvent:
    """The end of a flight."""
    removed = schedule_pb2.FlightRemoved(flight_id=key, version=version)
    return schedule_pb2.FlightEvent(flight_removed=removed)


def price_event(
    key: str,
    dollars: int = 100,
    *,
    cents: int = 0,
    version: int = 1,
    currency: str = "USD",
    departure: datetime | None = None,
) -> pricing_pb2.PriceEvent:
    """The economy price of a flight; the cents are taxes."""
    price = pricing_pb2.Price(
        flight_id=key,
        cabin=cabin_pb2.CABIN_ECONOMY,
        version=version,
        fare=Money(currency_code=currency, units=dollars),
        taxes=Money(currency_code=currency, nanos=cents * 10_000_000),
    )
    prices = pricing_pb2.FlightPrices(flight_id=key, version=version, prices=[price])
    if departure is not None:
        prices.departure_time.CopyFrom(timestamp(departure))
    return pricing_pb2.PriceEvent(prices_changed=prices)


def prices_removed(key: str, version: int = 1) -> pricing_pb2.PriceEvent:
    """The end of a flight's prices."""
    removed = pricing_pb2.PricesRemoved(flight_id=key, version=version)
    return pricing_pb2.PriceEvent(prices_removed=removed)
