import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import aiohttp
import grpc
import orjson
import pytest

from consulmesh.testing import channel_to, running
from flights.search.v1.search_pb2 import (
    SearchItinerariesResponse,
    StreamItinerariesRequest,
    StreamItinerariesResponse,
)
from flights.search.v1.search_pb2_grpc import (
    SearchServiceServicer,
    SearchServiceStub,
    add_SearchServiceServicer_to_server,
)
from gateway_bff.settings import BUDGETS
from gateway_bff.upstreams import Upstreams
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import SETTINGS, Gateway, running_gateway
from tests.gateway_bff.fakes import Fakes, FakeService, forever, refusal

PATH = "/v1/itineraries?origin=JFK&destination=LAX&date=2026-12-01"
PATIENCE = 20  # seconds, less than any call here may take
EVENTS = {"Accept": "text/event-stream"}
GONE = refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING")


def response(*flight_ids: str) -> StreamItinerariesResponse:
    """A response with an itinerary for each of these flights."""
    return StreamItinerariesResponse(
        itineraries=[examples.itinerary(flight_id) for flight_id in flight_ids]
    )


async def event_of(reader: aiohttp.StreamReader) -> tuple[str, Any]:
    """The next event, comments passed over."""
    name, data = "", b""
    while line := (await reader.readline()).rstrip(b"\n"):
        if line.startswith(b"event: "):
            name = line[7:].decode()
        elif line.startswith(b"data: "):
            data = line[6:]
    return (name, orjson.loads(data)) if data else await event_of(reader)


async def events_of(answer: aiohttp.ClientResponse) -> list[tuple[str, Any]]:
    """All events to the end of the stream."""
    blocks = (await answer.read()).decode().split("\n\n")
    pairs = [dict(line.split(": ", 1) for line in b.split("\n")) for b in blocks if "data" in b]
    return [(pair["event"], orjson.loads(pair["data"])) for pair in pairs]


async def test_itineraries_arrive_one_event_each(gateway: Gateway) -> None:
    """Every itinerary is an event, in the order they were found; the last event counts them."""
    gateway.fakes.search.answers["StreamItineraries"] = [
        StreamItinerariesResponse(positions=examples.positions()),
        response("flt_a", "flt_b"),
        response("flt_c"),
    ]

    async with gateway.client.get(PATH, headers=EVENTS) as answer:
        events = await events_of(answer)

    assert answer.status == 200
    assert answer.content_type == "text/event-stream"
    assert answer.headers["Freshness"] == "schedule;lag=0.012, pricing;lag=0.031"
    assert "Search-Position" in answer.headers
    assert [name for name, _ in events] == ["itinerary", "itinerary", "itinerary", "done"]
    assert [data["segments"][0]["flight_id"] for _, data in events[:3]] == [
        "flt_a",
        "flt_b",
        "flt_c",
    ]
    assert events[3][1] == {"count": 3}


async def test_an_event_has_the_bytes_of_the_page(gateway: Gateway) -> None:
    """An itinerary is rendered the same way wherever it stands."""
    gateway.fakes.search.answers["StreamItineraries"] = [response(examples.FLIGHT)]
    gateway.fakes.search.answers["SearchItineraries"] = SearchItinerariesResponse(
        itineraries=[examples.itinerary()]
    )

    async with gateway.client.get(PATH, headers=EVENTS) as answer:
        stream = await answer.read()
    async with gateway.client.get(PATH) as answer:
        page = await answer.read()

    assert page.removeprefix(b'{"itineraries":[').removesuffix(b"]}") in stream


async def test_an_event_is_sent_as_soon_as_it_is_there(gateway: Gateway) -> None:
    """The first itinerary is read while search is still looking for the second."""
    more = asyncio.Event()

    async def later(_request: object) -> StreamItinerariesResponse:
        await more.wait()
        return response("flt_b")

    gateway.fakes.search.answers["StreamItineraries"] = [response("flt_a"), later]

    async with gateway.client.get(PATH, headers=EVENTS) as answer:
        first = await event_of(answer.content)
        waited = not more.is_set()
        more.set()
        rest = [await event_of(answer.content), await event_of(answer.content)]

    assert first[0] == "itinerary"
    assert waited
    assert [name for name, _ in rest] == ["itinerary", "done"]


async def test_nothing_found_is_a_stream_too(gateway: Gateway) -> None:
    """A stream without itineraries is just its end."""
    gateway.fakes.search.answers["StreamItineraries"] = []

    async with gateway.client.get(PATH, headers=EVENTS) as answer:
        events = await events_of(answer)

    assert answer.status == 200
    assert events == [("done", {"count": 0})]


@pytest.mark.parametrize(
    "before", [[], [StreamItinerariesResponse(positions=examples.positions())]]
)
async def test_an_error_before_the_first_event_is_an_ordinary_problem(
    gateway: Gateway, before: list[StreamItinerariesResponse]
) -> None:
    """While nothing was sent, a failure has its own status and media type."""
    unknown = refusal(grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_AIRPORT")
    gateway.fakes.search.answers["StreamItineraries"] = [*before, unknown]

    async with gateway.client.get(PATH, headers=EVENTS) as answer:
        problem = await answer.json()

    assert answer.status == 400
    assert answer.content_type == "application/problem+json"
    assert problem["code"] == "UNKNOWN_AIRPORT"


async def test_a_failure_after_the_first_event_is_an_event(gateway: Gateway) -> None:
    """A stream that can't go on says why, in the shape of every problem, and ends."""
    gateway.fakes.search.answers["StreamItineraries"] = [response("flt_a"), GONE]

    async with gateway.client.get(PATH, headers=EVENTS) as answer:
        events = await events_of(answer)

    assert [name for name, _ in events] == ["itinerary", "problem"]
    assert events[1][1]["status"] == 503
    assert events[1][1]["code"] == "UPSTREAM_UNAVAILABLE"
    assert events[1][1]["instance"] == "/v1/itineraries"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("text/event-stream", "text/event-stream"),
        ("application/json, text/event-stream", "text/event-stream"),
        ("text/event-stream;q=0.5, application/json", "application/json"),
        ("text/event-stream;q=0", "application/json"),
        ("text/event-stream;q=much", "application/json"),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
    ],
)
async def test_the_accept_header_chooses(gateway: Gateway, accept: str, content_type: str) -> None:
    """An event stream is for those who ask for it, JSON for everybody else."""
    gateway.fakes.search.answers["StreamItineraries"] = []
    gateway.fakes.search.answers["SearchItineraries"] = SearchItinerariesResponse()

    async with gateway.client.get(PATH, headers={"Accept": accept}) as answer:
        await answer.read()

    assert answer.content_type == content_type
    assert answer.headers["Vary"] == "Accept, Accept-Encoding"


async def test_a_reader_that_stops_cancels_the_call(gateway: Gateway) -> None:
    """Closing the connection after the first event cancels search long before its deadline."""
    gateway.fakes.search.answers["StreamItineraries"] = [response("flt_a"), forever]

    async with gateway.client.get(PATH, headers=EVENTS) as answer:
        await event_of(answer.content)
        answer.close()
        gone = await asyncio.wait_for(gateway.fakes.search.cancelled.wait(), PATIENCE)

    assert gone


async def test_a_reader_that_leaves_before_the_first_event_cancels_the_call(
    gateway: Gateway,
) -> None:
    """Closing the connection while search still looks for the first itinerary cancels it too."""
    gateway.fakes.search.answers["StreamItineraries"] = [forever]

    request = asyncio.create_task(gateway.client.get(PATH, headers=EVENTS))
    await gateway.fakes.search.started.wait()
    request.cancel()
    gone = await asyncio.wait_for(gateway.fakes.search.cancelled.wait(), PATIENCE)

    assert gone


class Relay(SearchServiceServicer):
    """A search that streams what another one says."""

    def __init__(self, behind: SearchServiceStub) -> None:
        self._behind = behind

    async def StreamItineraries(
        self, request: StreamItinerariesRequest, _context: object
    ) -> AsyncIterator[StreamItinerariesResponse]:
        """Pass everything on."""
        call = self._behind.StreamItineraries(request)
        try:
            async for each in call:
                yield each
        finally:
            call.cancel()


@pytest.fixture
async def relayed(
    upstreams: tuple[Upstreams, Fakes],
) -> AsyncIterator[tuple[Gateway, FakeService]]:
    """A gateway whose search asks another server for what it streams, and that one's fake."""
    behind = FakeService()
    async with (
        running(lambda server: _serve(behind.servicer(_SEARCH), server)) as (_, inner_port),
        channel_to(inner_port) as inner,
        running(lambda server: _serve(_relay(inner), server)) as (_, port),
        channel_to(port) as channel,
        running_gateway(
            replace(upstreams[0], search=SearchServiceStub(channel)), upstreams[1]
        ) as gateway,
    ):
        yield gateway, behind


_serve = add_SearchServiceServicer_to_server
(_SEARCH,) = StreamItinerariesRequest.DESCRIPTOR.file.services_by_name.values()


def _relay(channel: grpc.aio.Channel) -> Relay:
    return Relay(SearchServiceStub(channel))  # type: ignore[abstract]  # the rest is not called


async def test_a_reader_that_stops_cancels_the_handler_two_hops_away(
    relayed: tuple[Gateway, FakeService],
) -> None:
    """Closing the connection in the middle of a stream reaches the last server by itself."""
    gateway, behind = relayed
    behind.answers["StreamItineraries"] = [response("flt_a"), forever]

    async with gateway.client.get(PATH, headers=EVENTS) as answer:
        await event_of(answer.content)
        answer.close()
        gone = await asyncio.wait_for(behind.cancelled.wait(), PATIENCE)

    assert gone


async def test_silence_is_filled_with_comments(gateway: Gateway) -> None:
    """Where nothing comes for a while, a comment keeps the connection alive."""
    gateway.fakes.search.answers["StreamItineraries"] = [response("flt_a"), forever]

    async with gateway.client.get(PATH, headers=EVENTS) as answer:
        await event_of(answer.content)
        comments = [await answer.content.readline() for _ in range(4)]
        answer.close()

    assert comments == [b":\n", b"\n", b":\n", b"\n"]


async def test_a_reader_that_stalls_is_given_up(upstreams: tuple[Upstreams, Fakes]) -> None:
    """A client that keeps its connection and reads nothing does not keep the call."""
    settings = replace(SETTINGS, stalled=timedelta(milliseconds=200))
    upstreams[1].reset()
    upstreams[1].search.answers["StreamItineraries"] = [response(*["flt_a"] * 200)] * 500

    async with running_gateway(*upstreams, settings) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
        writer.write(
            f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode()
        )
        await asyncio.wait_for(upstreams[1].search.cancelled.wait(), PATIENCE)
        still_open = not reader.at_eof()
        writer.transport.abort()

    assert still_open


async def test_a_stream_has_its_budget(upstreams: tuple[Upstreams, Fakes]) -> None:
    """A search that does not end is ended at the deadline of the route, by an event."""
    settings = replace(SETTINGS, budgets={**BUDGETS, "stream": 2.0})
    upstreams[1].reset()
    upstreams[1].search.answers["StreamItineraries"] = [response("flt_a"), forever]

    async with (
        running_gateway(*upstreams, settings) as gateway,
        gateway.client.get(PATH, headers=EVENTS) as answer,
    ):
        events = await events_of(answer)

    assert [name for name, _ in events] == ["itinerary", "problem"]
    assert events[1][1]["code"] == "DEADLINE_EXCEEDED"


async def test_streams_are_ended_with_an_event_when_the_gateway_stops(
    upstreams: tuple[Upstreams, Fakes],
) -> None:
    """A stream that does not come to its end in time is told that the gateway stops."""
    upstreams[1].reset()
    upstreams[1].search.answers["StreamItineraries"] = [response("flt_a"), forever]

    async with (
        running_gateway(*upstreams) as gateway,
        gateway.client.get(PATH, headers=EVENTS) as answer,
    ):
        first = await event_of(answer.content)
        await gateway.app.state.streams.end(timedelta(milliseconds=10))
        last = await event_of(answer.content)
        left = await answer.content.read()
        open_streams = len(gateway.app.state.streams)

    assert first[0] == "itinerary"
    assert last[0] == "problem"
    assert last[1]["code"] == "SHUTTING_DOWN"
    assert left == b""
    assert open_streams == 0


async def test_a_stopping_gateway_lets_streams_finish(
    upstreams: tuple[Upstreams, Fakes],
) -> None:
    """A stream that is nearly done when the gateway stops comes to its own end."""
    more = asyncio.Event()

    async def later(_request: object) -> StreamItinerariesResponse:
        await more.wait()
        return response("flt_b")

    upstreams[1].reset()
    upstreams[1].search.answers["StreamItineraries"] = [response("flt_a"), later]
    after: Callable[..., object] = asyncio.get_running_loop().call_later

    async with (
        running_gateway(*upstreams) as gateway,
        gateway.client.get(PATH, headers=EVENTS) as answer,
    ):
        await event_of(answer.content)
        after(0.05, more.set)
        await gateway.app.state.streams.end(timedelta(seconds=PATIENCE))
        events = await events_of(answer)

    assert [name for name, _ in events] == ["itinerary", "done"]
