import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from consulmesh.errors import Unauthenticated
from consulmesh.oidc import OidcKeys, Pace
from consulmesh.users import TokenVerifier
from flights.booking.v1.booking_pb2 import (
    BOOKING_STATUS_CONFIRMED,
    CreateBookingResponse,
)
from flights.schedule.v1.schedule_pb2 import BatchGetFlightsResponse
from flights.search.v1.search_pb2 import SearchAirportsResponse
from gateway_bff.upstreams import Upstreams
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import Gateway, running_gateway
from tests.gateway_bff.fakes import Fakes
from tests.oidc_provider import Client, OidcProvider
from tests.token_attacks import ALGORITHMS, ATTACKS, Attacker

PACE = Pace(first_retry=timedelta(milliseconds=10), last_retry=timedelta(milliseconds=20))
BODY: dict[str, Any] = {
    "quote_id": examples.QUOTE,
    "passengers": [{"given_name": "Ann", "family_name": "Lee"}],
    "contact": {"email": "ann@example.org"},
}
REFUSED = {
    "type": "https://flightmesh.dev/problems/unauthenticated",
    "title": "A valid bearer token is required",
    "status": 401,
    "detail": "The bearer token is not valid.",
    "instance": "/v1/bookings",
    "code": "UNAUTHENTICATED",
}


@asynccontextmanager
async def trusting(
    provider: OidcProvider, upstreams: Upstreams, fakes: Fakes
) -> AsyncIterator[tuple[Gateway, TokenVerifier]]:
    """A gateway for the users of a provider, where everything that is booked is confirmed."""
    keys = OidcKeys(provider.issuer, ALGORITHMS, PACE)
    users = TokenVerifier(provider.issuer, provider.audience, keys, algorithms=ALGORITHMS)
    fakes.reset()
    fakes.booking.answers["CreateBooking"] = CreateBookingResponse(
        booking=examples.booking(BOOKING_STATUS_CONFIRMED)
    )
    fakes.schedule.answers["BatchGetFlights"] = BatchGetFlightsResponse(flights=[examples.flight()])
    job = asyncio.create_task(users.run())
    try:
        async with running_gateway(replace(upstreams, users=users), fakes) as gateway:
            yield gateway, users
    finally:
        job.cancel()


async def booked(gateway: Gateway, token: str | None) -> tuple[int, dict[str, Any], dict[str, str]]:
    """What is answered to a booking with this token: status, document and headers."""
    headers = {"Idempotency-Key": "k"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    async with gateway.client.post("/v1/bookings", json=BODY, headers=headers) as response:
        return response.status, await response.json(), dict(response.headers)


@pytest.fixture(scope="module")
async def world(
    upstreams: tuple[Upstreams, Fakes],
) -> AsyncIterator[tuple[Gateway, TokenVerifier, Attacker]]:
    """A gateway, its users, and somebody who would like to be one."""
    provider, evil = OidcProvider(), OidcProvider()
    provider.rotate("RS256")
    provider.keys.reverse()
    attacker = Attacker(provider, evil)
    provider.keys.append(attacker.removed)
    async with (
        provider.running(),
        evil.running(),
        trusting(provider, *upstreams) as (gateway, users),
    ):
        before = await users.verify(provider.sign(key=attacker.removed))
        provider.keys.remove(attacker.removed)
        users._keys._wanted.set()  # type: ignore[attr-defined]  # the background looks now
        await provider.asked_for_keys(2)
        assert before.subject == "ann"
        yield gateway, users, attacker


async def test_a_token_by_code_and_pkce_books(upstreams: tuple[Upstreams, Fakes]) -> None:
    """An app gets a code, swaps it with the verifier that it alone knows, and books with that."""
    verifier = secrets.token_urlsafe(32)
    async with (
        OidcProvider().running() as provider,
        trusting(provider, *upstreams) as (gateway, _),
    ):
        client = Client(gateway.client, provider.issuer)
        stolen = await client.token(await client.code("ann", verifier), secrets.token_urlsafe(32))
        code = await client.code("ann", verifier)
        _, granted = await client.token(code, verifier)
        again = await client.token(code, verifier)
        status, body, _ = await booked(gateway, granted["access_token"])
        (context,) = gateway.fakes.booking.contexts

    assert stolen == again == (400, {"error": "invalid_grant"})
    assert (status, body["status"]) == (201, "confirmed")
    assert context.token == granted["access_token"]


@pytest.mark.parametrize("attack", ATTACKS)
async def test_every_attack_is_the_same_refusal(
    world: tuple[Gateway, TokenVerifier, Attacker], attack: str
) -> None:
    """401, one text and the challenge for each; nobody behind the gateway or elsewhere is asked."""
    gateway, users, attacker = world
    gateway.fakes.booking.requests.clear()
    tokens = ATTACKS[attack](attacker)
    answers = [await booked(gateway, token) for token in tokens]
    said: set[str] = set()
    for token in tokens:
        with pytest.raises(Unauthenticated) as caught:
            await users.verify(token)
        said.add(f"{caught.value.reason}: {caught.value}")

    assert [status for status, _, _ in answers] == [401] * len(tokens)
    for _, body, headers in answers:
        assert {name: body[name] for name in body if name != "trace_id"} == REFUSED
        assert headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert said == {"TOKEN_INVALID: The bearer token is not valid."}
    assert gateway.fakes.booking.requests == []
    assert not attacker.evil.asked


async def test_what_the_attacks_start_from_is_taken(
    world: tuple[Gateway, TokenVerifier, Attacker],
) -> None:
    """The same token with nothing wrong books, so that each attack fails for its own reason."""
    gateway, _, attacker = world
    gateway.fakes.booking.requests.clear()
    plain = await booked(gateway, attacker.signed())
    whole = await booked(gateway, ".".join(attacker.parts()))
    other = attacker.provider.keys[1]
    by_rsa = await booked(gateway, attacker.signed(key=other, kid=other.kid))

    assert [plain[0], whole[0], by_rsa[0]] == [201, 201, 201]
    assert len(gateway.fakes.booking.requests) == 3


async def test_without_keys_users_are_asked_to_come_back(
    upstreams: tuple[Upstreams, Fakes],
) -> None:
    """503 while nobody can tell whose token it is, 401 for none; what needs no user is answered."""
    provider = OidcProvider()
    async with trusting(provider, *upstreams) as (gateway, _):
        gateway.fakes.search.answers["SearchAirports"] = SearchAirportsResponse(
            airports=[examples.airport()]
        )
        away = await booked(gateway, provider.sign())
        nobody = await booked(gateway, None)
        async with gateway.client.get("/v1/airports?q=jfk") as airports:
            await airports.read()
        asked = list(gateway.fakes.booking.requests)
        async with provider.running():
            await provider.asked_for_keys(1)
            back = await booked(gateway, provider.sign())

    assert (away[0], away[1]["code"], away[2]["Retry-After"]) == (503, "UPSTREAM_UNAVAILABLE", "1")
    assert (nobody[0], nobody[2]["WWW-Authenticate"]) == (401, "Bearer")
    assert airports.status == 200
    assert asked == []
    assert back[0] == 201
