"""A small synthetic timetable, and a clock that stands still until it is told."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

from schedule.domain import Cabin, CabinSeats, Flight, flight_id
from schedule.window import HOME, midnight

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)  # 07:00 in New York
TODAY = NOW.astimezone(HOME).date()


def sample(number: int = 1, *, in_hours: float = 48, **cabins: int) -> Flight:
    """A flight from JFK to LAX that leaves so many hours from NOW; 10 seats in economy."""
    departure = NOW + timedelta(hours=in_hours)
    arrival = departure + timedelta(hours=6)
    day = departure.astimezone(HOME).date()
    seats = cabins or {"economy": 10}
    return Flight(
        flight_id=flight_id("AA", str(number), "JFK", "LAX", day),
        carrier="AA",
        number=str(number),
        origin="JFK",
        destination="LAX",
        departure_date=day,
        departure_time=departure,
        arrival_time=arrival,
        scheduled_departure_time=departure,
        scheduled_arrival_time=arrival,
        departure_utc_offset_minutes=-300,
        arrival_utc_offset_minutes=-480,
        aircraft="767-223",
        distance_km=3983,
        inferred=False,
        cabins=tuple(
            CabinSeats(cabin=Cabin[name.upper()], capacity=n) for name, n in seats.items()
        ),
    )


class Daily:
    """A source of flights: so many a day, at hourly intervals from 01:00 on.

    State: `asked`, the days that were asked for.
    """

    def __init__(self, flights_a_day: int) -> None:
        self._flights_a_day = flights_a_day
        self.asked: list[date] = []

    def __call__(self, days: Sequence[date]) -> Iterator[tuple[date, list[Flight]]]:
        """The flights of each day."""
        self.asked.extend(days)
        for day in days:
            start = (midnight(day) - NOW) / timedelta(hours=1) + 1
            yield (
                day,
                [sample(n, in_hours=start + n % 20) for n in range(1, self._flights_a_day + 1)],
            )


class FixedClock:
    """Time passes by `advance` only; whoever waits for an instant goes on when it is reached.

    State: the instant, and an event that is set at each advance.
    """

    def __init__(self, now: datetime = NOW) -> None:
        self._now = now
        self._advanced = asyncio.Event()

    def now(self) -> datetime:
        """The instant."""
        return self._now

    def advance(self, span: timedelta) -> None:
        """Let time pass."""
        self._now += span
        self._advanced.set()
        self._advanced = asyncio.Event()

    async def sleep_until(self, instant: datetime) -> None:
        """Return once `now` is `instant` or later."""
        while self._now < instant:
            await self._advanced.wait()
