"""People's tools in a secure mesh: where its Consul is, with which token, and as whom they call.

A system in the secure profile leaves `operator/environment` in its folder (MESH_STATE_DIR), lines
of NAME=value. Tools call as the service `operator`, with a key of their own.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
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


class ImpostorError(Exception):
    """A server is not the service that it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate:
    """A certificate with its key, and what the mesh's servers are verified by."""

    roots: bytes
    key: bytes
    certificate: Certificate

    @asynccontextmanager
    async def channel(self, service: str, address: str) -> AsyncIterator[aio.Channel]:
        """Have a channel to one instance of a service for the block; raises as `shown_at` does.

        gRPC without xDS verifies a server by its DNS name, which Consul signs as it is asked for.
        So nothing is trusted but the certificate that the instance has just been verified by.
        """
        shown = await self.shown_at(address, service)
        credentials = grpc.ssl_channel_credentials(shown, self.key, self.certificate.chain)
        named = ("grpc.ssl_target_name_override", dns_name(service))
        options = (*CHANNEL_OPTIONS, named)
        async with aio.secure_channel(address, credentials, options=options) as channel:
            yield channel

    async def shown_at(self, address: str, service: str) -> bytes:
        """Return the certificate (PEM) that is shown at an address, a service's by its SPIFFE id.

        Raises ImpostorError where it is another's, OSError where nobody answers by TLS.
        """
        host, _, port = address.rpartition(":")
        context = self._context()
        async with asyncio.timeout(PATIENCE.total_seconds()):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
        try:
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        finally:
            writer.transport.abort()
        shown = ssl.DER_cert_to_PEM_cert(der).encode()
        expected = replace(self.certificate.subject, service=service)
        try:
            subject = Certificate.read(shown).subject
        except ValueError as error:
            raise ImpostorError(str(error)) from None
        if subject != expected:
            raise ImpostorError(f"{subject} is not {expected}")
        return shown

    def _context(self) -> ssl.SSLContext:
        """Return what lets in whoever is of the mesh; who that is, is for the caller to see."""
        context = ssl.create_default_context(cadata=self.roots.decode())
        context.check_hostname = False
        context.set_alpn_protocols(["h2"])
        with tempfile.TemporaryDirectory() as folder:  # from nowhere else does ssl take a key
            self.write(Path(folder))
            context.load_cert_chain(Path(folder) / "certificate.pem", Path(folder) / "key.pem")
        return context

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
