import asyncio
import math
from datetime import timedelta

import pytest

from flight_search import freshness
from flight_search.domain import Position, PositionNotReachedError, PriceBasis
from flight_search.freshness import FollowedSources
from flight_search.read_model import PRICING, SCHEDULE, ReadModel


class Stream:
    """A stream that is as late as it says."""

    def __init__(self, lag: float) -> None:
        self.caught_up = asyncio.Event()
        self._lag = lag

    def lag(self) -> float:
        """Its lag."""
        return self._lag


def sources(model: ReadModel, pricing_lag: float = 0.0) -> FollowedSources:
    """Two sources, schedule never heard of."""
    return FollowedSources(model, {SCHEDULE: Stream(math.inf), PRICING: Stream(pricing_lag)})


def move(model: ReadModel, source: str, seq: int) -> None:
    """Moves a source's position."""
    model.start_snapshot(source)
    model.apply(source, (), Position(source=source, epoch="e", seq=seq))


@pytest.mark.parametrize(
    ("lag", "basis"),
    [
        (0.0, PriceBasis.LIVE),
        (5.0, PriceBasis.LIVE),
        (5.1, PriceBasis.INDICATIVE),
        (math.inf, PriceBasis.INDICATIVE),
    ],
)
def test_prices_are_live_for_five_seconds(model: ReadModel, lag: float, basis: PriceBasis) -> None:
    """Prices are live while pricing was heard of within five seconds."""
    assert sources(model, lag).price_basis() is basis


def test_positions_say_how_late_they_are(model: ReadModel) -> None:
    """A source has a position once its snapshot is complete, and a lag once it was heard of."""
    followed = sources(model, 0.25)
    before = followed.positions()
    move(model, SCHEDULE, 4)
    move(model, PRICING, 5)

    assert before == ()
    assert followed.positions() == (
        Position(source=SCHEDULE, epoch="e", seq=4, lag=None),
        Position(source=PRICING, epoch="e", seq=5, lag=timedelta(seconds=0.25)),
    )


async def test_waiting_for_a_position_has_an_end(
    model: ReadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a deadline of the caller the wait is bounded all the same."""
    monkeypatch.setattr(freshness, "WORTH_WAITING", timedelta(milliseconds=10))
    move(model, SCHEDULE, 4)
    asked = Position(source=SCHEDULE, epoch="e", seq=5)
    with pytest.raises(PositionNotReachedError):
        await sources(model).reach([asked])

    assert model.position(SCHEDULE) == Position(source=SCHEDULE, epoch="e", seq=4)


async def test_all_minimum_positions_must_be_reached(model: ReadModel) -> None:
    """One source alone does not end the wait."""
    for source in (SCHEDULE, PRICING):
        move(model, source, 1)
    asked = [Position(source=source, epoch="e", seq=2) for source in (SCHEDULE, PRICING)]
    waiting = asyncio.ensure_future(sources(model).reach(asked))
    model.apply(PRICING, (), asked[1])
    for _ in range(3):
        await asyncio.sleep(0)
    early = waiting.done()
    model.apply(SCHEDULE, (), asked[0])
    await asyncio.wait_for(waiting, 30)

    assert not early
