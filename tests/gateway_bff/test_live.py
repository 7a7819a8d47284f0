import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from gateway_bff.live.sources import STALE_AFTER
from gateway_bff.settings import Settings
from gateway_bff.upstreams import Upstreams
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import SETTINGS, Gateway, running_gateway
from tests.gateway_bff.event_source import Event, EventSource
from tests.gateway_bff.fakes import Fakes
from tests.gateway_bff.owner import Owner, pricing_owner, schedule_owner, serve

A, B = examples.FLIGHT, examples.OTHER_FLIGHT
FLIGHT = f"/v1/flights/{A}/events"
PRICES = f"/v1/prices/stream?flight_id={A}&flight_id={B}"
PATIENCE = 60  # seconds; the machine may be busy


@dataclass
class LiveGateway:
    """A gateway whose jobs run, and the owners behind it."""

    gateway: Gateway
    pricing: Owner
    schedule: Owner

    @asynccontextmanager
    async def open(
        self, path: str, source: EventSource | None = None
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, EventSource]]:
        """A connection of an EventSource, which goes on where it was."""
        source = source or EventSource()
        headers = {"Accept": "text/event-stream"}
        if source.last_event_id:
            headers["Last-Event-ID"] = source.last_event_id
        async with asyncio.timeout(PATIENCE), self.gateway.client.get(path, headers=headers) as got:
            yield got, source

    def metric(self, name: str, **labels: str) -> float:
        """What a metric says."""
        return self.gateway.app.state.registry.get_sample_value(name, labels) or 0.0

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that tells nobody."""
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - metrics tell nobody
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running_live(
    upstreams: Upstreams,
    fakes: Fakes,
    owners: tuple[Owner, Owner],
    settings: Settings = SETTINGS,
    stale_after: timedelta = STALE_AFTER,
) -> AsyncIterator[LiveGateway]:
    """A gateway that follows these owners."""
    pricing, schedule = owners
    serve(pricing, fakes.pricing)
    serve(schedule, fakes.schedule)
    async with running_gateway(upstreams, fakes, settings) as gateway:
        app = gateway.app
        app.state.live = replace(app.state.live, stale_after=stale_after)
        jobs = [asyncio.create_task(job) for job in app.state.live.jobs().values()]
        try:
            live = LiveGateway(gateway, pricing, schedule)
            await live.until(lambda: is_reached(gateway))
            yield live
        finally:
            await app.state.streams.end(timedelta(0))
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)


def is_reached(gateway: Gateway) -> bool:
    """Whether both hubs know where they are."""
    live = gateway.app.state.live
    return bool(live.prices._position and live.flights._position)


@pytest.fixture
def owners() -> tuple[Owner, Owner]:
    """Pricing and schedule with two flights."""
    pricing, schedule = pricing_owner(), schedule_owner()
    for owner in (pricing, schedule):
        owner.put(A, 100)
        owner.put(B, 200)
    return pricing, schedule


@pytest.fixture
async def live(
    upstreams: tuple[Upstreams, Fakes], owners: tuple[Owner, Owner]
) -> AsyncIterator[LiveGateway]:
    """A gateway that follows both owners."""
    upstreams[1].reset()
    async with running_live(*upstreams, owners) as gateway:
        yield gateway


def economy(event: Event) -> tuple[str, str]:
    """The flight and what economy costs without taxes."""
    amounts = {each["cabin"]: each["fare"]["amount"] for each in event.data["prices"]}
    return event.data["flight_id"], amounts["economy"]


async def test_prices_are_told_and_then_every_change(live: LiveGateway) -> None:
    """The state of each flight in the order asked, then changes as they happen."""
    async with live.open(PRICES) as (answer, source):
        state = await source.read(answer, 2)
        live.pricing.put(B, 210)
        changes = await source.read(answer, 1)
        live.pricing.put(A, 90)
        live.pricing.remove(B)
        changes += await source.read(answer, 2)

    assert answer.status == 200
    assert answer.content_type == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store"
    assert [event.name for event in state] == ["price", "price"]
    assert [economy(event) for event in state] == [(A, "100.00"), (B, "200.00")]
    assert [event.name for event in changes] == ["price", "price", "removed"]
    assert [economy(event) for event in changes[:2]] == [(B, "210.00"), (A, "90.00")]
    assert changes[2].data == {"flight_id": B}


async def test_a_price_is_shown_with_its_parts_and_their_sum(live: LiveGateway) -> None:
    """Of one cabin where one was asked for; amounts are exact."""
    async with live.open(f"/v1/prices/stream?flight_id={A}&cabin=economy") as (answer, source):
        (state,) = await source.read(answer, 1)

    assert state.data == {
        "flight_id": A,
        "prices": [
            {
                "cabin": "economy",
                "fare": {"currency": "USD", "amount": "100.00"},
                "taxes": {"currency": "USD", "amount": "9.95"},
                "per_passenger": {"currency": "USD", "amount": "109.95"},
            }
        ],
    }


async def test_one_cabin_hears_nothing_of_the_others(live: LiveGateway) -> None:
    """Who watches business is not told that economy has changed, and still goes on after it."""
    async with live.open(f"/v1/prices/stream?flight_id={A}&cabin=business") as (answer, source):
        await source.read(answer, 1)
        begun = source.last_event_id
        live.pricing.put(A, 90)
        while source.last_event_id == begun:
            source.feed(await answer.content.readuntil(b"\n\n"))

    assert len(source.events) == 1


async def test_a_flight_is_shown_as_by_itself(live: LiveGateway) -> None:
    """The data of each event is what the flight's own resource shows."""
    async with live.open(FLIGHT) as (answer, source):
        (state,) = await source.read(answer, 1)
        live.schedule.put(B, 1)
        live.schedule.put(A, 101)
        (change,) = await source.read(answer, 1)
        live.schedule.remove(A)
        (removed,) = await source.read(answer, 1)

    assert (state.name, change.name, removed.name) == ("flight", "flight", "removed")
    assert (state.data["distance_km"], change.data["distance_km"]) == (100, 101)
    assert change.data["departure"]["time"] == "2026-12-01T06:30:00-05:00"
    assert removed.data == {"flight_id": A}


async def test_who_comes_back_misses_nothing(live: LiveGateway) -> None:
    """On another connection the stream goes on after the last event, without the state again."""
    async with live.open(PRICES) as (answer, source):
        await source.read(answer, 2)
    live.pricing.put(A, 90)
    live.pricing.put(B, 190)
    async with live.open(PRICES, source) as (answer, source):
        missed = await source.read(answer, 2)
        live.pricing.put(A, 80)
        after = await source.read(answer, 1)

    assert [economy(event) for event in missed] == [(A, "90.00"), (B, "190.00")]
    assert [economy(event) for event in after] == [(A, "80.00")]


async def test_an_id_is_good_at_every_gateway(
    live: LiveGateway, upstreams: tuple[Upstreams, Fakes]
) -> None:
    """One that began after the id was given reads back what lies between, once."""
    async with live.open(PRICES) as (answer, source):
        await source.read(answer, 2)
    live.pricing.put(A, 90)
    before = len(live.pricing.watched)
    async with running_live(*upstreams, (live.pricing, live.schedule)) as other:
        live.pricing.put(B, 190)
        async with other.open(PRICES, source) as (answer, source):
            missed = await source.read(answer, 2)
        caught_up = other.metric("gateway_live_catch_ups_total", source="pricing")

    assert [economy(event) for event in missed] == [(A, "90.00"), (B, "190.00")]
    assert caught_up == 1
    assert len(live.pricing.watched) - before == 2


@pytest.mark.parametrize("text", ["rubbish", "Cg", "AAAA"])
async def test_an_id_that_is_none_begins_anew(live: LiveGateway, text: str) -> None:
    """An EventSource would send it for ever: it gets a reset and the state, not an error."""
    async with live.open(FLIGHT, EventSource(text)) as (answer, source):
        reset, state = await source.read(answer, 2)

    assert (reset.name, reset.data) == ("reset", {"reason": "malformed"})
    assert state.data["distance_km"] == 100
    assert source.last_event_id != text


async def test_a_new_history_resets_open_streams(live: LiveGateway) -> None:
    """After a restore everybody is told the state of then; a flight that is not in it is gone."""
    async with live.open(PRICES) as (answer, source):
        await source.read(answer, 2)
        live.pricing.flights.pop(B)
        live.pricing.restore("e2")
        reset, first, second = await source.read(answer, 3)

    assert (reset.name, reset.data) == ("reset", {"reason": "source"})
    assert economy(first) == (A, "100.00")
    assert (second.name, second.data) == ("removed", {"flight_id": B})


async def test_silence_moves_the_place_to_go_on_at(live: LiveGateway) -> None:
    """While other flights change a client is sent ids alone, which dispatch nothing."""
    async with live.open(FLIGHT) as (answer, source):
        await source.read(answer, 1)
        begun = source.last_event_id
        live.schedule.put(B, 1)
        while source.last_event_id == begun:
            source.feed(await answer.content.readuntil(b"\n\n"))

    assert len(source.events) == 1


async def test_a_source_that_is_away_is_said_once(
    upstreams: tuple[Upstreams, Fakes], owners: tuple[Owner, Owner]
) -> None:
    """One event says that what is known gets old, one that it is new again; changes go on."""
    upstreams[1].reset()
    bound = timedelta(seconds=2)
    async with (
        running_live(*upstreams, owners, stale_after=bound) as live,
        live.open(FLIGHT) as (answer, source),
    ):
        await source.read(answer, 1)
        live.schedule.go_away()
        (stale,) = await source.read(answer, 1)
        live.schedule.come_back()
        (back,) = await source.read(answer, 1)
        live.schedule.put(A, 7)
        (change,) = await source.read(answer, 1)

    assert stale.name == "stale"
    assert stale.data["lag"] >= 2
    assert (back.name, back.data) == ("live", {})
    assert change.data["distance_km"] == 7


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/flights/flt_nobody/events", 404, "NOT_FOUND"),
        ("/v1/flights/nonsense/events", 404, "NOT_FOUND"),
        (f"/v1/prices/stream?flight_id={A}&flight_id=flt_nobody", 404, "NOT_FOUND"),
        (f"/v1/prices/stream?flight_id={A}&flight_id=nonsense", 404, "NOT_FOUND"),
        ("/v1/prices/stream", 400, "VALIDATION_FAILED"),
        (f"/v1/prices/stream?flight_id={A}&cabin=hold", 400, "VALIDATION_FAILED"),
        (f"/v1/prices/stream?flight_id={A}&cabin=first&cabin=first", 400, "VALIDATION_FAILED"),
        (f"/v1/prices/stream?flight_id={A}&seats=2", 400, "VALIDATION_FAILED"),
        ("/v1/prices/stream?" + "&".join(["flight_id=flt_a"] * 51), 400, "VALIDATION_FAILED"),
    ],
)
async def test_what_cannot_be_watched_is_an_ordinary_problem(
    live: LiveGateway, path: str, status: int, code: str
) -> None:
    """Before the first event a refusal has its own status and media type."""
    async with live.open(path) as (answer, _):
        problem = await answer.json()

    assert (answer.status, problem["code"]) == (status, code)
    assert answer.content_type == "application/problem+json"


async def test_nothing_is_live_before_the_owner_was_reached(
    upstreams: tuple[Upstreams, Fakes],
) -> None:
    """A gateway that never heard of the owner says so, and when to ask again."""
    async with (
        running_gateway(*upstreams) as gateway,
        gateway.client.get(FLIGHT) as answer,
    ):
        problem = await answer.json()

    assert (answer.status, problem["code"]) == (503, "UPSTREAM_UNAVAILABLE")
    assert answer.headers["Retry-After"] == "1"


async def test_two_hundred_clients_share_one_stream_and_leave_nothing(live: LiveGateway) -> None:
    """Each source is watched once however many look; those who leave are forgotten."""
    tasks = len(asyncio.all_tasks())
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(live.open(PRICES)) for _ in range(200)]
        states = [await source.read(answer, 2) for answer, source in opened]
        live.pricing.put(A, 90)
        told = [(await source.read(answer, 1))[0] for answer, source in opened]
        watching = (live.pricing.watching, live.schedule.watching)
        open_ones = live.metric("gateway_live_subscribers", source="pricing")
        for answer, _ in opened:
            answer.close()
        await live.until(lambda: not live.metric("gateway_live_subscribers", source="pricing"))
    hub = live.gateway.app.state.live.prices
    await live.until(lambda: len(asyncio.all_tasks()) <= tasks)

    assert {len(state) for state in states} == {2}
    assert {economy(event) for event in told} == {(A, "90.00")}
    assert watching == (1, 1)
    assert len(live.pricing.watched) == 1
    assert open_ones == 200
    assert hub._watching == {}
    assert len(live.gateway.app.state.streams) == 0


async def test_a_gateway_that_stops_ends_live_streams_at_once(live: LiveGateway) -> None:
    """They have no end of their own to wait for; clients are told why and come back later."""
    async with live.open(FLIGHT) as (answer, source):
        await source.read(answer, 1)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await live.gateway.app.state.streams.end(timedelta(seconds=PATIENCE))
        took = loop.time() - begun
        (problem,) = await source.read(answer, 1)
        left = await answer.content.read()

    assert (problem.name, problem.data["code"]) == ("problem", "SHUTTING_DOWN")
    assert left == b""
    assert took < PATIENCE / 2


async def test_clients_are_told_different_times_to_come_back(live: LiveGateway) -> None:
    """So that those of a gateway that stopped don't come in one instant."""
    times = []
    for _ in range(10):
        async with live.open(FLIGHT) as (answer, source):
            await source.read(answer, 1)
            times.append(source.retry)

    assert all(time is not None and 1_000 <= time <= 3_000 for time in times)
    assert len(set(times)) > 1


async def test_a_reader_that_stalls_in_silence_is_given_up(
    upstreams: tuple[Upstreams, Fakes], owners: tuple[Owner, Owner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that reads nothing is noticed by what fills the silence, too."""
    settings = replace(SETTINGS, stalled=timedelta(milliseconds=200), heartbeat=timedelta(0))
    upstreams[1].reset()
    monkeypatch.setattr("gateway_bff.live.subscription.positions.encode", lambda _: b"x" * 100_000)
    async with running_live(*upstreams, owners, settings) as live:
        _, writer = await asyncio.open_connection("127.0.0.1", live.gateway.port, limit=1024)
        writer.write(f"GET {FLIGHT} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await live.until(lambda: live.metric("gateway_live_subscribers", source="schedule") == 1)
        await live.until(lambda: live.metric("gateway_live_subscribers", source="schedule") == 0)
        still_open = not writer.is_closing()
        writer.transport.abort()

    assert still_open


async def test_head_begins_no_stream(live: LiveGateway) -> None:
    """The headers of the stream, and the connection is free for the next request."""
    async with live.gateway.client.head(FLIGHT) as head:
        await head.read()
    async with live.gateway.client.get("/livez") as after:
        await after.read()

    assert head.content_type == "text/event-stream"
    assert after.status == 200
    assert live.metric("gateway_live_subscribers", source="schedule") == 0


async def test_what_happened_is_counted(live: LiveGateway) -> None:
    """Events by source, and resets by their reason."""
    async with live.open(FLIGHT, EventSource("rubbish")) as (answer, source):
        await source.read(answer, 2)
    async with live.gateway.client.get("/metrics") as answer:
        text = await answer.text()

    counted: Any = live.metric
    assert counted("gateway_live_events_sent_total", source="schedule") == 1
    assert counted("gateway_live_resets_total", source="schedule", reason="malformed") == 1
    assert 'gateway_live_subscribers{source="pricing"} 0.0' in text
