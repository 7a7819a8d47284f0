"""People's tools in a secure mesh: where its Consul is, with which token, and as whom they call.

A system in the secure profile leaves `operator/environment` in its folder (MESH_STATE_DIR), lines
of NAME=value. Tools call as the service `operator`, with a key of their own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import aio

from consulmesh.channel import CHANNEL_OPTIONS
from consulmesh.config import MeshConfig
from consulmesh.connect_ca import ConsulAuthority, Roots
from consulmesh.consul_api import ConsulApi, Query
from consulmesh.identity import (
    Certificate,
    dns_name,
    private_bytes,
    signing_request,
    write_private,
)
from consulmesh.spiffe import SpiffeId

OPERATOR: Final = "operator"
"""The service whose name people's tools have."""
FOLDER: Final = "operator"
PATIENCE: Final = timedelta(seconds=10)

_ADDRESS: Final = "CONSUL_HTTP_ADDR"
_STATE: Final = "MESH_STATE_DIR"


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return a tool's environment: what is set, and for the rest what the system left.

    Whoever names another Consul than the system's own is left alone.
    """
    given = {name: value for name, value in environ.items() if value}
    left = _left(Path(given.get(_STATE, ".run")) / FOLDER / "environment")
    if given.get(_ADDRESS, left.get(_ADDRESS)) != left.get(_ADDRESS):
        return given
    return left | given


def _left(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.partition("=") for line in lines)
    return {name: value for name, equals, value in pairs if equals}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate:
    """A certificate with its key, and what the mesh's servers are verified by."""

    roots: bytes
    key: bytes
    certificate: Certificate

    def channel(self, service: str, address: str) -> aio.Channel:
        """Return a channel to one instance of a service, verified by the service's DNS name."""
        credentials = grpc.ssl_channel_credentials(self.roots, self.key, self.certificate.chain)
        named = ("grpc.ssl_target_name_override", dns_name(service))
        return aio.secure_channel(address, credentials, options=(*CHANNEL_OPTIONS, named))

    def write(self, folder: Path) -> None:
        """Write `roots.pem`, `key.pem` and `certificate.pem`, for nobody else to read."""
        write_private(folder / "roots.pem", self.roots)
        write_private(folder / "key.pem", self.key)
        write_private(folder / "certificate.pem", self.certificate.chain)


async def client_certificate(
    config: MeshConfig, consul: ConsulApi, service: str = OPERATOR
) -> ClientCertificate:
    """Make a key and have Consul sign it, for as long as Consul signs anything.

    Raises grpc.aio.AioRpcError, ConsulError or TimeoutError.
    """
    roots = config.consul_roots.read_bytes() if config.consul_roots else None
    key = ec.generate_private_key(ec.SECP256R1())
    async with (
        asyncio.timeout(PATIENCE.total_seconds()),
        ConsulAuthority(config.consul_grpc, config.consul_token, roots) as authority,
    ):
        chain = (await consul.ask(Query.discovery_chain(service))).data["Chain"]
        trusted = await _roots(authority)
        subject = SpiffeId(
            domain=trusted.domain, datacenter=str(chain["Datacenter"]), service=service
        )
        signed = await authority.sign(signing_request(key, subject))
    return ClientCertificate(
        roots=trusted.bundle, key=private_bytes(key), certificate=Certificate.read(signed)
    )


async def _roots(authority: ConsulAuthority) -> Roots:
    async with aclosing(authority.watch_roots()) as watched:
        return await anext(watched)
