"""Pricing of a million flights: `python -m bench.pricing --flights 1000000`.

One pricing process, wired as ever but without Consul, follows an invented schedule that lives in
another process, on SQLite and on PostgreSQL; a search process follows both. Printed are: the first
load; how long a reader takes for a snapshot; how many sold seats a second are priced, and how far
behind pricing is at a rate that it can keep; how long a new fare of the busiest route takes until
the last of its prices is in pricing's stream and in search; how evenly prices come due; how fast a
whole day's prices follow that come due at once; a restart. Beside each, how long a quote takes,
from when it was due (open loop, Poisson).
"""

import argparse
import asyncio
import random
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Final

import grpc

from bench.durable import ENGINES
from bench.overhead import Child
from bench.pricing_services import State, run_pricing, run_schedule
from bench.search import MEBI, MILLI, run_search
from bench.steady import times
from consulmesh import event_loop, logs
from consulmesh.wellknown import date_message, money
from flights.pricing.v1 import pricing_pb2 as pb
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.search.v1 import search_pb2
from flights.search.v1.search_pb2_grpc import SearchServiceStub
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY
from schedule.window import HOME
from streams.v1.stream_pb2 import PHASE_SNAPSHOT, PHASE_SNAPSHOT_COMPLETED, Cursor

QUOTES: Final = 20  # a second
QUOTED: Final = 200  # flights
SHARE: Final = 0.5  # of the most that pricing can take
SAMPLES: Final = 0.25  # seconds between looks at how far behind it is
DEADLINE: Final = 30.0
DAY: Final = timedelta(days=1)
BASE: Final = Decimal(321)


@dataclass(slots=True)
class Reader:
    """What a reader of pricing's stream has had: the position, and when each flight came last."""

    cursor: Cursor | None = None
    rows: int = 0
    events: int = 0
    came: dict[str, tuple[float, int]] = field(default_factory=dict)  # at, position
    order: list[str] = field(default_factory=list)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, stub: PricingServiceStub) -> None:
        """Read for ever, from where it stands."""
        call = stub.WatchPrices(pb.WatchPricesRequest(cursor=self.cursor))
        try:
            async for response in call:
                self._take(response)
        finally:
            call.cancel()

    async def snapshot(self, stub: PricingServiceStub) -> None:
        """Read all there is."""
        call = stub.WatchPrices(pb.WatchPricesRequest())
        try:
            async for response in call:
                self.rows += len(response.events) * (response.phase == PHASE_SNAPSHOT)
                if response.phase == PHASE_SNAPSHOT_COMPLETED:
                    self.cursor = response.cursor
                    return
        finally:
            call.cancel()

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait for what it reads."""
        while not done():
            self.moved.clear()
            await self.moved.wait()

    def forget(self) -> None:
        """Count from here."""
        self.events = 0
        self.came.clear()
        self.order.clear()

    def _take(self, response: pb.WatchPricesResponse) -> None:
        self.cursor = response.cursor
        now = time.monotonic()
        for event in response.events:
            flight_id = event.prices_changed.flight_id
            self.came[flight_id] = now, response.cursor.seq
            self.order.append(flight_id)
        self.events += len(response.events)
        self.moved.set()


@dataclass(slots=True)
class Bench:
    """Both processes, a client of pricing, a reader of its stream, and flights to be quoted."""

    schedule: Child
    pricing: Child
    stub: PricingServiceStub
    reader: Reader
    flights: list[str]
    draw: random.Random = field(default_factory=lambda: random.Random(1))

    def state(self) -> State:
        """What pricing has used, and where it is."""
        found: State = self.pricing.ask("state")
        return found

    async def quoting(self, took: list[float], failed: Counter[str]) -> None:
        """Ask for quotes for ever."""
        clock = time.monotonic

        async def one(due: float) -> None:
            segment = pb.QuoteSegment(flight_id=self.draw.choice(self.flights), cabin=CABIN_ECONOMY)
            request = pb.CreateQuoteRequest(
                request_id=str(uuid.uuid4()), segments=[segment], passengers=1
            )
            try:
                await self.stub.CreateQuote(request, timeout=DEADLINE)
            except grpc.aio.AioRpcError as error:
                failed[error.details() or error.code().name] += 1
            else:
                took.append(clock() - due)

        due = clock()
        async with asyncio.TaskGroup() as group:
            while True:
                due += self.draw.expovariate(QUOTES)
                await asyncio.sleep(max(due - clock(), 0))
                group.create_task(one(due))

    @asynccontextmanager
    async def beside(self, what: str) -> AsyncIterator[list[str]]:
        """Ask for quotes during the block; print what is said in it, what they took and CPU."""
        took: list[float] = []
        failed: Counter[str] = Counter()
        said: list[str] = []
        before, began = self.state(), time.monotonic()
        quoting = asyncio.create_task(self.quoting(took, failed))
        try:
            yield said
        finally:
            seconds = time.monotonic() - began
            quoting.cancel()
            await asyncio.wait([quoting])
        cpu = (self.state().cpu - before.cpu) / seconds
        quotes = times(f"{len(took)} quotes", took) if len(took) > 1 else "too short for quotes"
        refused = f", refused {dict(failed)}" if failed else ""
        print(f"{what}: {', '.join(said)}; {quotes}{refused}, CPU {cpu:.2f}", flush=True)

    async def reached(self, position: int) -> None:
        """Wait until pricing has taken schedule's stream up to there."""
        while (await asyncio.to_thread(self.state)).at < position:
            await asyncio.sleep(0.01)


async def snapshot(bench: Bench) -> None:
    """A new reader."""
    before, began = bench.state().cpu, time.monotonic()
    await bench.reader.snapshot(bench.stub)
    seconds = time.monotonic() - began
    print(
        f"snapshot for a reader: {bench.reader.rows:,} flights in {seconds:.1f} s "
        f"({bench.reader.rows / seconds:,.0f}/s), CPU {bench.state().cpu - before:.1f} s",
        flush=True,
    )


async def selling(bench: Bench, seconds: float) -> None:
    """Seats sell: as many as pricing takes, then a share of that, and how far it is behind then."""
    count = int(2_000 * seconds)
    async with bench.beside("seats sold, all at once") as said:
        events, began = bench.reader.events, time.monotonic()
        position = bench.schedule.ask("now") + count
        bench.schedule.ask((count, 1.0))
        await bench.reached(position)
        most = count / (time.monotonic() - began)
        said.append(f"{count:,} changes, {most:,.0f}/s")
        said.append(f"{bench.reader.events - events:,} flights had other prices")
    rate = int(most * SHARE) // 20 * 20
    async with bench.beside(f"seats sold, {rate:,} changes/s for {seconds:.0f} s") as said:
        bench.schedule.ask((rate, seconds))
        behind: list[float] = []
        for _ in range(int(seconds / SAMPLES) - 2):
            position, at = bench.schedule.ask("now"), time.monotonic()
            await bench.reached(position)
            behind.append(time.monotonic() - at)
            await asyncio.sleep(SAMPLES)
        said.append(times("behind", behind))
    await bench.reached(bench.schedule.ask("now"))


async def fare(bench: Bench, search: SearchServiceStub | None, base: Decimal) -> None:
    """A new fare of the busiest route."""
    origin, destination, flights = await asyncio.to_thread(bench.schedule.ask, "busiest")
    bench.reader.forget()
    wanted = set(flights)
    async with bench.beside(f"fare of {origin}-{destination}, {len(flights)} flights") as said:
        await asyncio.sleep(1)
        began = time.monotonic()
        request = pb.UpdateFareRequest(
            request_id=str(uuid.uuid4()),
            origin=origin,
            destination=destination,
            base=money(base, "USD"),
        )
        await bench.stub.UpdateFare(request, timeout=DEADLINE)
        said.append(f"answered after {(time.monotonic() - began) * MILLI:.0f} ms")
        await bench.reader.until(lambda: wanted <= bench.reader.came.keys())
        at = sorted(bench.reader.came[each] for each in wanted)
        first, last = (each[0] - began for each in (at[0], at[-1]))
        said.append(f"in the stream: first {first * MILLI:.0f}, last {last * MILLI:.0f} ms")
        followed = [each for each in bench.reader.order if each in wanted]
        said.append("nearest first" if followed == flights else "in another order")
        if search is not None:
            epoch = bench.reader.cursor.epoch if bench.reader.cursor else ""
            await visible(search, origin, destination, Cursor(epoch=epoch, seq=at[-1][1]))
            said.append(f"in search after {(time.monotonic() - began) * MILLI:.0f} ms")


async def visible(search: SearchServiceStub, origin: str, destination: str, cursor: Cursor) -> None:
    """Ask for the route, by a search that has come so far in pricing's stream."""
    query = search_pb2.ItineraryQuery(
        origin=origin,
        destination=destination,
        departure_date=date_message(datetime.now(HOME).date() + 3 * DAY),
        passengers=1,
        cabin=CABIN_ECONOMY,
    )
    position = search_pb2.SourcePosition(source="pricing", cursor=cursor)
    request = search_pb2.SearchItinerariesRequest(
        query=query, page_size=1, min_positions=[position]
    )
    await search.SearchItineraries(request, timeout=DEADLINE)


def evenness(bench: Bench) -> None:
    """How many flights are due in each minute of the next day."""
    spread: Counter[datetime] = bench.pricing.ask("spread")
    first = min(spread)
    next_day = [spread[first + n * timedelta(minutes=1)] for n in range(24 * 60)]
    next_day.sort()
    whole = sum(next_day)
    print(
        f"due in the next day: {whole:,} flights, a minute mean {whole / len(next_day):,.0f} "
        f"p50 {next_day[len(next_day) // 2]:,} p99 {next_day[len(next_day) * 99 // 100]:,} "
        f"max {next_day[-1]:,} ({next_day[-1] / whole:.2%} of the day)",
        flush=True,
    )


async def a_day_later(bench: Bench) -> None:
    """Pricing was away for a day."""
    bench.reader.forget()
    async with bench.beside("a day's prices due at once") as said:
        bench.pricing.ask("forward")
        due = bench.state().due
        began = time.monotonic()
        while (await asyncio.to_thread(bench.state)).due:
            await asyncio.sleep(0.2)
        seconds = time.monotonic() - began
        said.append(f"{due:,} flights in {seconds:.1f} s ({due / seconds:,.0f}/s)")


async def measure(
    schedule: Child, pricing: Child, search: Callable[[], Child], seconds: float
) -> None:
    """Everything but first load and restart."""
    flights = await asyncio.to_thread(schedule.ask, QUOTED)
    async with grpc.aio.insecure_channel(pricing.said) as channel:
        bench = Bench(schedule, pricing, PricingServiceStub(channel), Reader(), flights)
        async with bench.beside("nothing else") as said:
            await asyncio.sleep(seconds)
            said.append("idle")
        await snapshot(bench)
        reading = asyncio.create_task(bench.reader.follow(bench.stub))
        await selling(bench, seconds)
        evenness(bench)
        await fare(bench, None, BASE)
        async with bench.beside("search loads") as said:
            began = time.monotonic()
            child = await asyncio.to_thread(search)
            said.append(f"in {time.monotonic() - began:.1f} s")
        async with grpc.aio.insecure_channel(child.said) as found:
            await fare(bench, SearchServiceStub(found), BASE + 1)
        await asyncio.to_thread(child.close)
        await a_day_later(bench)
        reading.cancel()
        await asyncio.wait([reading])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Pricing of very many flights.")
    parser.add_argument("--flights", type=int, default=1_000_000)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--seconds", type=float, default=20.0, help="for each rate")
    given = parser.parse_args()
    logs.configure("critical")
    for engine in given.engines:
        with tempfile.TemporaryDirectory(prefix="flightmesh-bench-") as name:
            folder = Path(name)
            with ENGINES[engine](folder, ["pricing"]) as storage:
                print(f"\n{engine}", flush=True)
                run(folder, storage.urls["pricing"], given.flights, given.seconds)


def run(folder: Path, url: str, flights: int, seconds: float) -> None:
    """One engine."""
    search = folder / "search"
    search.mkdir()
    with owner(f"synthetic flights={flights}") as schedule:
        pricing = started("first load", schedule, url, folder)
        address = schedule.said[0]
        follow = partial(Child, run_search, str(search), address, pricing.said)
        event_loop.run(measure(schedule, pricing, follow, seconds))
        pricing.close()
        started("restart", schedule, url, folder).close()


def started(what: str, schedule: Child, url: str, folder: Path) -> Child:
    """Start pricing, and say what that has taken."""
    address, flights = schedule.said
    began = time.monotonic()
    child = Child(run_pricing, url, str(folder), address)
    seconds = time.monotonic() - began
    state: State = child.ask("state")
    print(
        f"{what}: {flights:,} flights in {seconds:.1f} s ({flights / seconds:,.0f}/s), "
        f"CPU {state.cpu:.1f} s, RSS {state.rss / MEBI:.0f} MiB, "
        f"database {child.ask('size') / MEBI:.0f} MiB",
        flush=True,
    )
    return child


@contextmanager
def owner(source: str) -> Iterator[Child]:
    """The schedule, for the block."""
    child = Child(run_schedule, source)
    try:
        yield child
    finally:
        child.close()


if __name__ == "__main__":
    main()
