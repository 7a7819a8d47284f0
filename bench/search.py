"""Search over a million flights while thousands of changes a second are applied.

    python -m bench.search --flights 1000000 --seconds 120

One search process on a core of its own follows two owners that live in another process, over gRPC,
with no Consul and no gateway. Printed are how long the first load takes and what it leaves in
memory and on disk; then, with and without changes, for each rate of queries the time a query takes
in the read model and the whole RPC from when it was due (open loop, Poisson), and for streams the
time to the first itinerary and to the end; then how long a change takes to be found while changes
and queries go on; then how long a restart takes from its own file.

A process that is asked for more than it can do has calls that fail. DEADLINE_EXCEEDED waited in
vain. CANCELLED was refused at once, by gRPC's core: it does so while more than 1,000 calls wait to
be taken up (grpc.server.max_pending_requests), and every time from 3,000 on.
"""

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import grpc
import psutil

import flight_search.__main__
from bench.overhead import Child
from bench.search_owners import EPOCH, run_owners
from bench.steady import times
from consulmesh import MeshConfig, event_loop
from consulmesh.garbage import collected_rarely
from consulmesh.testing import StaticMesh
from consulmesh.testing.ports import free_port
from consulmesh.wellknown import date_message
from flight_search.airports import AirportDirectory
from flight_search.domain import WHOLE, Shard
from flight_search.read_model import ReadModel
from flights.search.v1 import search_pb2 as pb
from flights.search.v1.search_pb2_grpc import SearchServiceStub
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY
from schedule.sources import source_of
from schedule.timetable import Airports, window
from schedule.window import DAYS, HOME
from streams.v1.stream_pb2 import Cursor

CHANGES: Final = 5_000
RATES: Final = (200, 600)
STREAMS: Final = 50  # a second
ROUTES: Final = 2_000
PAGE: Final = 20
PROBES: Final = 200
PROBING: Final = 20  # a second
DEADLINE: Final = 10.0
MILLI: Final = 1e3
MEBI: Final = 1 << 20


async def run_search(
    parent: Connection, folder: str, schedule: str, pricing: str, shard: Shard
) -> None:
    """The search process: says its address once it serves, then what it has used and measured."""
    os.sched_setaffinity(0, {0})
    port = free_port()
    config = MeshConfig(version="0.0.0", port=port, state_dir=Path(folder), metrics_port=None)
    airports = AirportDirectory.load()
    targets = {"schedule": schedule, "pricing": pricing}
    took: list[float] = []
    # what the process measures of itself is too coarse
    flight_search.__main__.MeasuredTimetable = timed(took)  # type: ignore[assignment,attr-defined]
    with ReadModel(Path(folder) / "search.db", airports, shard) as model:
        async with StaticMesh("flight-search", targets, config=config) as mesh:
            served = asyncio.create_task(flight_search.__main__.serve(mesh, model, airports, shard))
            serving = asyncio.create_task(mesh.serving.wait())
            await asyncio.wait({served, serving}, return_when=asyncio.FIRST_COMPLETED)
            if not served.done():
                with collected_rarely():  # as `Mesh` has it once it serves
                    parent.send(f"127.0.0.1:{port}")
                    while await asyncio.to_thread(parent.recv):
                        parent.send(usage(took))
                        took.clear()
                mesh.draining.set()
            await served


def timed(took: list[float]) -> type:
    """A timetable that notes how long each question took it."""

    class Timed:
        def __init__(self, timetable: Any) -> None:
            self.vias, self.served = timetable.vias, timetable.served
            self.itineraries = timetable.itineraries
            self._find = timetable.find

        def find(self, *args: Any, **kwargs: Any) -> Any:
            before = time.perf_counter()
            try:
                return self._find(*args, **kwargs)
            finally:
                took.append(time.perf_counter() - before)

    return Timed


def usage(took: Sequence[float]) -> dict[str, Any]:
    """CPU seconds, memory and queries since the last time."""
    memory = psutil.Process().memory_info().rss
    return {"cpu": time.process_time(), "rss": memory, "queries": list(took)}


class Market:
    """What is asked for: routes as often as they are flown, on any day of a shard but today."""

    def __init__(self, source: str, shard: Shard) -> None:
        self._draw = random.Random(1)
        today = datetime.now(HOME).date()
        ((_, flights),) = source_of(source, Airports.load())([today + timedelta(days=3)])
        hubs = [flight.origin for flight in flights]
        self._routes = [
            (flight.origin, flight.destination)
            if self._draw.random() < 0.5
            else (flight.origin, self._draw.choice(hubs))
            for flight in self._draw.sample(flights, min(ROUTES, len(flights)))
        ]
        self._days = [day for day in window(today, DAYS)[1:-1] if shard.answers(day)]

    def query(self) -> pb.ItineraryQuery:
        """A question; half of them can only be answered by a connection, if at all."""
        origin, destination = self._draw.choice(self._routes)
        while origin == destination:
            origin, destination = self._draw.choice(self._routes)
        return pb.ItineraryQuery(
            origin=origin,
            destination=destination,
            departure_date=date_message(self._draw.choice(self._days)),
            passengers=self._draw.choice((1, 1, 2, 4)),
            cabin=CABIN_ECONOMY,
            max_stops=1,
        )

    def gap(self, per_second: float) -> float:
        """Seconds until the next question."""
        return self._draw.expovariate(per_second)


@dataclass
class Answers:
    """Seconds from when each question was due, to its first itinerary and to its end; failures."""

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)


Asking = Callable[[SearchServiceStub, pb.ItineraryQuery, float, Answers], Awaitable[None]]


async def page(
    stub: SearchServiceStub, query: pb.ItineraryQuery, due: float, answers: Answers
) -> None:
    """Asks for a page."""
    request = pb.SearchItinerariesRequest(query=query, page_size=PAGE)
    await stub.SearchItineraries(request, timeout=DEADLINE)
    answers.whole.append(time.monotonic() - due)


async def stream(
    stub: SearchServiceStub, query: pb.ItineraryQuery, due: float, answers: Answers
) -> None:
    """Asks for all there is, as it is found; nothing found has no first itinerary."""
    first: float | None = None
    request = pb.StreamItinerariesRequest(query=query)
    async for response in stub.StreamItineraries(request, timeout=DEADLINE):
        if response.itineraries and first is None:
            first = time.monotonic() - due
    answers.whole.append(time.monotonic() - due)
    if first is not None:
        answers.first.append(first)


async def ask(
    stub: SearchServiceStub, market: Market, per_second: float, seconds: float, asking: Asking
) -> Answers:
    """Ask so often, whether answers come or not."""
    clock = time.monotonic
    answers = Answers()

    async def one(due: float) -> None:
        try:
            await asking(stub, market.query(), due, answers)
        except grpc.aio.AioRpcError as error:
            answers.failed[error.code().name] += 1

    due = clock()
    end = due + seconds
    async with asyncio.TaskGroup() as group:
        while (due := due + market.gap(per_second)) < end:
            await asyncio.sleep(max(due - clock(), 0))
            group.create_task(one(due))
    return answers


async def propagation(stub: SearchServiceStub, market: Market, owners: Child) -> Answers:
    """From a question to an owner where it is, to an answer that has got as far.

    Its last change may be up to a tick older. Ends early when the changes do.
    """
    answers = Answers()
    for _ in range(PROBES):
        await asyncio.sleep(market.gap(PROBING))
        at, seqs, changing = await asyncio.to_thread(owners.ask, "now")
        if not changing:
            break
        positions = [
            pb.SourcePosition(source=source, cursor=Cursor(epoch=EPOCH, seq=seq))
            for source, seq in seqs.items()
        ]
        request = pb.SearchItinerariesRequest(
            query=market.query(), page_size=1, min_positions=positions
        )
        try:
            await stub.SearchItineraries(request, timeout=DEADLINE)
        except grpc.aio.AioRpcError as error:
            answers.failed[error.code().name] += 1
        else:
            answers.whole.append(time.monotonic() - at)
    return answers


@contextmanager
def changing(owners: Child, per_second: int, seconds: float) -> Iterator[None]:
    """So many changes a second for the block, but for no more seconds than this."""
    if per_second:
        owners.ask((per_second, seconds))
    yield
    if per_second:
        owners.ask("stop")


async def measure(search: Child, owners: Child, market: Market, seconds: float) -> None:
    """Pages at every rate and streams, with and without changes; then what a change takes."""
    async with grpc.aio.insecure_channel(search.said) as channel:
        stub = SearchServiceStub(channel)
        await ask(stub, market, RATES[0], 3, page)
        for changes in (0, CHANGES):
            for rate in RATES:
                with changing(owners, changes, seconds + DEADLINE):
                    await measure_one(search, stub, market, (changes, rate, seconds), page)
            with changing(owners, changes, seconds + DEADLINE):
                await measure_one(search, stub, market, (changes, STREAMS, seconds), stream)
        with changing(owners, CHANGES, PROBES / PROBING * 5):
            background = asyncio.create_task(
                ask(stub, market, RATES[0], PROBES / PROBING * 5, page)
            )
            found = await propagation(stub, market, owners)
            print(
                f"change to answer, {CHANGES:,} changes/s, {RATES[0]} queries/s "
                f"({len(found.whole)}): {times('', found.whole)}, failed {dict(found.failed)}",
                flush=True,
            )
            background.cancel()
            await asyncio.gather(background, return_exceptions=True)


async def measure_one(
    search: Child,
    stub: SearchServiceStub,
    market: Market,
    load: tuple[int, int, float],
    asking: Asking,
) -> None:
    """One line of the result; the load is changes a second, questions a second, and seconds."""
    changes, rate, seconds = load
    before = search.ask("usage")
    began = time.monotonic()
    answers = await ask(stub, market, rate, seconds, asking)
    used = search.ask("usage")
    cpu = (used["cpu"] - before["cpu"]) / (time.monotonic() - began)
    what, first = ("queries", "") if asking is page else ("streams", times("first", answers.first))
    print(
        f"{changes:5,} changes/s, {rate} {what}/s ({len(answers.whole):,}): "
        f"{times('query', used['queries'])}, {first}{', ' if first else ''}"
        f"{times('RPC', answers.whole)}, "
        f"CPU {cpu:.2f}, RSS {used['rss'] / MEBI:.0f} MiB, failed {dict(answers.failed)}",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Search over very many flights.")
    parser.add_argument("--flights", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each rate")
    parser.add_argument("--shard", type=Shard.parse, default=WHOLE, help="0/2: one of two")
    given = parser.parse_args()
    source = f"synthetic flights={given.flights}"
    os.sched_setaffinity(0, {1})  # children inherit it; search moves to the other core
    market = Market(source, given.shard)
    owners = Child(run_owners, source)
    address, flights = owners.said
    with tempfile.TemporaryDirectory(prefix="flightmesh-bench-") as folder:
        for what in ("first load", "restart"):
            began = time.monotonic()
            search = Child(run_search, folder, address, address, given.shard)
            seconds = time.monotonic() - began
            used = search.ask("usage")
            size = sum(file.stat().st_size for file in Path(folder).glob("search.db*"))
            print(
                f"{what}: {flights:,} flights and their prices in {seconds:.1f} s "
                f"({2 * flights / seconds:,.0f} events/s), CPU {used['cpu']:.1f} s, "
                f"RSS {used['rss'] / MEBI:.0f} MiB, file {size / MEBI:.0f} MiB",
                flush=True,
            )
            if what == "first load":
                event_loop.run(measure(search, owners, market, given.seconds))
            search.close()
    owners.close()


if __name__ == "__main__":
    main()
