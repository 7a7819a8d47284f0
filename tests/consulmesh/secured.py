"""The secure profile in tests: a Consul that denies what nothing allows, and processes in it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
import pytest

from consulmesh import Mesh, MeshConfig
from consulmesh.testing import RealConsul, real_consul
from tests.consulmesh.xds_process import SERVICE, handlers
from tests.consulmesh.xds_world import call, until

SERVICES: Final = ("web", "app", "echo", "mesh-ads")


class Authority:
    """A Consul with ACLs, a token for each service, and what an operator does with it."""

    def __init__(self, consul: RealConsul, session: aiohttp.ClientSession) -> None:
        self.consul = consul
        self.tokens: dict[str, str] = {}
        self._session = session

    async def put(self, path: str, body: object) -> Any:
        """Write as the operator; return what Consul answers."""
        async with self._session.put(path, json=body) as answer:
            assert answer.status == 200, await answer.text()
            text = await answer.text()
            return json.loads(text) if text else None

    async def delete(self, path: str) -> None:
        """Delete as the operator."""
        async with self._session.delete(path) as answer:
            assert answer.status == 200, await answer.text()

    async def get(self, path: str) -> Any:
        """Read as the operator."""
        async with self._session.get(path) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def allow(self, *sources: dict[str, Any], service: str = "echo") -> None:
        """Say who may call a service."""
        entry = {"Kind": "service-intentions", "Name": service, "Sources": sources}
        await self.put("/v1/config", entry)

    def environment(self, service: str) -> dict[str, str]:
        """What a process of a service needs beside where Consul is."""
        return {
            "CONSUL_GRPC_ADDR": self.consul.grpc,
            "CONSUL_HTTP_TOKEN": self.tokens[service],
            "MESH_SECURE": "true",
        }

    async def rotate(self) -> None:
        """Let Consul make another root; it does so only for another kind of key."""
        current = await self.get("/v1/connect/ca/configuration")
        bits = 384 if current["Config"].get("PrivateKeyBits") != 384 else 256
        config = current["Config"] | {"PrivateKeyType": "ec", "PrivateKeyBits": bits}
        await self.put("/v1/connect/ca/configuration", {"Provider": "consul", "Config": config})


@asynccontextmanager
async def secure_consul() -> AsyncIterator[Authority]:
    """Run a secure Consul; each service has a token with its identity alone."""
    async with real_consul(secure=True) as consul:
        headers = {"X-Consul-Token": consul.token or ""}
        async with aiohttp.ClientSession(consul.url, headers=headers) as session:
            authority = Authority(consul, session)
            for name in SERVICES:
                identity = {"ServiceIdentities": [{"ServiceName": name}]}
                made = await authority.put("/v1/acl/token", identity)
                authority.tokens[name] = made["SecretID"]
                defaults = {"Kind": "service-defaults", "Name": name, "Protocol": "grpc"}
                await authority.put("/v1/config", defaults)
            yield authority


@pytest.fixture(scope="module")
async def authority() -> AsyncIterator[Authority]:
    """One secure Consul for the tests of a module."""
    async with secure_consul() as authority:
        yield authority


@asynccontextmanager
async def joined(
    authority: Authority,
    folder: Path,
    service: str,
    number: int = 1,
    *,
    isolated: bool = True,
    health_port: int = 0,
) -> AsyncIterator[Mesh]:
    """Be a process of a service in the secure profile."""
    config = MeshConfig(
        version="1.0.0",
        consul_url=authority.consul.url,
        consul_grpc=authority.consul.grpc,
        consul_token=authority.tokens[service],
        state_dir=folder,
        instance_id=f"{service}-{number}",
        isolated=isolated,
        health_port=health_port,
        secure=True,
    )
    async with Mesh.join(service, config) as mesh:
        yield mesh


async def identified(mesh: Mesh) -> None:
    """Wait until a process has its certificate; gRPC core looks for it each second only."""
    assert mesh._security is not None
    await mesh._security.ready()


@asynccontextmanager
async def served(
    authority: Authority,
    folder: Path,
    number: int = 1,
    *,
    service: str = "echo",
    health_port: int = 0,
) -> AsyncIterator[Mesh]:
    """Serve what echo serves, as an instance of a service."""
    async with joined(authority, folder, service, number, health_port=health_port) as mesh:
        server = mesh.server(status_codes={})
        server.add_registered_method_handlers(SERVICE, handlers(mesh))
        serving = asyncio.create_task(mesh.serve(server))
        try:
            await until(lambda: bool(mesh.address), seconds=20)
            yield mesh
        finally:
            mesh.draining.set()
            await serving


async def code_of(channel: grpc.aio.Channel, method: str = "Get") -> grpc.StatusCode:
    """Make a call; return its status."""
    try:
        await call(channel, method, timeout=10, wait_for_ready=True)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def until_code(
    channel: grpc.aio.Channel, wanted: grpc.StatusCode, method: str = "Get"
) -> None:
    """Call until that is the status."""
    async with asyncio.timeout(20):
        while await code_of(channel, method) is not wanted:
            pass


def tls_channel(address: str, credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
    """A channel without xDS to an instance of echo."""
    named = (("grpc.ssl_target_name_override", "echo.service.consul"),)
    return grpc.aio.secure_channel(address, credentials, options=named)
