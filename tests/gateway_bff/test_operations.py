from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from flights.pricing.v1.pricing_pb2 import UpdateFareRequest, UpdateFareResponse
from flights.schedule.v1.schedule_pb2 import (
    CancelFlightRequest,
    CancelFlightResponse,
    UpdateFlightRequest,
    UpdateFlightResponse,
)
from gateway_bff import translate
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import Gateway
from tests.gateway_bff.fakes import refusal

Bearer = Callable[..., dict[str, str]]
KEY = {"Idempotency-Key": "k-1"}
FLIGHT = f"/v1/operations/flights/{examples.FLIGHT}"
FARE = "/v1/operations/fares/JFK-LAX"
DELAY: dict[str, Any] = {"minutes": 35, "reason": "weather"}
BASE: dict[str, Any] = {"base": {"currency": "USD", "amount": "140.5"}}
ALL = [
    ("POST", f"{FLIGHT}/delay", DELAY),
    ("POST", f"{FLIGHT}/cancel", {"reason": "crew"}),
    ("PUT", FARE, BASE),
]


@pytest.fixture
def willing(gateway: Gateway) -> Gateway:
    """A gateway behind which every change is made."""
    gateway.fakes.schedule.answers |= {
        "UpdateFlight": UpdateFlightResponse(flight=examples.flight()),
        "CancelFlight": CancelFlightResponse(flight=examples.flight()),
    }
    gateway.fakes.pricing.answers["UpdateFare"] = UpdateFareResponse(fare=examples.fare())
    return gateway


async def asked(
    gateway: Gateway, method: str, path: str, body: Any, headers: dict[str, str]
) -> tuple[int, Any]:
    """The status and the document of an answer."""
    async with gateway.client.request(method, path, json=body, headers=headers) as response:
        return response.status, await response.json()


async def test_a_flight_is_put_off(willing: Gateway, bearer: Bearer) -> None:
    """Schedule is told how much later than published, why, and by which key."""
    answer = await asked(willing, "POST", f"{FLIGHT}/delay", DELAY, bearer("operator", **KEY))

    assert answer == (200, translate.flight(examples.flight()))
    assert willing.fakes.schedule.requests == [
        UpdateFlightRequest(
            request_id="k-1",
            flight_id=examples.FLIGHT,
            delay=Duration(seconds=35 * 60),
            reason="weather",
        )
    ]


async def test_a_flight_is_cancelled(willing: Gateway, bearer: Bearer) -> None:
    """So is what was looked at, and only that, where its etag is sent."""
    body = {"reason": "crew", "etag": "v3"}
    answer = await asked(willing, "POST", f"{FLIGHT}/cancel", body, bearer("operator", **KEY))

    assert answer == (200, translate.flight(examples.flight()))
    assert willing.fakes.schedule.requests == [
        CancelFlightRequest(request_id="k-1", flight_id=examples.FLIGHT, reason="crew", etag="v3")
    ]


async def test_a_fare_is_set(willing: Gateway, bearer: Bearer) -> None:
    """Pricing is told the exact amount; the fare comes back with its etag."""
    answer = await asked(willing, "PUT", FARE, BASE, bearer("operator", **KEY))

    assert answer == (
        200,
        {
            "origin": "JFK",
            "destination": "LAX",
            "base": {"currency": "USD", "amount": "140.00"},
            "etag": "f7",
        },
    )
    assert willing.fakes.pricing.requests == [
        UpdateFareRequest(
            request_id="k-1", origin="JFK", destination="LAX", base=examples.usd("140.50")
        )
    ]


@pytest.mark.parametrize(("method", "path", "body"), ALL)
async def test_without_a_key_each_request_is_a_change_of_its_own(
    willing: Gateway, bearer: Bearer, method: str, path: str, body: Any
) -> None:
    """The owner gets a request id all the same: gRPC may repeat the call."""
    for _ in range(2):
        await asked(willing, method, path, body, bearer("operator"))
    requests = willing.fakes.schedule.requests + willing.fakes.pricing.requests
    first, second = (request.request_id for request in requests)

    assert first != second
    assert len(first) >= 32


@pytest.mark.parametrize(("method", "path", "body"), ALL)
@pytest.mark.parametrize(("roles", "status"), [(None, 401), (("customer",), 403)])
async def test_only_operators_may(
    willing: Gateway,
    bearer: Bearer,
    roles: tuple[str, ...] | None,
    status: int,
    method: str,
    path: str,
    body: Any,
) -> None:
    """Nobody else gets as far as the owners, with a token or without."""
    headers = bearer(*roles) if roles else {}
    answer, problem = await asked(willing, method, path, body, headers)

    assert answer == problem["status"] == status
    assert not willing.fakes.schedule.requests
    assert not willing.fakes.pricing.requests


@pytest.mark.parametrize(
    ("path", "body", "field", "code"),
    [
        ("delay", {"minutes": -1, "reason": "x"}, "minutes", "OUT_OF_RANGE"),
        ("delay", {"minutes": 2881, "reason": "x"}, "minutes", "OUT_OF_RANGE"),
        ("delay", {"minutes": "35", "reason": "x"}, "minutes", "INVALID"),
        ("delay", {"minutes": 35, "reason": " "}, "reason", "TOO_SHORT"),
        ("delay", {"minutes": 35}, "reason", "REQUIRED"),
        ("cancel", {"reason": "x", "force": True}, "force", "UNKNOWN_FIELD"),
    ],
)
async def test_a_wrong_change_of_a_flight_names_the_field(
    willing: Gateway, bearer: Bearer, path: str, body: Any, field: str, code: str
) -> None:
    """A change that can't be meant is 422, and schedule is not asked."""
    answer, problem = await asked(willing, "POST", f"{FLIGHT}/{path}", body, bearer("operator"))

    assert answer == 422
    assert [(e["field"], e["code"]) for e in problem["errors"]] == [(field, code)]
    assert not willing.fakes.schedule.requests


@pytest.mark.parametrize("amount", ["-1", "1e3", "0.001", "", "NaN", "1000000000", 140])
async def test_an_amount_is_a_decimal_string(willing: Gateway, bearer: Bearer, amount: Any) -> None:
    """What is no amount in dollars and cents is 422."""
    body = {"base": {"currency": "USD", "amount": amount}}
    answer, problem = await asked(willing, "PUT", FARE, body, bearer("operator"))

    assert answer == 422
    assert problem["errors"][0]["field"] == "base.amount"
    assert not willing.fakes.pricing.requests


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/operations/flights/x/delay", DELAY),
        ("POST", "/v1/operations/flights/x/cancel", {"reason": "crew"}),
        ("PUT", "/v1/operations/fares/JFK-LA", BASE),
        ("PUT", "/v1/operations/fares/jfk-lax", BASE),
        ("PUT", "/v1/operations/fares/JFKLAX", BASE),
    ],
)
async def test_what_is_no_id_is_the_id_of_nothing(
    willing: Gateway, bearer: Bearer, method: str, path: str, body: Any
) -> None:
    """A flight or a route that can't exist is 404."""
    answer, problem = await asked(willing, method, path, body, bearer("operator"))

    assert (answer, problem["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("status", "reason", "answer", "code"),
    [
        (grpc.StatusCode.NOT_FOUND, "FLIGHT_NOT_FOUND", 404, "NOT_FOUND"),
        (grpc.StatusCode.FAILED_PRECONDITION, "FLIGHT_DEPARTED", 409, "FLIGHT_DEPARTED"),
        (grpc.StatusCode.ABORTED, "ETAG_MISMATCH", 409, "ETAG_MISMATCH"),
        (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED", 422, "IDEMPOTENCY_KEY_REUSED"),
    ],
)
async def test_what_schedule_refuses_is_said(
    gateway: Gateway,
    bearer: Bearer,
    status: grpc.StatusCode,
    reason: str,
    answer: int,
    code: str,
) -> None:
    """Each reason has its status and its public code."""
    gateway.fakes.schedule.answers["UpdateFlight"] = refusal(status, reason)

    found, problem = await asked(gateway, "POST", f"{FLIGHT}/delay", DELAY, bearer("operator"))

    assert (found, problem["code"]) == (answer, code)
