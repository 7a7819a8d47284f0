"""What an operator's grpcurl believes: the service that was meant, by its SPIFFE id."""

import asyncio
from pathlib import Path

import pytest

from consulmesh import MeshConfig
from consulmesh.client_certificate import ClientCertificate, ImpostorError, client_certificate
from consulmesh.consul_api import ConsulApi
from tests.consulmesh.secured import Authority, authority, served
from tests.consulmesh.xds_world import call
from tools.binaries import BIN
from tools.operators import verified

__all__ = ["authority"]

GRPCURL = BIN / "grpcurl"


async def papers(authority: Authority) -> ClientCertificate:
    """Have a certificate of web."""
    config = MeshConfig(
        version="1.0.0",
        consul_url=authority.consul.url,
        consul_grpc=authority.consul.grpc,
        consul_token=authority.tokens["web"],
    )
    async with ConsulApi(config.consul_url, config.consul_token) as consul:
        return await client_certificate(config, consul, "web")


async def grpcurl(folder: Path, believed: Path, address: str) -> str:
    """Ask for the health of whoever is at an address, if it passes for echo; what is said."""
    process = await asyncio.create_subprocess_exec(
        GRPCURL,
        *("-cacert", believed, "-max-time", "10", "-authority", "echo.service.consul"),
        *("-cert", folder / "certificate.pem", "-key", folder / "key.pem"),
        *(address, "grpc.health.v1.Health/Check"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return output.decode()


async def test_a_dns_name_makes_nobody_the_service(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has another's DNS name signed deceives grpcurl alone, and not as operators run it."""
    if not GRPCURL.is_file():
        pytest.skip("grpcurl is not built: make up gets it")
    await authority.allow({"Name": "*", "Action": "allow"})
    await authority.allow({"Name": "*", "Action": "allow"}, service="app")
    monkeypatch.setattr("consulmesh.identity.dns_name", lambda _service: "echo.service.consul")
    async with (
        served(authority, tmp_path) as echo,
        served(authority, tmp_path, service="app") as impostor,
    ):
        folder, pinned = tmp_path / "own", tmp_path / "servers.pem"
        own = await papers(authority)
        own.write(folder)
        pinned.write_bytes(await verified(own, "echo", [impostor.address, echo.address]))
        with pytest.raises(SystemExit, match="is echo"):
            await verified(own, "echo", [impostor.address, "127.0.0.1:1"])
        deceived = await grpcurl(folder, folder / "roots.pem", impostor.address)
        refused = await grpcurl(folder, pinned, impostor.address)
        answered = await grpcurl(folder, pinned, echo.address)

    assert "SERVING" in deceived
    assert "certificate signed by unknown authority" in refused
    assert "SERVING" in answered


async def test_a_channel_leads_to_the_service_that_was_meant(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `consulmesh.debug` asks is the service by its SPIFFE id, whatever its DNS name."""
    await authority.allow({"Name": "*", "Action": "allow"})
    monkeypatch.setattr("consulmesh.identity.dns_name", lambda _service: "echo.service.consul")
    own = await papers(authority)
    async with (
        served(authority, tmp_path) as echo,
        served(authority, tmp_path, service="app") as impostor,
    ):
        async with own.channel("echo", echo.address) as channel:
            answer = await call(channel)
        with pytest.raises(ImpostorError, match="svc/app is not "):
            await own.channel("echo", impostor.address).__aenter__()

    assert answer == "echo-1"
