"""A traveller and an operator who use the client that is generated from the API's document."""

import datetime as dt
import uuid
from pathlib import Path

import pytest

from bench.steady import some_searches
from bench.subject import Subject
from consulmesh.local_issuer import LocalIssuer
from tests.rest_client import Api, generate


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated package."""
    return generate(tmp_path_factory.mktemp("client"))


def token(subject: Subject, role: str) -> str:
    """Of a user with a role."""
    return LocalIssuer(subject.settings.run / "issuer").token("clio", {role})


async def test_a_traveller_searches_books_and_gives_it_back(subject: Subject) -> None:
    """What is quoted is what is found, what is booked is what was quoted, and it can be undone."""
    asked = some_searches()[4]
    async with Api(subject.settings.gateway_url, token(subject, "customer")) as api:
        models = api.models
        page = await api(
            "search.search_itineraries",
            origin=asked.origin,
            destination=asked.destination,
            date=dt.date.fromisoformat(asked.date),
        )
        itinerary = page.parsed.itineraries[0]
        quoted = await api(
            "quotes.create_quote", body=models.QuoteRequest(itinerary_id=itinerary.itinerary_id)
        )
        booked = await api(
            "bookings.create_booking",
            body=models.BookingRequest(
                quote_id=quoted.parsed.quote_id,
                passengers=[models.Traveller("Clio", "Lee")],
                contact=models.ContactDetails("clio@example.org"),
            ),
            idempotency_key=str(uuid.uuid4()),
        )
        shown = await api("bookings.get_booking", booked.parsed.booking_id)
        listed = await api("bookings.list_bookings")
        back = await api("bookings.cancel_booking", booked.parsed.booking_id)

    assert quoted.parsed.total == itinerary.price.total
    assert booked.status_code == 201
    assert booked.parsed.total == quoted.parsed.total
    assert shown.parsed.status is models.BookingStatus.CONFIRMED
    assert booked.parsed.booking_id in {each.booking_id for each in listed.parsed.bookings}
    assert back.parsed.status is models.BookingStatus.CANCELLED


async def test_an_operator_delays_a_flight_and_takes_that_back(subject: Subject) -> None:
    """The second change is bound to the first; one that is not up to date is a typed problem."""
    asked = some_searches()[0]
    async with Api(subject.settings.gateway_url, token(subject, "operator")) as api:
        models = api.models
        page = await api(
            "search.search_itineraries",
            origin=asked.origin,
            destination=asked.destination,
            date=dt.date.fromisoformat(asked.date),
        )
        flight_id = page.parsed.itineraries[-1].segments[0].flight_id
        before = await api("flights.get_flight", flight_id)
        late = await api(
            "operations.delay_flight",
            flight_id,
            body=models.DelayRequest(minutes=35, reason="weather"),
        )
        stale = await api(
            "operations.delay_flight",
            flight_id,
            body=models.DelayRequest(minutes=70, reason="weather", etag=before.parsed.etag),
        )
        on_time = await api(
            "operations.delay_flight",
            flight_id,
            body=models.DelayRequest(minutes=0, reason="weather", etag=late.parsed.etag),
        )
        mesh = await api("operations.get_mesh")

    assert late.parsed.departure.time - before.parsed.departure.time == dt.timedelta(minutes=35)
    assert (stale.status_code, stale.parsed.code) == (409, "ETAG_MISMATCH")
    assert on_time.parsed.departure.time == before.parsed.departure.time
    assert "booking" in {service.name for service in mesh.parsed.services}
