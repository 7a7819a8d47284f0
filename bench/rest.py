"""What a search over REST costs, against an endpoint that does nothing: P2 and P3.

    make up && python -m bench.rest --seconds 20

`bare` is FastAPI as it comes, on the gateway's HTTP server, whose one route returns the bytes of a
page of 20 itineraries. `repeat` is one popular search of the running system again and again; `new`
is one search after the other that nobody has asked before, so each goes to search. Each has one
process, and 32 connections on which the next request follows the last answer.

Rounds of the variants alternate, so that whatever else the machine does hits all of them alike;
printed are medians over the rounds, and ratios within a round against `bare`. CPU is of the server
alone: of two cores, clients and upstreams take what it leaves.
"""

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from multiprocessing.connection import Connection
from typing import Any, Final
from urllib.parse import urlencode

import psutil
from fastapi import FastAPI, Response

from bench.overhead import MICRO, Child
from bench.steady import ROUTES
from bench.subject import Subject
from gateway_bff.server import listening
from gateway_bff.settings import Settings as GatewaySettings
from tools.programs import Settings

CONNECTIONS: Final = 32
ROUND_SECONDS: Final = 1.0
LEAST_ROUNDS: Final = 3
PATH: Final = "/v1/itineraries"
PAGE: Final = 20
GATEWAY: Final = "gateway-bff"
SORTS: Final = ("price", "departure", "duration")
PARTIES: Final = range(1, 10)
DAYS: Final = range(2, 28)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A server, and what is asked of it."""

    name: str
    port: int
    server: psutil.Process
    targets: Iterator[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A variant under load for a while; CPU in seconds of the server a request."""

    rate: float  # requests per second
    cpu: float


async def run_bare(parent: Connection, body: bytes) -> None:
    """The process of the endpoint that does nothing."""
    app = FastAPI()

    @app.get(PATH)
    async def page() -> Response:
        return Response(body, media_type="application/json")

    async with listening(
        app,
        host="127.0.0.1",
        port=0,
        settings=GatewaySettings(),
        grace=timedelta(seconds=1),
    ) as port:
        parent.send(port)
        await asyncio.to_thread(parent.recv)


def popular() -> str:
    """A search that has a page full of answers."""
    return target(*ROUTES[0], 7, 1, "price")


def target(origin: str, destination: str, in_days: int, passengers: int, sort: str) -> str:
    """The path and query of a search."""
    query = {
        "origin": origin,
        "destination": destination,
        "date": str(date.today() + timedelta(days=in_days)),  # noqa: DTZ011 - the origin's day
        "passengers": passengers,
        "sort": sort,
        "page_size": PAGE,
    }
    return f"{PATH}?{urlencode(query)}"


def unasked() -> Iterator[str]:
    """Searches of popular routes, none of which comes twice."""
    parts = itertools.product(SORTS, PARTIES, DAYS, ROUTES)
    for sort, passengers, in_days, (origin, destination) in parts:
        yield target(origin, destination, in_days, passengers, sort)
    raise RuntimeError("every search was asked: make up again, or measure for fewer seconds")


async def answers(port: int, targets: Iterator[str]) -> AsyncIterator[bytes]:
    """Ask one after the other on one connection, and yield each body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for each in targets:
            writer.write(f"GET {each} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            status, _, headers = head.partition(b"\r\n")
            if status.split()[1] != b"200":
                raise RuntimeError(status.decode())
            length = headers.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            yield await reader.readexactly(int(length))
    finally:
        writer.close()


async def load(variant: Variant, seconds: float, connections: int = CONNECTIONS) -> Round:
    """Load one variant for a while."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def ask() -> int:
        count = 0
        async for _ in answers(variant.port, variant.targets):
            count += 1
            if loop.time() >= end:
                break
        return count

    before, began = cpu_of(variant.server), time.monotonic()
    requests = sum(await asyncio.gather(*(ask() for _ in range(connections))))
    took, spent = time.monotonic() - began, cpu_of(variant.server) - before
    return Round(rate=requests / took, cpu=spent / requests)


def cpu_of(process: psutil.Process) -> float:
    """Seconds of CPU that a process has taken."""
    times = process.cpu_times()
    return float(times.user + times.system)


def row(name: str, rounds: list[Round], bare: list[Round]) -> str:
    """The figures of a variant."""

    def middle(of: Callable[[Round], float]) -> float:
        return statistics.median(map(of, rounds))

    def ratio(of: Callable[[Round, Round], float]) -> float:
        return statistics.median(map(of, rounds, bare))

    rates = ratio(lambda mine, its: mine.rate / its.rate)
    costs = ratio(lambda mine, its: its.cpu / mine.cpu)
    return (
        f"{name:8} {middle(lambda r: r.rate):8,.0f}/s {middle(lambda r: r.cpu) * MICRO:8,.0f} µs "
        f"of CPU; of bare: {rates:.2f} by requests, {costs:.2f} by CPU"
    )


async def measure(subject: Subject, seconds: float) -> None:
    """Alternate rounds and print."""
    port = subject.settings.ports.gateway
    gateway = psutil.Process(subject.pid(GATEWAY))
    body = await anext(answers(port, itertools.repeat(popular())))
    bare = Child(run_bare, body)
    variants = [
        Variant(
            name="bare",
            port=bare.said,
            server=psutil.Process(bare.pid),
            targets=itertools.repeat(popular()),
        ),
        Variant(name="repeat", port=port, server=gateway, targets=itertools.repeat(popular())),
        Variant(name="new", port=port, server=gateway, targets=unasked()),
    ]
    count = max(LEAST_ROUNDS, round(seconds / ROUND_SECONDS / len(variants)))
    rounds: dict[str, list[Round]] = {variant.name: [] for variant in variants}
    try:
        for _ in range(count):
            for variant in variants:
                rounds[variant.name].append(await load(variant, ROUND_SECONDS))
    finally:
        bare.close()
    print(f"{len(body):,} octets a page, {count} rounds")
    for name, its in rounds.items():
        print(row(name, its, rounds["bare"]))


async def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.rest", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    given: Any = parser.parse_args()
    async with Subject.attach(Settings()) as subject:
        await measure(subject, given.seconds)


if __name__ == "__main__":
    asyncio.run(main())
