"""What each layer of a search over REST costs the gateway: CPU a request.

    python -m bench.layers --seconds 150

The gateway is the real application on its real server; the search behind it, another process,
answers at once with 20 itineraries from memory. Every request is one that nobody has asked before,
on 32 connections, the next follows the last answer.

Layers are taken away one after the other, the innermost last; what one costs is the difference
between two neighbours. Each variant is a process; rounds alternate, and a difference is taken
within a round, so that whatever else the machine does hits both of its sides. A naive search,
written the obvious way over the same upstream, is there for comparison.
"""

import argparse
import asyncio
import itertools
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from multiprocessing.connection import Connection
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Any, Final, cast

import grpc
import orjson
import psutil
import uvloop
from fastapi import FastAPI, Query, Response
from fastapi.routing import APIRoute
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.money_pb2 import Money
from grpc import aio
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.door import HOST, load
from bench.overhead import MICRO, Child
from bench.rest import LEAST_ROUNDS, PAGE, PATH, Round
from consulmesh.admission import QueueTerms
from consulmesh.channel import CHANNEL_OPTIONS
from consulmesh.event_loop import EventLoop
from consulmesh.garbage import collected_rarely
from consulmesh.keys import KeyFile
from consulmesh.local_issuer import DEFAULT_AUDIENCE, DEFAULT_ISSUER, LocalIssuer
from consulmesh.testing import channel_to, running
from consulmesh.users import TokenVerifier
from consulmesh.wellknown import money, timestamp
from flights.booking.v1.booking_pb2_grpc import BookingServiceStub
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from flights.search.v1.search_pb2 import (
    DESCRIPTOR,
    PRICE_BASIS_LIVE,
    Itinerary,
    ItineraryQuery,
    SearchItinerariesRequest,
    SearchItinerariesResponse,
    Segment,
    SourcePosition,
)
from flights.search.v1.search_pb2_grpc import SearchServiceStub
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY, Cabin
from gateway_bff import translate
from gateway_bff.admission import Load, PerAddress
from gateway_bff.app import create_app
from gateway_bff.cache.answers import Answers
from gateway_bff.cache.changes import SOURCES, Changes
from gateway_bff.cache.repeats import RepeatSearches
from gateway_bff.edge import Edge
from gateway_bff.ids import itinerary_id
from gateway_bff.quotas import REQUESTS, Limit
from gateway_bff.route import CustomerRoute, JourneyRoute
from gateway_bff.routes import itineraries
from gateway_bff.server import listening
from gateway_bff.settings import Settings
from gateway_bff.telemetry import CacheMetrics
from gateway_bff.upstreams import Upstreams
from streams.v1.stream_pb2 import Cursor

ROUND_SECONDS: Final = 0.5
PAGES: Final = 1_000
"""Of new flights: more than the gateway keeps the JSON of."""
POSITION: Final = Cursor(epoch="bench", seq=17)
UNREACHED: Final = timedelta(minutes=1)  # so that waiting is measured, and nothing is shed
NOBODY_REACHES: Final = Limit(1_000_000, 1, 1_000_000)
SETTINGS: Final = Settings(limits={REQUESTS: NOBODY_REACHES}, queue=QueueTerms(target=UNREACHED))
GRACE: Final = timedelta(seconds=1)


# The search


def answer(number: int) -> SearchItinerariesResponse:
    """A page of itineraries with one flight each; no two numbers have a flight in common."""
    leaves = datetime.now(UTC).replace(microsecond=0) + timedelta(days=7)
    return SearchItinerariesResponse(
        itineraries=[_itinerary(f"flt_{number:08}{each:08}", leaves, each) for each in range(PAGE)],
        next_page_token="more",  # noqa: S106 - no password
        positions=[
            SourcePosition(source=source, cursor=POSITION, lag=Duration(nanos=12_000_000))
            for source in SOURCES
        ],
        origins=["JFK"],
        destinations=["LAX"],
    )


def _itinerary(flight_id: str, leaves: datetime, later: int) -> Itinerary:
    leaves += timedelta(minutes=17 * later)
    fare = money(Decimal("209.10") + later, "USD")
    segment = Segment(
        flight_id=flight_id,
        carrier="B6",
        number="23",
        aircraft="A320",
        origin="JFK",
        destination="LAX",
        departure_time=timestamp(leaves),
        arrival_time=timestamp(leaves + timedelta(minutes=385)),
        departure_utc_offset_minutes=-300,
        arrival_utc_offset_minutes=-480,
        seats_available=112,
    )
    return Itinerary(
        itinerary_id=itinerary_id([flight_id], CABIN_ECONOMY),
        segments=[segment],
        duration=Duration(seconds=385 * 60),
        price_per_passenger=fare,
        price_total=fare,
        price_basis=PRICE_BASIS_LIVE,
    )


async def run_search(parent: Connection, pages: int) -> None:
    """The process of a search that has so many answers, and gives them in turn."""
    answers = itertools.cycle([answer(number).SerializeToString() for number in range(pages)])

    async def search(_request: bytes, _context: object) -> bytes:
        return next(answers)

    service = DESCRIPTOR.services_by_name["SearchService"].full_name
    methods: Any = {"SearchItineraries": grpc.unary_unary_rpc_method_handler(cast("Any", search))}

    def add(server: Any) -> None:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        server.add_registered_method_handlers(service, methods)

    async with running(add, service="flight-search") as (_, port):
        parent.send(port)
        await asyncio.to_thread(parent.recv)


class AtOnce:
    """A search that is not called: its answer is there."""

    def __init__(self) -> None:
        self._answer = answer(0)

    async def SearchItineraries(
        self, request: SearchItinerariesRequest, **_: object
    ) -> SearchItinerariesResponse:
        """Answer."""
        return self._answer


# The layers


@dataclass(slots=True)
class Door:
    """The gateway's application, and what can be had in its stead."""

    app: FastAPI
    served: ASGIApp
    channel: aio.Channel  # without the mesh
    body: bytes

    def route(self, kind: type[APIRoute], endpoint: Callable[..., Any]) -> None:
        """Another route for searches. The one before it is that of event streams."""
        routes = self.app.router.routes
        assert [getattr(each, "path", "") for each in routes[:2]] == [PATH, PATH]
        routes[1] = kind(PATH, endpoint, name="search")

    def without(self, middleware: Any) -> None:
        """One middleware less."""
        kept = [each for each in self.app.user_middleware if each.cls is not middleware]
        assert len(kept) == len(self.app.user_middleware) - 1
        self.app.user_middleware = kept

    def over(self, search: Any) -> None:
        """Another search."""
        self.app.state.upstreams = replace(self.app.state.upstreams, search=search)


class CustomersSearch(CustomerRoute, JourneyRoute):
    """What a search would be that wants to know who asks."""


class NoAnswers:
    """A cache that neither knows nor keeps anything."""

    def needed(self, _question: object) -> Sequence[SourcePosition]:
        """Nothing in particular."""
        return ()

    def given(self, *_: object) -> bool:
        """Not kept."""
        return False

    gzipped = bytes


class NoHeaders:
    """What `freshness` and `links` say, unsaid."""

    @staticmethod
    def headers(*_: object) -> dict[str, str]:
        """None."""
        return {}

    next_page = headers


def nothing(_door: Door) -> None:
    """What the client does not ask for."""


def authentication(door: Door) -> None:
    """The search is anybody's, as it is."""
    door.route(JourneyRoute, itineraries.search_itineraries)


def answer_headers(door: Door) -> None:
    """A response with its length and media type."""
    instead: Mapping[str, Any] = {
        "etag": lambda _body: "",
        "answer_headers": NoHeaders.headers,
        "conditional": lambda _match, _accepted, body, *_: json(body),
        "freshness": NoHeaders,
        "links": NoHeaders,
    }
    for name, value in instead.items():
        setattr(itineraries, name, value)
    door.app.state.answers = NoAnswers()


def rendering(door: Door) -> None:
    """The JSON is there already."""
    instead: Any = translate
    instead.itineraries = lambda *_: door.body


def mesh(door: Door) -> None:
    """The channel is grpc.aio's own."""
    door.over(SearchServiceStub(door.channel))


def call(door: Door) -> None:
    """The answer is there already."""
    door.over(AtOnce())


def cache(door: Door) -> None:
    """Nobody looks whether it was asked before."""
    door.without(RepeatSearches)


def rate_limit(door: Door) -> None:
    """Any number, and any number at once."""
    door.without(PerAddress)


def admission(door: Door) -> None:
    """Nobody looks how long a request has waited."""
    door.without(Load)


def edge(door: Door) -> None:
    """No context, no log, no metrics, no headers that all have."""
    door.without(Edge)


def frame(door: Door) -> None:
    """A route of FastAPI's own kind."""
    door.route(APIRoute, itineraries.search_itineraries)


def validation(door: Door) -> None:
    """An endpoint that takes no parameters."""

    async def page() -> Response:
        return json(door.body)

    door.route(APIRoute, page)


def framework(door: Door) -> None:
    """ASGI alone."""

    async def page(_scope: Scope, _receive: Receive, send: Send) -> None:
        length = (b"content-length", b"%d" % len(door.body))
        headers = [(b"content-type", b"application/json"), length]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": door.body})

    door.served = page


LAYERS: Final[Sequence[tuple[str, Callable[[Door], None]]]] = (
    ("authentication, where a route needs it", authentication),
    ("gzip, where the client takes it", nothing),
    ("ETag, entry in the cache, headers of the answer", answer_headers),
    ("rendering", rendering),
    ("deadline, trace, metadata, metrics of the call", mesh),
    ("the call over grpc.aio", call),
    ("a look into the cache", cache),
    ("rate limit", rate_limit),
    ("admission by load", admission),
    ("edge: trace, log, metrics, headers of all answers", edge),
    ("frame of the route: budget, look at the client", frame),
    ("validation, the question as a message", validation),
    ("FastAPI: middleware, routing, dependencies", framework),
)
"""In the order in which they are taken away, and how. What is left is the HTTP server."""
WITH_TOKEN: Final = 1  # variants, from the first on
WITH_GZIP: Final = 2
WHOLE: Final = 2
"""The variant that is the gateway as it is, for a client that takes no gzip."""


def json(body: bytes) -> Response:
    """An answer without manners."""
    return Response(body, media_type="application/json")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What gateways stand on: the search's port, a page of it in JSON, the issuer's folder."""

    search: int
    body: bytes
    folder: Path


@asynccontextmanager
async def gateway(world: World, taken_away: int = WHOLE) -> AsyncIterator[ASGIApp]:
    """The gateway without so many layers."""
    address = f"{HOST}:{world.search}"
    users = TokenVerifier(DEFAULT_ISSUER, DEFAULT_AUDIENCE, KeyFile(world.folder / "jwks.json"))
    nobody: Any = None
    async with (
        channel_to(world.search, upstream="flight-search", caller="gateway-bff") as channel,
        aio.insecure_channel(address, options=CHANNEL_OPTIONS) as bare,
    ):
        upstreams = Upstreams(
            search=SearchServiceStub(channel),
            schedule=ScheduleServiceStub(channel),
            pricing=PricingServiceStub(channel),
            booking=BookingServiceStub(channel),
            users=users,
            is_reachable=nobody,
            topology=nobody,
        )
        app = create_app(upstreams, SETTINGS, registry=CollectorRegistry())
        app.state.answers = kept_up_to_date()
        door = Door(app, app, bare, world.body)
        door.route(CustomersSearch, itineraries.search_itineraries)
        for _, take_away in LAYERS[:taken_away]:
            take_away(door)
        yield door.served


def kept_up_to_date() -> Answers:
    """A cache as it is while both sources are heard of, and say that nothing changes."""
    changes = Changes()
    for source in SOURCES:
        changes.restarted(source, POSITION)
    lags = dict.fromkeys(SOURCES, lambda: 0.0)
    return Answers(changes, lags, CacheMetrics(CollectorRegistry()))


@asynccontextmanager
async def naive(world: World) -> AsyncIterator[ASGIApp]:
    """A search as one writes it first: parameters of FastAPI, a stub, dictionaries, orjson."""
    app = FastAPI()
    async with aio.insecure_channel(f"{HOST}:{world.search}") as channel:
        search = SearchServiceStub(channel)

        @app.get(PATH)
        async def page(
            origin: Code, destination: Code, date: date, passengers: Few = 1, page_size: Few = PAGE
        ) -> Response:
            query = ItineraryQuery(
                origin=origin,
                destination=destination,
                departure_date=Date(year=date.year, month=date.month, day=date.day),
                passengers=passengers,
                max_stops=1,
            )
            found = await search.SearchItineraries(
                SearchItinerariesRequest(query=query, page_size=page_size), timeout=2
            )
            return json(orjson.dumps({"itineraries": [shown(each) for each in found.itineraries]}))

        yield app


Code = Annotated[str, Query(pattern="^[A-Z]{3}$")]
Few = Annotated[int, Query(ge=1, le=100)]


def shown(found: Itinerary) -> dict[str, Any]:
    """An itinerary as one writes it down first."""
    return {
        "itinerary_id": found.itinerary_id,
        "stops": len(found.segments) - 1,
        "duration_minutes": found.duration.ToSeconds() // 60,
        "segments": [
            {
                "flight_id": segment.flight_id,
                "carrier": segment.carrier,
                "number": segment.number,
                "aircraft": segment.aircraft,
                "departure": {
                    "airport": segment.origin,
                    "time": local(segment.departure_time, segment.departure_utc_offset_minutes),
                },
                "arrival": {
                    "airport": segment.destination,
                    "time": local(segment.arrival_time, segment.arrival_utc_offset_minutes),
                },
                "status": "delayed" if segment.delayed else "scheduled",
                "cabin": Cabin.Name(CABIN_ECONOMY).removeprefix("CABIN_").lower(),
                "seats_available": segment.seats_available,
            }
            for segment in found.segments
        ],
        "price": {
            "total": amount(found.price_total),
            "per_passenger": amount(found.price_per_passenger),
            "basis": "live",
        },
    }


def local(moment: Timestamp, offset: int) -> str:
    """A time of the clock there."""
    return moment.ToDatetime(timezone(timedelta(minutes=offset))).isoformat()


def amount(money: Money) -> dict[str, str]:
    """Money as text."""
    value = Decimal(money.units) + Decimal(money.nanos) / 10**9
    return {"currency": money.currency_code, "amount": f"{value:.2f}"}


# The measurement


async def run_gateway(parent: Connection, world: World, taken_away: int) -> None:
    """The process of a variant."""
    async with gateway(world, taken_away) as app:
        with collected_rarely():
            await serve(parent, app)


async def run_naive(parent: Connection, world: World) -> None:
    """The process of the obvious one."""
    async with naive(world) as app:
        await serve(parent, app)


async def serve(parent: Connection, app: ASGIApp) -> None:
    """Serve until told to stop."""
    async with listening(app, host=HOST, port=0, settings=SETTINGS, grace=GRACE) as port:
        parent.send(port)
        await asyncio.to_thread(parent.recv)


def searches(headers: str = "") -> Iterator[bytes]:
    """Requests, none of which comes twice."""
    day = date.today() + timedelta(days=7)  # noqa: DTZ011 - the origin's day
    for letters in itertools.product(ascii_uppercase, repeat=6):
        ends = f"origin={''.join(letters[:3])}&destination={''.join(letters[3:])}"
        query = f"{ends}&date={day}&passengers=1&page_size={PAGE}"
        yield f"GET {PATH}?{query} HTTP/1.1\r\nHost: bench\r\n{headers}\r\n".encode()


class Variant:
    """A process under load."""

    def __init__(self, child: Child, headers: str = "") -> None:
        self._child = child
        self._process = psutil.Process(child.pid)
        self._searches = searches(headers)
        self.rounds: list[Round] = []

    async def round(self) -> None:
        """Load it for a while."""
        port = self._child.said
        self.rounds.append(await load(port, self._process, self._searches, ROUND_SECONDS))

    @property
    def cpu(self) -> float:
        """Microseconds a request."""
        return statistics.median(each.cpu for each in self.rounds) * MICRO

    def more_than(self, other: "Variant") -> float:
        """Microseconds a request, by the differences within rounds."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(mine.cpu - its.cpu for mine, its in pairs) * MICRO

    def close(self) -> None:
        """End it."""
        self._child.close()


@contextmanager
def closing(*children: Child) -> Iterator[None]:
    """End them."""
    try:
        yield
    finally:
        for child in children:
            child.close()


@contextmanager
def a_world() -> Iterator[tuple[World, World]]:
    """Two worlds: in the second each page has flights that were not shown before."""
    same, new = (Child(run_search, pages, loop=EventLoop) for pages in (1, PAGES))
    with closing(same, new), tempfile.TemporaryDirectory() as folder:
        world = World(
            search=same.said,
            body=translate.itineraries(answer(0), CABIN_ECONOMY),
            folder=Path(folder),
        )
        yield world, replace(world, search=new.said)


def report(variants: Sequence[Variant], new: Variant, naive: Variant) -> None:
    """Print what each layer costs."""
    whole = variants[WHOLE]
    print(f"{len(whole.rounds)} rounds of {ROUND_SECONDS} s; CPU a request\n")
    costs = [(name, variants[n].more_than(variants[n + 1])) for n, (name, _) in enumerate(LAYERS)]
    print(f"{whole.cpu:7,.0f} µs  a search as a whole")
    for name, cost in reversed([("HTTP server", variants[-1].cpu), *reversed(costs[WHOLE:])]):
        print(f"{cost:7,.0f} µs  {cost / whole.cpu:5.1%}  {name}")
    print("beyond that")
    for name, cost in (*costs[:WHOLE], ("flights not shown before", new.more_than(whole))):
        print(f"{cost:7,.0f} µs         {name}")
    print(f"{naive.cpu:7,.0f} µs  a naive search, {naive.cpu / whole.cpu:.2f} of the whole")


async def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.layers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=150.0)
    given: Any = parser.parse_args()
    with a_world() as (world, new_flights):
        issuer = LocalIssuer(world.folder, DEFAULT_ISSUER, DEFAULT_AUDIENCE)
        token = issuer.token("ann", ("customer",), timedelta(hours=1))
        variants = [
            Variant(
                Child(run_gateway, world, taken_away, loop=EventLoop),
                f"Authorization: Bearer {token}\r\n" * (taken_away < WITH_TOKEN)
                + "Accept-Encoding: gzip\r\n" * (taken_away < WITH_GZIP),
            )
            for taken_away in range(len(LAYERS) + 1)
        ]
        new = Variant(Child(run_gateway, new_flights, WHOLE, loop=EventLoop))
        obvious = Variant(Child(run_naive, world))
        every = [*variants, new, obvious]
        try:
            count = max(LEAST_ROUNDS, round(given.seconds / ROUND_SECONDS / len(every)))
            for _ in range(count + 1):
                for variant in every:
                    await variant.round()
        finally:
            for variant in every:
                variant.close()
    for variant in every:
        del variant.rounds[0]  # the first warms up
    report(variants, new, obvious)


if __name__ == "__main__":
    uvloop.run(main())
