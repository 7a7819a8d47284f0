"""An owner as live streams see it: a history that is watched, and the state that it has led to.

`test_owner` holds it to what the feed of a real outbox says.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import grpc

from consulmesh import wellknown
from flights.pricing.v1 import pricing_pb2 as pricing
from flights.schedule.v1 import schedule_pb2 as schedule
from flights.type.v1.cabin_pb2 import CABIN_BUSINESS, CABIN_ECONOMY
from streams.v1 import stream_pb2
from streams.v1.stream_pb2 import Cursor
from tests.gateway_bff import examples
from tests.gateway_bff.fakes import FakeService, refusal

UNKNOWN = refusal(grpc.StatusCode.NOT_FOUND, "FLIGHT_NOT_FOUND")
AWAY = refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING")
_BATCH = 500
_BOOKMARK_EVERY = 0.05


@dataclass
class Owner:
    """Flights that each have a number, which is what changes; versions grow over histories.

    `trimmed` events of the history are forgotten. `watching` streams are open, `watched` ever were.
    """

    changed: Callable[[str, int, int], Any]
    removed: Callable[[str, int], Any]
    response: type[Any]
    epoch: str = "e1"
    version: int = 0
    history: list[Any] = field(default_factory=list)
    flights: dict[str, tuple[int, int]] = field(default_factory=dict)
    trimmed: int = 0
    away: bool = False
    watching: int = 0
    watched: list[Cursor | None] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def seq(self) -> int:
        """The number of the newest event."""
        return len(self.history)

    def put(self, flight_id: str, number: int) -> int:
        """Add a flight or change it; its version."""
        self.version += 1
        self.flights[flight_id] = (self.version, number)
        self.tell(self.changed(flight_id, self.version, number))
        return self.version

    def remove(self, flight_id: str) -> None:
        """Let a flight leave, where there is one."""
        if self.flights.pop(flight_id, None):
            self.version += 1
            self.tell(self.removed(flight_id, self.version))

    def restore(self, epoch: str) -> None:
        """Begin another history, with what there is."""
        self.epoch, self.history, self.trimmed = epoch, [], 0
        self._wake()

    def go_away(self) -> None:
        """End all streams, and refuse new ones."""
        self.away = True
        self._wake()

    def come_back(self) -> None:
        """Serve again."""
        self.away = False

    def cursor(self, seq: int | None = None) -> Cursor:
        """A position of this history, by default its end."""
        return Cursor(epoch=self.epoch, seq=self.seq if seq is None else seq)

    def keeps(self, cursor: Cursor) -> bool:
        """Whether a reader at a position can go on."""
        return cursor.epoch == self.epoch and self.trimmed <= cursor.seq <= self.seq

    async def watch(self, request: Any) -> AsyncIterator[Any]:
        """What the Watch RPC answers to a reader of changes only."""
        assert request.changes_only
        at = request.cursor if request.HasField("cursor") else None
        self.watched.append(at)
        self.watching += 1
        try:
            while not self.away:
                if at is None or not self.keeps(at):
                    at = self.cursor()
                    yield self._answer(stream_pb2.PHASE_SNAPSHOT_STARTED, at)
                    yield self._answer(stream_pb2.PHASE_SNAPSHOT_COMPLETED, at)
                news = self._news
                events = self.history[at.seq : at.seq + _BATCH]
                at = self.cursor(at.seq + len(events))
                phase = stream_pb2.PHASE_EVENTS if events else stream_pb2.PHASE_BOOKMARK
                yield self._answer(phase, at, events)
                if at.seq == self.seq and at.epoch == self.epoch:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(news.wait(), _BOOKMARK_EVERY)
            raise AWAY
        finally:
            self.watching -= 1

    def found(self, flight_ids: Sequence[str]) -> list[tuple[str, int, int]]:
        """Flights with version and number; raises what the owner refuses with."""
        if self.away:
            raise AWAY
        if not set(flight_ids) <= self.flights.keys():
            raise UNKNOWN
        return [(flight_id, *self.flights[flight_id]) for flight_id in flight_ids]

    def _answer(self, phase: int, at: Cursor, events: Sequence[Any] = ()) -> Any:
        now = wellknown.timestamp(datetime.now(UTC))
        return self.response(phase=phase, cursor=at, events=events, read_time=now)

    def tell(self, event: Any) -> None:
        """Let something happen."""
        self.history.append(event)
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def flight(flight_id: str, version: int, number: int) -> schedule.Flight:
    """A flight; the number is its distance."""
    shown = examples.flight(flight_id)
    shown.version, shown.distance_km = version, number
    return shown


def price_list(flight_id: str, version: int, number: int) -> list[pricing.Price]:
    """Two prices; the number are dollars in economy, business was never changed."""
    fares = {CABIN_ECONOMY: (version, number), CABIN_BUSINESS: (1, 900)}
    return [
        pricing.Price(
            flight_id=flight_id,
            cabin=cabin,
            version=changed,
            fare=wellknown.money(Decimal(dollars), "USD"),
            taxes=examples.usd("9.95"),
        )
        for cabin, (changed, dollars) in fares.items()
    ]


def schedule_owner() -> Owner:
    """Schedule."""

    def changed(flight_id: str, version: int, number: int) -> schedule.FlightEvent:
        return schedule.FlightEvent(flight_changed=flight(flight_id, version, number))

    def removed(flight_id: str, version: int) -> schedule.FlightEvent:
        gone = schedule.FlightRemoved(flight_id=flight_id, version=version)
        return schedule.FlightEvent(flight_removed=gone)

    return Owner(changed, removed, schedule.WatchFlightsResponse)


def pricing_owner() -> Owner:
    """Pricing."""

    def changed(flight_id: str, version: int, number: int) -> pricing.PriceEvent:
        prices = price_list(flight_id, version, number)
        new = pricing.FlightPrices(flight_id=flight_id, version=version, prices=prices)
        return pricing.PriceEvent(prices_changed=new)

    def removed(flight_id: str, version: int) -> pricing.PriceEvent:
        gone = pricing.PricesRemoved(flight_id=flight_id, version=version)
        return pricing.PriceEvent(prices_removed=gone)

    return Owner(changed, removed, pricing.WatchPricesResponse)


def flights_of(owner: Owner, request: schedule.BatchGetFlightsRequest) -> Any:
    """What BatchGetFlights answers."""
    found = owner.found(request.flight_ids)
    return schedule.BatchGetFlightsResponse(flights=[flight(*each) for each in found])


def prices_of(owner: Owner, request: pricing.GetPricesRequest) -> Any:
    """What GetPrices answers."""
    prices = [
        price
        for each in owner.found(request.flight_ids)
        for price in price_list(*each)
        if request.cabin in {0, price.cabin}
    ]
    return pricing.GetPricesResponse(prices=prices)


def serve(owner: Owner, fake: FakeService) -> None:
    """Let a fake service answer as this owner."""
    fake.answers |= {
        "WatchPrices": owner.watch,
        "WatchFlights": owner.watch,
        "GetPrices": lambda request: prices_of(owner, request),
        "BatchGetFlights": lambda request: flights_of(owner, request),
    }
