"""Locust users of flightmesh: travellers by REST, and clients of the mesh by gRPC.

Every answer is checked by the oracle; one that is wrong counts as a failure, whatever its status.
Run by `make load`, which passes a token and the xDS bootstrap through the environment.
"""

import grpc.experimental.gevent as grpc_gevent

grpc_gevent.init_gevent()

import json  # noqa: E402 - gRPC must be told of gevent before anything else is imported
import os  # noqa: E402
import random  # noqa: E402
import time  # noqa: E402
import uuid  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from datetime import date, timedelta  # noqa: E402
from typing import Any  # noqa: E402

import grpc  # noqa: E402
from google.type import date_pb2  # noqa: E402
from locust import HttpUser, User, between, task  # noqa: E402

from bench import oracle  # noqa: E402
from flights.schedule.v1 import schedule_pb2, schedule_pb2_grpc  # noqa: E402
from flights.search.v1 import search_pb2, search_pb2_grpc  # noqa: E402
from flights.type.v1 import cabin_pb2  # noqa: E402

ROUTES = (
    ("JFK", "LAX"),
    ("LGA", "ATL"),
    ("EWR", "SFO"),
    ("LAX", "JFK"),
    ("ORD", "LGA"),
    ("BOS", "LAX"),
    ("MIA", "SFO"),
)
TRAVELLERS = [
    {"given_name": "Ann", "family_name": "Lee"},
    {"given_name": "Bo", "family_name": "Lee"},
]
CONTACT = {"email": "ann@example.org"}
REFUSALS = {"SEATS_UNAVAILABLE", "FLIGHT_CANCELLED", "PRICE_CHANGED"}


def any_search() -> oracle.Asked:
    """A popular route, some days ahead."""
    origin, destination = random.choice(ROUTES)
    day = date.today() + timedelta(days=random.randint(2, 25))  # noqa: DTZ011 - the origin's day
    return oracle.Asked(origin, destination, str(day), random.randint(1, 2), "economy")


class Traveller(HttpUser):
    """Searches a lot, books now and then, and sometimes thinks better of it."""

    weight = 3
    wait_time = between(0.05, 0.3)

    @task(10)
    def search(self) -> None:
        """A page, sorted by price."""
        asked = any_search()
        self._search(asked)

    @task(2)
    def stream(self) -> None:
        """Itineraries one by one, then the count."""
        asked = any_search()
        with (
            self.client.get(
                "/v1/itineraries",
                params=_parameters(asked),
                headers={"Accept": "text/event-stream"},
                name="GET /v1/itineraries (stream)",
                stream=True,
                catch_response=True,
            ) as response,
            judged(response),
        ):
            assert response.status_code == 200, response.text
            events = list(_events(response.iter_lines()))
            assert events[-1] == ("done", {"count": len(events) - 1}), events[-1]
            assert len(events) > 1, "no itineraries"
            oracle.check_results(asked, [data for _, data in events[:-1]], by_price=False)

    @task(1)
    def book(self) -> None:
        """Search, quote, book, book again with the same key, and cancel half of the time."""
        asked = any_search()
        found = self._search(asked)
        if not found:
            return
        quote = self._quote(random.choice(found), asked.passengers)
        if quote is None:
            return
        booking = self._book(quote)
        if booking is not None and random.random() < 0.5:
            self._cancel(booking)

    def _search(self, asked: oracle.Asked) -> list[dict[str, Any]]:
        with (
            self.client.get(
                "/v1/itineraries",
                params=_parameters(asked),
                name="GET /v1/itineraries",
                catch_response=True,
            ) as response,
            judged(response),
        ):
            assert response.status_code == 200, response.text
            found: list[dict[str, Any]] = response.json()["itineraries"]
            assert found, "no itineraries"
            oracle.check_results(asked, found, by_price=True)
            return found
        return []

    def _quote(self, itinerary: dict[str, Any], passengers: int) -> dict[str, Any] | None:
        wanted = {"itinerary_id": itinerary["itinerary_id"], "passengers": passengers}
        with (
            self.client.post("/v1/quotes", json=wanted, catch_response=True) as response,
            judged(response),
        ):
            if _refused(response):
                return None
            assert response.status_code == 201, response.text
            quote: dict[str, Any] = response.json()
            oracle.check_quote(quote, passengers)
            return quote
        return None

    def _book(self, quote: dict[str, Any]) -> dict[str, Any] | None:
        wanted = {
            "quote_id": quote["quote_id"],
            "passengers": TRAVELLERS[: quote["passengers"]],
            "contact": CONTACT,
        }
        headers = _bearer() | {"Idempotency-Key": str(uuid.uuid4())}
        booking = self._post_booking(wanted, headers, quote, "POST /v1/bookings")
        if booking is None:
            return None
        again = self._post_booking(wanted, headers, quote, "POST /v1/bookings (same key)")
        if again is not None:
            assert again["booking_id"] == booking["booking_id"], "two bookings by one key"
        return booking

    def _post_booking(
        self, wanted: dict[str, Any], headers: dict[str, str], quote: dict[str, Any], name: str
    ) -> dict[str, Any] | None:
        with (
            self.client.post(
                "/v1/bookings", json=wanted, headers=headers, name=name, catch_response=True
            ) as response,
            judged(response),
        ):
            if _refused(response) or response.status_code == 202:
                return None
            assert response.status_code == 201, response.text
            booking: dict[str, Any] = response.json()
            oracle.check_booking(booking, quote)
            return booking
        return None

    def _cancel(self, booking: dict[str, Any]) -> None:
        with (
            self.client.post(
                f"/v1/bookings/{booking['booking_id']}/cancel",
                headers=_bearer(),
                name="POST /v1/bookings/{id}/cancel",
                catch_response=True,
            ) as response,
            judged(response),
        ):
            assert response.status_code in {200, 202}, response.text


def _channel(service: str) -> grpc.Channel:
    if not os.environ.get("MESH_SECURE"):
        return grpc.insecure_channel(f"xds:///{service}")
    credentials = grpc.xds_channel_credentials(grpc.ssl_channel_credentials())
    return grpc.secure_channel(f"xds:///{service}", credentials)


class MeshClient(User):
    """Calls services over the mesh, found by xDS from the shared ADS."""

    weight = 1
    wait_time = between(0.05, 0.3)

    def on_start(self) -> None:
        """Channels are per user, as they would be per process."""
        self.search_channel = _channel("flight-search")
        self.schedule_channel = _channel("schedule")
        self.searching = search_pb2_grpc.SearchServiceStub(self.search_channel)
        self.timetable = schedule_pb2_grpc.ScheduleServiceStub(self.schedule_channel)

    def on_stop(self) -> None:
        """Close what `on_start` opened."""
        self.search_channel.close()
        self.schedule_channel.close()

    @task(4)
    def search(self) -> None:
        """A page over gRPC."""
        asked = any_search()

        def call() -> None:
            request = search_pb2.SearchItinerariesRequest(query=_query(asked), page_size=20)
            found = self.searching.SearchItineraries(request, timeout=5).itineraries
            totals = [(i.price_total.units, i.price_total.nanos) for i in found]
            assert totals, "no itineraries"
            assert totals == sorted(totals), "not sorted by price"
            assert all(i.segments[0].origin == asked.origin for i in found), "from elsewhere"

        self._measured("SearchItineraries", call)

    @task(1)
    def stream(self) -> None:
        """All itineraries over gRPC, as they are found."""
        asked = any_search()

        def call() -> None:
            request = search_pb2.StreamItinerariesRequest(query=_query(asked))
            stops = [
                len(itinerary.segments)
                for answer in self.searching.StreamItineraries(request, timeout=5)
                for itinerary in answer.itineraries
            ]
            assert stops, "no itineraries"
            assert stops == sorted(stops), "a connection before a direct flight"

        self._measured("StreamItineraries", call)

    @task(1)
    def list_flights(self) -> None:
        """A route's flights of one day."""
        asked = any_search()

        def call() -> None:
            request = schedule_pb2.ListFlightsRequest(
                origin=asked.origin, destination=asked.destination, departure_date=_date(asked)
            )
            flights = self.timetable.ListFlights(request, timeout=5).flights
            times = [flight.scheduled_departure_time.seconds for flight in flights]
            assert times == sorted(times), "not sorted by departure"

        self._measured("ListFlights", call)

    def _measured(self, name: str, call: Callable[[], None]) -> None:
        began = time.perf_counter()
        failure: Exception | None = None
        try:
            call()
        except (grpc.RpcError, AssertionError) as error:
            failure = error
        self.environment.events.request.fire(
            request_type="gRPC",
            name=name,
            response_time=(time.perf_counter() - began) * 1000,
            response_length=0,
            exception=failure,
            context={},
        )


@contextmanager
def judged(response: Any) -> Iterator[None]:
    """An answer that is not right is a failure."""
    try:
        yield
    except (AssertionError, KeyError, ValueError, IndexError) as wrong:
        response.failure(f"{type(wrong).__name__}: {wrong}"[:300])
    else:
        response.success()


def _refused(response: Any) -> bool:
    """Whether the system said no for a reason that load itself brings about."""
    return response.status_code == 409 and response.json()["code"] in REFUSALS


def _bearer() -> dict[str, str]:
    return {"Authorization": f"Bearer {os.environ['FLIGHTMESH_TOKEN']}"}


def _parameters(asked: oracle.Asked) -> dict[str, Any]:
    return {
        "origin": asked.origin,
        "destination": asked.destination,
        "date": asked.date,
        "passengers": asked.passengers,
        "cabin": asked.cabin,
    }


def _query(asked: oracle.Asked) -> search_pb2.ItineraryQuery:
    return search_pb2.ItineraryQuery(
        origin=asked.origin,
        destination=asked.destination,
        departure_date=_date(asked),
        passengers=asked.passengers,
        cabin=cabin_pb2.CABIN_ECONOMY,
    )


def _date(asked: oracle.Asked) -> date_pb2.Date:
    day = date.fromisoformat(asked.date)
    return date_pb2.Date(year=day.year, month=day.month, day=day.day)


def _events(lines: Any) -> Iterator[tuple[str, Any]]:
    """Server-sent events as (event, decoded data)."""
    event = "message"
    for raw in lines:
        line = raw.decode()
        if line.startswith("event: "):
            event = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield event, json.loads(line.removeprefix("data: "))
