import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

import booking.__main__ as process
from consulmesh import MeshConfig
from consulmesh.errors import Status
from consulmesh.testing import StaticMesh
from consulmesh.testing.ports import free_port
from consulmesh.users import TokenVerifier
from eventstream import Database
from flights.booking.v1.booking_pb2 import ListBookingsRequest, ListBookingsResponse
from flights.booking.v1.booking_pb2_grpc import BookingServiceStub
from tests.oidc_provider import OidcProvider, SigningKey
from tests.token_attacks import ATTACKS, Attacker


@asynccontextmanager
async def started(provider: OidcProvider, folder: Path) -> AsyncIterator[BookingServiceStub]:
    """Booking as its process wires it, for the users of a provider; its peers are away."""
    port = free_port()
    targets = {"booking": f"127.0.0.1:{port}"} | dict.fromkeys(
        ("pricing", "schedule"), f"127.0.0.1:{free_port()}"
    )
    users = TokenVerifier.from_env({"MESH_OIDC_ISSUER": provider.issuer}, folder)
    config = MeshConfig(version="0.0.0", metrics_port=None, port=port)
    url = f"sqlite:///{folder}/booking.db"
    async with (
        Database.open(url, migrations="booking:migrations") as db,
        StaticMesh("booking", targets, config=config) as mesh,
        StaticMesh("gateway-bff", targets) as gateway,
    ):
        serving = asyncio.create_task(process.serve(mesh, db, users))
        await mesh.serving.wait()
        yield BookingServiceStub(gateway.channel("booking"))
        mesh.draining.set()
        await serving


async def listed(stub: BookingServiceStub, token: str) -> ListBookingsResponse:
    """The bookings of the user with this token."""
    metadata = (("authorization", f"Bearer {token}"),)
    return await stub.ListBookings(ListBookingsRequest(), metadata=metadata)


async def refused(stub: BookingServiceStub, token: str) -> tuple[grpc.StatusCode, str]:
    """The code and the reason with which a token is not taken."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await listed(stub, token)
    status = Status.of(caught.value)
    return status.code, status.reason


async def test_the_relayed_token_is_verified_again(tmp_path: Path) -> None:
    """Booking believes no gateway: it asks the provider for keys itself."""
    async with OidcProvider().running() as provider, started(provider, tmp_path) as stub:
        first = await listed(stub, provider.sign("ann"))
        foreign = await refused(stub, provider.sign(key=SigningKey.made("ES256")))

    assert list(first.bookings) == []
    assert foreign == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


async def test_without_keys_booking_is_unavailable(tmp_path: Path) -> None:
    """Nobody is refused for good because the provider is away; when it is back, so are users."""
    provider = OidcProvider()
    async with started(provider, tmp_path) as stub:
        away = await refused(stub, provider.sign())
        async with provider.running():
            await provider.asked_for_keys(1)
            back = await listed(stub, provider.sign())

    assert away == (grpc.StatusCode.UNAVAILABLE, "TOKEN_KEYS_UNAVAILABLE")
    assert list(back.bookings) == []


async def test_no_attack_gets_past_booking(tmp_path: Path) -> None:
    """Whoever reaches booking without the gateway needs a token that the gateway would take."""
    evil = OidcProvider()
    async with OidcProvider().running() as provider, started(provider, tmp_path) as stub:
        provider.rotate("RS256")  # of another algorithm than booking takes
        provider.keys.reverse()
        attacker = Attacker(provider, evil)
        tokens = {name: attack(attacker) for name, attack in ATTACKS.items()}
        taken = await listed(stub, attacker.signed())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListBookings(ListBookingsRequest())
        nobody = Status.of(caught.value)
        answers = {
            name: {await refused(stub, token) for token in each} for name, each in tokens.items()
        }

    assert list(taken.bookings) == []
    assert nobody.code is grpc.StatusCode.UNAUTHENTICATED
    refusal = {(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")}
    assert answers == {name: refusal for name in tokens}  # noqa: C420 - sets
