"""The certificate of a tool that calls as a service, with no process of that service."""

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import aio

from consulmesh.channel import CHANNEL_OPTIONS
from consulmesh.config import MeshConfig
from consulmesh.connect_ca import ConsulAuthority, Roots
from consulmesh.consul_api import ConsulApi, Query
from consulmesh.identity import Certificate, dns_name, signing_request
from consulmesh.operators import OPERATOR, PATIENCE
from consulmesh.private import private_bytes, write_private
from consulmesh.spiffe import SpiffeId


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
