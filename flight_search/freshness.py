"""How far the sources were followed, and what is worth waiting for."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Protocol

from flight_search.domain import Position, PositionNotReachedError, PriceBasis
from flight_search.read_model import PRICING, ReadModel

PRICES_LIVE_FOR = timedelta(seconds=5)
WORTH_WAITING = timedelta(seconds=10)
"""For a minimum position, where the caller's deadline does not end the wait."""
WORTH_A_MOMENT = timedelta(milliseconds=500)
"""For a position that is preferred: many times what an instance is behind by as a rule."""
CATCH_UP = timedelta(seconds=1)
"""For the owners' newest changes, before a complete file of an earlier run is served as it is."""


class Followed(Protocol):
    """A stream that is being followed; `eventstream.Follower` is one."""

    caught_up: asyncio.Event

    def lag(self) -> float:
        """Age in seconds of the newest answer that said: you have everything."""


class FollowedSources:
    """How far the read model has followed its sources, by Consul name."""

    def __init__(self, model: ReadModel, sources: Mapping[str, Followed]) -> None:
        self._model = model
        self._sources = sources

    def positions(self) -> tuple[Position, ...]:
        """The sources that have a position, with their lag."""
        return tuple(
            Position(
                source=source,
                epoch=position.epoch,
                seq=position.seq,
                lag=_lag(followed),
            )
            for source, followed in self._sources.items()
            if (position := self._model.position(source))
        )

    def price_basis(self) -> PriceBasis:
        """Live while pricing's stream is current."""
        current = self._sources[PRICING].lag() <= PRICES_LIVE_FOR.total_seconds()
        return PriceBasis.LIVE if current else PriceBasis.INDICATIVE

    async def reach(self, at_least: Sequence[Position]) -> None:
        """Waits for positions; those of unknown sources and other histories are no obstacle."""
        try:
            await self._wait(at_least, WORTH_WAITING)
        except TimeoutError:
            raise PositionNotReachedError(
                "the read model has not reached the positions asked for"
            ) from None

    async def approach(self, preferred: Sequence[Position]) -> None:
        """Waits a moment for positions: an old answer that says so is better than none."""
        with suppress(TimeoutError):
            await self._wait(preferred, WORTH_A_MOMENT)

    async def warm(self) -> None:
        """Returns when the read model may be asked.

        A new one when it has every source's first snapshot, however long that takes; a complete
        one of an earlier run when it has caught up, or soon without: it answers when the owners
        are away. One whose owner has started another snapshot is not complete.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP.total_seconds()):
                for followed in self._sources.values():
                    await followed.caught_up.wait()
        while not self._complete():
            await self._model.moved.wait()

    async def _wait(self, positions: Sequence[Position], patience: timedelta) -> None:
        if all(map(self._reached, positions)):
            return
        async with asyncio.timeout(patience.total_seconds()):
            while not all(map(self._reached, positions)):
                await self._model.moved.wait()

    def _complete(self) -> bool:
        return all(self._model.position(source) for source in self._sources)

    def _reached(self, asked: Position) -> bool:
        if asked.source not in self._sources:
            return True
        position = self._model.position(asked.source)
        if position is None:  # a snapshot is under way; at its end there is one again
            return False
        return position.epoch != asked.epoch or position.seq >= asked.seq


def _lag(followed: Followed) -> timedelta | None:
    seconds = followed.lag()
    return timedelta(seconds=seconds) if math.isfinite(seconds) else None
