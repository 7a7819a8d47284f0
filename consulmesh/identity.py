"""The identity of a process: a key of its own, and a certificate that Consul's CA signs and renews.

gRPC core reads a client's certificate from files, which it looks at every second, and asks a server
for its own at each handshake: neither notices a renewal. The key is made once per process, so that
a certificate never meets another's key.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Never, Self

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import aio
from prometheus_client import Gauge

from consulmesh.anchors import constrained
from consulmesh.connect_ca import Authority, Roots
from consulmesh.private import private_bytes, write_private
from consulmesh.spiffe import SpiffeId
from consulmesh.xds.clusters import PROVIDER

_RENEWED_AFTER: Final = 2 / 3  # of a certificate's life
_SPREAD: Final = timedelta(seconds=5)
"""Within this all processes have themselves signed anew when the root changes."""
_PAUSES: Final = (timedelta(seconds=0.2), timedelta(seconds=10))
_REFRESH: Final = "1s"  # how often gRPC core looks at the files

_expiry = Gauge(
    "mesh_certificate_expiry_timestamp_seconds",
    "When the certificate of this process ends; it is renewed long before.",
)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate chain in PEM, for whom it is, and from when until when."""

    chain: bytes
    subject: SpiffeId
    begins: datetime
    ends: datetime

    @classmethod
    def read(cls, chain: bytes) -> Self:
        """Read a chain; raises ValueError where its first certificate names no service."""
        leaf = x509.load_pem_x509_certificates(chain)[0]
        try:
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            raise ValueError("the certificate has no alternative names") from None
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier) or ("",)
        return cls(
            chain=chain,
            subject=SpiffeId.parse(uri),
            begins=leaf.not_valid_before_utc,
            ends=leaf.not_valid_after_utc,
        )

    @property
    def renewal(self) -> datetime:
        """When to have another one."""
        return self.begins + (self.ends - self.begins) * _RENEWED_AFTER


class Identity:
    """Who a process is, kept valid by `keep`, a job of the process.

    `datacenter` finds out where the service is; `folder` is the process's own, and nobody else may
    read it; `address` is for the certificate to name as well. `on_domains` is called when the trust
    domain becomes known, or is another one: Consul makes a new one when it has lost its state. What
    the one before signed is trusted beside it, as long as we run.

    State: the roots, what is trusted for them and for those of the domain before, the certificate
    and which root signed it, both trust domains, the newest first, and what the server shows.
    """

    def __init__(
        self,
        service: str,
        datacenter: Callable[[], Awaitable[str]],
        folder: Path,
        authority: Authority,
        *,
        address: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._service = service
        self._find_datacenter = datacenter
        self._datacenter = ""
        self._folder = folder
        self._authority = authority
        self._address = address
        self.on_domains: Callable[[], None] = lambda: None
        self._clock = clock
        self._chance = chance
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._roots: Roots | None = None
        self._signer = ""
        self._trusted = b""
        self._former = b""
        self._shown: grpc.ServerCertificateConfiguration | None = None
        self._news = asyncio.Event()
        self.certificate: Certificate | None = None
        self.domains: tuple[str, ...] = ()
        self.ready = asyncio.Event()

    def __repr__(self) -> str:
        subject = self.certificate.subject if self.certificate else None
        return f"<Identity of {self._service}: {subject}>"

    def files(self) -> dict[str, object]:
        """Return where a client finds the certificate, in words of an xDS bootstrap (gRFC A65)."""
        return {
            "certificate_file": str(self._folder / "certificate.pem"),
            "private_key_file": str(self._folder / "key.pem"),
            "ca_certificate_file": str(self._folder / "roots.pem"),
            "refresh_interval": _REFRESH,
        }

    def provider(self) -> dict[str, object]:
        """Return the certificate providers of an xDS bootstrap (gRFC A29)."""
        return {PROVIDER: {"plugin_name": "file_watcher", "config": self.files()}}

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials of a server that lets in only who shows a certificate of the mesh.

        To be called once there is one.
        """
        return grpc.dynamic_ssl_server_credentials(
            self._showing(), self._showing, require_client_authentication=True
        )

    async def keep(self) -> Never:
        """Have a certificate, and another one in time, for as long as the process lives."""
        self._datacenter = await self._find_datacenter()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            while True:
                await self._wait(await self._renewed())

    async def _follow(self) -> Never:
        failures = 0
        while True:
            try:
                async for roots in self._authority.watch_roots():
                    failures = 0
                    self._trust(roots)
            except (aio.AioRpcError, ValueError) as error:
                said = error.details() if isinstance(error, aio.AioRpcError) else str(error)
                _log.warning("roots_not_read", error=said)
            await asyncio.sleep(self._pause(failures).total_seconds())
            failures += 1

    def _trust(self, roots: Roots) -> None:
        trusted = constrained(roots.bundle)
        before, self._roots = self._roots, roots
        former, self._trusted = self._trusted, trusted
        if before is None or before.domain != roots.domain:
            self._former = former
            self.domains = (roots.domain, *self.domains[:1])
            self.on_domains()
        self._write("roots.pem", self._bundle())
        self._show()
        self._news.set()
        _log.info("roots", active=roots.active, domain=roots.domain)

    def _bundle(self) -> bytes:
        return self._former + self._trusted

    async def _renewed(self) -> timedelta:
        """Have a certificate signed if it is time to; return for how long to do nothing."""
        self._news.clear()
        failures = 0
        while self._roots is not None and self._due(self._roots):
            roots = self._roots
            if self.certificate is not None and self._signer != roots.active:
                await asyncio.sleep(self._chance() * _SPREAD.total_seconds())
                roots = self._roots
            try:
                chain = await self._authority.sign(self._request(roots.domain))
                self._take(Certificate.read(chain), roots)
            except (aio.AioRpcError, ValueError) as error:
                _log.warning("certificate_not_signed", error=str(error))
                await asyncio.sleep(self._pause(failures).total_seconds())
                failures += 1
        if self.certificate is None:
            return timedelta.max
        return max(timedelta(), self.certificate.renewal - self._clock())

    def _due(self, roots: Roots) -> bool:
        if self.certificate is None or self._signer != roots.active:
            return True
        return self._clock() >= self.certificate.renewal

    def _take(self, certificate: Certificate, roots: Roots) -> None:
        self.certificate = certificate
        self._signer = roots.active
        self._write("key.pem", self._private())
        self._write("certificate.pem", certificate.chain)
        self._show()
        _expiry.set(certificate.ends.timestamp())
        self.ready.set()
        _log.info(
            "certificate", subject=str(certificate.subject), ends=certificate.ends.isoformat()
        )

    def _write(self, name: str, content: bytes) -> None:
        """Write a file for this process alone, which has no need of it once it has ended."""
        write_private(self._folder / name, content, durable=False)

    def _show(self) -> None:
        if self.certificate is not None:
            self._shown = grpc.ssl_server_certificate_configuration(
                [(self._private(), self.certificate.chain)], root_certificates=self._bundle()
            )

    def _showing(self) -> grpc.ServerCertificateConfiguration:
        if self._shown is None:
            raise RuntimeError("there is no certificate yet")
        return self._shown

    async def _wait(self, longest: timedelta) -> None:
        seconds = None if longest == timedelta.max else longest.total_seconds()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    def _pause(self, failures: int) -> timedelta:
        shortest, longest = _PAUSES
        return min(shortest * (1 << min(failures, 10)), longest) * (0.5 + self._chance())

    def _request(self, domain: str) -> str:
        subject = SpiffeId(domain=domain, datacenter=self._datacenter, service=self._service)
        return signing_request(self._key, subject, self._address)

    def _private(self) -> bytes:
        return private_bytes(self._key)


def signing_request(
    key: ec.EllipticCurvePrivateKey, subject: SpiffeId, address: str | None = None
) -> str:
    """Return a signing request (PEM) for a service, as SPIFFE has it and as DNS clients know it.

    With an address (an IP literal) that is named as well.
    """
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(str(subject)),
        x509.DNSName(dns_name(subject.service)),
    ]
    if address is not None:
        names.append(x509.IPAddress(ipaddress.ip_address(address)))
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.PEM).decode()


def dns_name(service: str) -> str:
    """Return the name of a service for clients that verify certificates by DNS names."""
    return f"{service}.service.consul"
