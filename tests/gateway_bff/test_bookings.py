import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from consulmesh.errors import Violation
from flights.booking.v1.booking_pb2 import (
    BOOKING_STATUS_CANCELLED,
    BOOKING_STATUS_CONFIRMED,
    BOOKING_STATUS_PENDING,
    BOOKING_STATUS_REJECTED,
    Booking,
    CancelBookingResponse,
    CreateBookingRequest,
    CreateBookingResponse,
    GetBookingResponse,
    ListBookingsRequest,
    ListBookingsResponse,
    Rejection,
)
from flights.pricing.v1.pricing_pb2 import GetQuoteResponse
from flights.schedule.v1.schedule_pb2 import BatchGetFlightsResponse, GetFlightResponse
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import Gateway
from tests.gateway_bff.fakes import forever, refusal

Bearer = Callable[..., dict[str, str]]
KEY = {"Idempotency-Key": "k-1"}
PATH = f"/v1/bookings/{examples.BOOKING}"
BODY: dict[str, Any] = {
    "quote_id": examples.QUOTE,
    "passengers": [
        {"given_name": "Ann", "family_name": "Lee"},
        {"given_name": "Bo", "family_name": "Lee"},
    ],
    "contact": {"email": "ann@example.org"},
}
LINE = {
    "flight_id": examples.FLIGHT,
    "cabin": "economy",
    "fare": {"currency": "USD", "amount": "180.00"},
    "taxes": {"currency": "USD", "amount": "29.10"},
}
SHOWN = {
    "booking_id": examples.BOOKING,
    "status": "confirmed",
    "reference": "K7Q2XM",
    "quote_id": examples.QUOTE,
    "segments": [
        {
            "carrier": "B6",
            "number": "23",
            "aircraft": "A320",
            "departure": {
                "airport": "JFK",
                "time": "2026-12-01T06:30:00-05:00",
                "scheduled_time": "2026-12-01T06:30:00-05:00",
            },
            "arrival": {
                "airport": "LAX",
                "time": "2026-12-01T09:55:00-08:00",
                "scheduled_time": "2026-12-01T09:55:00-08:00",
            },
            "status": "scheduled",
            **LINE,
        }
    ],
    "passengers": BODY["passengers"],
    "contact": BODY["contact"],
    "total": {"currency": "USD", "amount": "418.20"},
    "create_time": "2026-11-24T12:01:00Z",
    "update_time": "2026-11-24T12:01:00.250Z",
}


@pytest.fixture
def confirmed(gateway: Gateway) -> Gateway:
    """A gateway where everything that is booked is confirmed."""
    booking = examples.booking(BOOKING_STATUS_CONFIRMED)
    gateway.fakes.booking.answers |= {
        "CreateBooking": CreateBookingResponse(booking=booking),
        "GetBooking": GetBookingResponse(booking=booking),
    }
    gateway.fakes.schedule.answers["BatchGetFlights"] = BatchGetFlightsResponse(
        flights=[examples.flight()]
    )
    return gateway


def rejected(reason: str, fresh_quote_id: str = "") -> CreateBookingResponse:
    """A booking that could not be made."""
    booking = examples.booking(BOOKING_STATUS_REJECTED)
    booking.rejection.CopyFrom(
        Rejection(reason=reason, message="It was not possible.", fresh_quote_id=fresh_quote_id)
    )
    return CreateBookingResponse(booking=booking)


async def test_a_settled_booking_is_created(confirmed: Gateway, bearer: Bearer) -> None:
    """A booking that is confirmed in time is 201, with its address and its flights as they are."""
    async with confirmed.client.post("/v1/bookings", json=BODY, headers=bearer(**KEY)) as response:
        body = await response.json()
    (request,) = confirmed.fakes.booking.requests

    assert response.status == 201
    assert response.headers["Location"] == PATH
    assert response.headers["Cache-Control"] == "no-store"
    assert body == SHOWN
    assert request == CreateBookingRequest(
        request_id="k-1",
        quote_id=examples.QUOTE,
        passengers=examples.booking(BOOKING_STATUS_CONFIRMED).passengers,
        contact=examples.booking(BOOKING_STATUS_CONFIRMED).contact,
    )


async def test_the_token_is_relayed_to_booking_alone(confirmed: Gateway, bearer: Bearer) -> None:
    """Booking gets the user's token to verify it again; nobody else needs it."""
    headers = bearer(**KEY)

    async with confirmed.client.post("/v1/bookings", json=BODY, headers=headers) as response:
        await response.read()

    assert confirmed.fakes.booking.contexts[0].token == headers["Authorization"].split()[1]
    assert confirmed.fakes.schedule.contexts[0].token is None


async def test_a_booking_that_still_runs_is_accepted(gateway: Gateway, bearer: Bearer) -> None:
    """A booking that is not settled is 202 with the place to look."""
    pending = Booking(
        booking_id=examples.BOOKING,
        status=BOOKING_STATUS_PENDING,
        quote_id=examples.QUOTE,
        create_time=examples.instant(datetime(2026, 11, 24, 12, 1, tzinfo=UTC)),
    )
    gateway.fakes.booking.answers["CreateBooking"] = CreateBookingResponse(booking=pending)

    async with gateway.client.post("/v1/bookings", json=BODY, headers=bearer(**KEY)) as response:
        body = await response.json()

    assert response.status == 202
    assert response.headers["Location"] == PATH
    assert response.headers["Retry-After"] == "1"
    assert body["status"] == "pending"
    assert body["segments"] == []
    assert "total" not in body
    assert "partial" not in body


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("PRICE_CHANGED", "PRICE_CHANGED"),
        ("QUOTE_EXPIRED", "PRICE_CHANGED"),
        ("SEATS_UNAVAILABLE", "SEATS_UNAVAILABLE"),
        ("FLIGHT_CANCELLED", "FLIGHT_CANCELLED"),
        ("FLIGHT_DEPARTED", "FLIGHT_DEPARTED"),
        ("QUOTE_REDEEMED", "QUOTE_REDEEMED"),
        ("HOLD_EXPIRED", "BOOKING_REJECTED"),
        ("NOT_FOUND", "BOOKING_REJECTED"),
        ("", "BOOKING_REJECTED"),
    ],
)
async def test_a_rejected_booking_is_a_conflict(
    gateway: Gateway, bearer: Bearer, reason: str, code: str
) -> None:
    """A booking that was rejected is 409 with the reason's public code and the booking's id."""
    gateway.fakes.booking.answers["CreateBooking"] = rejected(reason)

    async with gateway.client.post("/v1/bookings", json=BODY, headers=bearer(**KEY)) as response:
        problem = await response.json()

    assert response.status == 409
    assert problem["code"] == code
    assert problem["detail"] == "It was not possible."
    assert problem["booking_id"] == examples.BOOKING
    assert "quote" not in problem


async def test_a_changed_price_comes_with_a_fresh_quote(gateway: Gateway, bearer: Bearer) -> None:
    """Where booking made a quote at today's price, the problem has it inside."""
    gateway.fakes.booking.answers["CreateBooking"] = rejected("PRICE_CHANGED", examples.QUOTE)
    gateway.fakes.pricing.answers["GetQuote"] = GetQuoteResponse(quote=examples.quote())

    async with gateway.client.post("/v1/bookings", json=BODY, headers=bearer(**KEY)) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (409, "PRICE_CHANGED")
    assert problem["quote"]["quote_id"] == examples.QUOTE
    assert problem["quote"]["total"] == {"currency": "USD", "amount": "418.20"}


async def test_a_changed_price_is_told_without_pricing(gateway: Gateway, bearer: Bearer) -> None:
    """When pricing is away, the problem is the same without the quote."""
    gateway.fakes.booking.answers["CreateBooking"] = rejected("PRICE_CHANGED", examples.QUOTE)
    gateway.fakes.pricing.answers["GetQuote"] = refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING")

    async with gateway.client.post("/v1/bookings", json=BODY, headers=bearer(**KEY)) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (409, "PRICE_CHANGED")
    assert "quote" not in problem


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (None, "IDEMPOTENCY_KEY_MISSING"),
        ("", "IDEMPOTENCY_KEY_MISSING"),
        ("x" * 256, "VALIDATION_FAILED"),
        ("k\u00e9y", "VALIDATION_FAILED"),
    ],
)
async def test_a_booking_needs_a_key(
    gateway: Gateway, bearer: Bearer, key: str | None, code: str
) -> None:
    """Without a usable Idempotency-Key nothing is booked: 400."""
    headers = bearer() if key is None else bearer(**{"Idempotency-Key": key})

    async with gateway.client.post("/v1/bookings", json=BODY, headers=headers) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (400, code)
    assert problem["errors"][0]["field"] == "Idempotency-Key"
    assert gateway.fakes.booking.requests == []


async def test_the_longest_key_is_taken(confirmed: Gateway, bearer: Bearer) -> None:
    """255 characters are allowed."""
    headers = bearer(**{"Idempotency-Key": "x" * 255})

    async with confirmed.client.post("/v1/bookings", json=BODY, headers=headers) as response:
        await response.read()

    assert response.status == 201


@pytest.mark.parametrize(
    ("status_code", "reason", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED", (422, "IDEMPOTENCY_KEY_REUSED")),
        (grpc.StatusCode.ABORTED, "REQUEST_IN_PROGRESS", (409, "REQUEST_IN_PROGRESS")),
        (grpc.StatusCode.NOT_FOUND, "QUOTE_NOT_FOUND", (404, "NOT_FOUND")),
        (
            grpc.StatusCode.FAILED_PRECONDITION,
            "PASSENGER_COUNT_MISMATCH",
            (409, "PASSENGER_COUNT_MISMATCH"),
        ),
        (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", (401, "UNAUTHENTICATED")),
    ],
)
async def test_what_booking_refuses(
    gateway: Gateway,
    bearer: Bearer,
    status_code: grpc.StatusCode,
    reason: str,
    expected: tuple[int, str],
) -> None:
    """Every reason of CreateBooking has its status and code."""
    gateway.fakes.booking.answers["CreateBooking"] = refusal(status_code, reason)

    async with gateway.client.post("/v1/bookings", json=BODY, headers=bearer(**KEY)) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == expected


async def test_a_violation_keeps_its_place(gateway: Gateway, bearer: Bearer) -> None:
    """What booking says of a passenger is said of the same passenger."""
    gateway.fakes.booking.answers["CreateBooking"] = refusal(
        grpc.StatusCode.INVALID_ARGUMENT,
        "VALIDATION_FAILED",
        violations=[
            Violation(field="passengers[1].given_name", reason="REQUIRED", description="Empty.")
        ],
    )

    async with gateway.client.post("/v1/bookings", json=BODY, headers=bearer(**KEY)) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (400, "VALIDATION_FAILED")
    assert problem["errors"] == [
        {"field": "passengers[1].given_name", "code": "REQUIRED", "detail": "Empty."}
    ]


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"passengers": []}, "passengers", "TOO_SHORT"),
        ({"passengers": BODY["passengers"] * 5}, "passengers", "TOO_LONG"),
        ({"passengers": [{"given_name": "Ann"}]}, "passengers[0].family_name", "REQUIRED"),
        (
            {"passengers": [{"given_name": "  ", "family_name": "Lee"}]},
            "passengers[0].given_name",
            "TOO_SHORT",
        ),
        (
            {"passengers": [{"given_name": "A\u0000n", "family_name": "Lee"}]},
            "passengers[0].given_name",
            "MALFORMED",
        ),
        (
            {"passengers": [{"given_name": "A" * 101, "family_name": "Lee"}]},
            "passengers[0].given_name",
            "TOO_LONG",
        ),
        ({"contact": {"email": "nobody"}}, "contact.email", "MALFORMED"),
        ({"contact": {}}, "contact.email", "REQUIRED"),
        ({"contact": None}, "contact", "INVALID"),
        ({"quote_id": ""}, "quote_id", "TOO_SHORT"),
        ({"seat": "12A"}, "seat", "UNKNOWN_FIELD"),
    ],
)
async def test_a_wrong_member_is_named(
    gateway: Gateway, bearer: Bearer, change: dict[str, Any], field: str, code: str
) -> None:
    """A body that can't be booked is 422 and says where, in the words of the request."""
    async with gateway.client.post(
        "/v1/bookings", json=BODY | change, headers=bearer(**KEY)
    ) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (422, "VALIDATION_FAILED")
    assert [(e["field"], e["code"]) for e in problem["errors"]] == [(field, code)]
    assert gateway.fakes.booking.requests == []


async def test_names_may_have_any_letters(confirmed: Gateway, bearer: Bearer) -> None:
    """Names are text, trimmed, and otherwise as people write them."""
    passengers = [{"given_name": " Zo\u00eb-\u674e ", "family_name": "O'Neil \u0141"}]

    async with confirmed.client.post(
        "/v1/bookings", json=BODY | {"passengers": passengers}, headers=bearer(**KEY)
    ) as response:
        await response.read()
    (passenger,) = confirmed.fakes.booking.requests[0].passengers

    assert response.status == 201
    assert passenger.given_name == "Zo\u00eb-\u674e"
    assert passenger.family_name == "O'Neil \u0141"


@pytest.mark.parametrize("quote_id", ["nope", "bkg_a", "quo_\n"])
async def test_a_quote_of_any_shape_is_404(gateway: Gateway, bearer: Bearer, quote_id: str) -> None:
    """What can't be a quote's id is not found, and booking is not asked."""
    async with gateway.client.post(
        "/v1/bookings", json=BODY | {"quote_id": quote_id}, headers=bearer(**KEY)
    ) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (404, "NOT_FOUND")
    assert gateway.fakes.booking.requests == []


async def test_one_booking_is_shown(confirmed: Gateway, bearer: Bearer) -> None:
    """A booking is shown with its flights as schedule knows them now."""
    async with confirmed.client.get(PATH, headers=bearer()) as response:
        body = await response.json()

    assert response.status == 200
    assert body == SHOWN


@pytest.mark.parametrize("away", [refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING"), forever])
async def test_without_schedule_the_answer_is_partial(
    confirmed: Gateway, impatient_gateway: Gateway, bearer: Bearer, away: object
) -> None:
    """When schedule is away or hangs, segments keep what was booked, and the answer says so."""
    confirmed.fakes.schedule.answers["BatchGetFlights"] = away

    begun = time.monotonic()
    async with impatient_gateway.client.get(PATH, headers=bearer()) as response:
        body = await response.json()
    took = time.monotonic() - begun

    assert response.status == 200
    assert body["partial"] is True
    assert body["segments"] == [LINE]
    assert took < 10  # of the 30 seconds that the request had


async def test_a_flight_that_is_gone_does_not_hide_the_others(
    confirmed: Gateway, bearer: Bearer
) -> None:
    """A flight that has left the timetable is partial, the other one complete."""
    unknown = refusal(grpc.StatusCode.NOT_FOUND, "FLIGHT_NOT_FOUND")

    def one(request: Any) -> GetFlightResponse:
        if request.flight_id == examples.FLIGHT:
            raise unknown
        return GetFlightResponse(flight=examples.flight(request.flight_id))

    confirmed.fakes.schedule.answers |= {"BatchGetFlights": unknown, "GetFlight": one}
    confirmed.fakes.booking.answers["GetBooking"] = GetBookingResponse(
        booking=examples.booking(BOOKING_STATUS_CONFIRMED, examples.FLIGHT, examples.OTHER_FLIGHT)
    )

    async with confirmed.client.get(PATH, headers=bearer()) as response:
        body = await response.json()

    assert body["partial"] is True
    assert body["segments"][0] == LINE
    assert body["segments"][1]["departure"]["airport"] == "JFK"


@pytest.mark.parametrize(
    ("prefer", "wait", "applied"),
    [
        (["respond-async"], 0, "respond-async"),
        (["wait=2"], 2, "wait=2"),
        (["Respond-Async; x=y, WAIT = 2"], 2, "respond-async, wait=2"),
        (["handling=lenient", 'wait="3"', "wait=9"], 3, "wait=3"),
        (["wait=0"], 0, "wait=0"),
        (["wait=soon"], None, None),
        (["wait=-1"], None, None),
        (["wait=9999999999"], None, None),
        (["return=minimal"], None, None),
        ([""], None, None),
    ],
)
async def test_who_prefers_not_to_wait_is_told_so(
    gateway: Gateway, bearer: Bearer, prefer: list[str], wait: int | None, applied: str | None
) -> None:
    """Booking is asked to answer so soon; the answer says what was heeded, and where to look."""
    pending = examples.booking(BOOKING_STATUS_PENDING)
    gateway.fakes.booking.answers["CreateBooking"] = CreateBookingResponse(booking=pending)
    headers = [*bearer(**KEY).items(), *(("Prefer", each) for each in prefer)]

    async with gateway.client.post("/v1/bookings", json=BODY, headers=headers) as response:
        body = await response.json()
    (request,) = gateway.fakes.booking.requests

    assert response.status == 202
    assert response.headers["Location"] == PATH
    assert response.headers["Retry-After"] == "1"
    assert response.headers.get("Preference-Applied") == applied
    assert (request.wait.seconds if request.HasField("wait") else None) == wait
    assert body["status"] == "pending"
    assert bool(gateway.fakes.schedule.requests) == (wait is None)


async def test_a_settled_booking_is_no_matter_of_preference(
    confirmed: Gateway, bearer: Bearer
) -> None:
    """The same key later: 201, whatever is preferred; it was not answered before its outcome."""
    headers = bearer(**KEY, Prefer="respond-async, wait=5")
    async with confirmed.client.post("/v1/bookings", json=BODY, headers=headers) as response:
        body = await response.json()

    assert (response.status, body) == (201, SHOWN)
    assert response.headers["Preference-Applied"] == "wait=5"


async def test_own_bookings_are_listed(gateway: Gateway, bearer: Bearer) -> None:
    """A list has a page of bookings as they were booked, and how to get more."""
    gateway.fakes.booking.answers["ListBookings"] = ListBookingsResponse(
        bookings=[examples.booking(BOOKING_STATUS_CONFIRMED)],
        next_page_token="more",
    )

    async with gateway.client.get(
        "/v1/bookings", params={"page_size": "1", "page_token": "here"}, headers=bearer()
    ) as response:
        body = await response.json()

    assert response.status == 200
    assert gateway.fakes.booking.requests == [ListBookingsRequest(page_size=1, page_token="here")]
    assert body["next_page_token"] == "more"
    assert [each["booking_id"] for each in body["bookings"]] == [examples.BOOKING]
    assert body["bookings"][0]["segments"] == [LINE]
    assert gateway.fakes.schedule.requests == []


async def test_a_booking_is_given_back(confirmed: Gateway, bearer: Bearer) -> None:
    """Cancelling answers with the booking as it is then; a key is relayed where there is one."""
    confirmed.fakes.booking.answers["CancelBooking"] = CancelBookingResponse(
        booking=examples.booking(BOOKING_STATUS_CANCELLED)
    )

    async with confirmed.client.post(f"{PATH}/cancel", headers=bearer(**KEY)) as response:
        body = await response.json()
    async with confirmed.client.post(f"{PATH}/cancel", headers=bearer()) as again:
        await again.read()
    first, second = confirmed.fakes.booking.requests

    assert response.status == again.status == 200
    assert body["status"] == "cancelled"
    assert first.request_id == "k-1"
    assert second.request_id not in {"", "k-1"}


async def test_a_booking_that_cannot_be_cancelled_is_a_conflict(
    gateway: Gateway, bearer: Bearer
) -> None:
    """A pending or rejected booking stays as it is: 409."""
    gateway.fakes.booking.answers["CancelBooking"] = refusal(
        grpc.StatusCode.FAILED_PRECONDITION, "BOOKING_NOT_CANCELLABLE"
    )

    async with gateway.client.post(f"{PATH}/cancel", headers=bearer()) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (409, "BOOKING_NOT_CANCELLABLE")


@pytest.mark.parametrize("booking_id", ["nope", "quo_a", "bkg_", "bkg_%0A"])
@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("POST", "/cancel")])
async def test_bookings_of_any_shape_are_404(
    gateway: Gateway, bearer: Bearer, booking_id: str, method: str, suffix: str
) -> None:
    """What can't be a booking's id is not found, and booking is not asked."""
    async with gateway.client.request(
        method, f"/v1/bookings/{booking_id}{suffix}", headers=bearer()
    ) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (404, "NOT_FOUND")
    assert gateway.fakes.booking.requests == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/bookings"),
        ("GET", "/v1/bookings"),
        ("GET", PATH),
        ("POST", f"{PATH}/cancel"),
    ],
)
@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer nonsense", "Basic YTpi"])
async def test_bookings_need_a_token(
    gateway: Gateway, method: str, path: str, authorization: str | None
) -> None:
    """Without a token that we issued there is 401 and the challenge, before anything is read."""
    headers = {} if authorization is None else {"Authorization": authorization}

    async with gateway.client.request(method, path, data=b"{", headers=headers) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (401, "UNAUTHENTICATED")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert gateway.fakes.booking.requests == []


async def test_bookings_need_the_role(gateway: Gateway, bearer: Bearer) -> None:
    """A token without the role of a customer is 403."""
    async with gateway.client.get("/v1/bookings", headers=bearer("operator")) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (403, "FORBIDDEN")
    assert gateway.fakes.booking.requests == []


async def test_a_client_that_leaves_does_not_stop_others(
    confirmed: Gateway, bearer: Bearer
) -> None:
    """A booking whose client left can be asked for again with the same key."""
    confirmed.fakes.booking.answers["CreateBooking"] = forever
    lost = asyncio.create_task(
        confirmed.client.post("/v1/bookings", json=BODY, headers=bearer(**KEY))
    )
    await confirmed.fakes.booking.started.wait()
    lost.cancel()
    await asyncio.wait_for(confirmed.fakes.booking.cancelled.wait(), 20)
    confirmed.fakes.booking.answers["CreateBooking"] = CreateBookingResponse(
        booking=examples.booking(BOOKING_STATUS_CONFIRMED)
    )

    async with confirmed.client.post("/v1/bookings", json=BODY, headers=bearer(**KEY)) as response:
        body = await response.json()

    assert response.status == 201
    assert body["booking_id"] == examples.BOOKING
