"""Confirmed bookings a second against the raw durable commits of the same database, in one run.

    python -m bench.bookings --engines sqlite postgres --seconds 6

Booking, schedule and pricing are processes of their own, which know each other's addresses; neither
Consul nor the gateway runs. 1, 8 and 32 callers book by gRPC, each waiting until its booking is
CONFIRMED; quotes are made before. Before and after each round of bookings, while the services are
idle, raw commits are counted.

A booking is seven durable commits, one after the other: what each step has led to is recorded
before the next. So a database allows a single caller raw / 7 bookings a second at most, if nothing
else took any time; `ratio` is how much of that is reached. Several callers share commits.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.booking_services import SERVICES, Fleet, Usage, fleet, flights_to_book
from bench.durable import ENGINES
from consulmesh import event_loop, logs
from consulmesh.local_issuer import LocalIssuer
from consulmesh.testing import StaticMesh
from flights.booking.v1 import booking_pb2
from flights.booking.v1.booking_pb2_grpc import BookingServiceStub
from flights.pricing.v1 import pricing_pb2
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY

COMMITS: Final = (
    "booking.begin",
    "pricing.redeem",
    "booking.record_redeemed",
    "schedule.hold",
    "booking.record_held",
    "schedule.confirm",
    "booking.record_confirmed",
)
"""The durable steps of a booking that is confirmed, in their order."""

CALLERS: Final = (1, 8, 32)
ROUNDS: Final = 3
RAW_SECONDS: Final = 0.5
TRIAL: Final = 64  # bookings before the rounds, to warm up and to learn the pace
QUOTES_AT_ONCE: Final = 8
DEADLINE: Final = 20.0
MILLI: Final = 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """So many bookings by so many callers."""

    bookings: int
    seconds: float
    latencies: Sequence[float]  # seconds, the shortest first
    used: dict[str, Usage]  # by process
    raw: float  # durable commits a second, just before and just after

    @property
    def rate(self) -> float:
        """Confirmed bookings a second."""
        return self.bookings / self.seconds

    @property
    def ratio(self) -> float:
        """Of what the database would allow a single caller."""
        return self.rate * len(COMMITS) / self.raw


class Traveller:
    """Books by gRPC. State: how many quotes were asked for, each for the flight after the last."""

    def __init__(self, mesh: StaticMesh, issuer: LocalIssuer, flights: Sequence[str]) -> None:
        self._booking = BookingServiceStub(mesh.channel("booking"))
        self._pricing = PricingServiceStub(mesh.channel("pricing"))
        self._token = [("authorization", f"Bearer {issuer.token('ann', ['customer'])}")]
        self._flights = flights
        self._quoted = 0

    async def quotes(self, count: int) -> list[str]:
        """New quotes for one passenger each."""
        room = asyncio.Semaphore(QUOTES_AT_ONCE)
        wanted = range(self._quoted, self._quoted + count)
        self._quoted += count

        async def quote(number: int) -> str:
            async with room:
                return await self._quote(self._flights[number % len(self._flights)])

        return await asyncio.gather(*(quote(number) for number in wanted))

    async def _quote(self, flight_id: str) -> str:
        segment = pricing_pb2.QuoteSegment(flight_id=flight_id, cabin=CABIN_ECONOMY)
        request = pricing_pb2.CreateQuoteRequest(
            request_id=str(uuid.uuid4()), segments=[segment], passengers=1
        )
        answer = await self._pricing.CreateQuote(request, timeout=DEADLINE)
        return answer.quote.quote_id

    async def book(self, quotes: Iterator[str]) -> list[float]:
        """Book quote after quote, each until it is confirmed; returns the seconds of each."""
        took: list[float] = []
        for quote_id in quotes:
            began = time.perf_counter()
            booking = await self._book(quote_id)
            took.append(time.perf_counter() - began)
            assert booking.status == booking_pb2.BOOKING_STATUS_CONFIRMED, booking
        return took

    async def _book(self, quote_id: str) -> booking_pb2.Booking:
        request = booking_pb2.CreateBookingRequest(
            request_id=str(uuid.uuid4()),
            quote_id=quote_id,
            passengers=[booking_pb2.Passenger(given_name="Ann", family_name="Lee")],
            contact=booking_pb2.Contact(email="ann@example.org"),
        )
        answer = await self._booking.CreateBooking(request, timeout=DEADLINE, metadata=self._token)
        return answer.booking


async def measure(fleet: Fleet, traveller: Traveller, callers: int, count: int) -> Round:
    """One round."""
    quotes = iter(await traveller.quotes(count))
    raw = fleet.storage.raw_rate(RAW_SECONDS)
    before = fleet.usage()
    began = time.perf_counter()
    took = await asyncio.gather(*(traveller.book(quotes) for _ in range(callers)))
    seconds = time.perf_counter() - began
    used = {name: usage.since(before[name]) for name, usage in fleet.usage().items()}
    return Round(
        bookings=count,
        seconds=seconds,
        latencies=sorted(each for some in took for each in some),
        used=used,
        raw=(raw + fleet.storage.raw_rate(RAW_SECONDS)) / 2,
    )


async def rounds(
    fleet: Fleet, callers: int, flights: Sequence[str], folder: Path, seconds: float
) -> list[Round]:
    """Rounds of so many callers, after a trial that does not count."""
    issuer = LocalIssuer(folder / "issuer")
    async with StaticMesh("bench", fleet.targets) as mesh:
        traveller = Traveller(mesh, issuer, flights)
        trial = await measure(fleet, traveller, callers, TRIAL)
        count = max(callers, round(trial.rate * seconds / ROUNDS))
        return [await measure(fleet, traveller, callers, count) for _ in range(ROUNDS)]


def report(callers: int, found: Sequence[Round]) -> None:
    """Print what the rounds of so many callers gave: medians."""
    rate, ratio = (_median([getattr(r, name) for r in found]) for name in ("rate", "ratio"))
    p50, p99 = (
        _median([r.latencies[int(share * len(r.latencies))] for r in found])
        for share in (0.5, 0.99)
    )
    print(
        f"{callers:7}{rate:12.0f}{_median([r.raw for r in found]):14.0f}{ratio:7.2f}"
        f"{p50 * MILLI:9.1f}{p99 * MILLI:9.1f}   {'  '.join(spent(found))}"
    )


def spent(found: Sequence[Round]) -> Iterator[str]:
    """What a booking costs each process: CPU milliseconds, and durable commits / units in them."""
    bookings = sum(each.bookings for each in found)
    for name in found[0].used:
        used = [each.used[name] for each in found]
        cpu, commits, units = (
            sum(getattr(each, what) for each in used) / bookings
            for what in ("cpu", "commits", "units")
        )
        if cpu:
            yield f"{name} {cpu * MILLI:.1f} ms" + (f", {commits:.1f}/{units:.1f}" if units else "")


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Bookings a second against durable commits.")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--seconds", type=float, default=6.0, help="for each number of callers")
    given = parser.parse_args()
    logs.configure("critical")
    flights = flights_to_book()
    for engine in given.engines:
        with tempfile.TemporaryDirectory(prefix="flightmesh-bench-") as name:
            folder = Path(name)
            LocalIssuer(folder / "issuer")
            with ENGINES[engine](folder, SERVICES) as storage, fleet(folder, storage) as running:
                print(f"\n{engine}: {len(COMMITS)} durable commits a booking, one after the other")
                print(
                    f"{'callers':>7}{'bookings/s':>12}{'raw commits/s':>14}{'ratio':>7}"
                    f"{'p50 ms':>9}{'p99 ms':>9}   a booking costs: CPU, commits/units"
                )
                for callers in CALLERS:
                    asked = rounds(running, callers, flights, folder, given.seconds)
                    report(callers, event_loop.run(asked))


if __name__ == "__main__":
    main()
