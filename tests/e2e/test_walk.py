"""A traveller's way through the public API."""

import asyncio
import json
import os
import subprocess
import uuid
from datetime import date, timedelta
from typing import Any

import pytest

from bench import oracle
from bench.propagation import measure
from bench.steady import query_of, some_searches
from bench.subject import POLL, Subject
from tests.e2e.conftest import run
from tools.binaries import get
from tools.programs import Settings

ANN = {"given_name": "Ann", "family_name": "Lee"}
CONTACT = {"email": "ann@example.org"}


async def found(subject: Subject, asked: oracle.Asked) -> list[dict[str, Any]]:
    """Itineraries of a search."""
    url = f"{subject.settings.gateway_url}/v1/itineraries"
    async with subject.http.get(url, params=query_of(asked)) as answer:
        assert answer.status == 200, await answer.text()
        itineraries: list[dict[str, Any]] = (await answer.json())["itineraries"]
        return itineraries


async def quoted(subject: Subject, itinerary: dict[str, Any]) -> dict[str, Any]:
    """A quote for one passenger."""
    wanted = {"itinerary_id": itinerary["itinerary_id"], "passengers": 1}
    url = f"{subject.settings.gateway_url}/v1/quotes"
    async with subject.http.post(url, json=wanted) as answer:
        assert answer.status == 201, await answer.text()
        quote: dict[str, Any] = await answer.json()
        return quote


async def booked(
    subject: Subject, quote: dict[str, Any], headers: dict[str, str]
) -> tuple[int, dict[str, Any]]:
    """Status and body of a booking."""
    wanted = {"quote_id": quote["quote_id"], "passengers": [ANN], "contact": CONTACT}
    url = f"{subject.settings.gateway_url}/v1/bookings"
    async with subject.http.post(url, json=wanted, headers=headers) as answer:
        return answer.status, await answer.json()


async def test_real_flights_are_found_sorted_and_complete(subject: Subject) -> None:
    """Every itinerary of popular routes holds what a search promises."""
    for asked in some_searches():
        itineraries = await found(subject, asked)

        assert itineraries
        oracle.check_results(asked, itineraries, by_price=True)


async def test_a_stream_tells_the_same_itineraries_one_by_one(subject: Subject) -> None:
    """As server-sent events: each itinerary, then how many there were."""
    asked = some_searches()[0]
    url = f"{subject.settings.gateway_url}/v1/itineraries"
    accept = {"Accept": "text/event-stream"}
    events: list[tuple[str, Any]] = []
    async with subject.http.get(url, params=query_of(asked), headers=accept) as answer:
        name = ""
        async for raw in answer.content:
            line = raw.decode().rstrip("\n")
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                events.append((name, json.loads(line.removeprefix("data: "))))
    streamed = [data for name, data in events if name == "itinerary"]
    listed = {i["itinerary_id"] for i in await found(subject, asked)}

    assert events[-1] == ("done", {"count": len(streamed)})
    assert listed <= {i["itinerary_id"] for i in streamed}
    oracle.check_results(asked, streamed, by_price=False)


async def test_a_booking_costs_what_was_quoted_and_takes_its_seat(
    subject: Subject, bearer: dict[str, str]
) -> None:
    """Quote, book, book again with the same key: one booking, and search shows a seat less."""
    asked = some_searches()[0]
    itinerary = (await found(subject, asked))[0]
    quote = await quoted(subject, itinerary)
    headers = bearer | {"Idempotency-Key": str(uuid.uuid4())}
    status, booking = await booked(subject, quote, headers)
    again_status, again = await booked(subject, quote, headers)
    left = await seats(subject, asked, itinerary["itinerary_id"])

    assert (status, again_status) == (201, 201), (booking, again)
    oracle.check_booking(booking, quote)
    assert again == booking
    assert left == itinerary["segments"][0]["seats_available"] - 1


async def test_a_round_trip_is_one_booking(subject: Subject, bearer: dict[str, str]) -> None:
    """Both ways are found together, quoted by both ids, and booked at the sum of both prices."""
    asked = some_searches()[0]
    back = (date.fromisoformat(asked.date) + timedelta(days=5)).isoformat()
    url = f"{subject.settings.gateway_url}/v1"
    parameters = query_of(asked) | {"return_date": back}
    async with subject.http.get(f"{url}/round-trips", params=parameters) as answer:
        assert answer.status == 200, await answer.text()
        trip = (await answer.json())["round_trips"][0]
    ways = [trip["outbound"], trip["inbound"]]
    wanted = {"itinerary_ids": [way["itinerary_id"] for way in ways], "passengers": 1}
    async with subject.http.post(f"{url}/quotes", json=wanted) as answer:
        assert answer.status == 201, await answer.text()
        quote = await answer.json()
    status, booking = await booked(subject, quote, bearer | {"Idempotency-Key": str(uuid.uuid4())})

    assert ways[1]["segments"][0]["departure"]["time"].startswith(back)
    assert trip["price"]["total"] == quote["total"] == booking["total"]
    assert (status, booking["status"]) == (201, "confirmed")
    assert [each["flight_id"] for each in booking["segments"]] == [
        segment["flight_id"] for way in ways for segment in way["segments"]
    ]


async def test_the_calendar_has_the_price_that_search_finds(subject: Subject) -> None:
    """The lowest price of a day is that of the first itinerary of that day."""
    asked = some_searches()[0]
    month = {"origin": asked.origin, "destination": asked.destination, "month": asked.date[:7]}
    url = f"{subject.settings.gateway_url}/v1/fare-calendar"
    async with subject.http.get(url, params=month) as answer:
        assert answer.status == 200, await answer.text()
        days = {day["date"]: day["per_passenger"] for day in (await answer.json())["days"]}

    assert days[asked.date] == (await found(subject, asked))[0]["price"]["per_passenger"]


async def seats(subject: Subject, asked: oracle.Asked, itinerary_id: str) -> int:
    """Seats of the first flight of an itinerary that search shows once it knows of the booking."""
    before = -1
    for _ in range(200):
        by_id = {i["itinerary_id"]: i for i in await found(subject, asked)}
        now: int = by_id[itinerary_id]["segments"][0]["seats_available"]
        if before not in {-1, now}:
            return now
        before = now if before == -1 else before
    return before


async def test_a_cancelled_booking_gives_its_seat_back(
    subject: Subject, bearer: dict[str, str]
) -> None:
    """The owner of the seats soon counts as many as before."""
    asked = some_searches()[1]
    quote = await quoted(subject, (await found(subject, asked))[0])
    flight_id = quote["lines"][0]["flight_id"]
    before = await available(subject, flight_id)
    _, booking = await booked(subject, quote, bearer | {"Idempotency-Key": str(uuid.uuid4())})
    taken = await available(subject, flight_id)
    url = f"{subject.settings.gateway_url}/v1/bookings/{booking['booking_id']}/cancel"
    async with subject.http.post(url, headers=bearer) as answer:
        cancelled = await answer.json()
    async with asyncio.timeout(10):
        while await available(subject, flight_id) != before:
            await asyncio.sleep(POLL)

    assert cancelled["status"] == "cancelled"
    assert taken == before - 1


async def available(subject: Subject, flight_id: str) -> int:
    """Seats that schedule can sell in economy."""
    url = f"{subject.settings.gateway_url}/v1/flights/{flight_id}"
    async with subject.http.get(url) as answer:
        assert answer.status == 200, await answer.text()
        flight = await answer.json()
    cabins: dict[str, int] = {c["cabin"]: c["seats_available"] for c in flight["cabins"]}
    return cabins["economy"]


async def test_a_delay_at_the_owner_shows_in_the_public_search(subject: Subject) -> None:
    """UpdateFlight over gRPC, then search over REST: within seconds at worst (see bench)."""
    times = await measure(subject, 5)

    assert len(times) == 5


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"origin": "XXX"}, "UNKNOWN_AIRPORT"),
        ({"date": "2020-01-01"}, "DATE_OUT_OF_RANGE"),
        ({"passengers": "0"}, "VALIDATION_FAILED"),
        ({"passengers": "10"}, "VALIDATION_FAILED"),
        ({"date": "tomorrow"}, "VALIDATION_FAILED"),
        ({"page_token": "no token"}, "INVALID_PAGE_TOKEN"),
    ],
)
async def test_a_wrong_search_is_a_problem_with_a_code(
    subject: Subject, parameters: dict[str, str], code: str
) -> None:
    """Through gateway, mesh and search, and back as RFC 9457."""
    url = f"{subject.settings.gateway_url}/v1/itineraries"
    async with subject.http.get(url, params=query_of(some_searches()[0]) | parameters) as answer:
        problem = await answer.json()

        assert answer.status in {400, 422}
        assert answer.content_type == "application/problem+json"
        assert problem["code"] == code


@pytest.mark.parametrize("path", ["flights/flt_nothing", "quotes/quo_nothing"])
async def test_unknown_ids_are_not_found(subject: Subject, path: str) -> None:
    """By the owner's word, not by the gateway's guess."""
    async with subject.http.get(f"{subject.settings.gateway_url}/v1/{path}") as answer:
        assert answer.status == 404
        assert (await answer.json())["code"] == "NOT_FOUND"


async def test_a_booking_needs_a_user(subject: Subject) -> None:
    """Without a token nobody books."""
    quote = await quoted(subject, (await found(subject, some_searches()[2]))[0])
    status, problem = await booked(subject, quote, {"Idempotency-Key": "some"})

    assert (status, problem["code"]) == (401, "UNAUTHENTICATED")


async def test_grpcurl_is_a_client_of_an_instance_and_of_the_mesh(subject: Subject) -> None:
    """Reflection on an instance's own address, and through xds:/// from the shared ADS."""
    instance = (await subject.instances("booking"))[0]
    direct = grpcurl(subject.settings, f"{instance.address}:{instance.port}", "list")
    mesh = grpcurl(subject.settings, "xds:///booking", "list")

    assert "flights.booking.v1.BookingService" in direct.split()
    assert mesh == direct


def grpcurl(settings: Settings, *words: str) -> str:
    """What grpcurl prints."""
    bootstrap = str(settings.run / "xds-bootstrap.json")
    done = subprocess.run(
        [str(get("grpcurl")), "-plaintext", "-max-time", "10", *words],
        env={**os.environ, "GRPC_XDS_BOOTSTRAP": bootstrap},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_second_up_changes_nothing_and_says_what_runs(subject: Subject) -> None:
    """The same processes go on, by their process ids."""
    before = {name: subject.pid(name) for name in ("booking-1", "schedule-2", "consul")}
    up = run(subject.settings, "up")
    after = {name: subject.pid(name) for name in before}
    listed = run(subject.settings, "ps").stdout

    assert up.returncode == 0, up.stdout + up.stderr
    assert "already running" in up.stdout
    assert after == before
    assert listed.count("passing") == 10
