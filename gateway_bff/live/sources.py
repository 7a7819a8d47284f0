"""The sources of live news: their hubs, and the jobs that keep these and the cache supplied."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Never, Self

import structlog

from eventstream import Follower
from flights.pricing.v1.pricing_pb2 import PriceEvent
from flights.schedule.v1.schedule_pb2 import FlightEvent
from gateway_bff.cache.changes import Changes, of_flight, of_prices
from gateway_bff.cache.overheard import Overheard
from gateway_bff.live.hub import Hub
from gateway_bff.live.topics import Flights, Prices
from gateway_bff.telemetry import LiveMetrics
from gateway_bff.upstreams import Upstreams

STALE_AFTER: Final = timedelta(seconds=5)
_LOOK_EVERY: Final = 0.25  # seconds; a lag only grows, and nobody tells

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The hub of each source, and the follower that fills it."""

    prices: Hub[PriceEvent]
    flights: Hub[FlightEvent]
    pricing: Follower[PriceEvent]
    schedule: Follower[FlightEvent]
    stale_after: timedelta = STALE_AFTER

    @classmethod
    def of(cls, upstreams: Upstreams, metrics: LiveMetrics, changes: Changes) -> Self:
        """Hubs over these upstreams, which stay empty until the jobs run."""
        prices, flights = Prices(upstreams.pricing), Flights(upstreams.schedule)
        to_prices = Hub(prices, metrics.of(prices.source))
        to_flights = Hub(flights, metrics.of(flights.source))
        priced = Overheard(to_prices, prices.source, of_prices, changes)
        scheduled = Overheard(to_flights, flights.source, of_flight, changes)
        return cls(
            prices=to_prices,
            flights=to_flights,
            pricing=Follower(prices.source, prices.watch, priced),
            schedule=Follower(flights.source, flights.watch, scheduled),
        )

    @property
    def lags(self) -> Mapping[str, Callable[[], float]]:
        """By source, the seconds since everything that it had committed was here."""
        return {
            self.prices.topic.source: self.pricing.lag,
            self.flights.topic.source: self.schedule.lag,
        }

    def jobs(self) -> dict[str, Coroutine[Any, Any, Never]]:
        """What has to run for as long as clients are served, by name."""
        return {
            "follow-pricing": self.pricing.run(),
            "follow-schedule": self.schedule.run(),
            "watch-pricing": self._watch(self.prices, self.pricing.lag),
            "watch-schedule": self._watch(self.flights, self.schedule.lag),
        }

    async def _watch(self, hub: Hub[Any], lag: Callable[[], float]) -> Never:
        """Tell the hub when what it knows is too old, and when it is not any more."""
        bound, stale = self.stale_after.total_seconds(), False
        while True:
            seconds = lag()
            if math.isfinite(seconds) and stale != (seconds > bound):
                stale = not stale
                _log.info("live_stale" if stale else "live_again", source=hub.topic.source)
                hub.lags(seconds if stale else None)
            await asyncio.sleep(_LOOK_EVERY)
