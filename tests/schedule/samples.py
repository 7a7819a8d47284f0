"""A flight as tests need it, a timetable of such, and a clock that stands still until told."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

from schedule.domain import Cabin, CabinSeats, Flight, flight_id
from schedule.window import HOME, midnight

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)  # 07:00 in New York
TODAY = NOW.astimezone(HOME).date()
CARRIER = "AA"


def flight(
    departure: datetime,
    cabins: Mapping[Cabin, int],
    *,
    number: int = 1,
    route: tuple[str, str, int] = ("JFK", "LAX", 3_983),
    hours: float = 6,
    day: date | None = None,
    key: str | None = None,
) -> Flight:
    """A flight with so many seats, on a route of so many km.

    Not told otherwise, its day is that of its departure in New York, and its id made of these.
    """
    origin, destination, distance = route
    arrival = departure + timedelta(hours=hours)
    day = day or departure.astimezone(HOME).date()
    return Flight(
        flight_id=key or flight_id(CARRIER, str(number), origin, destination, day),
        carrier=CARRIER,
        number=str(number),
        origin=origin,
        destination=destination,
        departure_date=day,
        departure_time=departure,
        arrival_time=arrival,
        scheduled_departure_time=departure,
        scheduled_arrival_time=arrival,
        departure_utc_offset_minutes=-300,
        arrival_utc_offset_minutes=-480,
        aircraft="767-223",
        distance_km=distance,
        inferred=False,
        cabins=tuple(CabinSeats(cabin=cabin, capacity=seats) for cabin, seats in cabins.items()),
    )


def sample(number: int = 1, *, in_hours: float = 48, **cabins: int) -> Flight:
    """A flight from JFK to LAX that leaves so many hours from NOW; 10 seats in economy."""
    seats = {Cabin[name.upper()]: n for name, n in cabins.items()} or {Cabin.ECONOMY: 10}
    return flight(NOW + timedelta(hours=in_hours), seats, number=number)


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
