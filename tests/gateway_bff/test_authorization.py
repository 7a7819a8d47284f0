"""Who may do what: every operation of the document, for everybody there is."""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

import pytest

from consulmesh.local_issuer import LocalIssuer
from gateway_bff.app import ROUTES
from gateway_bff.json_schema import example
from gateway_bff.openapi import made
from tests.gateway_bff import typical
from tests.gateway_bff.conftest import Gateway

DOCUMENT: Final = made(ROUTES)
WHO: Final = {
    "nobody": (),
    "customer": ("customer",),
    "operator": ("operator",),
    "both": ("customer", "operator"),
    "neither": ("auditor",),
    "expired": ("customer", "operator"),
}
NEEDS: Final[dict[str, str]] = {
    "searchAirports": "",
    "searchItineraries": "",
    "searchRoundTrips": "",
    "getFareCalendar": "",
    "getFlight": "",
    "streamFlight": "",
    "streamPrices": "",
    "createQuote": "",
    "getQuote": "",
    "createBooking": "customer",
    "listBookings": "customer",
    "getBooking": "customer",
    "cancelBooking": "customer",
    "delayFlight": "operator",
    "cancelFlight": "operator",
    "updateFare": "operator",
    "getMesh": "operator",
}
"""The role that an operation needs; one that is not here fails the test below."""
MASS: Final = ("price", "total", "status", "user", "subject", "roles", "booking_id", "reference")


def operations() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Name, method, path and what the document says of each operation."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield operation["operationId"], method, path, operation


BY_NAME: Final = {name: (method, path, operation) for name, method, path, operation in operations()}
WITH_BODY: Final = [name for name, *_, operation in operations() if "requestBody" in operation]


def expected(operation: dict[str, Any], who: str) -> int:
    """The status by the document's word: its first success for those who are let in."""
    needed = {role for each in operation.get("security", ()) for role in each}
    if not needed or (needed & set(WHO[who]) and who != "expired"):
        return min(int(status) for status in operation["responses"] if status != "default")
    return 401 if who in {"nobody", "expired"} else 403


def headers(issuer: LocalIssuer, who: str) -> dict[str, str]:
    """A key, and a token unless it is nobody."""
    key = {"Idempotency-Key": str(uuid.uuid4())}
    if who == "nobody":
        return key
    lasts = timedelta(seconds=-120) if who == "expired" else timedelta(minutes=5)
    return key | {"Authorization": f"Bearer {issuer.token('ann', set(WHO[who]), lasts)}"}


def request(name: str, **more: Any) -> dict[str, Any]:
    """The request that the document's examples make, with more members in its body."""
    _, path, operation = BY_NAME[name]
    query: list[tuple[str, str]] = []
    for parameter in operation.get("parameters", ()):
        sample = parameter["schema"]["examples"][0]
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", sample)
        elif parameter["in"] == "query" and parameter["required"]:
            values = sample if isinstance(sample, list) else [sample]
            query += [(parameter["name"], str(value)) for value in values]
    asked: dict[str, Any] = {"url": path, "params": query}
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        asked["json"] = example(schema, DOCUMENT["components"]["schemas"]) | more
    return asked


def test_every_operation_says_who_may() -> None:
    """A new operation needs an entry, and the document says the same."""
    said = {
        name: "".join(role for each in operation.get("security", ()) for role in each)
        for name, _, _, operation in operations()
    }

    assert said == NEEDS


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("name", NEEDS)
async def test_who_may(gateway: Gateway, issuer: LocalIssuer, name: str, who: str) -> None:
    """Those with the role are served, others are told why not, and no service hears of them."""
    typical.answer(gateway.fakes)
    method, _, operation = BY_NAME[name]
    if name.startswith("stream"):
        typical.no_streams(gateway.fakes)
    async with gateway.client.request(
        method, **request(name), headers=headers(issuer, who)
    ) as response:
        status = 200 if name.startswith("stream") and response.status == 503 else response.status
        await response.read()
    asked = [
        *gateway.fakes.booking.requests,
        *gateway.fakes.schedule.requests,
        *gateway.fakes.pricing.requests,
    ]

    assert status == expected(operation, who)
    assert status < 400 or not asked


@pytest.mark.parametrize("member", MASS)
@pytest.mark.parametrize("name", WITH_BODY)
async def test_members_that_are_not_the_clients_to_set(
    gateway: Gateway, issuer: LocalIssuer, name: str, member: str
) -> None:
    """Refused by name, and nothing is asked of a service; also within what is nested."""
    typical.answer(gateway.fakes)
    method, _, _ = BY_NAME[name]
    for asked in spoilt(request(name), member):
        async with gateway.client.request(
            method, **asked, headers=headers(issuer, "both")
        ) as response:
            problem = await response.json()

        assert response.status == 422, asked
        assert [each["code"] for each in problem["errors"]] == ["UNKNOWN_FIELD"]
        assert problem["errors"][0]["field"].rpartition(".")[2] == member
    assert not gateway.fakes.booking.requests
    assert not gateway.fakes.pricing.requests
    assert not gateway.fakes.schedule.requests


def spoilt(asked: dict[str, Any], member: str) -> Iterator[dict[str, Any]]:
    """The request with a member more, at its top and in each object in it."""
    body = asked["json"]
    yield asked | {"json": body | {member: "mine"}}
    for name, value in body.items():
        if isinstance(value, dict):
            yield asked | {"json": body | {name: value | {member: "mine"}}}
        if isinstance(value, list) and isinstance(value[0], dict):
            yield asked | {"json": body | {name: [value[0] | {member: "mine"}]}}
