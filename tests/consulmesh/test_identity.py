"""A process's identity: signed, renewed in time, and signed anew when the root changes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from consulmesh.connect_ca import Roots
from consulmesh.identity import Certificate, Identity
from tests.consulmesh.xds_world import until

PEM = serialization.Encoding.PEM
ROOT = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])


class Signer:
    """A certificate authority of the test's own. `life` is how long what it signs is valid."""

    def __init__(self, *, life: timedelta = timedelta(hours=72)) -> None:
        self.life = life
        self.signed: list[x509.CertificateSigningRequest] = []
        self.failures = 0
        self._changed = asyncio.Event()
        self.rotate("first.consul")

    def rotate(self, domain: str) -> None:
        """Have another root, perhaps of another domain."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._root = self._made(self._key.public_key(), ROOT, timedelta(days=1))
        pem = self._root.public_bytes(PEM)
        self.roots = Roots(domain=domain, active=str(self._root.serial_number), bundle=pem)
        self._changed.set()
        self._changed = asyncio.Event()

    async def watch_roots(self) -> AsyncIterator[Roots]:
        """Yield the roots now, and whenever they change."""
        while True:
            changed = self._changed
            yield self.roots
            await changed.wait()

    async def sign(self, request: str) -> bytes:
        """Sign whatever is asked for."""
        if self.failures:
            self.failures -= 1
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "away"
            )
        asked = x509.load_pem_x509_csr(request.encode())
        self.signed.append(asked)
        names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        made = self._made(asked.public_key(), asked.subject, self.life, names)
        return made.public_bytes(PEM)

    def leaf(self, key: object, service: str, *, begins: timedelta) -> bytes:
        """A certificate for an hour of a service, from so long from now on."""
        uri = f"spiffe://{self.roots.domain}/ns/default/dc/dc1/svc/{service}"
        names = x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier(uri), x509.DNSName(f"{service}.service.consul")]
        )
        hour = timedelta(hours=1)
        return self._made(key, x509.Name([]), hour, names, begins=begins).public_bytes(PEM)

    def _made(
        self,
        key: object,
        subject: x509.Name,
        life: timedelta,
        names: x509.SubjectAlternativeName | None = None,
        *,
        begins: timedelta = timedelta(),
    ) -> x509.Certificate:
        now = datetime.now(UTC) + begins
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ROOT)
            .public_key(key)  # type: ignore[arg-type]  # whatever was asked for
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + life)
        )
        extension = names or x509.BasicConstraints(ca=True, path_length=None)
        builder = builder.add_extension(extension, critical=True)
        return builder.sign(self._key, hashes.SHA256())


def modes(folder: Path) -> set[int]:
    """Who may do what with the files in a folder."""
    return {path.stat().st_mode & 0o777 for path in folder.iterdir()}


def keys(bundle: bytes) -> set[bytes]:
    """The public keys of certificates; of a root that is signed anew it stays the same."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    found = x509.load_pem_x509_certificates(bundle)
    return {each.public_key().public_bytes(serialization.Encoding.DER, form) for each in found}


@asynccontextmanager
async def kept(signer: Signer, folder: Path) -> AsyncIterator[Identity]:
    """The identity of echo, kept for the block."""

    async def datacenter() -> str:
        return "dc1"

    identity = Identity("echo", datacenter, folder, signer, chance=lambda: 0.0)
    keeping = asyncio.create_task(identity.keep())
    try:
        yield identity
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_a_process_is_signed_as_its_service(tmp_path: Path) -> None:
    """The request names the service as SPIFFE and DNS do; what is signed fits the key on disk."""
    signer = Signer()
    async with kept(signer, tmp_path) as identity:
        await asyncio.wait_for(identity.ready.wait(), 10)
    (asked,) = signer.signed
    names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    key = serialization.load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    shown = x509.load_pem_x509_certificate((tmp_path / "certificate.pem").read_bytes())

    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://first.consul/ns/default/dc/dc1/svc/echo"
    ]
    assert names.get_values_for_type(x509.DNSName) == ["echo.service.consul"]
    assert shown.public_key() == key.public_key()
    assert modes(tmp_path) == {0o600}


async def test_a_certificate_is_renewed_before_it_ends(tmp_path: Path) -> None:
    """One of three seconds is followed by another within them, for the same key."""
    signer = Signer(life=timedelta(seconds=3))
    async with kept(signer, tmp_path) as identity:
        await asyncio.wait_for(identity.ready.wait(), 10)
        first = identity.certificate
        await until(lambda: identity.certificate is not first, seconds=10)
        second = identity.certificate

    assert first is not None
    assert second is not None
    assert second.begins < first.ends
    assert signer.signed[0].public_key() == signer.signed[1].public_key()


async def test_a_new_root_is_trusted_and_signs(tmp_path: Path) -> None:
    """When the root changes, so does the certificate; roots are on disk before it is."""
    signer = Signer()
    async with kept(signer, tmp_path) as identity:
        await asyncio.wait_for(identity.ready.wait(), 10)
        first = identity.certificate
        signer.rotate("first.consul")
        await until(lambda: identity.certificate is not first, seconds=10)
        trusted = (tmp_path / "roots.pem").read_bytes()

    assert keys(trusted) >= keys(signer.roots.bundle)
    assert identity.domains == ("first.consul",)


async def test_a_new_trust_domain_is_believed_beside_the_old_one(tmp_path: Path) -> None:
    """A Consul that began anew signs for another domain; who has the old one is known still."""
    signer = Signer()
    told: list[tuple[str, ...]] = []
    async with kept(signer, tmp_path) as identity:
        identity.on_domains = lambda: told.append(identity.domains)
        await asyncio.wait_for(identity.ready.wait(), 10)
        before = signer.roots.bundle
        signer.rotate("second.consul")
        await until(
            lambda: bool(
                identity.certificate and identity.certificate.subject.domain == "second.consul"
            ),
            seconds=10,
        )
        trusted = (tmp_path / "roots.pem").read_bytes()

    assert told[-1] == ("second.consul", "first.consul")
    assert keys(trusted) >= keys(before) | keys(signer.roots.bundle)


async def test_an_authority_that_is_away_is_asked_again(tmp_path: Path) -> None:
    """Three failures later there is a certificate."""
    signer = Signer()
    signer.failures = 3
    async with kept(signer, tmp_path) as identity:
        await asyncio.wait_for(identity.ready.wait(), 20)

    assert len(signer.signed) == 1


async def test_a_certificate_of_nobody_is_none() -> None:
    """One without a SPIFFE id is refused."""
    signer = Signer()
    with pytest.raises(ValueError, match="no alternative names"):
        Certificate.read(signer.roots.bundle)
