"""Searches that are asked again, over HTTP: from the cache, or not, and why."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import aiohttp
import pytest

from consulmesh.wellknown import timestamp
from flights.schedule.v1.schedule_pb2 import FlightEvent
from flights.search.v1.search_pb2 import SearchItinerariesResponse, SourcePosition
from gateway_bff import freshness
from gateway_bff.cache.changes import PRICING, SCHEDULE
from gateway_bff.upstreams import Upstreams
from streams.v1.stream_pb2 import Cursor
from tests.flight_search.owners import flight_event
from tests.gateway_bff import examples
from tests.gateway_bff.fakes import Fakes
from tests.gateway_bff.owner import Owner, pricing_owner, schedule_owner
from tests.gateway_bff.test_live import LiveGateway, running_live

TOMORROW: Final = datetime.now(UTC) + timedelta(days=1)
QUERY: Final = {"origin": "JFK", "destination": "LAX", "date": TOMORROW.date().isoformat()}


class Said(NamedTuple):
    """What a search was answered."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def cache(self) -> str:
        """What the cache did."""
        return self.headers["Cache-Status"]


@pytest.fixture
async def live(upstreams: tuple[Upstreams, Fakes]) -> AsyncIterator[LiveGateway]:
    """A gateway that follows two owners of no flights, and a search that finds one itinerary."""
    upstreams[1].reset()
    async with running_live(*upstreams, (pricing_owner(), schedule_owner())) as gateway:
        await gateway.until(
            lambda: all(lag() < 1 for lag in gateway.gateway.app.state.live.lags.values())
        )
        find(gateway)
        yield gateway


def find(live: LiveGateway, seats: int = 112) -> None:
    """From here on, search finds the flight with so many seats, as of now."""
    itinerary = examples.itinerary()
    itinerary.segments[0].departure_time.CopyFrom(timestamp(TOMORROW))
    itinerary.segments[0].seats_available = seats
    live.gateway.fakes.search.answers["SearchItineraries"] = SearchItinerariesResponse(
        itineraries=[itinerary],
        positions=[
            SourcePosition(source=source, cursor=Cursor(epoch=owner.epoch, seq=owner.seq))
            for source, owner in ((SCHEDULE, live.schedule), (PRICING, live.pricing))
        ],
        origins=["JFK"],
        destinations=["LAX"],
    )


def fly(schedule: Owner, origin: str, destination: str) -> None:
    """Something changes about a flight of tomorrow."""
    event: FlightEvent = flight_event("flt_1", origin, destination, TOMORROW)
    event.flight_changed.scheduled_departure_time.CopyFrom(timestamp(TOMORROW))
    schedule.tell(event)


async def search(live: LiveGateway, /, headers: Any = None, **more: str) -> Said:
    """Ask."""
    client: aiohttp.ClientSession = live.gateway.client
    async with client.get("/v1/itineraries", params=QUERY | more, headers=headers) as response:
        return Said(response.status, await response.read(), response.headers.copy())


def asked(live: LiveGateway) -> int:
    """How often search itself was asked."""
    return len(live.gateway.fakes.search.requests)


async def heard(live: LiveGateway, source: str, owner: Owner) -> None:
    """Wait until the gateway has heard all that an owner has said."""
    changes = live.gateway.app.state.answers._changes
    await live.until(lambda: changes.cursor(source) == Cursor(epoch=owner.epoch, seq=owner.seq))


async def test_a_repeat_is_answered_without_search(live: LiveGateway) -> None:
    """With the same bytes, and the same headers but those that say how fresh it is."""
    first, second = await search(live), await search(live)

    assert asked(live) == 1
    assert (first.cache, second.cache) == ("gateway-bff; fwd=miss; stored", "gateway-bff; hit")
    assert second.body == first.body
    same = ("Content-Type", "ETag", "Vary", "Cache-Control", "Search-Position")
    assert [second.headers[name] for name in same] == [first.headers[name] for name in same]
    assert second.headers["Cache-Control"] == "no-cache"
    assert second.headers["Freshness"].startswith("schedule;lag=")
    assert second.headers["X-Request-Id"] != first.headers["X-Request-Id"]


async def test_who_carries_baggage_is_answered_by_search(live: LiveGateway) -> None:
    """A preview may answer otherwise: nothing is taken from the cache for it, nor kept."""
    previewed = await search(live, {"baggage": "preview=1"})
    first, second = await search(live), await search(live)
    again = await search(live, {"baggage": "preview=1"})
    contexts = live.gateway.fakes.search.contexts

    assert [each.cache for each in (previewed, first, second, again)] == [
        "gateway-bff; fwd=miss",
        "gateway-bff; fwd=miss; stored",
        "gateway-bff; hit",
        "gateway-bff; fwd=miss",
    ]
    assert [each.baggage for each in contexts] == ["preview=1", None, "preview=1"]


async def test_another_spelling_is_the_same_question(live: LiveGateway) -> None:
    """Defaults that are spelt out, another order, small letters: search is asked once."""
    await search(live)
    await search(live, origin="jfk", cabin="economy")

    assert (await search(live, origin="jfk", cabin="economy")).cache == "gateway-bff; hit"
    assert asked(live) == 2  # a spelling is learnt by asking


async def test_a_change_is_seen_by_the_next_search(live: LiveGateway) -> None:
    """Search must have read it; then the new answer is used again."""
    await search(live)
    fly(live.schedule, "JFK", "ORD")
    await heard(live, SCHEDULE, live.schedule)
    find(live, seats=5)

    changed, again = await search(live), await search(live)

    assert b'"seats_available":5' in changed.body
    assert again == changed._replace(headers=again.headers)
    assert (changed.cache, again.cache) == ("gateway-bff; fwd=miss; stored", "gateway-bff; hit")
    needed = {
        p.source: p.cursor.seq for p in live.gateway.fakes.search.requests[1].preferred_positions
    }
    assert needed[SCHEDULE] == live.schedule.seq


async def test_a_change_elsewhere_changes_nothing(live: LiveGateway) -> None:
    """And the answer says that it is as new as the gateway."""
    first = await search(live)
    fly(live.schedule, "ORD", "SFO")
    await heard(live, SCHEDULE, live.schedule)

    second = await search(live)

    assert second.cache == "gateway-bff; hit"
    assert second.headers["Search-Position"] != first.headers["Search-Position"]


@pytest.mark.parametrize(
    "tags", ["{}", '"other", {}', "W/{}", "*"], ids=["same", "one of two", "weak", "any"]
)
async def test_a_client_that_has_the_answer_is_told_so(live: LiveGateway, tags: str) -> None:
    """304 without a body, from the cache and from search."""
    etag = (await search(live)).headers["ETag"]
    fresh = await search(live, {"If-None-Match": tags.format(etag)}, page_size="7")
    kept = await search(live, {"If-None-Match": tags.format(etag)})

    assert (fresh.status, fresh.body) == (304, b"")
    assert (kept.status, kept.body) == (304, b"")
    assert kept.cache == "gateway-bff; hit"
    assert kept.headers["ETag"] == etag


async def test_a_client_that_has_another_answer_gets_this_one(live: LiveGateway) -> None:
    """200 with the body."""
    await search(live)
    said = await search(live, {"If-None-Match": '"another"'})

    assert (said.status, said.cache) == (200, "gateway-bff; hit")
    assert said.body


async def test_who_has_seen_more_is_not_answered_from_the_cache(live: LiveGateway) -> None:
    """A Min-Position that neither the answer nor the gateway has reached goes to search."""
    first = await search(live)
    at = first.headers["Search-Position"]
    live.schedule.tell(flight_event("flt_1", "ORD", "SFO"))
    ahead = SourcePosition(
        source=SCHEDULE, cursor=Cursor(epoch=live.schedule.epoch, seq=live.schedule.seq + 5)
    )

    assert (await search(live, {"Min-Position": at})).cache == "gateway-bff; hit"
    beyond = await search(live, {"Min-Position": freshness.encode([ahead])})
    assert beyond.cache.startswith("gateway-bff; fwd=miss")
    refused = await search(live, {"Min-Position": "none"})
    assert refused.status == 400


async def test_nothing_is_used_again_while_an_owner_is_away(live: LiveGateway) -> None:
    """Its bookmarks have stopped: search says itself what it knows."""
    await search(live)
    live.pricing.go_away()
    lags = live.gateway.app.state.live.lags
    await live.until(lambda: lags[PRICING]() > 2.0)

    assert (await search(live)).cache == "gateway-bff; fwd=miss"


async def test_events_are_preferred_by_who_prefers_them(live: LiveGateway) -> None:
    """An event stream is never answered with a page."""
    await search(live)
    live.gateway.fakes.search.answers["StreamItineraries"] = []
    said = await search(live, {"Accept": "text/event-stream"})

    assert said.headers["Content-Type"].startswith("text/event-stream")


async def test_hits_are_counted_under_their_route(live: LiveGateway) -> None:
    """As any other request."""
    await search(live)
    await search(live)
    async with live.gateway.client.get("/metrics") as response:
        text = await response.text()

    assert 'gateway_search_cache_lookups_total{result="hit"} 1.0' in text
    served = next(
        line
        for line in text.splitlines()
        if line.startswith("http_server_request_duration_seconds_count")
        and 'http_route="/v1/itineraries"' in line
    )
    assert served.endswith(" 2.0")
