"""A client that is generated from the document works, and is typed."""

import datetime as dt
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from consulmesh.local_issuer import LocalIssuer
from tests.gateway_bff import examples, typical
from tests.gateway_bff.conftest import Gateway
from tests.gateway_bff.fakes import refusal
from tests.rest_client import Api, generate

DAY = dt.date(2026, 12, 1)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated package."""
    return generate(tmp_path_factory.mktemp("client"))


@pytest.fixture
def url(gateway: Gateway, package: Path) -> str:
    """Where a gateway is whose services answer as they do when all is well."""
    del package
    typical.answer(gateway.fakes)
    return f"http://127.0.0.1:{gateway.port}"


def token(issuer: LocalIssuer, role: str) -> str:
    """Of a user with a role."""
    return issuer.token("ann", {role})


async def test_anybody_searches_and_has_it_quoted(url: str) -> None:
    """Parameters, bodies and answers are objects with types."""
    async with Api(url) as api:
        models = api.models
        page = await api(
            "search.search_itineraries",
            origin="JFK",
            destination="LAX",
            date=DAY,
            cabin=models.Cabin.ECONOMY,
            carrier=["B6"],
        )
        itinerary = page.parsed.itineraries[0]
        made = await api(
            "quotes.create_quote",
            body=models.QuoteRequest(itinerary_id=itinerary.itinerary_id, passengers=2),
        )
        airports = await api("search.search_airports", q="jfk")
        trips = await api(
            "search.search_round_trips",
            origin="JFK",
            destination="LAX",
            date=DAY,
            return_date=DAY,
        )
        calendar = await api(
            "search.get_fare_calendar", origin="JFK", destination="LAX", month="2026-12"
        )

    assert itinerary.segments[0].cabin is models.Cabin.ECONOMY
    assert itinerary.segments[0].departure.time == examples.LEAVES
    assert (made.status_code, made.parsed.quote_id) == (201, examples.QUOTE)
    assert made.parsed.lines[0].taxes.amount == "29.10"
    assert airports.parsed.airports[0].served
    assert trips.parsed.round_trips[0].inbound.itinerary_id == examples.RETURN
    assert calendar.parsed.unreachable == [dt.date(2026, 12, 3)]


async def test_a_customer_books_looks_and_cancels(url: str, issuer: LocalIssuer) -> None:
    """With a token and a key; status and times have their own types."""
    async with Api(url, token(issuer, "customer")) as api:
        models = api.models
        wanted = models.BookingRequest(
            quote_id=examples.QUOTE,
            passengers=[models.Traveller("Ann", "Lee"), models.Traveller("Bo", "Lee")],
            contact=models.ContactDetails("ann@example.org"),
        )
        made = await api("bookings.create_booking", body=wanted, idempotency_key="key-of-ann")
        shown = await api("bookings.get_booking", made.parsed.booking_id)
        listed = await api("bookings.list_bookings")
        back = await api("bookings.cancel_booking", made.parsed.booking_id)

    assert made.headers["Location"] == f"/v1/bookings/{examples.BOOKING}"
    assert shown.parsed.status is models.BookingStatus.CONFIRMED
    assert shown.parsed.create_time.tzinfo is not None
    assert [each.reference for each in listed.parsed.bookings] == ["K7Q2XM"]
    assert back.parsed.status is models.BookingStatus.CANCELLED


async def test_an_operator_delays_and_sets_a_fare(
    url: str, gateway: Gateway, issuer: LocalIssuer
) -> None:
    """Paths with two parameters in one segment work too."""
    async with Api(url, token(issuer, "operator")) as api:
        models = api.models
        delayed = await api(
            "operations.delay_flight",
            examples.FLIGHT,
            body=models.DelayRequest(minutes=35, reason="weather"),
        )
        amount = models.Amount(currency="USD", amount="140.00")
        fare = await api(
            "operations.update_fare", "JFK", "LAX", body=models.FareRequest(base=amount)
        )

    assert delayed.parsed.flight_id == examples.FLIGHT
    assert fare.parsed.base.amount == "140.00"
    assert gateway.fakes.schedule.requests[-1].delay.seconds == 35 * 60


async def test_problems_have_a_type(url: str, gateway: Gateway) -> None:
    """Of a status that the operation names, and of one that nobody has named."""
    gateway.fakes.schedule.answers["GetFlight"] = refusal(
        grpc.StatusCode.NOT_FOUND, "FLIGHT_NOT_FOUND", "There is no such flight."
    )
    gateway.fakes.pricing.answers["GetQuote"] = refusal(grpc.StatusCode.UNIMPLEMENTED, "")
    async with Api(url) as api:
        missing = await api("flights.get_flight", examples.FLIGHT)
        invalid = await api("search.search_airports", q="")
        unnamed = await api("quotes.get_quote", examples.QUOTE)

    assert isinstance(missing.parsed, api.models.Problem)
    assert (missing.status_code, missing.parsed.code) == (404, "NOT_FOUND")
    assert [each.field for each in invalid.parsed.errors] == ["q"]
    assert (unnamed.status_code, unnamed.parsed.code) == (501, "NOT_IMPLEMENTED")


async def test_what_is_the_same_is_not_sent_again(url: str) -> None:
    """An answer's ETag, sent back, is 304 without a body."""
    async with Api(url) as api:
        first = await api("flights.get_flight", examples.FLIGHT)
        again = await api(
            "flights.get_flight", examples.FLIGHT, if_none_match=first.headers["ETag"]
        )

    assert first.status_code == 200
    assert (again.status_code, again.parsed, again.content) == (304, None, b"")


def test_the_client_is_typed(package: Path, tmp_path: Path) -> None:
    """Mypy finds nothing in it, and knows what its functions take and give."""
    walk = tmp_path / "walk.py"
    walk.write_text(WALK, encoding="utf-8")
    environment = {**os.environ, "MYPYPATH": str(package.parent)}
    environment.pop("PYTHONPATH", None)
    words = ["--config-file=", f"--cache-dir={tmp_path / 'cache'}", str(package), str(walk)]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.splitlines() == [
        (
            'walk.py:9: error: Argument "passengers" to "QuoteRequest" has incompatible type '
            '"str"; expected "int | Unset"  [arg-type]'
        ),
        f"Found 1 error in 1 file (checked {len(list(package.rglob('*.py'))) + 1} source files)",
    ]


WALK = """\
from flightmesh_client import Client
from flightmesh_client.api.quotes import create_quote
from flightmesh_client.models import Problem, Quote, QuoteRequest

response = create_quote.sync(client=Client(base_url="/"), body=QuoteRequest(itinerary_id="itn"))
if isinstance(response, Quote):
    amount: str = response.total.amount
    when: float = response.expire_time.timestamp()
    QuoteRequest(itinerary_id="itn", passengers="2")
elif isinstance(response, Problem):
    code: str = response.code
"""
