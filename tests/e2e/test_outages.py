"""Parts of the running system die under steady searches; short forms of what `bench/` measures."""

import asyncio
import signal
import sqlite3
import uuid
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import grpc
import pytest

from bench.outages import RATE, consul_stopped, killed, owners_away, rolling
from bench.steady import load, percentile, query_of, some_searches, summary, times
from bench.subject import POLL, Instance, Subject
from consulmesh.wellknown import date_message
from flights.search.v1 import search_pb2
from flights.search.v1.search_pb2_grpc import SearchServiceStub
from flights.type.v1 import cabin_pb2
from tests.e2e.test_walk import found, quoted


@pytest.mark.parametrize("service", ["flight-search", "pricing"])
async def test_a_killed_instance_costs_no_search(subject: Subject, service: str) -> None:
    """`kill -9` of one of two, brought back by the supervisor."""
    figures = await killed(subject, service, for_good=False)
    print(figures)

    assert figures.searches.outcomes
    assert not figures.searches.failures


async def test_an_instance_that_stays_away_leaves_every_caller_set(subject: Subject) -> None:
    """Killed and not restarted, it is out of every client; started again, it is back."""
    figures = await killed(subject, "flight-search", for_good=True)
    print(figures)

    assert not figures.searches.failures
    assert figures.seconds["out of gateway-bff-1"] < 30
    assert figures.seconds["passing again after its start"] < 90


async def test_consul_may_be_away(subject: Subject) -> None:
    """Ten seconds without Consul cost no search, and everything registers again by itself."""
    figures = await consul_stopped(subject, 10)
    print(figures)

    assert not figures.searches.failures


async def test_every_instance_may_be_restarted_in_turn(subject: Subject) -> None:
    """SIGTERM to each of the services, one after the other, costs no search."""
    figures = await rolling(subject)
    print(figures)

    assert not figures.searches.failures


async def test_a_frozen_service_costs_its_deadline_and_no_more(subject: Subject) -> None:
    """Pricing is stopped in its tracks: a quote is a 504 problem within the route's budget."""
    itinerary = (await found(subject, some_searches()[0]))[0]
    wanted = {"itinerary_id": itinerary["itinerary_id"], "passengers": 1}
    url = f"{subject.settings.gateway_url}/v1/quotes"
    loop = asyncio.get_running_loop()
    for slot in (1, 2):
        subject.signal(f"pricing-{slot}", signal.SIGSTOP)
    try:
        began = loop.time()
        async with subject.http.post(url, json=wanted) as answer:
            took, problem = loop.time() - began, await answer.json()
    finally:
        for slot in (1, 2):
            subject.signal(f"pricing-{slot}", signal.SIGCONT)

    assert problem["code"] in {"DEADLINE_EXCEEDED", "UPSTREAM_UNAVAILABLE"}
    assert answer.status in {503, 504}
    assert took < 15  # of the 30 seconds that the client waits


async def test_without_a_backend_requests_are_refused_at_once(subject: Subject) -> None:
    """Both instances of pricing are killed: a quote is a 503 that says when to come again."""
    itinerary = (await found(subject, some_searches()[0]))[0]
    wanted = {"itinerary_id": itinerary["itinerary_id"], "passengers": 1}
    url = f"{subject.settings.gateway_url}/v1/quotes"
    loop = asyncio.get_running_loop()

    async def quote() -> tuple[int, str | None, float]:
        began = loop.time()
        async with subject.http.post(url, json=wanted) as answer:
            await answer.read()
            return answer.status, answer.headers.get("Retry-After"), loop.time() - began

    for slot in (1, 2):
        await subject.kill_for_good(f"pricing-{slot}")
    try:
        refusals = [await quote() for _ in range(50)]
    finally:
        for slot in (1, 2):
            await subject.start(f"pricing-{slot}")
    await subject.passes("pricing", "pricing-1")
    passing = loop.time()
    while (await quote())[0] != 201:
        await asyncio.sleep(POLL)
    back = loop.time() - passing
    seconds = [took for _, _, took in refusals]
    print(f"D6: {times('quotes without pricing', seconds)}; made {back:.2f} s after one passed")

    assert {(status, bool(after)) for status, after, _ in refusals} == {(503, True)}
    assert percentile(seconds, 0.5) < 1
    assert back <= 30


@pytest.mark.parametrize(
    ("statement", "reason"),
    [("PRAGMA application_id = 1", "of another application"), ("", "damaged")],
)
async def test_a_read_model_is_rebuilt_while_the_other_answers(
    subject: Subject, statement: str, reason: str
) -> None:
    """One instance finds a foreign or a corrupt file: it costs no search, and it has all again."""
    service, victim = "flight-search", "flight-search-2"
    file = subject.settings.run / "data" / f"{victim}.db"
    log = subject.settings.logs / f"{victim}.log"
    async with load(subject.http, subject.settings.gateway_url, RATE) as calls:
        await subject.stop(victim)
        said = len(log.read_text())
        if statement:
            with closing(sqlite3.connect(file)) as db:
                db.execute(statement)
        else:
            corrupt(file)
        await subject.start(victim)
        await subject.passes(service, victim, patience=60)
    one, other = [await flights_of(each) for each in await subject.instances(service)]
    news = log.read_text()[said:]

    assert not summary(calls).failures
    assert one == other != []
    assert "read_model.rebuilt" in news
    assert reason in news


def corrupt(file: Path) -> None:
    """Garbage in place of a page in the middle of a file."""
    page = 4096
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2 // page * page)
        opened.write(b"\xa5" * page)


async def flights_of(instance: Instance) -> list[list[str]]:
    """The flights of what one instance finds, asked without the mesh."""
    asked = some_searches()[0]
    query = search_pb2.ItineraryQuery(
        origin=asked.origin,
        destination=asked.destination,
        departure_date=date_message(date.fromisoformat(asked.date)),
        passengers=1,
        cabin=cabin_pb2.CABIN_ECONOMY,
    )
    request = search_pb2.SearchItinerariesRequest(
        query=query, page_size=100, sort_order=search_pb2.SORT_ORDER_DEPARTURE
    )
    async with grpc.aio.insecure_channel(f"{instance.address}:{instance.port}") as channel:
        answer = await SearchServiceStub(channel).SearchItineraries(request, timeout=5)
    return [[segment.flight_id for segment in each.segments] for each in answer.itineraries]


async def test_search_answers_while_the_owners_are_away(
    subject: Subject, bearer: dict[str, str]
) -> None:
    """It says how old its prices are; a booking is refused, and made with its key afterwards."""
    quote = await quoted(subject, (await found(subject, some_searches()[2]))[0])
    headers = bearer | {"Idempotency-Key": str(uuid.uuid4())}
    away = asyncio.create_task(owners_away(subject, 8))
    lag = await lag_of_indicative_prices(subject)
    refused, _ = await attempt(subject, quote, headers)
    figures = await away
    print(figures)
    status = 0
    while status not in {201, 409}:
        status, booking = await attempt(subject, quote, headers)

    assert not figures.searches.failures
    assert lag >= 5
    assert refused in {503, 504}
    assert booking["status"] == "confirmed"


async def lag_of_indicative_prices(subject: Subject) -> float:
    """How old the first answer with indicative prices says that they are, in seconds.

    Only that answer says it: the other instance may have heard of pricing a moment later.
    """
    url = f"{subject.settings.gateway_url}/v1/itineraries"
    while True:
        async with subject.http.get(url, params=query_of(some_searches()[0])) as answer:
            body = await answer.json()
        if {each["price"]["basis"] for each in body["itineraries"]} == {"indicative"}:
            return float(answer.headers["Freshness"].partition("pricing;lag=")[2])
        await asyncio.sleep(POLL)


async def test_a_booking_survives_the_death_of_its_instance(
    subject: Subject, bearer: dict[str, str]
) -> None:
    """Both instances are killed while bookings are made; each settles, once, by its key."""
    quotes = [
        await quoted(subject, (await found(subject, some_searches()[3]))[0]) for _ in range(8)
    ]
    keys = [str(uuid.uuid4()) for _ in quotes]

    async def settled(quote: dict[str, Any], key: str) -> dict[str, Any]:
        while True:
            status, body = await attempt(subject, quote, bearer | {"Idempotency-Key": key})
            if status in {201, 409}:
                return body

    making = [asyncio.create_task(settled(q, k)) for q, k in zip(quotes, keys, strict=True)]
    for slot in (1, 2):
        subject.signal(f"booking-{slot}", signal.SIGKILL)
    bookings = await asyncio.gather(*making)
    again = [await settled(q, k) for q, k in zip(quotes, keys, strict=True)]

    assert {booking["status"] for booking in bookings} == {"confirmed"}
    assert [b["booking_id"] for b in again] == [b["booking_id"] for b in bookings]


async def attempt(
    subject: Subject, quote: dict[str, Any], headers: dict[str, str]
) -> tuple[int, dict[str, Any]]:
    """One attempt to book; an unavailable service is waited for."""
    wanted = {
        "quote_id": quote["quote_id"],
        "passengers": [{"given_name": "Ann", "family_name": "Lee"}],
        "contact": {"email": "ann@example.org"},
    }
    url = f"{subject.settings.gateway_url}/v1/bookings"
    async with subject.http.post(url, json=wanted, headers=headers) as answer:
        body = await answer.json()
        if answer.status in {202, 503, 504}:
            await asyncio.sleep(0.2)
        else:
            assert answer.status in {201, 409}, body
        return answer.status, body
