"""Steady load on the public API: searches at constant arrivals, each answer checked.

Open loop: a call starts when it is due, however slow the ones before are.
"""

import asyncio
import math
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import cycle

import aiohttp

from bench import oracle

ROUTES = (("JFK", "LAX"), ("LGA", "ATL"), ("EWR", "SFO"), ("LAX", "JFK"), ("BOS", "LAX"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One call: when it was due on the loop's clock, how long it took, what was wrong with it."""

    due: float
    seconds: float
    wrong: str | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a load."""

    outcomes: Sequence[Outcome]

    @property
    def failures(self) -> list[Outcome]:
        """Calls that failed or were answered wrongly."""
        return [outcome for outcome in self.outcomes if outcome.wrong]

    def percentile(self, share: float) -> float:
        """Latency in milliseconds that so many calls (0 to 1) did not exceed."""
        return 1000 * percentile([outcome.seconds for outcome in self.outcomes], share)

    def __str__(self) -> str:
        wrong = sorted({outcome.wrong or "" for outcome in self.failures})
        figures = f"p50 {self.percentile(0.5):.1f} ms, p99 {self.percentile(0.99):.1f} ms"
        return f"{len(self.outcomes)} calls, {len(self.failures)} failed, {figures} {wrong[:3]}"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share (0 to 1) of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def times(name: str, seconds: Sequence[float]) -> str:
    """p50, p99 and the longest, in ms."""
    if len(seconds) < 2:
        return f"{name} {len(seconds)} only"
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    p50, p99, longest = (each * 1000 for each in (cuts[49], cuts[98], max(seconds)))
    return f"{name} p50 {p50:.2f} p99 {p99:.2f} max {longest:.2f} ms"


def some_searches() -> list[oracle.Asked]:
    """Popular routes in a week."""
    day = str(date.today() + timedelta(days=7))  # noqa: DTZ011 - the origin's day
    return [oracle.Asked(origin, to, day, 1, "economy") for origin, to in ROUTES]


def query_of(asked: oracle.Asked) -> dict[str, str]:
    """The query parameters of a search."""
    return {
        "origin": asked.origin,
        "destination": asked.destination,
        "date": asked.date,
        "passengers": str(asked.passengers),
        "cabin": asked.cabin,
    }


async def search(http: aiohttp.ClientSession, gateway: str, asked: oracle.Asked) -> None:
    """One search; raises AssertionError where the answer is wrong."""
    async with http.get(f"{gateway}/v1/itineraries", params=query_of(asked)) as answer:
        assert answer.status == 200, f"{answer.status} {(await answer.text())[:200]}"
        found = (await answer.json())["itineraries"]
    assert found, "no itineraries"
    oracle.check_results(asked, found, by_price=True)


async def _measured(
    http: aiohttp.ClientSession, gateway: str, asked: oracle.Asked, due: float
) -> Outcome:
    loop = asyncio.get_running_loop()
    wrong: str | None = None
    try:
        await search(http, gateway, asked)
    except (AssertionError, aiohttp.ClientError, TimeoutError) as error:
        wrong = f"{type(error).__name__}: {error}"
    return Outcome(due=due, seconds=loop.time() - due, wrong=wrong)


@asynccontextmanager
async def load(
    http: aiohttp.ClientSession, gateway: str, per_second: float
) -> AsyncIterator[list[asyncio.Task[Outcome]]]:
    """Search so often while the block runs; its calls are done when it ends."""
    calls: list[asyncio.Task[Outcome]] = []
    arrivals = asyncio.create_task(_arrive(http, gateway, per_second, calls))
    try:
        yield calls
    finally:
        arrivals.cancel()
        await asyncio.gather(arrivals, return_exceptions=True)
        await asyncio.gather(*calls)


async def _arrive(
    http: aiohttp.ClientSession,
    gateway: str,
    per_second: float,
    calls: list[asyncio.Task[Outcome]],
) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    for asked in cycle(some_searches()):
        await asyncio.sleep(max(0.0, due - loop.time()))
        calls.append(asyncio.create_task(_measured(http, gateway, asked, due)))
        due += 1 / per_second


def summary(calls: Sequence[asyncio.Task[Outcome]]) -> Summary:
    """What became of the calls of a load that is over."""
    return Summary([call.result() for call in calls])
