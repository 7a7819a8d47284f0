"""An operator changes something, and whoever watches it is told; both through the gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from bench.steady import some_searches
from bench.subject import Subject
from consulmesh.local_issuer import LocalIssuer
from tests.e2e.test_walk import found
from tests.gateway_bff.event_source import EventSource
from tools.programs import Settings


@pytest.fixture
def operator(settings: Settings) -> dict[str, str]:
    """An operator's Authorization header."""
    token = LocalIssuer(settings.run / "issuer").token("olga", {"operator"})
    return {"Authorization": f"Bearer {token}"}


async def operate(
    subject: Subject, method: str, path: str, body: dict[str, Any], operator: dict[str, str]
) -> dict[str, Any]:
    """Change something, as an operator does; what it is then."""
    url = f"{subject.settings.gateway_url}/v1/operations/{path}"
    async with subject.http.request(method, url, json=body, headers=operator) as answer:
        assert answer.status == 200, await answer.text()
        changed: dict[str, Any] = await answer.json()
        return changed


async def delay(
    subject: Subject, flight_id: str, minutes: int, operator: dict[str, str]
) -> dict[str, Any]:
    """Let a flight leave later than published."""
    body = {"minutes": minutes, "reason": "fog"}
    return await operate(subject, "POST", f"flights/{flight_id}/delay", body, operator)


async def set_fare(
    subject: Subject, origin: str, destination: str, dollars: int, operator: dict[str, str]
) -> None:
    """Change what a route costs."""
    body = {"base": {"currency": "USD", "amount": f"{dollars}.00"}}
    await operate(subject, "PUT", f"fares/{origin}-{destination}", body, operator)


@asynccontextmanager
async def watching(
    subject: Subject, path: str, source: EventSource
) -> AsyncIterator[aiohttp.ClientResponse]:
    """A connection of its own, which goes on where the source was."""
    headers = {"Accept": "text/event-stream"}
    if source.last_event_id:
        headers["Last-Event-ID"] = source.last_event_id
    async with (
        aiohttp.ClientSession(subject.settings.gateway_url) as client,
        client.get(path, headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()
        yield answer


async def a_flight(subject: Subject) -> tuple[str, str, str]:
    """A flight that can be booked, and its route."""
    segment = (await found(subject, some_searches()[0]))[0]["segments"][0]
    ends = segment["departure"]["airport"], segment["arrival"]["airport"]
    return segment["flight_id"], *ends


async def test_a_delay_is_told_to_who_watches_the_flight(
    subject: Subject, operator: dict[str, str]
) -> None:
    """A delay is an event at once; who was away is told on another connection."""
    flight_id, *_ = await a_flight(subject)
    path, source = f"/v1/flights/{flight_id}/events", EventSource()
    async with watching(subject, path, source) as answer:
        (before,) = await source.read(answer, 1)
        await delay(subject, flight_id, 17, operator)
        (late,) = await source.read(answer, 1)
    await delay(subject, flight_id, 23, operator)
    last = await delay(subject, flight_id, 0, operator)
    async with watching(subject, path, source) as answer:
        (after,) = await source.read(answer, 1)
        while after.data["version"] < last["version"]:  # the gateway had not heard of it yet
            (after,) = await source.read(answer, 1)

    assert {event.name for event in source.events} == {"flight"}
    assert (late.data["status"], late.data["status_reason"]) == ("delayed", "fog")
    assert late.data["departure"]["time"] != before.data["departure"]["time"]
    assert after.data["status"] == "scheduled"
    assert after.data["departure"] == before.data["departure"]
    assert before.data["version"] < late.data["version"] < after.data["version"]


async def test_a_fare_is_told_to_who_watches_its_prices(
    subject: Subject, operator: dict[str, str]
) -> None:
    """A fare re-prices the flights of its route; nobody who was away misses the last price."""
    flight_id, origin, destination = await a_flight(subject)
    path = f"/v1/prices/stream?flight_id={flight_id}&cabin=economy"
    source = EventSource()
    async with watching(subject, path, source) as answer:
        await source.read(answer, 1)
        await set_fare(subject, origin, destination, 300, operator)
        await source.read(answer, 1)
    await set_fare(subject, origin, destination, 600, operator)
    async with watching(subject, path, source) as answer:
        await source.read(answer, 1)
    fares = [Decimal(event.data["prices"][0]["fare"]["amount"]) for event in source.events]

    assert [event.name for event in source.events] == ["price"] * 3
    assert fares[1] != fares[0]
    assert abs(fares[2] - 2 * fares[1]) <= Decimal("0.05")


async def test_a_change_of_what_is_no_longer_so_is_refused(
    subject: Subject, operator: dict[str, str]
) -> None:
    """Of two operators who look at a flight, the second is told that it has changed since."""
    flight_id, *_ = await a_flight(subject)
    seen = await delay(subject, flight_id, 5, operator)
    await delay(subject, flight_id, 6, operator)
    url = f"{subject.settings.gateway_url}/v1/operations/flights/{flight_id}/delay"
    body = {"minutes": 9, "reason": "fog", "etag": seen["etag"]}
    async with subject.http.post(url, json=body, headers=operator) as answer:
        problem = await answer.json()
    last = await delay(subject, flight_id, 0, operator)

    assert (answer.status, problem["code"]) == (409, "ETAG_MISMATCH")
    assert last["status"] == "scheduled"


async def test_an_operator_sees_the_mesh(subject: Subject, operator: dict[str, str]) -> None:
    """Every service with its instances, their versions and health, and who may call whom."""
    url = f"{subject.settings.gateway_url}/v1/mesh"
    async with subject.http.get(url, headers=operator) as answer:
        assert answer.status == 200, await answer.text()
        mesh = await answer.json()
    by_name = {service["name"]: service for service in mesh["services"]}

    assert {"booking", "flight-search", "gateway-bff", "pricing", "schedule"} <= set(by_name)
    assert {each["status"] for each in by_name["booking"]["instances"]} == {"passing"}
    assert all(each["since"] for each in by_name["booking"]["instances"])
    assert by_name["booking"]["policy"]["service-defaults"]["Protocol"] == "grpc"
    assert {"from": "gateway-bff", "to": "booking"} in mesh["edges"]
    assert {"from": "pricing", "to": "booking"} not in mesh["edges"]
