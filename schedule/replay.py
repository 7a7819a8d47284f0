"""Disrupts a running schedule as 2013 did: `python -m schedule.replay --speed 600`.

The delays and cancellations of the real flights, day by day from tomorrow on, so many times faster
than the clock: 600 makes ten minutes a second. Each has a request id of its own, so a replay that
is started again changes nothing that it has changed already.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Final

import grpc

from consulmesh import Mesh, MeshConfig, operators
from consulmesh.config import ConfigError
from consulmesh.errors import Status
from consulmesh.wellknown import duration
from flights.schedule.v1.schedule_pb2 import CancelFlightRequest, UpdateFlightRequest
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from schedule import __version__
from schedule.clock import SystemClock
from schedule.timetable import Airports, Disruption, Replay, Source, shipped, window
from schedule.window import DAYS, HOME, midnight

SPEED: Final = 600.0
AT_ONCE: Final = 16
DEADLINE: Final = 5.0  # seconds, of a call
REASON: Final = "as on that day of 2013"
EXPECTED: Final = frozenset({"FLIGHT_NOT_FOUND", "FLIGHT_DEPARTED", "FLIGHT_CANCELLED"})
"""Of another timetable, gone by now, or cancelled by somebody else."""


class Disruptor:
    """Tells schedule what goes wrong, and counts what became of it."""

    def __init__(self, stub: ScheduleServiceStub) -> None:
        self._stub = stub
        self._gate = asyncio.Semaphore(AT_ONCE)
        self.told: Counter[str] = Counter()

    async def tell(self, disruption: Disruption) -> None:
        """Delay or cancel a flight. Raises what is not to be expected."""
        kind = "cancelled" if disruption.delay is None else "delayed"
        try:
            async with self._gate:
                await self._call(disruption)
        except grpc.aio.AioRpcError as error:
            reason = Status.of(error).reason
            if reason not in EXPECTED:
                raise
            kind = f"refused: {reason}"
        self.told[kind] += 1

    async def _call(self, disruption: Disruption) -> None:
        key = f"replay-{disruption.flight_id}-{disruption.at:%Y%m%dT%H%M}"
        if disruption.delay is None:
            await self._stub.CancelFlight(
                CancelFlightRequest(request_id=key, flight_id=disruption.flight_id, reason=REASON),
                timeout=DEADLINE,
                wait_for_ready=True,
            )
        else:
            await self._stub.UpdateFlight(
                UpdateFlightRequest(
                    request_id=key,
                    flight_id=disruption.flight_id,
                    delay=duration(disruption.delay),
                    reason=REASON,
                ),
                timeout=DEADLINE,
                wait_for_ready=True,
            )


class Pace:
    """Time that passes `speed` times faster than the clock, from an instant that is now."""

    def __init__(self, start: datetime, speed: float) -> None:
        self._start = start
        self._speed = speed
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()

    async def reach(self, instant: datetime) -> None:
        """Return at an instant, at once where it has passed."""
        due = self._began + (instant - self._start).total_seconds() / self._speed
        await asyncio.sleep(max(due - self._clock(), 0))


async def replay(stub: ScheduleServiceStub, days: Sequence[date], speed: float) -> Counter[str]:
    """Disrupt the flights of these days; returns what became of it."""
    airports = await asyncio.to_thread(Airports.load)
    disruptor = Disruptor(stub)
    pace = Pace(midnight(days[0]), speed)
    for day in days:
        async with asyncio.TaskGroup() as group:
            for disruption in await asyncio.to_thread(_of, airports, day):
                await pace.reach(disruption.at)
                group.create_task(disruptor.tell(disruption))
        _say(day, disruptor.told)
    return disruptor.told


def _of(airports: Airports, day: date) -> list[Disruption]:
    with shipped() as lines:
        return Replay(airports).disruptions(Source(lines), day)


def _say(day: date, told: Counter[str]) -> None:
    counts = ", ".join(f"{count:,} {what}" for what, count in sorted(told.items()))
    print(f"{day}: {counts or 'nothing'} so far", file=sys.stderr, flush=True)  # noqa: T201 - a command


async def run(first: date | None, days: int, speed: float) -> None:
    """Join the mesh as a caller of schedule, and replay."""
    today = SystemClock().now().astimezone(HOME).date()
    config = MeshConfig.from_env(operators.environment(), version=__version__)
    async with Mesh.join(operators.OPERATOR, config) as mesh:
        stub = ScheduleServiceStub(mesh.channel("schedule"))
        await replay(stub, window(first or today + timedelta(days=1), days), speed)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m schedule.replay",
        description="Disrupt a running schedule with the delays and cancellations of 2013.",
    )
    parser.add_argument("--speed", type=float, default=SPEED, help="times faster than the clock")
    parser.add_argument("--first", type=date.fromisoformat, help="first day; tomorrow if not given")
    parser.add_argument("--days", type=int, default=DAYS - 1, help="how many")
    given = parser.parse_args()
    if given.speed <= 0 or given.days <= 0:
        parser.error("speed and days must be above zero")
    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(run(given.first, given.days, given.speed))
    except ConfigError as error:
        sys.exit(f"not replayed: {error}")


if __name__ == "__main__":
    main()
