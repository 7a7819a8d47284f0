"""The two kinds of news: prices, which pricing owns, and flights, which schedule owns."""

from collections import defaultdict
from collections.abc import Sequence

import orjson

from flights.pricing.v1.pricing_pb2 import (
    FlightPrices,
    GetPricesRequest,
    Price,
    PriceEvent,
    WatchPricesRequest,
)
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.schedule.v1.schedule_pb2 import (
    BatchGetFlightsRequest,
    Flight,
    FlightEvent,
    WatchFlightsRequest,
)
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from flights.type.v1.cabin_pb2 import Cabin
from gateway_bff import translate
from gateway_bff.live.topic import Shown, View, Watching
from gateway_bff.sse import event as sse_event
from streams.v1.stream_pb2 import Cursor


class Prices:
    """Prices; a view is a cabin, 0 for all."""

    source = "pricing"

    def __init__(self, pricing: PricingServiceStub) -> None:
        self._pricing = pricing

    def watch(self, cursor: Cursor | None) -> Watching[PriceEvent]:
        """Follow the changes."""
        request = WatchPricesRequest(cursor=cursor, changes_only=True)
        return self._pricing.WatchPrices(request, wait_for_ready=True)

    def flight_of(self, event: PriceEvent) -> str:
        """Whose prices they are."""
        return event.prices_changed.flight_id or event.prices_removed.flight_id

    def shown(self, event: PriceEvent, view: View) -> Shown:
        """New prices, or their end.

        Of one cabin the version is its price's, so that clients hear nothing of the other cabins.
        """
        if event.HasField("prices_removed"):
            return _gone(event.prices_removed.flight_id, event.prices_removed.version)
        changed: FlightPrices = event.prices_changed
        prices = [price for price in changed.prices if view in {0, price.cabin}]
        version = prices[0].version if view and prices else changed.version
        return _prices(changed.flight_id, version, prices)

    def gone(self, flight_id: str) -> Shown:
        """A flight without prices."""
        return _gone(flight_id, 0)

    async def now(self, flight_ids: Sequence[str], view: View) -> Sequence[Shown]:
        """Prices by flight.

        A flight's version is that of its price that changed last. It may have grown since by a
        cabin that is gone; then a change that is known already is told again.
        """
        request = GetPricesRequest(flight_ids=flight_ids, cabin=Cabin.ValueType(view))
        by_flight = defaultdict[str, list[Price]](list)
        for price in (await self._pricing.GetPrices(request)).prices:
            by_flight[price.flight_id].append(price)
        return [
            _prices(
                key, max((price.version for price in by_flight[key]), default=0), by_flight[key]
            )
            for key in flight_ids
        ]


class Flights:
    """Flights with their seats; there is one view."""

    source = "schedule"

    def __init__(self, schedule: ScheduleServiceStub) -> None:
        self._schedule = schedule

    def watch(self, cursor: Cursor | None) -> Watching[FlightEvent]:
        """Follow the changes."""
        request = WatchFlightsRequest(cursor=cursor, changes_only=True)
        return self._schedule.WatchFlights(request, wait_for_ready=True)

    def flight_of(self, event: FlightEvent) -> str:
        """Which flight it is."""
        return event.flight_changed.flight_id or event.flight_removed.flight_id

    def shown(self, event: FlightEvent, view: View) -> Shown:
        """A flight that is new or has changed, or its end."""
        if event.HasField("flight_removed"):
            return _gone(event.flight_removed.flight_id, event.flight_removed.version)
        return _flight(event.flight_changed)

    def gone(self, flight_id: str) -> Shown:
        """A flight that is not in the timetable."""
        return _gone(flight_id, 0)

    async def now(self, flight_ids: Sequence[str], view: View) -> Sequence[Shown]:
        """The flights."""
        request = BatchGetFlightsRequest(flight_ids=flight_ids)
        return [_flight(found) for found in (await self._schedule.BatchGetFlights(request)).flights]


def _prices(flight_id: str, version: int, prices: Sequence[Price]) -> Shown:
    data = orjson.dumps(translate.prices(flight_id, prices))
    return Shown(flight_id=flight_id, version=version, event=sse_event("price", data))


def _flight(flight: Flight) -> Shown:
    data = orjson.dumps(translate.flight(flight))
    return Shown(
        flight_id=flight.flight_id, version=flight.version, event=sse_event("flight", data)
    )


def _gone(flight_id: str, version: int) -> Shown:
    data = orjson.dumps({"flight_id": flight_id})
    event = sse_event("removed", data)
    return Shown(flight_id=flight_id, version=version, event=event, removed=True)
