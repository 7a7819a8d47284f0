"""The sources of live news: their hubs, and the jobs that keep them supplied."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Never, Self

import structlog

from eventstream import Follower
from flights.pricing.v1.pricing_pb2 import PriceEvent
from flights.schedule.v1.schedule_pb2 import FlightEvent
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
    stale_after: timedelta = STALE_AFTER

    @classmethod
    def of(cls, upstreams: Upstreams, metrics: LiveMetrics) -> Self:
        """Hubs over these upstreams, which stay empty until the jobs run."""
        prices, flights = Prices(upstreams.pricing), Flights(upstreams.schedule)
        return cls(
            prices=Hub(prices, metrics.of(prices.source)),
            flights=Hub(flights, metrics.of(flights.source)),
        )

    def jobs(self) -> dict[str, Coroutine[Any, Any, Never]]:
        """What has to run for as long as clients are served, by name."""
        pricing = Follower(self.prices.topic.source, self.prices.topic.watch, self.prices)
        schedule = Follower(self.flights.topic.source, self.flights.topic.watch, self.flights)
        return {
            "follow-pricing": pricing.run(),
            "follow-schedule": schedule.run(),
            "watch-pricing": self._watch(self.prices, pricing.lag),
            "watch-schedule": self._watch(self.flights, schedule.lag),
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
